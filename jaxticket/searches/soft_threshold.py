"""Soft threshold reparameterisation: each layer learns what is too small to keep."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import checks, masks
from jaxticket.base import (
    Mask,
    OfGates,
    Promises,
    Search,
    State,
    Ticket,
    going_on,
    optimizing,
    owned,
    trained_by,
)
from jaxticket.searches.gates import GATED, Gated


class SoftThresholdState(NamedTuple):
    """State of `soft_threshold`."""

    gated: Gated  # its logits are scalars, one for each leaf that can be pruned
    optimizer: State
    mask: Mask  # what may be kept at all: the starting ticket's


def soft_threshold(optimizer: OfGates, *, initial_logit: ArrayLike = -3200.0) -> Search:
    """Learns with each layer a threshold below which its weights are zero.

    Every prunable leaf has one logit `s`. The network runs with `sign(w) relu(|w| -
    sigmoid(s))`, and `(w, s)` are trained together. Weight decay on `s` draws it to 0
    and so the threshold up to 1/2, until the loss holds against it: an optimiser that
    decays both alike is the paper's, `Gated` labels give `s` a decay of its own.

    Args:
      optimizer: trains the pair `Gated(weights, logits)`, with logits that are scalars.
        It is given `step`, see `schedules.scale_by_step`.
      initial_logit: where `s` starts; with the decay, it decides the density. At the
        default, one of the paper's for ResNet-50, the threshold is 0 in float32 and so
        is its gradient: at first only decay moves `s`. May be traced.

    Returns:
      A `Search`. Its ticket holds the thresholded weights and keeps those that are not
      zero; the density is an outcome. There are no rounds: `advance` changes nothing.

    Reference:
      Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable
      Sparsity", 2020. Which layers the paper leaves dense is not known: here every leaf
      with a mask has a threshold.
    """
    checks.finite(initial_logit=initial_logit)
    optimizer = optimizing(optimizer, GATED)

    def realise(gated, mask):
        def shrink(w, s, alive):
            if s is None:
                return w
            left = jax.nn.relu(jnp.abs(w) - jax.nn.sigmoid(s))
            return jnp.where(alive, jnp.sign(w) * left, 0)

        return jax.tree.map(shrink, gated.weights, gated.logits, mask)

    def init(key, ticket):
        del key
        masks.check(ticket.mask, ticket.weights)
        kept = masks.apply(ticket.mask, ticket.weights)
        logits = jax.tree.map(
            lambda w: jnp.full((), initial_logit, w.dtype),
            masks.prunable_like(kept, ticket.mask),
        )
        gated = Gated(kept, logits)
        return owned(SoftThresholdState(gated, optimizer.init(gated), ticket.mask))

    def update(grads, state, step, **told):
        _, pull_back = jax.vjp(lambda gated: realise(gated, state.mask), state.gated)
        (grads,) = pull_back(grads)
        updates, inner = trained_by(
            optimizer,
            grads,
            state.optimizer,
            state.gated,
            step=step,
            told=told,
            realise=lambda gated: realise(gated, state.mask),
        )
        gated = optax.apply_updates(state.gated, updates)
        return state._replace(gated=gated, optimizer=inner)

    def params(state):
        return realise(state.gated, state.mask)

    def ticket(state):
        found = params(state)
        mask = jax.tree.map(lambda w: w != 0, masks.prunable_like(found, state.mask))
        return Ticket(found, mask)

    promises = Promises(nested=False, running=jnp.ones_like)
    return Search(init, update, going_on, params, ticket, promises)
