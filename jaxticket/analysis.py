"""Analysis: what masks have in common, against what chance would give them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxticket import masks
from jaxticket.base import Mask


class Overlap(NamedTuple):
    """How much of one mask is in another: fractions of what the first keeps.

    Attributes:
      observed: the fraction of the weights kept by the one that the other keeps too.
      expected: its mean over independent, uniformly random masks of the same layer
        counts.
      deviation: its standard deviation over them.
    """

    observed: jax.Array
    expected: jax.Array
    deviation: jax.Array


def overlap(mask: Mask, other: Mask) -> Overlap:
    """`masks.overlap` beside its distribution by chance: float32 scalars.

    Layers of `n` weights of which `mask` keeps `k` and `other` keeps `j`, at random,
    share a number of them that is hypergeometric, independently of other layers: its
    mean is `k j / n`, its variance `k j (n - k) (n - j) / (n^2 (n - 1))`.

    All three are zero where `mask` keeps nothing.
    """
    mean, variance = 0.0, 0.0
    ours, theirs = (jax.tree.leaves(tree) for tree in (mask, other))
    for m, o in zip(ours, theirs, strict=True):
        n, k, j = max(m.size, 1), masks.count([m]), masks.count([o])
        # Divided before they are multiplied: products of counts overflow int32.
        mean += k * (j / n)
        variance += k * (j / n) * ((n - j) / n) * ((n - k) / max(n - 1, 1))
    total = jnp.maximum(masks.count(mask), 1)
    return Overlap(masks.overlap(mask, other), mean / total, jnp.sqrt(variance) / total)


def layer_overlaps(mask: Mask, other: Mask) -> Mask:
    """The `overlap` of every layer by itself: a mask tree of `Overlap`."""
    return jax.tree.map(lambda m, o: overlap([m], [o]), mask, other)
