"""Pruning: ticket -> ticket, in one shot or in several."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import masks, scores, selection
from jaxticket.base import Params, PRNGKey, Ticket


def prune(
    ticket: Ticket,
    score: scores.Score,
    density: ArrayLike,
    *,
    initial: Params | None = None,
    key: PRNGKey | None = None,
    select: selection.Select = selection.global_top,
    iterations: int = 1,
) -> Ticket:
    """Keeps the fraction `density` of what a ticket keeps: the highest scores.

    With several iterations the scores are taken anew on the pruned weights, and
    iteration `i` of `n` leaves the fraction `density ** (i / n)`. The last count is as
    exact as in one shot, and a pruned weight never comes back.

    Args:
      ticket: what to prune; its weights are scored, and returned unchanged.
      score: `(weights, *, initial, key) -> scores`, see `scores`.
      density: the fraction of the surviving weights to keep, in (0, 1]. May be traced.
      initial: weights before training, for scores that compare; default the ticket's.
      key: for random scores; drawn from once in every iteration.
      select: how the layers share the density, see `selection`.
      iterations: how many times to score and select.

    Returns:
      The ticket with its mask reduced.

    Raises:
      ValueError: density outside (0, 1], or iterations below 1.
    """
    if isinstance(density, float | int) and not 0 < density <= 1:
        raise ValueError(f"density is the fraction kept, in (0, 1]; got {density}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    initial = ticket.weights if initial is None else initial

    def once(i, mask, fraction):
        weights = masks.apply(mask, ticket.weights)
        values = score(
            weights,
            initial=initial,
            key=None if key is None else jax.random.fold_in(key, i),
        )
        # NaN is lowest: what is pruned already goes first, so the masks are nested.
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
