"""Pruning: ticket -> ticket, in one shot or in several; by scores or by a threshold."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, masks, scores, selection
from jaxticket.base import NO_EVIDENCE, Evidence, Ticket


def prune(
    ticket: Ticket,
    score: scores.Score | str,
    density: ArrayLike,
    *,
    evidence: Evidence = NO_EVIDENCE,
    select: selection.Select | str = "global_top",
    iterations: int = 1,
) -> Ticket:
    """Keeps the fraction `density` of what a ticket keeps: the highest scores.

    With several iterations the scores are taken anew on the pruned weights, and
    iteration `i` of `n` leaves the fraction `density ** (i / n)`. The last count is as
    exact as in one shot, and a pruned weight never comes back.

    Args:
      ticket: what to prune; its weights are scored, and returned unchanged.
      score: `(weights, evidence) -> scores`, or the name of one, see `scores`.
      density: the fraction of the surviving weights to keep, in (0, 1]. May be traced.
      evidence: what the score may look at besides the weights. `initial` is the
        ticket's weights if it is not given; every iteration has a key of its own.
      select: how the layers share the density, or its name, see `selection`.
      iterations: how many times to score and select.

    Returns:
      The ticket with its mask reduced.

    Raises:
      ValueError: density outside (0, 1] or too low to keep anything, iterations below
        1, an unknown name, or evidence that the score needs and does not have: initial
        weights from a file without what is pruned among it, where the score runs the
        network with them.
    """
    checks.fraction(density=density)
    checks.whole(1)(iterations=iterations)
    score, select = scores.named(score), selection.named(select)
    initial = ticket.weights if evidence.initial is None else evidence.initial
    initial = scores.known_initial(score, ticket.mask, initial)
    selection.check_kept(select, density, ticket.mask)
    if evidence.initial is None:
        ticket = ticket._replace(weights=initial)
    evidence = evidence._replace(initial=initial)

    def once(i, mask, fraction):
        key = None if evidence.key is None else jax.random.fold_in(evidence.key, i)
        weights = masks.apply(mask, ticket.weights)
        values = score(weights, evidence._replace(key=key))
        # NaN is lowest: what is pruned already goes first, so the masks are nested.
        # It is a mark here, and no mistake that `jax_debug_nans` should stop at.
        with jax.debug_nans(False):
            values = jax.tree.map(
                lambda v, m: (
                    v if m is None else jnp.where(m, jnp.fmax(v, -jnp.inf), jnp.nan)
                ),
                values,
                mask,
            )
            return select(values, ticket.mask, fraction)

    mask, last = ticket.mask, iterations - 1
    if last:
        mask = jax.lax.fori_loop(
            0, last, lambda i, m: once(i, m, density ** ((i + 1) / iterations)), mask
        )
    return ticket._replace(mask=once(last, mask, density))


def prune_by_deviation(ticket: Ticket, quality: ArrayLike) -> Ticket:
    """Keeps of each layer what is at least `quality` of its deviations away from zero.

    The standard deviation is that of the weights that the layer still has. How many are
    kept is an outcome: of a normal distribution 32% at a quality of 1 and 5% at 2.

    Args:
      ticket: what to prune; its weights are returned unchanged.
      quality: from 0, which keeps all. May be traced.

    Raises:
      ValueError: a quality below 0.

    Reference:
      Han et al., "Learning both Weights and Connections for Efficient Neural Networks",
      2015.
    """
    checks.not_negative(quality=quality)

    def of_layer(weights, mask):
        if mask is None:
            return None
        wide = jnp.promote_types(weights.dtype, jnp.float32)  # for squares of float16
        deviation = jnp.sqrt(jnp.var(weights, where=mask, dtype=wide))
        return mask & (jnp.abs(weights) >= quality * deviation)

    masks.check(ticket.mask, ticket.weights)
    mask = jax.tree.map(of_layer, ticket.weights, ticket.mask)
    return ticket._replace(mask=mask)
