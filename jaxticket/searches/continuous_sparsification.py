"""Continuous Sparsification: a sigmoid gate on every weight, annealed to a mask."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import masks, schedules
from jaxticket.base import (
    NO_EVIDENCE,
    Mask,
    OfGates,
    Params,
    Promises,
    Schedule,
    Search,
    State,
    Ticket,
)
from jaxticket.searches import gates
from jaxticket.searches.gates import Gated, Weights

Between = Literal["paper", "code"]


class ContinuousState(NamedTuple):
    """State of `continuous_sparsification`."""

    gated: Gated
    optimizer: State
    temperature: jax.Array  # beta of the next step
    mask: Mask  # what may be kept at all: the starting ticket's
    anchor: Params  # the weights that the ticket starts from
    round: jax.Array


def continuous_sparsification(
    optimizer: OfGates,
    *,
    temperature: Schedule | ArrayLike = 200.0,
    penalty: ArrayLike = 1e-8,
    initial_logit: ArrayLike = 0.0,
    rewind_step: int = 0,
    between: Between = "paper",
    scaling: bool = True,
    keep_momentum: bool = True,
    weights: Weights = "anchor",
    steps: int | None = None,
    epoch_steps: int = 1,
) -> Search:
    """Learns a soft mask by annealing a sigmoid until it is binary.

    Every prunable weight `w` has a logit `s`. The network runs with `w * sigmoid(beta
    s)`, and `(w, s)` are trained together on `loss + penalty * sum(sigmoid(beta s))`.
    `beta` rises from 1 within a round; a new round starts it again from `s = min(beta
    s, s0)`: what was kept starts as at first, what was pruned starts far below zero.
    The weights are not rewound between rounds, only in the ticket.

    Args:
      optimizer: trains the pair `Gated(weights, logits)`. It is given `step`, see
        `schedules.scale_by_step`.
      temperature: the last `beta` of a round, to which it rises exponentially over
        `steps`, see `schedules.temperature`; it may be traced. Or a schedule: step
        within the round -> `beta`.
      penalty: `lambda`, weight of the L0 surrogate; larger is sparser. May be traced.
      initial_logit: `s0`; smaller is sparser. May be traced.
      rewind_step: step of the first round whose weights the ticket starts from.
      between: the rule between rounds: `paper` is `min(beta s, s0)`; `code` is what the
        released code computes, `min(s, s0)`, which lets pruned weights come back.
      scaling: divide the gates by `sigmoid(s0)`, as the released code does: they are 1
        at the start and `1 / sigmoid(s0)` in the end, and the ticket's weights carry
        that factor. To retrain with the factor kept beside the weights, as the released
        code does, see the multiplier of `fixed`.
      keep_momentum: whether the optimiser's state outlives a round.
      weights: the ticket's: `anchor` are those of `rewind_step`; `trained` are those of
        now, and one round followed by `fixed` prunes, binarises and fine-tunes.
      steps: of a round; needed where `temperature` is a number.
      epoch_steps: steps that share one `beta`, where `temperature` is a number.

    Returns:
      A `Search`. Its ticket keeps the weights whose logit is positive: read it before
      `advance`, which moves every logit to `s0` or below.

    Raises:
      ValueError: a negative penalty or `rewind_step`, an unknown `between` or
        `weights`, a `temperature` that is a number without `steps`.

    Reference:
      Savarese et al., "Winning the Lottery with Continuous Sparsification", 2020,
      Algorithm 2.
    """
    gates.check(penalty=penalty, rewind_step=rewind_step, weights=weights)
    if between not in get_args(Between):
        raise ValueError(f"between must be one of {get_args(Between)}, got {between!r}")
    if not callable(temperature):
        if steps is None:
            raise ValueError(
                f"temperature {temperature} needs steps, the number of them in a "
                "round; or give a schedule, step within the round -> beta"
            )
        temperature = schedules.temperature(temperature, steps, epoch_steps=epoch_steps)
    optimizer = optax.with_extra_args_support(optimizer)
    scale = 1 / jax.nn.sigmoid(jnp.asarray(initial_logit)) if scaling else 1.0

    def at(step):
        return jnp.asarray(temperature(step), jnp.float32)

    def soft_gates(logits, mask, beta):
        """`sigmoid(beta s)`, scaled; zero where the starting mask is."""

        def gate(s, alive):
            soft = jax.nn.sigmoid(beta.astype(s.dtype) * s)
            return jnp.where(alive, jnp.asarray(scale, s.dtype) * soft, 0)

        return jax.tree.map(gate, logits, mask)

    def init(key, ticket):
        del key
        masks.check(ticket.mask, ticket.weights)
        logits = jax.tree.map(
            lambda w, m: None if m is None else jnp.full_like(w, initial_logit),
            ticket.weights,
            ticket.mask,
        )
        # A gate of zero makes no zero of what is not finite.
        gated = Gated(masks.apply(ticket.mask, ticket.weights), logits)
        return ContinuousState(
            gated,
            optimizer.init(gated),
            at(0),
            ticket.mask,
            ticket.weights,
            jnp.zeros((), jnp.int32),
        )

    def update(grads, state, step):
        def gate(logits):
            soft = soft_gates(logits, state.mask, state.temperature)
            return soft, soft

        stepped = gates.update(
            optimizer,
            gate,
            grads,
            state,
            step,
            penalty=penalty,
            rewind_step=rewind_step,
        )
        return stepped._replace(temperature=at(jnp.asarray(step, jnp.int32) + 1))

    def advance(state, evidence=NO_EVIDENCE):
        del evidence
        beta = (
            state.temperature
            if between == "paper"
            else jnp.ones_like(state.temperature)
        )
        logits = jax.tree.map(
            lambda s: jnp.minimum(beta.astype(s.dtype) * s, initial_logit).astype(
                s.dtype
            ),
            state.gated.logits,
        )
        gated = state.gated._replace(logits=logits)
        return state._replace(
            gated=gated,
            optimizer=state.optimizer if keep_momentum else optimizer.init(gated),
            temperature=at(0),
            round=state.round + 1,
        )

    def params(state):
        soft = soft_gates(state.gated.logits, state.mask, state.temperature)
        return gates.realise(state.gated.weights, soft)

    def ticket(state):
        mask = jax.tree.map(lambda s, m: (s > 0) & m, state.gated.logits, state.mask)
        chosen = state.anchor if weights == "anchor" else state.gated.weights
        return Ticket(masks.scale(mask, chosen, scale), mask)

    promises = Promises(
        hard=False,
        nested=False,  # logits of nearly 0 return
        weights=weights,
        rewind_step=rewind_step,
        rounds=True,
        scale=scale,
    )
    return Search(init, update, advance, params, ticket, promises)
