"""Iterative magnitude pruning, with rewinding and its relatives."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, masks, pruners, scores, selection
from jaxticket.base import (
    NO_EVIDENCE,
    OfWeights,
    Params,
    PRNGKey,
    Promises,
    Search,
    Ticket,
    owned,
)
from jaxticket.searches.fixed import FixedState, fixed, remember

Retrain = Literal["rewind", "continue", "learning_rate", "finetune"]


class ImpState(NamedTuple):
    """State of `imp`: the training of this round, and what outlives a round."""

    training: FixedState
    anchor: Params  # the weights that the ticket starts from
    initial: Params | None  # weights before training; None: they are the anchor
    round: jax.Array
    last_step: jax.Array  # the schedule's last step, for fine-tuning
    key: PRNGKey


def imp(
    optimizer: OfWeights,
    *,
    density: ArrayLike = 0.8,
    score: scores.Score | str = "magnitude",
    select: selection.Select | str = "global_top",
    rewind_step: int = 0,
    retrain: Retrain = "rewind",
) -> Search:
    """Trains, prunes the weights that matter least, returns to early weights, repeats.

    A round trains the survivors. Between rounds the fraction `density` of them with the
    highest scores is kept, and the optimiser starts afresh. What the next round trains
    from, and what the ticket is, depends on `retrain`:

    ===============  ==========================  ============  ======================
    `retrain`        weights of the next round   schedule      ticket's weights
    ===============  ==========================  ============  ======================
    `rewind`         those of `rewind_step`      starts again  those of `rewind_step`
    `continue`       kept (IMP-C, Strategy 2)    starts again  those of `rewind_step`
    `learning_rate`  kept                        starts again  the trained ones
    `finetune`       kept                        stays at end  the trained ones
    ===============  ==========================  ============  ======================

    Whether the schedule starts again at 0 or at `rewind_step` is the loop's: it says
    which `step` a round begins with.

    Args:
      optimizer: trains the weights. It is given `step`, see `schedules.scale_by_step`.
      density: the fraction of the survivors that each round keeps. May be traced.
      score: which weights matter: a score or its name, see `scores`. One that needs the
        loss or the network finds it in the evidence that the loop gives `advance`, with
        the weights and the model state of the round's end.
      select: how the layers share the density: a function or its name, see `selection`.
      rewind_step: step of the first round whose weights the ticket starts from; 0 is
        the initialisation.
      retrain: see the table.

    Returns:
      A `Search`. Its ticket is what the current round trains: in the first round the
      given one, and after `n` prunings about the fraction `density ** n` of it.

    Raises:
      ValueError: density outside (0, 1], a negative `rewind_step`, an unknown `retrain`
        or name; in `init` and `advance`, evidence that the score needs and does not
        have, see `pruners.prune`.

    Reference:
      Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, section 2; Frankle et
      al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", 2020, Algorithm
      2; Renda et al., "Comparing Rewinding and Fine-tuning", 2020.
    """
    checks.fraction(density=density)
    checks.whole(0)(rewind_step=rewind_step)
    checks.one_of(get_args(Retrain))(retrain=retrain)
    score, select = scores.named(score), selection.named(select)
    train = fixed(optimizer)

    def init(key, ticket):
        masks.check(ticket.mask, ticket.weights)
        initial = scores.known_initial(score, ticket.mask, ticket.weights)
        ticket = ticket._replace(weights=initial)
        zero = jnp.zeros((), jnp.int32)
        initial = None if rewind_step == 0 else ticket.weights
        state = train.init(key, ticket)
        return owned(ImpState(state, ticket.weights, initial, zero, zero, key))

    def update(grads, state, step, **told):
        step = jnp.asarray(step, jnp.int32)
        if rewind_step > 0:
            anchor = remember(
                state.anchor,
                state.training.weights,
                now=step == rewind_step,
                first=state.round == 0,
            )
            state = state._replace(anchor=anchor)
        last = jnp.where(state.round == 0, step, state.last_step)
        step = last if retrain == "finetune" else step
        training = train.update(grads, state.training, step, **told)
        return state._replace(training=training, last_step=last)

    def advance(state, evidence=NO_EVIDENCE):
        known = evidence._replace(
            initial=state.anchor if state.initial is None else state.initial,
            key=jax.random.fold_in(state.key, state.round),
        )
        trained = train.ticket(state.training)
        pruned = pruners.prune(trained, score, density, evidence=known, select=select)
        if retrain == "rewind":
            pruned = pruned._replace(weights=state.anchor)
        return state._replace(
            training=train.init(state.key, pruned), round=state.round + 1
        )

    def params(state):
        return train.params(state.training)

    def ticket(state):
        found = train.ticket(state.training)
        if retrain in ("rewind", "continue"):
            return Ticket(state.anchor, found.mask)
        return found

    promises = Promises(
        weights="anchor" if retrain in ("rewind", "continue") else "trained",
        rewind_step=rewind_step,
        rewinds=retrain == "rewind",
        rounds=True,
        opens_given=True,
        random="key" in scores.needed(score),
        kept=selection.kept(select, density),
    )
    return Search(init, update, advance, params, ticket, promises)
