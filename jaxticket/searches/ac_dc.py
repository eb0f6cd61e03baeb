"""AC/DC: one training in which a sparse and the whole network take turns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, masks, schedules, scores, selection
from jaxticket.base import (
    NO_EVIDENCE,
    Mask,
    OfWeights,
    Promises,
    Search,
    optimizing,
    owned,
)
from jaxticket.searches.fixed import FixedState, fixed


class AlternatingState(NamedTuple):
    """State of `ac_dc`."""

    training: FixedState  # under the mask of now: that of a ticket, or all of `allowed`
    allowed: Mask  # what the mask is chosen from: that with which the round began


def ac_dc(
    optimizer: OfWeights,
    *,
    steps: int | None = None,
    density: ArrayLike = 0.1,
    start: int | float = 0.1,
    phase: int | float = 0.05,
    stop: int | float = 0.75,
    final: int | float = 0.85,
    select: selection.Select | str = "global_top",
) -> Search:
    """Trains compressed and decompressed by turns, and ends compressed.

    The network trains whole up to step `start`. Then it trains `phase` steps under the
    mask of the largest `|w|` at that moment, `phase` steps whole, and so on up to
    `stop`; whole again up to `final`, and from there on under a last mask. What a mask
    prunes is put to zero, and comes back as zero. Whenever the network is whole again
    its optimiser begins anew.

    Args:
      optimizer: trains the weights. It is given `step`, see `schedules.scale_by_step`;
        a schedule of optax's own would begin anew too.
      steps: of a round; needed where a place in it is a fraction.
      density: the fraction of the given ticket's weights that a mask keeps. May be
        traced.
      start: of the first mask: a step, or as a float a fraction of the round. The
        defaults are published for 100 epochs of ImageNet.
      phase: how long a mask stays, and how long there is none, alike.
      stop: the turns end here, and the last phase of the whole network begins.
      final: of the last mask.
      select: how the layers share the density, a function or a name of `selection`: all
        together by default.

    Returns:
      A `Search`. Its ticket holds the trained weights under the mask of now: read in a
      phase of the whole network it is dense. A further round runs the schedule again,
      on what the last one has left.

    Raises:
      ValueError: a density outside (0, 1], an unknown `select`, a fraction without
        `steps`, places that are not in this order, or a phase of no step.

    Reference:
      Peste et al., "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural
      Networks", 2021, as its released code is run: by magnitude, with momentum that
      begins anew after a compressed phase.
    """
    checks.fraction(density=density)
    places = {"start": start, "stop": stop, "final": final}
    first, turning, last = (schedules.position(n, x, steps) for n, x in places.items())
    length = schedules.position("phase", phase, steps)
    if not (length >= 1 and first + length <= turning <= last):
        raise ValueError(
            f"places must be in the order start, start + phase, stop, final, and phase "
            f"one step at least; in steps they are start={first}, phase={length}, "
            f"stop={turning}, final={last}"
        )
    select = selection.named(select)
    train, optimizer = fixed(optimizer), optimizing(optimizer)

    def compressed(step):
        """Whether the network is sparse at a step."""
        turn = (step >= first) & (step < turning) & ((step - first) // length % 2 == 0)
        return turn | (step >= last)

    def compress(training, allowed):
        mask = select(scores.magnitude(training.weights), allowed, density)
        return training._replace(weights=masks.apply(mask, training.weights), mask=mask)

    def decompress(training, allowed):
        fresh = optimizer.init(training.weights)
        return training._replace(mask=allowed, optimizer=fresh)

    def opening(training, allowed):
        return compress(training, allowed) if first == 0 else training

    def init(key, ticket):
        selection.check_kept(select, density, ticket.mask)
        training = train.init(key, ticket)
        return owned(AlternatingState(opening(training, ticket.mask), ticket.mask))

    def update(grads, state, step, **told):
        due = jnp.asarray(step, jnp.int32) + 1
        training = train.update(grads, state.training, step, **told)
        now, before = compressed(due), compressed(due - 1)
        training = jax.lax.switch(
            jnp.where(now == before, 0, jnp.where(now, 1, 2)),
            [lambda training, _: training, compress, decompress],
            training,
            state.allowed,
        )
        return state._replace(training=training)

    def advance(state, evidence=NO_EVIDENCE):
        del evidence
        left = state.training.mask
        return owned(AlternatingState(opening(state.training, left), left))

    def params(state):
        return train.params(state.training)

    def ticket(state):
        return train.ticket(state.training)

    kept = selection.kept(select, density)
    promises = Promises(
        rounds=True,
        kept=kept,
        least_steps=last,
        running=lambda step: jnp.where(compressed(step), density, 1.0),
    )
    return Search(init, update, advance, params, ticket, promises)
