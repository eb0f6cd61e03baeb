"""Continuous Sparsification: a sigmoid gate on every weight, annealed to a mask."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import masks
from jaxticket.base import Mask, Params, Schedule, Scores, Search, State, Ticket
from jaxticket.searches.fixed import remember

Between = Literal["paper", "code"]


class Gated(NamedTuple):
    """What is trained: the weights, and a logit for each one that can be pruned.

    Also the labels that optimisers need to treat the two differently, as in
    `optax.partition({"w": sgd, "s": adam}, Gated("w", "s"))`, or
    `optax.add_decayed_weights(1e-4, mask=Gated(True, False))`.
    """

    weights: Params
    logits: Scores


class ContinuousState(NamedTuple):
    """State of `continuous_sparsification`."""

    gated: Gated
    optimizer: State
    temperature: jax.Array  # beta of the next step
    mask: Mask  # what may be kept at all: the starting ticket's
    anchor: Params  # the weights that the ticket starts from
    round: jax.Array


def continuous_sparsification(
    optimizer: optax.GradientTransformation,
    *,
    temperature: Schedule,
    penalty: ArrayLike = 1e-8,
    initial_logit: ArrayLike = 0.0,
    rewind_step: int = 0,
    between: Between = "paper",
    scaling: bool = True,
    keep_momentum: bool = True,
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
      temperature: step within the round -> `beta`, see `schedules.temperature`.
      penalty: `lambda`, weight of the L0 surrogate; larger is sparser. May be traced.
      initial_logit: `s0`; smaller is sparser. May be traced.
      rewind_step: step of the first round whose weights the ticket starts from.
      between: the rule between rounds: `paper` is `min(beta s, s0)`; `code` is what the
        released code computes, `min(s, s0)`, which lets pruned weights come back.
      scaling: divide the gates by `sigmoid(s0)`, as the released code does: they are 1
        at the start and `1 / sigmoid(s0)` in the end, and the ticket's weights carry
        that factor.
      keep_momentum: whether the optimiser's state outlives a round.

    Returns:
      A `Search`. Its ticket keeps the weights whose logit is positive: read it before
      `advance`, which moves every logit to `s0` or below.

    Raises:
      ValueError: a negative penalty or `rewind_step`, an unknown `between`.

    Reference:
      Savarese et al., "Winning the Lottery with Continuous Sparsification", 2020,
      Algorithm 2.
    """
    if isinstance(penalty, float | int) and penalty < 0:
        raise ValueError(f"penalty must be at least 0, got {penalty}")
    if rewind_step < 0:
        raise ValueError(f"rewind_step must be at least 0, got {rewind_step}")
    if between not in get_args(Between):
        raise ValueError(f"between must be one of {get_args(Between)}, got {between!r}")
    optimizer = optax.with_extra_args_support(optimizer)
    scale = 1 / jax.nn.sigmoid(jnp.asarray(initial_logit)) if scaling else 1.0

    def at(step):
        return jnp.asarray(temperature(step), jnp.float32)

    def gates(logits, mask, beta):
        """`sigmoid(beta s)`, scaled; zero where the starting mask is."""

        def gate(s, alive):
            soft = jax.nn.sigmoid(beta.astype(s.dtype) * s)
            return jnp.where(alive, jnp.asarray(scale, s.dtype) * soft, 0)

        return jax.tree.map(gate, logits, mask)

    def realise(weights, gates):
        return jax.tree.map(lambda w, g: w if g is None else w * g, weights, gates)

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
        step = jnp.asarray(step, jnp.int32)
        if rewind_step > 0:
            anchor = remember(
                state.anchor,
                state.gated.weights,
                now=step == rewind_step,
                first=state.round == 0,
            )
            state = state._replace(anchor=anchor)

        def run_with(gated):
            soft = gates(gated.logits, state.mask, state.temperature)
            return realise(gated.weights, soft), soft

        (_, soft), pull_back = jax.vjp(run_with, state.gated)
        # d(penalty * sum(gates)) / d(gates) is the penalty itself.
        surrogate = jax.tree.map(lambda g: jnp.full_like(g, penalty), soft)
        (grads,) = pull_back((grads, surrogate))
        updates, inner = optimizer.update(
            grads, state.optimizer, state.gated, step=step
        )
        return state._replace(
            gated=optax.apply_updates(state.gated, updates),
            optimizer=inner,
            temperature=at(step + 1),
        )

    def advance(state):
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
        soft = gates(state.gated.logits, state.mask, state.temperature)
        return realise(state.gated.weights, soft)

    def ticket(state):
        mask = jax.tree.map(lambda s, m: (s > 0) & m, state.gated.logits, state.mask)
        weights = jax.tree.map(
            lambda w, m: w if m is None else w * jnp.asarray(scale, w.dtype),
            state.anchor,
            mask,
        )
        return Ticket(weights, mask)

    return Search(init, update, advance, params, ticket)
