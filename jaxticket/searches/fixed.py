"""Training under a fixed mask: what a ticket, a control or the dense network gets."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxticket import masks
from jaxticket.base import Mask, Params, Search, State, Ticket


class FixedState(NamedTuple):
    """State of `fixed`. The weights are zero where the mask is false, at all times."""

    weights: Params
    mask: Mask
    optimizer: State


def fixed(optimizer: optax.GradientTransformation) -> Search:
    """Trains the weights that a mask keeps; the others stay exactly zero.

    The gradient is masked before the optimiser and the weights after it, so neither
    momentum nor weight decay moves a pruned weight. With a full mask this is the
    optimiser itself, bit for bit (under `jit`, up to how XLA fuses the two programs).

    Args:
      optimizer: trains the weights. It is given `step`, see `schedules.scale_by_step`.

    Returns:
      A `Search` of one round without end. Its ticket holds the trained weights.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(key, ticket):
        del key
        masks.check(ticket.mask, ticket.weights)
        weights = masks.apply(ticket.mask, ticket.weights)
        return FixedState(weights, ticket.mask, optimizer.init(weights))

    def update(grads, state, step):
        grads = masks.apply(state.mask, grads)
        updates, inner = optimizer.update(
            grads, state.optimizer, state.weights, step=step
        )
        weights = optax.apply_updates(state.weights, updates)
        return FixedState(masks.apply(state.mask, weights), state.mask, inner)

    def advance(state):
        return state

    def params(state):
        return state.weights

    def ticket(state):
        return Ticket(state.weights, state.mask)

    return Search(init, update, advance, params, ticket)


def remember(
    anchor: Params, weights: Params, *, now: jax.Array, first: jax.Array
) -> Params:
    """`weights` if this is the rewinding step of the first round, else `anchor`.

    Args:
      anchor: what was remembered before.
      weights: values at this step.
      now: whether `step` is the rewinding step; unbatched, so this is a real branch and
        no other step pays for it.
      first: whether this is the first round; may be batched.
    """

    def take():
        return jax.tree.map(lambda w, a: jnp.where(first, w, a), weights, anchor)

    return jax.lax.cond(now, take, lambda: anchor)
