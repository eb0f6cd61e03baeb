"""Residual networks for small images, as a flax module."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxticket.models import modules
from jaxticket.models.batch_norm import NormReLU


class ResNet(nn.Module):
    """Stages of basic blocks, each stage at half the size and twice the width.

    A block is `relu(x + norm(conv(relu(norm(conv(x))))))` of 3x3 convolutions without
    bias. Where the shape changes, every second pixel of `x` is taken, by a 1x1
    convolution without normalisation or with zeros for the new channels. After the last
    stage comes the mean over the image.

    Parameters are `conv_0` and `norm_0` of the first layer, `conv_1` and `norm_1`, ...
    of the blocks, `shortcut_1`, ... of the stages that have one, and `output`.

    Attributes:
      num_classes: width of the output layer.
      width: channels of the first stage.
      blocks: how many each stage has.
      shortcut: "projection", the convolution, or "pad", half of the zeros on each side.
      dtype: computed in, or None for that of the inputs and parameters, which stay
        float32 as do the batch statistics; the logits are float32 at least.
      impl: of the convolutions, see `convolution.conv`.

    Reference:
      He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2, of
      which "pad" is option A; the projections and initialisation are those of the code
      released with Savarese et al., "Winning the Lottery with Continuous
      Sparsification", 2020.
    """

    num_classes: int = 10
    width: int = 16
    blocks: tuple[int, ...] = (3, 3, 3)
    shortcut: str = "projection"
    dtype: jnp.dtype | None = None
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[batch, height, width, channels]` to logits `[batch, num_classes]`."""
        if self.shortcut not in ("projection", "pad"):
            raise ValueError(
                f"shortcut is {self.shortcut!r}; it must be 'projection' or 'pad'"
            )
        layer = 0

        def conv(x, width, stride, size, name):
            return modules.centred(
                width, size, stride, dtype=self.dtype, impl=self.impl, name=name
            )(x)

        def normed(x, width, stride=1, shortcut=None):
            nonlocal layer
            y = conv(x, width, stride, 3, f"conv_{layer}")
            norm = NormReLU(dtype=self.dtype, name=f"norm_{layer}")
            layer += 1
            return norm(y, shortcut, train=train)

        x = normed(x, self.width)
        for stage, blocks in enumerate(self.blocks):
            width = self.width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                y = normed(x, width, stride)
                if stride > 1 and self.shortcut == "pad":
                    x = _padded(x, width)
                elif stride > 1:
                    x = conv(x, width, stride, 1, f"shortcut_{stage}")
                x = normed(y, width, shortcut=x)
        return modules.logits(self.num_classes, x.mean((1, 2)), dtype=self.dtype)


def _padded(x, width):
    more = width - x.shape[-1]
    zeros = (more // 2, more - more // 2)
    return jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), zeros))
