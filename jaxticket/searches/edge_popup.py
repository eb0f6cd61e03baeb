"""Edge-popup: a sub-network of random weights, by a score for every edge."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, draws, kernels, masks, selection, thresholds
from jaxticket.base import OfScores, Search
from jaxticket.searches import frozen


def edge_popup(
    optimizer: OfScores,
    *,
    density: ArrayLike = 0.5,
    select: selection.Select | str = "equal",
    fan_in: kernels.FanIn = kernels.fan_in,
) -> Search:
    """Learns which edges of a frozen, usually random network to keep.

    Every weight `w` has a score `s`, drawn uniformly from `(-1, 1) / sqrt(fan_in)`. The
    network runs with `w * h(|s|)`, where `h` keeps the highest fraction `density` of
    each layer, and `ds = dL/d(w h) * w * sign(s)` for all scores, kept or not.

    The paper's networks have no biases, and normalisation without parameters; biases
    that start at 0 and are frozen, as all else here, come to the same. What the weights
    are drawn from matters: see `revalued.kaiming_constant`.

    Args:
      optimizer: trains the scores; the paper's is SGD at 0.1 with momentum 0.9, cosine
        schedule, and weight decay 1e-4 of the scores. It is given `step`, see
        `schedules.scale_by_step`.
      density: the fraction of the given ticket's weights that the mask keeps, called
        `prune_rate` in the released code. May be traced.
      select: how the layers share the density: a function or its name, see `selection`;
        all alike by default. The counts of the first mask are those of all.
      fan_in: weights -> how many inputs each output of a leaf has, as a tree of
        numbers; by default as the names and biases of the layers say.

    Returns:
      A `Search` of one round without end. Its ticket holds the given weights.

    Raises:
      ValueError: density outside (0, 1], an unknown `select`.

    Reference:
      Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?", 2020.
    """
    checks.fraction(density=density)
    select = selection.named(select)

    def opened(key, ticket):
        selection.check_kept(select, density, ticket.mask)
        prunable = masks.prunable_like(ticket.weights, ticket.mask)
        first = draws.uniform(key, jnp.zeros((), jnp.int32), prunable, -1.0, 1.0)
        scores = jax.tree.map(
            lambda u, w, fan: (u / math.sqrt(fan)).astype(w.dtype),
            first,
            prunable,
            masks.prunable_like(fan_in(ticket.weights), ticket.mask),
        )
        mask = select(jax.tree.map(jnp.abs, scores), ticket.mask, density)
        return scores, mask, ticket.mask, thresholds.like(scores, mask, ticket.mask)

    def choose(state, step):
        del step
        ranks = jax.tree.map(jnp.abs, state.scores)
        return thresholds.highest_of_each(ranks, state.allowed, state.cuts)

    return frozen.search(
        optimizer,
        opened=opened,
        choose=choose,
        slope=jnp.sign,
        random=True,
        kept=selection.kept(select, density),
    )
