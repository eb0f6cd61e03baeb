"""Units that no input reaches are constants: the next bias can take them over."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket.base import Ticket
from jaxticket.graphs import reach, walking

PRECISION = 1e-5  # of the largest: what differs by less is one constant


class Constants(NamedTuple):
    """The constants among the inputs of a layer.

    Attributes:
      kernel: which leaf of the weights the layer's is.
      axis: of the kernel, along which its inputs lie.
      bias: the leaf that is added to what it makes of them.
      units: which of its inputs are constants, `[inputs]`.
      gives: what the layer makes of each of them, `[inputs, outputs]`.
    """

    kernel: int
    axis: int
    bias: int
    units: jax.Array
    gives: jax.Array


def found(network: Callable, ticket: Ticket, x: Any) -> list[Constants]:
    """Inputs of layers that no input of the network reaches.

    With a convolution all positions have to see the same: where it pads its images,
    they do if the constant is zero. Left out are layers without a bias of their own, a
    number for each output; kernels in another shape than they are kept in; what is used
    twice, weights and results; and what batch statistics change.

    Args:
      network: `((weights, model_state), x) -> outputs`.
      ticket: with zeros where its mask prunes.
      x: an input; one example is enough.

    Raises:
      ValueError: a step of the network cannot be followed: it is named.
    """
    jaxpr = walking.steps(network, (ticket.weights, ticket.model_state), x)
    domain = _Layers()

    @jax.jit
    def walked(ticket, x):
        flows = jax.tree.map(reach.through, ticket.weights, ticket.mask)
        pairs = zip(*map(jax.tree.leaves, (ticket.weights, flows)), strict=True)
        inputs = [
            _Value(w, reach.Reach(flow, False), leaf=i, along=_wide(w.shape))
            for i, (w, flow) in enumerate(pairs)
        ]
        for s in jax.tree.leaves(ticket.model_state):
            inputs.append(_Value(s, reach.Reach(reach.not_zero(s), True)))
        for a in jax.tree.leaves(x):
            whole = jnp.ones(a.shape, jnp.float32)
            inputs.append(_Value(a, reach.Reach(whole, True)))
        domain.used(walking.walk(jaxpr, inputs, domain))
        return [(layer.units, layer.gives) for layer in domain.layers]

    masked = jax.tree.structure(ticket.weights).flatten_up_to(ticket.mask)
    shapes = list(map(jnp.shape, jax.tree.leaves(ticket.weights)))
    return [
        Constants(layer.kernel, layer.axis, layer.bias, *values)
        for layer, values in zip(domain.layers, walked(ticket, x), strict=True)
        if layer.uses == 1
        and domain.uses[layer.kernel] == domain.uses.get(layer.bias) == 1
        and masked[layer.bias] is None
        and layer.shape == shapes[layer.kernel]
        and math.prod(shapes[layer.bias]) == values[1].shape[1]
    ]


def folded(
    ticket: Ticket,
    constants: Sequence[Constants],
    left: Sequence[tuple[np.ndarray, ...] | None] | None = None,
) -> Ticket:
    """The same function, with constants in the biases of the layers that they enter.

    Of a layer `h W + b` with a constant `h_u`, `h_u W_u` is added to `b`, and `W_u` is
    pruned.

    Args:
      ticket: see `found`.
      constants: from `found`.
      left: of every leaf, the indices along each axis that are to stay as they are, or
        None for all; None for none of them.
    """
    leaves, tree = jax.tree.flatten(ticket.weights)
    kept = tree.flatten_up_to(ticket.mask)  # None where a leaf has no mask
    for layer in constants:
        units = np.array(layer.units)
        if left is not None:
            stay = left[layer.kernel]
            units[... if stay is None else stay[layer.axis]] = False
        if not units.any():
            continue
        kernel, m = leaves[layer.kernel], kept[layer.kernel]
        gone = np.expand_dims(units, [i for i in range(kernel.ndim) if i != layer.axis])
        leaves[layer.kernel] = jnp.where(gone, 0, kernel)
        kept[layer.kernel] = m if m is None else m & ~gone
        bias = leaves[layer.bias]
        added = jnp.reshape(units @ layer.gives, bias.shape)
        leaves[layer.bias] = bias + added.astype(bias.dtype)
    return ticket._replace(weights=tree.unflatten(leaves), mask=tree.unflatten(kept))


class _Layer:
    """A kernel that multiplies activations.

    Attributes:
      kernel, axis, units, gives: see `Constants`.
      shape: in which the kernel multiplies.
      out: along which axis of its results its outputs lie.
      uses: of its results.
      bias: the leaf that is added to them.
    """

    def __init__(self, kernel, axis, units, gives, *, shape, out):
        self.kernel, self.axis, self.units, self.gives = kernel, axis, units, gives
        self.shape, self.out, self.uses, self.bias = shape, out, 0, None


class _Value(NamedTuple):
    """An array of the network, on an example.

    Attributes:
      array: its numbers.
      reach: what inputs and batch statistics reach of it.
      leaf: which parameter it is, perhaps in another shape.
      along: the axes along which that has several numbers.
      layer: whose results it is, without a bias.
    """

    array: Any
    reach: reach.Reach
    leaf: int | None = None
    along: tuple[int, ...] = ()
    layer: _Layer | None = None


class _Layers:
    """Looks for layers with constants, as a domain of `walking.walk`."""

    def __init__(self):
        self._paths = reach.Paths(sources=False)
        self.layers: list[_Layer] = []
        self.uses: dict[int, int] = {}

    def constant(self, array: Any) -> _Value:
        return _Value(array, self._paths.constant(array))

    def used(self, values: Sequence[_Value]) -> None:
        """Counts what is read of parameters and of layers."""
        for value in values:
            if value.leaf is not None:
                self.uses[value.leaf] = self.uses.get(value.leaf, 0) + 1
            if value.layer is not None:
                value.layer.uses += 1

    def row(self, value: _Value, index: int) -> _Value:
        self.used([value])
        return _Value(value.array[index], self._paths.row(value.reach, index))

    def stack(self, values: Sequence[_Value]) -> _Value:
        self.used(values)
        array = jnp.stack([x.array for x in values])
        return _Value(array, self._paths.stack([x.reach for x in values]))

    def step(self, eqn: Any, values: Sequence[_Value]) -> list[_Value]:
        arrays = eqn.primitive.bind(*(x.array for x in values), **eqn.params)
        if not eqn.primitive.multiple_results:
            arrays = [arrays]
        paths = self._paths.step(eqn, [x.reach for x in values])
        first, *others = map(_Value, arrays, paths)
        name = eqn.primitive.name
        if name in ("reshape", "broadcast_in_dim", "convert_element_type"):
            self.used([value._replace(leaf=None) for value in values])
            return [first._replace(leaf=values[0].leaf, along=_along(eqn, values[0]))]
        self.used(values)
        if name == "add":
            for one, other in (values, values[::-1]):
                if one.layer is None or other.leaf is None:
                    continue
                # Not what is added along another axis, as that of positions.
                if other.along in ((), (one.layer.out,)):
                    one.layer.bias = other.leaf
        elif name in ("dot_general", "conv_general_dilated"):
            first = first._replace(layer=self._layer(eqn, *values))
        return [first, *others]

    def _layer(self, eqn, *operands) -> _Layer | None:
        places = [i for i, x in enumerate(operands) if x.leaf is not None]
        axes = _axes(eqn, places[0]) if len(places) == 1 else None
        if axes is None:
            return None
        along, axis, out, result, padded = axes
        kernel, given = operands[places[0]].array, operands[1 - places[0]]
        rest = tuple(i for i in range(given.array.ndim) if i != along)
        least, most = given.array.min(rest), given.array.max(rest)
        units = ~jnp.any(given.reach.flow > 0, rest)
        units &= most - least <= PRECISION * jnp.abs(most)
        units &= (most == 0) | (not padded)
        spatial = tuple(i for i in range(kernel.ndim) if i not in (axis, out))
        gives = kernel.sum(spatial)
        gives = (gives if axis < out else gives.T) * jnp.where(units, most, 0)[:, None]
        leaf, shape = operands[places[0]].leaf, kernel.shape
        layer = _Layer(leaf, axis, units, gives, shape=shape, out=result)
        self.layers.append(layer)
        return layer


def _wide(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(i for i, size in enumerate(shape) if size != 1)


def _along(eqn: Any, value: _Value) -> tuple[int, ...]:
    """The axes of a parameter, see `_Value`, after a step that moves its numbers."""
    if eqn.primitive.name == "broadcast_in_dim":
        return tuple(eqn.params["broadcast_dimensions"][i] for i in value.along)
    return _wide(eqn.outvars[0].aval.shape) if value.along else ()


def _axes(eqn: Any, place: int) -> tuple[int, int, int, int, bool] | None:
    """Of a layer: along which axes of its inputs and its kernel its inputs and outputs
    lie, and of its results the outputs; and whether there are zeros around its inputs
    or in between."""
    if eqn.primitive.name == "conv_general_dilated":
        numbers, p = eqn.params["dimension_numbers"], eqn.params
        if place == 0 or p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
            return None
        padded = any(pad != (0, 0) for pad in p["padding"])
        padded |= any(dilation != 1 for dilation in p["lhs_dilation"])
        lhs, rhs, out = numbers
        return lhs[1], rhs[1], rhs[0], out[1], padded
    contracted, batch = eqn.params["dimension_numbers"]
    if batch[0] or len(contracted[0]) != 1 or eqn.invars[place].aval.ndim != 2:
        return None
    axis = contracted[place][0]
    result = 0 if place == 0 else eqn.outvars[0].aval.ndim - 1
    return contracted[1 - place][0], axis, 1 - axis, result, False
