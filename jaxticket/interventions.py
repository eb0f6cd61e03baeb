"""Interventions: a trained network with one of its layers from elsewhere.

A layer's kernel, its bias and its normalisation belong together. Where a network lives
on when one of them is put back to its initial values, its training has not used it.

    for layer in interventions.layers(trained):
        changed = interventions.with_layer(trained, initial, layer)

Reference:
  Zhang, Bengio and Singer, "Are All Layers Created Equal?", JMLR 2022.
"""

import re

import jax

from jaxticket import checks, kernels, masks
from jaxticket.base import Params


def layers(params: Params) -> dict[str, tuple[str, ...]]:
    """The layers of a network: name -> the names of its leaves, as in `masks.names`.

    A layer is what stands together in the tree, named by what holds it. What holds no
    kernel, as a normalisation, belongs to the layer that its name tells: of the same
    number in the same place, as `norm_3` to `conv_3`, with as many outputs. Where there
    is none, or several, it is a layer of its own.

    Returns:
      In the order of their names, whose numbers count as such: `conv_2` is before
      `conv_10`.
    """
    leaves = masks.named(params)
    is_kernel = dict(zip(leaves, jax.tree.leaves(kernels.found(params)), strict=True))
    held: dict[str, list[str]] = {}
    for name in leaves:
        holder, _, _ = name.rpartition("/")
        held.setdefault(holder or name, []).append(name)
    widths = {
        holder: {leaves[name].shape[-1] for name in names if is_kernel[name]}
        for holder, names in held.items()
    }
    found = {holder: [*names] for holder, names in held.items() if widths[holder]}
    for holder, names in held.items():
        if widths[holder]:
            continue
        theirs = {leaves[name].shape[-1:] for name in names}
        partners = [
            other
            for other, width in widths.items()
            if _alike(holder, other) and theirs == {(x,) for x in width}
        ]
        owner = partners[0] if len(partners) == 1 else holder
        found.setdefault(owner, []).extend(names)
    return {name: tuple(found[name]) for name in sorted(found, key=_in_order)}


def with_layer(params: Params, other: Params, layer: str) -> Params:
    """`params`, with the leaves of one layer from `other`.

    Args:
      params: of a network.
      other: of the same network, at another time or from another draw.
      layer: a name in `layers(params)`.

    Raises:
      ValueError: an unknown layer, or parameters of two networks.
    """
    known = layers(params)
    checks.one_of(known)(layer=layer)
    masks.together(lambda x, y: None, params, other)  # of one network
    return jax.tree_util.tree_map_with_path(
        lambda path, x, y: y if masks.name(path) in known[layer] else x, params, other
    )


def _alike(holder: str, other: str) -> bool:
    """Whether two modules stand in one place and have one number."""
    ours, theirs = (name.rpartition("/") for name in (holder, other))
    numbers = [re.search(r"\d+$", name[-1]) for name in (ours, theirs)]
    return ours[0] == theirs[0] and all(numbers) and numbers[0][0] == numbers[1][0]


def _in_order(name: str) -> list:
    """A key to sort by, of words and numbers in turn."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
