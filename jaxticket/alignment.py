"""A mask for another initialisation: units are matched, and the mask goes with them.

The units of two networks that were trained from two initialisations have no order in
common. A mask of one over the weights of the other is one of other units; a mask whose
units have been permuted to where the other has its own is not.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxticket import masks
from jaxticket.base import Mask, ModelState, Params, Ticket
from jaxticket.graphs import activations
from jaxticket.units import filters


def aligned(
    network: Callable,
    ticket: Ticket,
    other: tuple[Params, ModelState],
    x: Any,
) -> Mask:
    """The mask of a ticket, permuted to the units of another network.

    Layer by layer, with `Z` the activations of its units on `x`, `[units, examples and
    places]`,

        P_l = argmax over permutations P of <P, Z_other Z_own^T>,
        m_l <- P_l m_l P_{l-1}^T.

    Units of the output layer, and of a residual stream, which several layers write to,
    stay where they are.

    Args:
      network: `((weights, model_state), x) -> outputs`.
      ticket: its mask is permuted; its weights are those of the network that the mask
        was found in, after the training of all of them, with their model state.
      other: weights and model state of the other network, trained likewise.
      x: examples, `[batch, ...]`.

    Returns:
      A mask with as many weights in each layer. Not for `jit`: the assignment is found
      by scipy.

    Raises:
      ValueError: a step of the network cannot be followed: it is named.

    Reference:
      "Sparse re-basin", 2025: activation matching.
    """
    layers = filters(network, ticket, jax.tree.map(lambda a: a[:1], x))
    own = activations.inputs(network, (ticket.weights, ticket.model_state), x)
    others = activations.inputs(network, other, x)
    places = {name: i for i, name in enumerate(masks.names(ticket.weights))}
    found = masks.named(jax.tree.map(np.asarray, ticket.mask))
    for layer in layers:
        readers = layer.places
        size = masks.named(ticket.weights)[layer.kernel].shape[layer.axis]
        name, _, outside, inside = readers[0]
        ours, theirs = (
            _by_unit(np.asarray(given[places[name]]), outside, size, inside)
            for given in (own, others)
        )
        order = matched(ours, theirs)
        for name, axis, outside, inside in ((layer.kernel, layer.axis, 1, 1), *readers):
            found[name] = _permuted(found[name], axis, order, outside, inside)
    return jax.tree.structure(ticket.mask).unflatten(found.values())


def matched(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which unit of one network is each unit of another.

    Args:
      own: activations `[units, n]`.
      other: of the other network, on the same examples.

    Returns:
      `order`, int `[units]`: unit `i` of the other is unit `order[i]` of ours, so that
      the sum of `other[i] * own[order[i]]` is the largest.
    """
    from scipy.optimize import linear_sum_assignment  # here: it takes time to import

    return linear_sum_assignment(other @ own.T, maximize=True)[1]


def _by_unit(rows: np.ndarray, outside: int, size: int, inside: int) -> np.ndarray:
    """`[rows, inputs]` of a layer as `[units, n]` of the one before it."""
    apart = rows.reshape(len(rows), outside, size, inside)
    return np.moveaxis(apart, 2, 0).reshape(size, -1)


def _permuted(
    leaf: np.ndarray, axis: int, order: np.ndarray, outside: int, inside: int
) -> np.ndarray:
    """A leaf whose units along an axis come in another order."""
    before, after = leaf.shape[:axis], leaf.shape[axis + 1 :]
    apart = leaf.reshape(*before, outside, len(order), inside, *after)
    return np.take(apart, order, axis=axis + 1).reshape(leaf.shape)
