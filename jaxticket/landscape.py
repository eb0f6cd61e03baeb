"""The landscape: losses on the line between two networks, and from mask to mask."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import masks, selection
from jaxticket.base import Mask, Params, Scores


def interpolated(alpha: ArrayLike, one: Params, other: Params) -> Params:
    """A network on the line between two: `alpha w1 + (1 - alpha) w2`, leaf by leaf.

    At 1 and 0 it is one of the two, to the bit but for the sign of a zero, where the
    other is finite.

    Args:
      alpha: scalar; several by `vmap`.
      one: pytree of arrays: weights, or weights with their model state.
      other: of the same structure. Leaves that are no floating-point numbers, as
        counters, are those of `one`.

    Reference:
      Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
      2020, section 2.
    """

    def between(x, y):
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            return x
        a = jnp.asarray(alpha, jnp.result_type(x))
        return a * x + (1 - a) * y

    return masks.together(between, one, other)


def barrier(errors: ArrayLike) -> Any:
    """How much worse the worst network on a line is than its ends: `[...]`, from 0.

    `max E(alpha) - (E(0) + E(1)) / 2`. Two networks are linearly connected, and the one
    that both were trained from is stable, where it is below 2 points of error.

    Args:
      errors: `E` at rising `alpha`, the first at 0 and the last at 1: `[..., points]`,
        arrays of numpy or JAX.

    Reference:
      Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
      2020, section 2.
    """
    return errors.max(-1) - (errors[..., 0] + errors[..., -1]) / 2


class Change(NamedTuple):
    """What another mask does to a loss: float32 scalars.

    Attributes:
      predicted: to first order, `sum g w (m' - m)`, with `g = dL/d(w m)` at the old
        mask `m`.
      actual: `L(w m') - L(w m)`.
    """

    predicted: jax.Array
    actual: jax.Array


def change(
    loss: Callable[[Params], jax.Array], weights: Params, mask: Mask, other: Mask
) -> Change:
    """The `Change` of a loss from one mask over the same weights to another."""
    before, grads = jax.value_and_grad(loss)(masks.apply(mask, weights))

    def gain(m, o, w, g):
        wide = jnp.promote_types(w.dtype, jnp.float32)
        # What neither mask keeps may be NaN, as of a ticket from its file.
        moved = jnp.where(m == o, 0, w.astype(wide) * g)
        return jnp.sum(moved * (jnp.asarray(o, wide) - m))

    ours = (masks.prunable_like(tree, mask) for tree in (weights, grads))
    predicted = sum(jax.tree.leaves(jax.tree.map(gain, mask, other, *ours)))
    return Change(predicted, loss(masks.apply(other, weights)) - before)


def exchanged(mask: Mask, gains: Scores, counts: Scores) -> Mask:
    """The mask after some swaps in each layer, of which none prunes or adds a weight.

    Of a layer's pruned weights those with the lowest gains come in, and as many of its
    kept weights, those with the highest, go: the swaps that promise the most, where a
    gain is what the loss gains with the weight, `g w`.

    Args:
      mask: the old mask.
      gains: a mask tree.
      counts: a mask tree of whole numbers, at most as many as there are; may be traced.
    """

    def of_layer(m, gain, count):
        (comes,) = selection.top([-gain], [~m], count)
        (goes,) = selection.top([gain], [m], count)
        return (m | comes) & ~goes

    return jax.tree.map(of_layer, mask, gains, counts)
