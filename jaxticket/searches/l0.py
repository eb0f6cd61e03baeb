"""L0 regularisation: a hard concrete gate on every weight."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import masks
from jaxticket.base import (
    NO_EVIDENCE,
    Mask,
    OfGates,
    Params,
    PRNGKey,
    Promises,
    Search,
    State,
    Ticket,
)
from jaxticket.searches import gates
from jaxticket.searches.gates import Gated, Weights

LOWEST, HIGHEST = math.log(1e-2), math.log(1e2)  # of the logits
SPREAD = 0.01  # standard deviation of the first logits
EPSILON = 1e-6  # how near the draws come to 0 and 1


class L0State(NamedTuple):
    """State of `l0`."""

    gated: Gated  # its logits are the paper's `log alpha`
    optimizer: State
    mask: Mask  # what may be kept at all: the starting ticket's
    anchor: Params  # the weights that the ticket starts from
    round: jax.Array
    key: PRNGKey
    count: jax.Array  # updates so far: with the key, it decides the gates


def l0(
    optimizer: OfGates,
    *,
    penalty: ArrayLike = 1e-5,
    initial_logit: ArrayLike = 0.0,
    temperature: float = 2 / 3,
    low: float = -0.1,
    high: float = 1.1,
    rewind_step: int = 0,
    weights: Weights = "anchor",
) -> Search:
    """Learns gates that are noisy in training and exactly zero where not needed.

    Every prunable weight `w` has a logit `a` (`log alpha`); `b` is the temperature and
    `c`, `d` are the ends of the stretch (`gamma`, `zeta`). The network trains with
    `z * w`, where

        z = clip((d - c) sigmoid((log(u / (1 - u)) + a) / b) + c, 0, 1),  u ~ U(0, 1),

    on `loss + penalty * sum(sigmoid(a - b log(-c / d)))`, the expected number of gates
    that are not zero. The gate of a test is `clip((d - c) sigmoid(a) + c, 0, 1)`.

    Args:
      optimizer: trains the pair `Gated(weights, logits)`. It is given `step`, see
        `schedules.scale_by_step`.
      penalty: `lambda`; larger is sparser. May be traced. The default is ours: the
        penalty that suits depends on the network.
      initial_logit: mean of the first logits, `log((1 - p) / p)` for gates that are off
        with probability `p`. May be traced.
      temperature: `b`.
      low: `c`, below 0: how far a gate is stretched beyond closed.
      high: `d`, above 1: how far it is stretched beyond open.
      rewind_step: step of the first round whose weights that ticket starts from.
      weights: the ticket's: `anchor` are those of `rewind_step`; `trained` are those of
        now times their gate in a test, which is the network that the paper tests.

    Returns:
      A `Search`. Its ticket keeps the weights whose gate in a test is not zero. The
      method has no rounds: a further one goes on where the last one ended.

    Raises:
      ValueError: a negative penalty or `rewind_step`, a `temperature`, `low`,
        `high` or `weights` that cannot be.

    Reference:
      Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", 2018.
      One gate for each weight; the released code has one for each unit or filter, and
      keeps the logits in [log 0.01, log 100], as here.
    """
    gates.check(penalty=penalty, rewind_step=rewind_step, weights=weights)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not low < 0:
        raise ValueError(f"low must be below 0, got {low}")
    if not high > 1:
        raise ValueError(f"high must be above 1, got {high}")
    optimizer = optax.with_extra_args_support(optimizer)
    shift = temperature * math.log(-low / high)

    def rectified(concrete):
        return jnp.clip((high - low) * concrete + low, 0, 1)

    def sample(state, logits):
        """The gates of this step and how likely they are not to be zero."""

        def noisy(a, u, alive):
            noise = jnp.log(u) - jnp.log(1 - u)
            z = rectified(jax.nn.sigmoid((noise + a) / temperature))
            return jnp.where(alive, z, 0).astype(a.dtype)

        draws = gates.uniform(state.key, state.count, logits, EPSILON, 1 - EPSILON)
        active = jax.tree.map(
            lambda a, alive: jnp.where(alive, jax.nn.sigmoid(a - shift), 0),
            logits,
            state.mask,
        )
        return jax.tree.map(noisy, logits, draws, state.mask), active

    def init(key, ticket):
        masks.check(ticket.mask, ticket.weights)
        kept = masks.apply(ticket.mask, ticket.weights)
        logit_key, gate_key = jax.random.split(key)
        leaves, tree = jax.tree.flatten(masks.prunable_like(kept, ticket.mask))
        keys = jax.random.split(logit_key, len(leaves))
        logits = [
            jnp.full_like(w, initial_logit)
            + SPREAD * jax.random.normal(k, w.shape, w.dtype)
            for k, w in zip(keys, leaves, strict=True)
        ]
        gated = Gated(kept, tree.unflatten(logits))
        zero = jnp.zeros((), jnp.int32)
        opened = optimizer.init(gated)
        return L0State(gated, opened, ticket.mask, ticket.weights, zero, gate_key, zero)

    def update(grads, state, step):
        state = gates.update(
            optimizer,
            lambda logits: sample(state, logits),
            grads,
            state,
            step,
            penalty=penalty,
            rewind_step=rewind_step,
        )
        gated = state.gated._replace(
            logits=jax.tree.map(
                lambda a: jnp.clip(a, LOWEST, HIGHEST), state.gated.logits
            )
        )
        return state._replace(gated=gated, count=state.count + 1)

    def advance(state, evidence=NO_EVIDENCE):
        del evidence
        return state._replace(round=state.round + 1)

    def params(state):
        drawn, _ = sample(state, state.gated.logits)
        return gates.realise(state.gated.weights, drawn)

    def ticket(state):
        z = jax.tree.map(
            lambda a, alive: jnp.where(alive, rectified(jax.nn.sigmoid(a)), 0),
            state.gated.logits,
            state.mask,
        )
        mask = jax.tree.map(lambda z: z > 0, z)
        if weights == "anchor":
            return Ticket(state.anchor, mask)
        return Ticket(gates.realise(state.gated.weights, z), mask)

    promises = Promises(
        hard=False,
        nested=False,
        weights=weights,
        rewind_step=rewind_step,
        random=True,
        scale=1.0 if weights == "anchor" else None,
    )
    return Search(init, update, advance, params, ticket, promises)
