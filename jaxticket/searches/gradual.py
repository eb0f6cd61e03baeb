"""Gradual magnitude pruning: a mask that gets sparser while the weights train."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import checks, masks, schedules, scores, selection
from jaxticket.base import (
    NO_EVIDENCE,
    Mask,
    OfWeights,
    Params,
    Promises,
    Search,
    State,
    Ticket,
    optimizing,
    owned,
    trained_by,
)


class GradualState(NamedTuple):
    """State of `gradual`. The weights keep their values where the mask is false."""

    weights: Params
    mask: Mask
    optimizer: State
    allowed: Mask  # what the mask is chosen from: that with which the round began


def gradual(
    optimizer: OfWeights,
    *,
    steps: int | None = None,
    final_density: ArrayLike = 0.1,
    initial_density: ArrayLike = 1.0,
    start: int | float = 0.0,
    stop: int | float = 1.0,
    every: int = 100,
    select: selection.Select | str = "equal",
) -> Search:
    """Prunes by magnitude while it trains, fast at first and slowly in the end.

    Before the steps `start, start + every, ..., stop` the mask is chosen anew: the
    largest `|w|`, at the density of `schedules.cubic_density`. The network runs with
    `where(mask, w, 0)`. A weight that is masked keeps its value, out of reach of
    gradient and decay, and returns when others have shrunk below it.

    Args:
      optimizer: trains the weights. It is given `step`, see `schedules.scale_by_step`,
        and zero for the value of a weight that is masked.
      steps: of a round; needed where `start` or `stop` is a fraction of it.
      final_density: the fraction of the given ticket's weights that is left. May be
        traced.
      initial_density: density at `start`. May be traced.
      start: of the first choice: a step, or as a float a fraction of the round.
      stop: of the last choice, alike; rounded down to a whole number of choices after
        the first.
      every: steps from one choice to the next.
      select: how the layers share the density, a function or a name of `selection`; all
        alike by default.

    Returns:
      A `Search`. Its ticket holds the trained weights, those that are masked too. A
      further round runs the schedule again, on what the last one has left.

    Raises:
      ValueError: a density outside (0, 1], an unknown `select`, a fraction without
        `steps`, or numbers with which no choice follows the first.

    Reference:
      Zhu and Gupta, "To Prune, or Not to Prune", 2017, eq. 1.
    """
    checks.fraction(final_density=final_density, initial_density=initial_density)
    checks.whole(1)(every=every)
    first = schedules.position("start", start, steps)
    last = schedules.position("stop", stop, steps)
    last -= max(last - first, 0) % every
    if last <= first:
        raise ValueError(
            f"stop must be at least every={every} steps after start={start} in a round "
            f"of {steps} steps, got {stop}: take a smaller `every`, or longer rounds"
        )
    select = selection.named(select)
    optimizer = optimizing(optimizer)
    density = schedules.cubic_density(initial_density, final_density, first, last)

    def opening(weights, allowed):
        if first > 0:
            return allowed
        return select(scores.magnitude(weights), allowed, initial_density)

    def init(key, ticket):
        del key
        weights, mask = ticket.weights, ticket.mask
        masks.check(mask, weights)
        selection.check_kept(select, final_density, mask)
        inner = optimizer.init(masks.apply(mask, weights))
        return owned(GradualState(weights, opening(weights, mask), inner, mask))

    def update(grads, state, step, **told):
        step = jnp.asarray(step, jnp.int32)
        grads = masks.apply(state.mask, grads)
        running = params(state)
        updates, inner = trained_by(
            optimizer,
            grads,
            state.optimizer,
            running,
            step=step,
            told=told,
            realise=lambda weights: masks.apply(state.mask, weights),
        )
        moved = optax.apply_updates(running, updates)
        weights = masks.either(state.mask, moved, state.weights)
        due = step + 1
        mask = jax.lax.cond(
            (due >= first) & (due <= last) & ((due - first) % every == 0),
            lambda: select(scores.magnitude(weights), state.allowed, density(due)),
            lambda: state.mask,
        )
        return GradualState(weights, mask, inner, state.allowed)

    def advance(state, evidence=NO_EVIDENCE):
        del evidence
        opened = opening(state.weights, state.mask)
        return owned(state._replace(mask=opened, allowed=state.mask))

    def params(state):
        return masks.apply(state.mask, state.weights)

    def ticket(state):
        return Ticket(state.weights, state.mask)

    # The schedule computes in arrays: what it is given is rounded to their floats.
    kept = selection.kept(select, jnp.asarray(final_density, float))

    def running(step):
        within = jnp.clip(step, first, last)
        chosen = within - (within - first) % every
        return jnp.where(step < first, 1.0, density(chosen))

    promises = Promises(rounds=True, kept=kept, least_steps=last, running=running)
    return Search(init, update, advance, params, ticket, promises)
