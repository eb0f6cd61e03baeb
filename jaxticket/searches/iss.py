"""Iterative Stochastic Sparsification: a Bernoulli gate on every weight."""

from collections.abc import Callable
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


class IssState(NamedTuple):
    """State of `iss`."""

    gated: Gated
    optimizer: State
    mask: Mask  # what no round has dropped
    anchor: Params  # the weights that the ticket starts from
    round: jax.Array
    key: PRNGKey
    count: jax.Array  # updates so far: with the key, it decides the gates


def iss(
    optimizer: OfGates,
    *,
    penalty: ArrayLike = 1e-8,
    initial_logit: ArrayLike = 0.0,
    rewind_step: int = 0,
    off: Callable[[jax.Array], jax.Array] | ArrayLike = 0.5,
    keep_momentum: bool = True,
    weights: Weights = "anchor",
) -> Search:
    """Learns how likely each weight is to be kept, and drops the unlikely ones.

    Every prunable weight `w` has a logit `s`. Each step draws gates `m ~
    Bernoulli(sigmoid(s))`, and the network runs with `m * w`. `(w, s)` are trained
    together on `loss + penalty * sum(sigmoid(s))`, where the gradient passes straight
    through the draw: `dm/ds` is that of `sigmoid(s)`. Between rounds the weights whose
    gate is off are dropped for good, and the logits of the others return to `s0`. The
    weights are not rewound between rounds, only in the ticket.

    With weights that the optimiser freezes (see `Gated`) this is the stochastic
    supermask of Zhou et al. 2019.

    Args:
      optimizer: trains the pair `Gated(weights, logits)`. It is given `step`, see
        `schedules.scale_by_step`.
      penalty: `lambda`; larger is sparser. May be traced. The default is Continuous
        Sparsification's; that of this baseline is not known.
      initial_logit: `s0`; smaller is sparser. May be traced. Below 0 every gate is off
        when a round opens: read the ticket before `advance`.
      rewind_step: step of the first round whose weights the ticket starts from.
      off: gates that are open with a lower probability than this are off; it may be
        traced. Or a rule: logits -> which gates are off. That of the paper is not
        known: say which one a result used.
      keep_momentum: whether the optimiser's state outlives a round; not known either.
      weights: the ticket's: `anchor` are those of `rewind_step`, `trained` those of
        now.

    Returns:
      A `Search`. Its ticket keeps what was never dropped and is not off now.

    Raises:
      ValueError: a negative penalty or `rewind_step`, an unknown `weights`.

    Reference:
      Savarese et al., "Winning the Lottery with Continuous Sparsification", 2020, the
      baseline of its early versions; Zhou et al., "Deconstructing Lottery Tickets",
      2019, section 5.
    """
    gates.check(penalty=penalty, rewind_step=rewind_step, weights=weights)
    optimizer = optax.with_extra_args_support(optimizer)
    is_off = off if callable(off) else lambda s: jax.nn.sigmoid(s) < off

    def sample(state, logits):
        """The gates of this step and their probabilities, zero for what is dropped."""

        def straight_through(p, u, alive):
            drawn = (u < p).astype(p.dtype)
            return jnp.where(alive, p - jax.lax.stop_gradient(p) + drawn, 0)

        draws = gates.uniform(state.key, state.count, logits)
        p = jax.tree.map(
            lambda s, alive: jnp.where(alive, jax.nn.sigmoid(s), 0), logits, state.mask
        )
        return jax.tree.map(straight_through, p, draws, state.mask), p

    def fresh(logits):
        return jax.tree.map(lambda s: jnp.full_like(s, initial_logit), logits)

    def init(key, ticket):
        masks.check(ticket.mask, ticket.weights)
        kept = masks.apply(ticket.mask, ticket.weights)
        gated = Gated(kept, fresh(masks.prunable_like(kept, ticket.mask)))
        zero = jnp.zeros((), jnp.int32)
        opened = optimizer.init(gated)
        return IssState(gated, opened, ticket.mask, ticket.weights, zero, key, zero)

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
        return state._replace(count=state.count + 1)

    def advance(state, evidence=NO_EVIDENCE):
        del evidence
        gated = state.gated._replace(logits=fresh(state.gated.logits))
        return state._replace(
            gated=gated,
            optimizer=state.optimizer if keep_momentum else optimizer.init(gated),
            mask=ticket(state).mask,
            round=state.round + 1,
        )

    def params(state):
        drawn, _ = sample(state, state.gated.logits)
        return gates.realise(state.gated.weights, drawn)

    def ticket(state):
        mask = jax.tree.map(lambda s, m: ~is_off(s) & m, state.gated.logits, state.mask)
        chosen = state.anchor if weights == "anchor" else state.gated.weights
        return Ticket(chosen, mask)

    promises = Promises(
        hard=False,
        weights=weights,
        rewind_step=rewind_step,
        rounds=True,
        random=True,
    )
    return Search(init, update, advance, params, ticket, promises)
