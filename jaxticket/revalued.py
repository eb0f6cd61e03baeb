"""Other values under the same mask: of its signs, of its magnitudes, or of neither.

What of a ticket's initial values matters (Zhou et al., "Deconstructing Lottery
Tickets", 2019, section 4: their actions on what a mask keeps). Every layer is treated
alone: prunable leaves are drawn anew, and leaves that are never pruned stay as they
are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, kernels, masks
from jaxticket.base import PRNGKey, Ticket


def permute(key: PRNGKey, ticket: Ticket) -> Ticket:
    """Every layer's values permuted over all its places, pruned ones included.

    Zhou et al. call it random_reinit: no new draw, but the values of the old one.

    Raises:
      ValueError: the ticket is from a file without what it prunes.
    """
    return _of_whole_layers("permute", key, ticket, _permuted)


def signed_permute(key: PRNGKey, ticket: Ticket) -> Ticket:
    """`permute`, with the sign that each place had: their signed_reinit.

    Raises:
      ValueError: the ticket is from a file without what it prunes.
    """
    return _of_whole_layers("signed_permute", key, ticket, _signed(_permuted))


def permute_kept(key: PRNGKey, ticket: Ticket) -> Ticket:
    """Every layer's kept values permuted among their places: their random_reshuffle.

    It draws from the distribution that the survivors' initial values have.
    """
    return _revalued(key, ticket, _kept_permuted)


def signed_permute_kept(key: PRNGKey, ticket: Ticket) -> Ticket:
    """`permute_kept`, with the sign that each place had: their signed_reshuffle."""
    return _revalued(key, ticket, _signed(_kept_permuted))


def random_constant(key: PRNGKey, ticket: Ticket) -> Ticket:
    """`signed_constant` with its signs permuted: their rand_signed_constant.

    Raises:
      ValueError: the ticket is from a file without what it prunes.
    """

    def value(key, w, m):
        return _permuted(key, _constant(key, w, m), m)

    return _of_whole_layers("random_constant", key, ticket, value)


def signed_constant(key: PRNGKey, ticket: Ticket) -> Ticket:
    """The same signs; in every layer one magnitude, its standard deviation.

    That of the whole layer, pruned weights included. Nothing is drawn.

    Raises:
      ValueError: the ticket is from a file without what it prunes.
    """
    return _of_whole_layers("signed_constant", key, ticket, _constant)


def noise(key: PRNGKey, ticket: Ticket, deviations: ArrayLike = 1.0) -> Ticket:
    """The same values, with Gaussian noise of so many of a layer's deviations.

    The deviation is that of the whole layer, pruned weights included.

    Args:
      key: for the noise.
      ticket: whose values to disturb.
      deviations: of the noise, in standard deviations of the layer. May be traced.

    Raises:
      ValueError: a negative number of deviations, or a ticket from a file without what
        it prunes.

    Reference:
      Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, Appendix F.7.
    """
    checks.not_negative(deviations=deviations)

    def value(key, w, m):
        normal = jax.random.normal(key, w.shape, w.dtype)
        return w + jnp.asarray(deviations, w.dtype) * _deviation(w) * normal

    return _of_whole_layers("noise", key, ticket, value)


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
    deviations = _kaiming(ticket, density, fan_in)
    return _with(
        ticket._replace(weights=weights),
        lambda i, w, m: jnp.sign(w) * deviations[i].astype(w.dtype),
    )


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

    def draw(i, w, m):
        normal = jax.random.normal(jax.random.fold_in(key, i), w.shape, w.dtype)
        return normal * deviations[i].astype(w.dtype)

    return _with(ticket, draw)


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


# One layer's values: (key, weights, mask) -> weights.
Value = Callable[[PRNGKey, jax.Array, jax.Array], jax.Array]


def _permuted(key: PRNGKey, w: jax.Array, m: jax.Array) -> jax.Array:
    del m
    return jax.random.permutation(key, w.ravel()).reshape(w.shape)


def _kept_permuted(key: PRNGKey, w: jax.Array, m: jax.Array) -> jax.Array:
    """The `j`-th kept place gets the value of the `j`-th in a random order of them."""
    kept = m.ravel()
    draws = jax.random.bits(key, kept.shape)
    in_order = jnp.lexsort((draws, ~kept))  # the kept ones come first
    places = in_order[jnp.cumsum(kept) - 1].reshape(w.shape)
    return jnp.where(m, w.ravel()[places], w)


def _constant(key: PRNGKey, w: jax.Array, m: jax.Array) -> jax.Array:
    del key, m
    return jnp.sign(w) * _deviation(w)


def _deviation(w: jax.Array) -> jax.Array:
    """Of float16 too: the squares of small numbers are 0 there."""
    wide = jnp.promote_types(w.dtype, jnp.float32)
    return jnp.std(w, dtype=wide).astype(w.dtype)


def _signed(value: Value) -> Value:
    return lambda key, w, m: jnp.abs(value(key, w, m)) * jnp.sign(w)


def _of_whole_layers(name: str, key: PRNGKey, ticket: Ticket, value: Value) -> Ticket:
    """`_revalued`, where a value depends on what the mask prunes."""
    weights = masks.known(ticket.mask, ticket.weights, f"the control {name}")
    return _revalued(key, ticket._replace(weights=weights), value)


def _revalued(key: PRNGKey, ticket: Ticket, value: Value) -> Ticket:
    """The same mask over new values of every prunable leaf, each with its key."""
    return _with(ticket, lambda i, w, m: value(jax.random.fold_in(key, i), w, m))


def _with(ticket: Ticket, value: Callable[..., jax.Array]) -> Ticket:
    """The same mask over `value(i, w, m)` of every prunable leaf, the `i`-th."""
    prunable = masks.prunable_like(ticket.weights, ticket.mask)
    leaves, tree = jax.tree.flatten(prunable)
    kept = jax.tree.leaves(ticket.mask)
    both = zip(leaves, kept, strict=True)
    values = tree.unflatten([value(i, w, m) for i, (w, m) in enumerate(both)])
    return ticket._replace(
        weights=jax.tree.map(lambda w, v: w if v is None else v, ticket.weights, values)
    )
