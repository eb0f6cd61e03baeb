"""A mask for another initialisation: units are matched, and the mask goes with them.

The units of two networks that were trained from two initialisations have no order in
common. A mask of one over the weights of the other is one of other units; a mask whose
units have been permuted to where the other has its own is not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import masks
from jaxticket.base import Mask, Ticket
from jaxticket.graphs import activations
from jaxticket.units import Filters, filters


class Match(NamedTuple):
    """Whose units the units of a layer are.

    Attributes:
      layer: where they lie.
      order: int `[units]`: unit `i` of the other network is our unit `order[i]`.
    """

    layer: Filters
    order: np.ndarray


def matches(network: Callable, own: Ticket, other: Ticket, x: Any) -> list[Match]:
    """The units of two networks, matched layer by layer by what they do.

        P_l = argmax over permutations P of <P, Z_other Z_own^T>

    with `Z` the activations of the layer's units on `x`, `[units, examples and
    places]`, as the next layer is given them. Units of the output layer, and of a
    residual stream, which several layers write to, are not matched.

    Args:
      network: `((weights, model_state), x) -> outputs`.
      own: the one network, trained; its mask says which kernels a mask can cover.
      other: the other network, trained likewise.
      x: examples, `[batch, ...]`.

    Returns:
      A match a layer, for `permuted`. Not for `jit`: scipy finds the assignment.

    Raises:
      ValueError: a step of the network cannot be followed: it is named.

    Reference:
      "Sparse re-basin", 2025: activation matching.
    """
    given = [
        activations.inputs(network, (one.weights, one.model_state), x)
        for one in (own, other)
    ]
    weights = masks.named(own.weights)
    place = {name: i for i, name in enumerate(weights)}
    found = []
    for layer in filters(network, own, jax.tree.map(lambda a: a[:1], x)):
        units = weights[layer.kernel].shape[layer.axis]
        reader, _, outside, inside = layer.places[0]
        ours, theirs = (
            _by_unit(np.asarray(rows[place[reader]]), outside, units, inside)
            for rows in given
        )
        found.append(Match(layer, matched(ours, theirs)))
    return found


def permuted(mask: Mask, found: list[Match]) -> Mask:
    """A mask of the one network, for the units of the other.

        m_l <- P_l m_l P_{l-1}^T

    Args:
      mask: of the network whose units `found` has as its own.
      found: from `matches`.

    Returns:
      A mask in numpy, with as many weights in each layer.
    """
    leaves = {name: np.asarray(m) for name, m in masks.named(mask).items()}
    for layer, order in found:
        for name, axis, outside, inside in layer.everywhere:
            leaves[name] = _permuted(leaves[name], axis, order, outside, inside)
    return jax.tree.structure(mask).unflatten(leaves.values())


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
