"""What a ticket keeps, layer by layer: a table to print, or rows for a data frame."""

from typing import NamedTuple

import jax
import numpy as np

from jaxticket import masks
from jaxticket.base import Ticket


class Layer(NamedTuple):
    """One prunable leaf of a ticket.

    Attributes:
      name: its path, as "fc_0/kernel".
      shape: of the whole leaf.
      size: number of its weights.
      kept: how many the mask keeps.
      density: the fraction of them.
      share: its part of all weights that the ticket keeps; 0 if it keeps none.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    kept: int
    density: float
    share: float


class Summary(NamedTuple):
    """All layers of a ticket; prints as a table.

    Attributes:
      layers: one a prunable leaf: `pandas.DataFrame(summary.layers)` is a table.
      others: number of parameters that are never pruned.
    """

    layers: tuple[Layer, ...]
    others: int

    def __str__(self) -> str:
        size, kept = (sum(getattr(x, n) for x in self.layers) for n in ("size", "kept"))
        rows = [("layer", "shape", "weights", "kept", "density", "share of kept")]
        for x in self.layers:
            shape = "x".join(map(str, x.shape))
            parts = f"{x.density:.2%}", f"{x.share:.2%}"
            rows.append((x.name, shape, f"{x.size:,}", f"{x.kept:,}", *parts))
        rows.append(
            ("all", "", f"{size:,}", f"{kept:,}", f"{kept / max(size, 1):.2%}", "")
        )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *cells in rows:
            right = (x.rjust(w) for x, w in zip(cells, widths[1:], strict=True))
            lines.append("  ".join((name.ljust(widths[0]), *right)).rstrip())
        return "\n".join([*lines, f"{self.others:,} other parameters, never pruned"])


def summary(ticket: Ticket) -> Summary:
    """What a ticket keeps of every layer.

    Args:
      ticket: with concrete arrays; not inside `jit`.

    Returns:
      A row a prunable leaf, in the order of the tree.
    """
    leaves = jax.tree_util.tree_leaves_with_path(ticket.mask)
    counts = [int(np.count_nonzero(leaf)) for _, leaf in leaves]
    total = max(sum(counts), 1)
    layers = tuple(
        Layer(
            name=masks.name(path),
            shape=np.shape(leaf),
            size=np.size(leaf),
            kept=count,
            density=count / max(np.size(leaf), 1),
            share=count / total,
        )
        for (path, leaf), count in zip(leaves, counts, strict=True)
    )
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(ticket.weights))
    return Summary(layers, parameters - sum(layer.size for layer in layers))
