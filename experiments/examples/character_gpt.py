"""A network and data of one's own: tickets in a small GPT that predicts characters.

Nothing here knows of tickets. `text` is the data, `gpt` the network, and any experiment
takes them by name; of several losses the default, cross-entropy, is right for the next
character at every place, so the accuracy is that of characters. Without a file the text
is the help of Python itself. IMP with both controls, three rounds, two seeds:

    python -m experiments.ticket_search \\
        --dataset=experiments.examples.character_gpt:text \\
        --model=experiments.examples.character_gpt:gpt --model.width=64 \\
        --methods=imp --imp.density=0.5 --rounds=3 --seeds=2 --epochs=1 \\
        --batch_size=32 --output_dir=runs/character_gpt

A text of your own: `--dataset.file=book.txt`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxticket.data import Split

TEST = 0.1  # the share of the text, at its end, that is the test set


def text(*, file: str = "", length: int = 32, characters: int = 200_000):
    """Windows of a text, and the character after each of theirs.

    Args:
      file: of text; without one, the help topics of Python.
      length: of a window.
      characters: of the text, from its beginning, at most.

    Returns:
      Training and test `Split`: int32 `[windows, length]` both, labels one place on.
    """
    if file:
        whole = Path(file).read_text(encoding="utf-8")
    else:
        from pydoc_data.topics import topics

        whole = "\n".join(topics.values())
    alphabet, codes = np.unique([*whole[:characters]], return_inverse=True)
    del alphabet
    windows = (len(codes) - 1) // length
    inputs = codes[: windows * length].reshape(windows, length).astype(np.int32)
    labels = codes[1 : windows * length + 1].reshape(inputs.shape).astype(np.int32)
    train = int((1 - TEST) * windows)
    return Split(inputs[:train], labels[:train]), Split(inputs[train:], labels[train:])


class GPT(nn.Module):
    """A decoder: embeddings, blocks of attention and MLP, logits at every place.

    Attributes:
      vocabulary: number of characters.
      width: of the residual stream.
      depth: number of blocks.
      heads: of attention; they share the width.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[batch, length]` to logits `[batch, length, vocabulary]`."""
        del train
        places = jnp.arange(tokens.shape[1])[None]
        x = nn.Embed(self.vocabulary, self.width, name="embed")(tokens)
        x += nn.Embed(tokens.shape[1], self.width, name="place")(places)
        past = nn.make_causal_mask(tokens)
        for i in range(self.depth):
            attend = nn.MultiHeadDotProductAttention(self.heads, name=f"attention_{i}")
            x += attend(nn.LayerNorm(name=f"norm_{i}a")(x), mask=past)
            hidden = nn.LayerNorm(name=f"norm_{i}b")(x)
            hidden = nn.gelu(nn.Dense(4 * self.width, name=f"fc_{i}a")(hidden))
            x += nn.Dense(self.width, name=f"fc_{i}b")(hidden)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(self.vocabulary, name="output")(x)


def gpt(outputs: int, *, width: int = 64, depth: int = 2, heads: int = 4) -> nn.Module:
    """The network of `GPT` for so many characters."""
    return GPT(outputs, width, depth, heads)
