"""Factored weights: weight decay on two factors of a weight is an L1 norm of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import checks, masks, meshes, scores, selection
from jaxticket.base import (
    Mask,
    OfFactors,
    Params,
    Promises,
    Scores,
    Search,
    State,
    Ticket,
    going_on,
    optimizing,
    owned,
    trained_by,
)


class Factors(NamedTuple):
    """What is trained: `m`, and a `u` for each weight that can be pruned.

    Where there is no `u` the network has `m` itself.
    """

    m: Params
    u: Scores


class FactoredState(NamedTuple):
    """State of `factored`."""

    factors: Factors
    optimizer: State
    mask: Mask  # what may be kept at all: the starting ticket's


def factored(
    optimizer: OfFactors,
    *,
    decay: ArrayLike = 1e-4,
    threshold: ArrayLike = 1e-3,
    density: ArrayLike | None = None,
    select: selection.Select | str = "global_top",
) -> Search:
    """Trains two factors of every weight, whose decay draws weights to zero (spred).

    Every prunable weight is `w = m u`. The network runs with `w`, and `(m, u)` are
    trained together on

        loss(m u) + decay * (sum(m ** 2) + sum(u ** 2)).

    For one `w` the sum is least where `|m| = |u|`, and there it is `2 decay |w|`: the
    minima are those of `loss(w) + 2 decay sum(|w|)`, the Lasso's. But both terms are
    smooth, and any optimiser will do. It starts from `m = w`, `u = 1`: the given
    network, of which every weight can change its sign until `u` has decayed.

    Args:
      optimizer: trains the pair `Factors(m, u)`. It is given `step`, see
        `schedules.scale_by_step`. Decay of its own comes on top.
      decay: larger is sparser. May be traced. The default is ours, as that of
        `threshold`: what suits depends on the network and on how long it trains.
      threshold: the ticket keeps `|w|` above it: a step of finite length comes near to
        zero and not there. May be traced.
      density: in place of the threshold the fraction of the given ticket's weights that
        is left, the largest `|w|`. May be traced.
      select: how the layers share the density, a function or a name of `selection`.

    Returns:
      A `Search`. Its ticket holds the trained weights; without `density`, how many it
      keeps is an outcome. There are no rounds: a further one trains on.

    Raises:
      ValueError: a negative `decay` or `threshold`, a density outside (0, 1], an
        unknown `select`.

    Reference:
      Ziyin and Wang, "spred: Solving L1 Penalty with SGD", 2023.
    """
    checks.not_negative(decay=decay, threshold=threshold)
    if density is not None:
        checks.fraction(density=density)
    select = selection.named(select)
    optimizer = optimizing(optimizer, "the pair `Factors(m, u)`")

    def realise(factors, mask):
        def product(m, u, alive):
            return m if u is None else jnp.where(alive, m * u, 0)

        return jax.tree.map(product, factors.m, factors.u, mask)

    def decayed(factors, mask):
        """`decay * (|m|^2 + |u|^2)`, of what may be kept."""

        def squares(m, u, alive):
            return None if u is None else jnp.where(alive, m**2 + u**2, 0)

        return decay * masks.total(jax.tree.map(squares, *factors, mask))

    def init(key, ticket):
        del key
        masks.check(ticket.mask, ticket.weights)
        if density is not None:
            selection.check_kept(select, density, ticket.mask)
        weights = masks.apply(ticket.mask, ticket.weights)
        kernels = masks.prunable_like(weights, ticket.mask)
        ones = jax.tree.map(lambda w: meshes.full_like(w, 1), kernels)
        factors = Factors(weights, ones)
        return owned(FactoredState(factors, optimizer.init(factors), ticket.mask))

    def update(grads, state, step, **told):
        def run_with(factors):
            return realise(factors, state.mask), decayed(factors, state.mask)

        (_, added), pull_back = jax.vjp(run_with, state.factors)
        (grads,) = pull_back((grads, jnp.ones_like(added)))
        updates, inner = trained_by(
            optimizer,
            grads,
            state.optimizer,
            state.factors,
            step=step,
            told=told,
            realise=lambda factors: realise(factors, state.mask),
            added=lambda factors: decayed(factors, state.mask),
        )
        factors = optax.apply_updates(state.factors, updates)
        return state._replace(factors=factors, optimizer=inner)

    def params(state):
        return realise(state.factors, state.mask)

    def ticket(state):
        found = params(state)
        if density is None:
            sizes = scores.magnitude(masks.prunable_like(found, state.mask))
            mask = jax.tree.map(lambda size: size > threshold, sizes)
        else:
            mask = select(scores.magnitude(found), state.mask, density)
        return Ticket(found, mask)

    kept = None if density is None else selection.kept(select, density)
    promises = Promises(hard=False, nested=False, kept=kept)
    return Search(init, update, going_on, params, ticket, promises)
