"""Controls: tickets that differ from a ticket in one respect only.

What a ticket is worth shows in the comparison: with other values under the same mask,
with the same values under another mask, with both of them new.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxticket import masks, selection
from jaxticket.base import Mask, Params, PRNGKey, Ticket


def reinitialise(
    key: PRNGKey, ticket: Ticket, init: Callable[[PRNGKey], Params]
) -> Ticket:
    """The same mask over freshly drawn weights (Frankle and Carbin 2019, section 2).

    Args:
      key: for the new draw; must differ from the one the ticket was initialised with.
      ticket: whose mask to keep.
      init: `key -> weights`, the initialisation of the ticket's network.
    """
    return ticket._replace(weights=init(key))


def shuffle(key: PRNGKey, ticket: Ticket) -> Ticket:
    """The same weights under each layer's mask permuted: layer counts stay exact."""
    return ticket._replace(mask=_shuffled(key, ticket.mask))


def random(key: PRNGKey, ticket: Ticket, init: Callable[[PRNGKey], Params]) -> Ticket:
    """A random ticket of the same layer densities: new mask, new weights."""
    mask_key, init_key = jax.random.split(key)
    return Ticket(init(init_key), _shuffled(mask_key, ticket.mask))


def _shuffled(key: PRNGKey, mask: Mask) -> Mask:
    """A uniformly random mask of the same count in every leaf.

    The first `count` places in a random order are kept. Drawing `count` places by
    selection instead of permuting the leaf avoids a sort.
    """
    leaves, tree = jax.tree.flatten(mask)
    shuffled = []
    for i, leaf in enumerate(leaves):
        # Only a tie at the very cut matters, and it goes to the first: no count moves.
        draws = jax.random.uniform(jax.random.fold_in(key, i), leaf.shape)
        everywhere = [jnp.ones_like(leaf)]
        shuffled += selection.top([draws], everywhere, masks.count([leaf]))
    return tree.unflatten(shuffled)
