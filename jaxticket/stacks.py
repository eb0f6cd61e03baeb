"""Stacks of layers: arrays that hold one parameter of many layers, taken apart.

Where a network runs `scan` or `vmap` over its layers, their parameters lie in one array
along an axis of their own. All that speaks of layers here means leaves: selections,
densities, audits, controls. So let the search see every layer as a leaf, and put the
stacks together for the network:

    layers = stacks.apart(params, {"blocks": 0})
    ticket = Ticket(layers, masks.full(layers))
    loss = lambda layers, ...: network(stacks.together(layers), ...)

`models.unstacked` does both for a `Model`. What it costs is a copy of the parameters in
every step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import (
    FlattenedIndexKey,
    register_pytree_with_keys_class,
    tree_map_with_path,
)

from jaxticket import checks, masks
from jaxticket.base import Params

Axes = Mapping[str, int | Sequence[int]] | Callable[[tuple, jax.Array], Any]


@register_pytree_with_keys_class
class Layers:
    """The layers of a stack, each a leaf; a pytree with the axis that they came from.

    Attributes:
      layers: one array a layer.
      axis: where they lie in the stack, counted from its end, so that batch axes in
        front of all leaves do not matter.
    """

    def __init__(self, layers: Sequence[Any], axis: int):
        self.layers, self.axis = tuple(layers), axis

    def tree_flatten_with_keys(self):
        keyed = [(FlattenedIndexKey(i), x) for i, x in enumerate(self.layers)]
        return keyed, self.axis

    @classmethod
    def tree_unflatten(cls, axis, layers):
        return cls(layers, axis)

    def __repr__(self) -> str:
        return f"Layers({self.layers}, axis={self.axis})"


def apart(params: Params, axes: Axes) -> Params:
    """Parameters with every layer of a stack as a leaf of its own.

    Args:
      params: pytree of arrays.
      axes: name of a leaf, or of what holds several, as in `masks.names` -> the axis
        along which layers lie, or several for stacks of stacks. Or a function `(path,
        leaf) -> axis`, `None` where there is none.

    Returns:
      The tree with `Layers` in place of the stacks; their names are `blocks/kernel/0`,
      `blocks/kernel/1`, ...

    Raises:
      ValueError: a name that no leaf has, or an axis that a leaf does not have.
    """
    used = set()

    def named(path, leaf):
        del leaf
        name = masks.name(path)
        matching = [p for p in axes if name == p or name.startswith(f"{p}/")]
        used.update(matching)
        return axes[max(matching, key=len)] if matching else None

    def split(path, leaf):
        along = axes(path, leaf) if callable(axes) else named(path, leaf)
        along = () if along is None else along
        along = tuple(along) if isinstance(along, tuple | list) else (along,)
        layers = checks.whole(-leaf.ndim, leaf.ndim - 1)
        name = masks.name(path)
        for axis in along:
            layers(**{f"the axis of {name!r}, of shape {leaf.shape},": axis})
        return _split(leaf, sorted({axis % leaf.ndim for axis in along}))

    found = tree_map_with_path(split, params)
    if not callable(axes):
        for name in set(axes) - used:
            checks.one_of(masks.names(params))(**{"a name in axes": name})
    return found


def _split(leaf, axes):
    if not axes:
        return leaf
    first, *others = axes
    layers = [
        _split(
            jax.lax.index_in_dim(leaf, i, first, keepdims=False),
            [axis - 1 for axis in others],
        )
        for i in range(leaf.shape[first])
    ]
    return Layers(layers, first - leaf.ndim)


def together(params: Params) -> Params:
    """The other way round: stacks where `apart` has left `Layers`.

    Raises:
      ValueError: a mask that some layers of a stack have and others do not.
    """

    def join(path, node):
        if not isinstance(node, Layers):
            return node
        layers = [together(layer) for layer in node.layers]
        lacking = [i for i, layer in enumerate(layers) if layer is None]
        if len(lacking) == len(layers):
            return None
        if lacking:
            raise ValueError(
                f"layers {lacking} of {masks.name(path)!r} are None, and others of its "
                f"{len(layers)} are not: give these a mask of ones"
            )
        return jnp.stack(layers, axis=node.axis)

    return tree_map_with_path(
        join, params, is_leaf=lambda node: isinstance(node, Layers)
    )
