"""Controls: tickets that differ from a ticket in one respect only.

What a ticket is worth shows in the comparison: with other values under the same mask,
with the same values under another mask, with both of them new, with nothing left of the
values but their signs.

`__all__` lists the treatments, which experiments apply by name: `(key, ticket, init) ->
ticket`, each of which says as `differs_by` in what it differs from its ticket. Those
that give other values without drawing an initialisation are in `jaxticket.revalued`.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxticket import masks, revalued, selection
from jaxticket.base import Mask, ModelState, Params, PRNGKey, Ticket

__all__ = [
    "reinitialise",
    "shuffle",
    "random",
    "reorder",
    "permute",
    "signed_permute",
    "permute_kept",
    "signed_permute_kept",
    "random_constant",
    "signed_constant",
    "noise_half",
    "noise",
    "noise_two",
    "noise_three",
    "freeze",
]

# The initialisation of the ticket's network, with what goes with its weights: `None`
# where it has no such state. `Model.init` with its example bound is one.
Init = Callable[[PRNGKey], tuple[Params, ModelState]]


def _differing(by: Literal["weights", "mask", "both", "order", "pruned"]) -> Callable:
    def declare(control):
        control.differs_by = by
        return control

    return declare


def differs_by(name: str) -> str | None:
    """In what the control of a name differs from its ticket; None of no control."""
    return globals()[name].differs_by if name in __all__ else None


@_differing("weights")
def reinitialise(key: PRNGKey, ticket: Ticket, init: Init) -> Ticket:
    """The same mask over freshly drawn weights, and the model state of that draw.

    Args:
      key: for the new draw; must differ from the one the ticket was initialised with.
      ticket: whose mask to keep.
      init: `key -> (weights, model_state)`.

    Reference:
      Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, section 2.
    """
    weights, model_state = init(key)
    return Ticket(weights, ticket.mask, model_state)


@_differing("mask")
def shuffle(key: PRNGKey, ticket: Ticket, init: Init | None = None) -> Ticket:
    """The same weights under each layer's mask permuted: layer counts stay exact.

    Raises:
      ValueError: the ticket is from a file without what it prunes, which this keeps.
    """
    del init
    weights = masks.known(ticket.mask, ticket.weights, "the control shuffle")
    return ticket._replace(weights=weights, mask=_shuffled(key, ticket.mask))


@_differing("both")
def random(key: PRNGKey, ticket: Ticket, init: Init) -> Ticket:
    """A random ticket of the same layer densities: new mask, new weights."""
    mask_key, init_key = jax.random.split(key)
    weights, model_state = init(init_key)
    return Ticket(weights, _shuffled(mask_key, ticket.mask), model_state)


@_differing("order")
def reorder(key: PRNGKey, ticket: Ticket, init: Init | None = None) -> Ticket:
    """The same ticket: what trains it draws another order of the data, and other noise.

    Two trainings that differ in this alone end in one linearly connected region where
    the ticket is stable.

    Reference:
      Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
      2020, section 2.
    """
    del key, init
    return ticket


@_differing("pruned")
def freeze(key: PRNGKey, ticket: Ticket, init: Init | None = None) -> Ticket:
    """The same ticket: what trains it leaves its pruned weights where they are.

    They are frozen at the ticket's values and not zero, see `searches.fixed`.

    Raises:
      ValueError: the ticket is from a file without what it prunes.

    Reference:
      Zhou et al., "Deconstructing Lottery Tickets", 2019, section 5.
    """
    del key, init
    weights = masks.known(ticket.mask, ticket.weights, "the control freeze")
    return ticket._replace(weights=weights)


def _other_values(revalue: Callable[[PRNGKey, Ticket], Ticket]) -> Callable:
    """A control that needs no initialisation; what it does is in its docstring."""

    @_differing("weights")
    @functools.wraps(revalue)
    def control(key, ticket, init=None):
        del init
        return revalue(key, ticket)

    return control


permute = _other_values(revalued.permute)
signed_permute = _other_values(revalued.signed_permute)
permute_kept = _other_values(revalued.permute_kept)
signed_permute_kept = _other_values(revalued.signed_permute_kept)
random_constant = _other_values(revalued.random_constant)
signed_constant = _other_values(revalued.signed_constant)
noise_half = _other_values(functools.partial(revalued.noise, deviations=0.5))
noise = _other_values(revalued.noise)
noise_two = _other_values(functools.partial(revalued.noise, deviations=2.0))
noise_three = _other_values(functools.partial(revalued.noise, deviations=3.0))


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
