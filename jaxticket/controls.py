"""Controls: tickets that differ from a ticket in one respect only.

What a ticket is worth shows in the comparison: with other values under the same mask,
with the same values under another mask, with both of them new, with nothing left of the
values but their signs.

`__all__` lists the treatments, which experiments apply by name: `(key, ticket, init) ->
ticket`, each of which says as `differs_by` in what it differs from its ticket. The
others give a ticket other values before a search: see `jaxticket.starts`.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, kernels, masks, selection
from jaxticket.base import Mask, ModelState, Params, PRNGKey, Ticket

__all__ = ["reinitialise", "shuffle", "random", "reorder"]

# The initialisation of the ticket's network, with what goes with its weights: `None`
# where it has no such state. `Model.init` with its example bound is one.
Init = Callable[[PRNGKey], tuple[Params, ModelState]]


def _differing(by: Literal["weights", "mask", "both", "order"]) -> Callable:
    def declare(control):
        control.differs_by = by
        return control

    return declare


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


def signed_constant(ticket: Ticket) -> Ticket:
    """The same mask and signs; in every layer one magnitude, its standard deviation.

    That of the whole layer, pruned weights included (Zhou et al. 2019). Leaves that are
    never pruned stay as they are.

    Raises:
      ValueError: the ticket is from a file without what it prunes.
    """
    weights = masks.known(ticket.mask, ticket.weights, "signed_constant")
    whole = ticket._replace(weights=weights)
    return _revalued(whole, lambda i, w: jnp.sign(w) * jnp.std(w))


def kaiming_constant(
    ticket: Ticket,
    *,
    density: ArrayLike = 1.0,
    fan_in: kernels.FanIn = kernels.fan_in,
) -> Ticket:
    """The same mask and signs; in every layer the magnitude `sqrt(2 / fan_in)`.

    The signed Kaiming constant, the best start of edge-popup. Leaves that are never
    pruned stay as they are: networks of the paper have no biases, zeros do the same.

    Args:
      ticket: its prunable leaves are kernels.
      density: fraction of the fan that a search will leave, for the variance of what is
        left. The published results come from 1. May be traced. The released
        `scale_fan` has one minus it by mistake, which is the same at one half.
      fan_in: weights -> how many inputs each output of a leaf has, as a tree of
        numbers; by default as the names and biases of the layers say.

    Raises:
      ValueError: a prunable leaf of fewer than two dimensions, density outside (0, 1],
        or a ticket from a file without what it prunes, whose signs this takes.

    Reference:
      Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?", 2020.
    """
    _check_kernels(ticket, density)
    weights = masks.known(ticket.mask, ticket.weights, "kaiming_constant")
    whole = ticket._replace(weights=weights)
    deviations = _kaiming(ticket, density, fan_in)
    return _revalued(whole, lambda i, w: jnp.sign(w) * deviations[i].astype(w.dtype))


def kaiming_normal(
    key: PRNGKey,
    ticket: Ticket,
    *,
    density: ArrayLike = 1.0,
    fan_in: kernels.FanIn = kernels.fan_in,
) -> Ticket:
    """The same mask over new normal weights of deviation `sqrt(2 / fan_in)`.

    Args:
      key: for the new draw; must differ from the one the ticket was initialised with.
      ticket: see `kaiming_constant`.
      density: see `kaiming_constant`.
      fan_in: see `kaiming_constant`.

    Raises:
      ValueError: a prunable leaf of fewer than two dimensions, or density outside
        (0, 1].
    """
    _check_kernels(ticket, density)
    deviations = _kaiming(ticket, density, fan_in)

    def draw(i, w):
        normal = jax.random.normal(jax.random.fold_in(key, i), w.shape, w.dtype)
        return normal * deviations[i].astype(w.dtype)

    return _revalued(ticket, draw)


def _check_kernels(ticket: Ticket, density: ArrayLike) -> None:
    checks.fraction(density=density)
    for path, leaf in jax.tree_util.tree_leaves_with_path(ticket.mask):
        if leaf.ndim < 2:
            raise ValueError(
                f"prunable leaf {masks.name(path)!r} has shape {leaf.shape}; "
                "a fan is that of a kernel, of inputs and outputs"
            )


def _kaiming(
    ticket: Ticket, density: ArrayLike, fan_in: kernels.FanIn
) -> list[jax.Array]:
    """`sqrt(2 / (density fan_in))` of every prunable leaf."""
    fans = masks.prunable_like(fan_in(ticket.weights), ticket.mask)
    wide = jnp.asarray(density, jnp.float32)
    return [jnp.sqrt(2 / (wide * fan)) for fan in jax.tree.leaves(fans)]


def _revalued(ticket: Ticket, value: Callable[[int, jax.Array], jax.Array]) -> Ticket:
    """The same mask over `value(i, w)` in place of every prunable leaf, the `i`-th."""
    prunable = masks.prunable_like(ticket.weights, ticket.mask)
    leaves, tree = jax.tree.flatten(prunable)
    values = tree.unflatten([value(i, w) for i, w in enumerate(leaves)])
    return ticket._replace(
        weights=jax.tree.map(lambda w, v: w if v is None else v, ticket.weights, values)
    )


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
