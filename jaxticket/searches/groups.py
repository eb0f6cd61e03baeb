"""Gates that weights share: one for all that a unit has, or for all that reads one."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxticket import checks, kernels, masks
from jaxticket.base import Mask, Params, Scores

Word = Literal["weights", "units", "inputs"]
Groups = Word | Callable[[str], Word | tuple[int, ...]]


def shaped(groups: Groups, weights: Params, mask: Mask) -> Scores:
    """Arrays with an element for every gate, which can be broadcast to the weights.

    The gates of a kernel lie along some of its axes, and have length 1 along the
    others: `[1, out]` are those of the units of a dense layer, `[in, 1]` those of its
    inputs.

    Args:
      groups: `weights` for one gate each; `units` for one gate for all weights of an
        output, a neuron or a filter; `inputs` for one for all weights that read an
        input or a channel. Or a function: name of a kernel -> one of these, or the axes
        that its gates lie along.
      weights: all of the network's: what stands beside a kernel tells its layout.
      mask: which of them have gates.

    Returns:
      A mask tree of arrays whose shapes, dtypes and sharding those of gates are to be;
      their values mean nothing.

    Raises:
      ValueError: an unknown word, axes that a kernel does not have; a kernel whose
        units or inputs are not known to lie along one axis: it is named.
    """
    covered = masks.prunable_like(weights, mask)
    if not callable(groups):
        checks.one_of(get_args(Word))(groups=groups)
        if groups == "weights":
            return covered
    layouts = dict(zip(masks.names(weights), kernels.layouts(weights), strict=True))
    return jax.tree.structure(covered).unflatten(
        _of_group(groups, name, leaf, layouts[name])
        for name, leaf in masks.named(covered).items()
    )


def _of_group(groups, name, leaf, layout) -> jax.Array:
    chosen = groups(name) if callable(groups) else groups
    if isinstance(chosen, str):
        checks.one_of(get_args(Word))(**{f"the groups of {name!r}": chosen})
        if chosen == "weights":
            return leaf
        along = layout and (layout.outputs if chosen == "units" else layout.inputs)
        if along is None:
            raise ValueError(
                f"{chosen} of {name!r}, of shape {leaf.shape}, are not known to lie "
                "along an axis of it; give groups as a function that says for it which "
                "axes its gates lie along, or take stacks of layers apart, see `stacks`"
            )
    else:
        along, axis_of = chosen, checks.whole(-leaf.ndim, leaf.ndim - 1)
        for axis in along:
            axis_of(**{f"the axis of {name!r}, of shape {leaf.shape},": axis})
    kept = {axis % leaf.ndim for axis in along}
    # A sum: what it gives lies on a mesh as its weights do.
    return jnp.sum(leaf, [i for i in range(leaf.ndim) if i not in kept], keepdims=True)
