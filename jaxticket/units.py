"""Whole units: filters and neurons, with their weights in the next layers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, masks, selection
from jaxticket.base import Ticket
from jaxticket.graphs import ties


class Filters(NamedTuple):
    """The filters of a layer.

    Attributes:
      kernel: its name.
      axis: of the kernel, along which they lie.
      places: where else their channels are: name of a kernel, axis, and how many
        positions an axis has outside and inside of the channels, as those of an image
        that has been flattened.
    """

    kernel: str
    axis: int
    places: tuple[tuple[str, int, int, int], ...]

    @property
    def everywhere(self) -> tuple[tuple[str, int, int, int], ...]:
        """The kernel itself, as a place, and the others."""
        return (self.kernel, self.axis, 1, 1), *self.places


def filters(network: Callable, ticket: Ticket, x: Any) -> list[Filters]:
    """The layers whose filters can be pruned one by one, read off a network's steps.

    Left out are those of the output layer, and of a residual stream, which several
    layers write to.

    Args:
      network: `((weights, model_state), x) -> outputs`.
      ticket: whose mask covers the kernels. May be traced.
      x: an input, or its shape and dtype.

    Raises:
      ValueError: a step of the network cannot be followed: it is named.
    """
    shapes = jax.eval_shape(lambda t: (t.weights, t.model_state), ticket)
    units, axes = ties.tied(network, shapes, x)
    names = masks.names(shapes[0])
    covered = set(masks.names(ticket.mask))
    made = {atom for axis in units.made for atom, _ in axis}
    writers: dict[int, list] = {}
    places: dict[int, list] = {}
    for name, leaf in zip(names, axes, strict=False):
        for k, own in enumerate(leaf):
            parts = units.axis(own)
            if name in covered and own[0][0] in made and len(parts) == 1:
                writers.setdefault(parts[0][0], []).append((name, k))
            elif name in covered:
                for i, (atom, _) in enumerate(parts):
                    around = map(ties.count, (parts[:i], parts[i + 1 :]))
                    places.setdefault(atom, []).append((name, k, *around))
    return [
        Filters(*layers[0], tuple(places.get(atom, ())))
        for atom, layers in writers.items()
        if len(layers) == 1 and units.fixed(atom) is None and atom in places
    ]


def prune_filters(ticket: Ticket, layers: list[Filters], density: ArrayLike) -> Ticket:
    """Keeps a fraction of the filters of each layer, those of the largest L1 norm.

    A filter is what one output of a layer has of its kernel, `sum |w|` its norm. It
    goes whole, with the weights that the next layers have for its channel, so that
    `compact` takes the channel out of the network.

    Args:
      ticket: whose weights are scored.
      layers: from `filters`, all or some of them.
      density: the fraction of the filters, not of the weights. May be traced.

    Returns:
      A ticket of the same weights.

    Raises:
      ValueError: a density outside (0, 1].

    Reference:
      Li et al., "Pruning Filters for Efficient ConvNets", 2017, as in Liu et al.,
      "Rethinking the Value of Network Pruning", 2019.
    """
    checks.fraction(density=density)
    weights, old = map(masks.named, (ticket.weights, ticket.mask))
    new = dict(old)
    for layer in layers:
        w, m = weights[layer.kernel], old[layer.kernel]
        rest = tuple(i for i in range(w.ndim) if i != layer.axis)
        wide = jnp.promote_types(w.dtype, jnp.float32)  # half precision makes ties
        norms = jnp.sum(jnp.abs(jnp.where(m, w, 0)), rest, dtype=wide)
        have = jnp.any(m, rest)
        keep = selection.keep(masks.count([have]), density)
        [stay] = selection.top([norms], [have], keep)
        for name, axis, outside, inside in layer.everywhere:
            along = jnp.tile(jnp.repeat(stay, inside), outside)
            shape = [-1 if i == axis else 1 for i in range(new[name].ndim)]
            new[name] &= along.reshape(shape)
    mask = jax.tree.structure(ticket.mask).unflatten(new.values())
    return ticket._replace(mask=mask)
