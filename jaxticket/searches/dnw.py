"""Discovering neural wirings: the largest weights run, and all of them are trained."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import checks, masks, scores, selection, thresholds
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


class WiringState(NamedTuple):
    """State of `dnw`."""

    weights: Params  # all of them, those that do not run too
    mask: Mask  # of the weights that run
    allowed: Mask  # what the mask is chosen from: the starting ticket's
    optimizer: State
    cuts: thresholds.Cuts | None  # of the layers, where a layer always keeps as many


def dnw(
    optimizer: OfWeights,
    *,
    density: ArrayLike = 0.1,
    select: selection.Select | str = "equal",
) -> Search:
    """Trains all weights by the gradient of a network of the largest.

    The network runs with `w * h(|w|)`, where `h` keeps the highest fraction `density`
    of each layer, and every weight, kept or not, takes the step that `dL/d(w h)` gives
    it: a weight that does not run grows until it does, if the loss would have it so.

    Args:
      optimizer: trains the weights, by their whole gradient; what it decays are all of
        them. It is given `step`, see `schedules.scale_by_step`.
      density: the fraction of the given ticket's weights that the network runs with, 1
        less the `prune_rate` of the released code, which cuts off what is no whole
        weight where this rounds. May be traced.
      select: how the layers share the density, a function or a name of `selection`:
        all alike by default, as the code's one rate for all; it is asked at every step.

    Returns:
      A `Search` of one round without end. Its ticket holds the trained weights, and
      where its mask is false those that do not run.

    Raises:
      ValueError: a density outside (0, 1], an unknown `select`.

    Reference:
      Wortsman et al., "Discovering Neural Wirings", 2019, for the weights of layers as
      in the code of Kusupati et al. 2020, whose baseline it is. The paper's graphs of
      single channels are not here.
    """
    checks.fraction(density=density)
    select = selection.named(select)
    optimizer = optimizing(optimizer)

    def chosen(weights, allowed, cuts):
        found = scores.magnitude(weights)
        if cuts is None:
            return select(found, allowed, density), None
        found = masks.prunable_like(found, allowed)
        return thresholds.highest_of_each(found, allowed, cuts)

    def init(key, ticket):
        del key
        masks.check(ticket.mask, ticket.weights)
        selection.check_kept(select, density, ticket.mask)
        weights, allowed = masks.apply(ticket.mask, ticket.weights), ticket.mask
        inner = optimizer.init(weights)
        mask, cuts = chosen(weights, allowed, None)
        if selection.steady(select):
            prunable = masks.prunable_like(weights, allowed)
            cuts = thresholds.like(prunable, mask, allowed)
        return owned(WiringState(weights, mask, allowed, inner, cuts))

    def update(grads, state, step, **told):
        updates, inner = trained_by(
            optimizer,
            masks.apply(state.allowed, grads),
            state.optimizer,
            state.weights,
            step=step,
            told=told,
        )
        weights = optax.apply_updates(state.weights, updates)
        weights = masks.apply(state.allowed, weights)
        mask, cuts = chosen(weights, state.allowed, state.cuts)
        return WiringState(weights, mask, state.allowed, inner, cuts)

    def params(state):
        return masks.apply(state.mask, state.weights)

    def ticket(state):
        return Ticket(state.weights, state.mask)

    kept = selection.kept(select, density)
    promises = Promises(
        nested=False,
        kept=kept,
        running=None if kept else jnp.ones_like,
        dense_gradient=jnp.ones_like,
    )
    return Search(init, update, going_on, params, ticket, promises)
