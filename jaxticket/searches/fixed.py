"""Training under a fixed mask: what a ticket, a control or the dense network gets."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import checks, masks
from jaxticket.base import (
    Mask,
    OfWeights,
    Params,
    Promises,
    Search,
    State,
    Ticket,
    going_on,
    optimizing,
    owned,
    trained_by,
)


class FixedState(NamedTuple):
    """State of `fixed`. Where the mask is false the weights never move.

    What the network runs with is the weights times the multiplier.
    """

    weights: Params
    mask: Mask
    optimizer: State


def fixed(
    optimizer: OfWeights,
    *,
    multiplier: ArrayLike = 1.0,
    pruned: Literal["zero", "frozen"] = "zero",
) -> Search:
    """Trains the weights that a mask keeps; the others stay exactly zero.

    The gradient is masked before the optimiser and the weights after it, so neither
    momentum nor weight decay moves a pruned weight. With a full mask this is the
    optimiser itself, bit for bit (under `jit`, up to how XLA fuses the two programs).

    Leaves that are to stay as they are, as the base under adapters, take no mask and an
    optimiser that moves nothing there; so it is in every search over weights:

        frozen = optax.partition(
            {True: optax.set_to_zero(), False: optimizer}, labels  # a tree of bools
        )

    Args:
      optimizer: trains the weights. It is given `step`, see `schedules.scale_by_step`.
      multiplier: `c`. The network starts from the ticket's weights `w`, and the
        optimiser trains `v = w / c` in every leaf with a mask: `w` moves `c` times as
        far under gradients `c` times as large, and decays as before. Continuous
        Sparsification's released code retrains its tickets so, with `c = 1 /
        sigmoid(s0)`. May be traced.
      pruned: where the mask is false the weights are zero, or frozen at the ticket's
        values (Zhou et al. 2019, section 5: what makes zero a good value for them is
        that they were moving there).

    Returns:
      A `Search` of one round without end. Its ticket holds the trained weights.

    Raises:
      ValueError: a multiplier that is not positive, an unknown word, or weights to
        freeze that the ticket's file has left out.
    """
    checks.positive(multiplier=multiplier)
    checks.one_of(("zero", "frozen"))(pruned=pruned)
    optimizer = optimizing(optimizer)

    def init(key, ticket):
        del key
        masks.check(ticket.mask, ticket.weights)
        if pruned == "frozen":
            kept = masks.known(ticket.mask, ticket.weights, "the search fixed")
        else:
            kept = masks.apply(ticket.mask, ticket.weights)
        weights = masks.scale(ticket.mask, kept, 1 / multiplier)
        return owned(FixedState(weights, ticket.mask, optimizer.init(weights)))

    def held(state, weights):
        """Weights that have moved only where the mask is true."""
        if pruned == "frozen":
            return masks.either(state.mask, weights, state.weights)
        return masks.apply(state.mask, weights)

    def update(grads, state, step, **told):
        updates, inner = trained_by(
            optimizer,
            # With respect to `w / c`.
            masks.scale(state.mask, masks.apply(state.mask, grads), multiplier),
            state.optimizer,
            state.weights,
            step=step,
            told=told,
            realise=lambda weights: masks.scale(
                state.mask, held(state, weights), multiplier
            ),
        )
        weights = optax.apply_updates(state.weights, updates)
        return FixedState(held(state, weights), state.mask, inner)

    def params(state):
        return masks.scale(state.mask, state.weights, multiplier)

    def ticket(state):
        return Ticket(params(state), state.mask)

    promises = Promises(
        hard=pruned == "zero", opens_given=True, kept=masks.layer_counts
    )
    return Search(init, update, going_on, params, ticket, promises)


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
