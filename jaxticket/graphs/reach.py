"""What of a network's inputs and parameters can reach its outputs.

Every array of the network has a *reach* of its shape: 0 where nothing can be seen of
where one starts, 1 elsewhere. A product has what both factors have, a sum what either
has, and every other step what any of its inputs has. The gradient of the outputs'
reach is then not 0 just where a path leads through. After every step both become 0 or
1 again, so that no number of paths is too large and none too small.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxticket.graphs import walking


class Reach(NamedTuple):
    """What reaches an array.

    Attributes:
      flow: float32 of its shape, 0 or 1.
      varies: whether the array depends on the network's inputs.
      known: the array itself, where neither inputs nor parameters matter to it.
    """

    flow: jax.Array
    varies: bool
    known: Any = None


@jax.custom_vjp
def _seen(flow: jax.Array) -> jax.Array:
    return (flow > 0).astype(jnp.float32)


_seen.defvjp(lambda flow: (_seen(flow), None), lambda _, grad: (_seen(grad),))


class Paths:
    """Follows paths from the inputs of a network, as a domain of `walking.walk`.

    Parameters let through what they multiply; what is added does not matter. Or, with
    `sources`, all that is not zero is a start too, biases among it: then an array whose
    reach is 0 somewhere is 0 there, whatever the inputs are.
    """

    def __init__(self, *, sources: bool):
        self.sources = sources

    def constant(self, array: Any) -> Reach:
        return Reach(not_zero(array), False, array)

    def row(self, value: Reach, index: int) -> Reach:
        known = None if value.known is None else value.known[index]
        return Reach(value.flow[index], value.varies, known)

    def stack(self, values: Sequence[Reach]) -> Reach:
        return Reach(jnp.stack([x.flow for x in values]), any(x.varies for x in values))

    def step(self, eqn: Any, values: Sequence[Reach]) -> list[Reach]:
        if all(x.known is not None for x in values):
            found = eqn.primitive.bind(*(x.known for x in values), **eqn.params)
            return list(map(self.constant, found if _several(eqn) else [found]))
        name = eqn.primitive.name
        varies = any(x.varies for x in values)
        if name in _RULES:
            flow = _RULES[name](eqn, self._split(values), *values)
        elif _is_elementwise(eqn):
            flow = self._combined(eqn, values)
        else:
            raise ValueError(
                f"what reaches the result of {name!r} is not known: write the network "
                "without it, or leave this network as it is"
            )
        flows = flow if isinstance(flow, list) else [flow] * len(eqn.outvars)
        return [
            Reach(
                _seen(jnp.broadcast_to(f, out.aval.shape).astype(jnp.float32)), varies
            )
            for f, out in zip(flows, eqn.outvars, strict=True)
        ]

    def _split(self, values: Sequence[Reach]) -> bool:
        """Whether either of two factors is a path, rather than both one."""
        return not self.sources and sum(x.varies for x in values) > 1

    def _combined(self, eqn: Any, values: Sequence[Reach]) -> jax.Array:
        alone = not self.sources and any(x.varies for x in values)
        total = sum(
            _fitting(x.flow, eqn)
            for x in values
            if x.known is None and (x.varies or not alone)
        )
        if alone:
            return total
        # What it makes of zeros, beside the constants that it is given.
        zeros = [
            jnp.zeros(x.flow.shape, var.aval.dtype) if x.known is None else x.known
            for x, var in zip(values, eqn.invars, strict=True)
        ]
        return total + not_zero(eqn.primitive.bind(*zeros, **eqn.params))


def not_zero(array: Any) -> jax.Array:
    """The reach of an array from itself: 1 where it is not 0."""
    if jnp.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
        return jnp.ones(array.shape, jnp.float32)
    return (jnp.asarray(array) != 0).astype(jnp.float32)


def through(w: jax.Array, m: jax.Array | None) -> jax.Array:
    """What a parameter lets through: what its mask keeps, or else what is not 0."""
    return not_zero(w) if m is None else m.astype(jnp.float32)


def _several(eqn: Any) -> bool:
    return eqn.primitive.multiple_results


def _is_elementwise(eqn: Any) -> bool:
    """Whether a step computes number by number, of arrays of one shape and scalars."""
    if eqn.primitive.name in _OTHERWISE or _several(eqn):
        return False
    shape = eqn.outvars[0].aval.shape
    return all(walking.spreads(var.aval.shape, shape) for var in eqn.invars)


def _fitting(flow: jax.Array, eqn: Any) -> jax.Array:
    return jnp.broadcast_to(flow, eqn.outvars[0].aval.shape)


def _moved(eqn, either, *values):
    """Numbers that change their places: what reaches them goes along."""
    del either
    return eqn.primitive.bind(*(x.flow for x in values), **eqn.params)


def _same(eqn, either, value, *_):
    del eqn, either
    return value.flow


def _product(eqn, either, a, b):
    if either:
        return _fitting(a.flow, eqn) + _fitting(b.flow, eqn)
    return a.flow * b.flow


def _quotient(eqn, either, a, b):
    if either:
        return _fitting(a.flow, eqn) + _fitting(b.flow, eqn)
    # Zero where `a` is; else `b` matters.
    return a.flow * (1 + (b.flow if b.known is None else 0))


def _by_both(multiply: Callable):
    def rule(eqn, either, a, b):
        if not either:
            return multiply(eqn, a.flow, b.flow)
        first = multiply(eqn, a.flow, jnp.ones_like(b.flow))
        return first + multiply(eqn, jnp.ones_like(a.flow), b.flow)

    return rule


def _dot(eqn, a, b):
    return lax.dot_general(a, b, eqn.params["dimension_numbers"])


def _convolved(eqn, a, b):
    kept = (
        "window_strides",
        "padding",
        "lhs_dilation",
        "rhs_dilation",
        "dimension_numbers",
        "feature_group_count",
        "batch_group_count",
    )
    return lax.conv_general_dilated(a, b, **{key: eqn.params[key] for key in kept})


def _reduced(eqn, either, value):
    del either
    return value.flow.sum(eqn.params["axes"])


def _windows(eqn, either, value):
    del either
    p = eqn.params
    dilations = {
        key: p[key] for key in ("base_dilation", "window_dilation") if key in p
    }
    return lax.reduce_window(
        value.flow,
        np.float32(0),
        lax.add,
        p["window_dimensions"],
        p["window_strides"],
        p["padding"],
        **dilations,
    )


def _cumulative(eqn, either, value):
    del either
    axis, reverse = eqn.params["axis"], eqn.params["reverse"]
    return lax.cumsum(value.flow, axis, reverse=reverse)


def _any_along(eqn, either, *values):
    """Numbers that change their places along an axis, all operands alike."""
    axis = eqn.params.get("dimension", -1)
    return _chosen(eqn, either, *values, onto=values[0].flow.shape).sum(
        axis, keepdims=True
    )


def _chosen(eqn, either, *values, onto=None):
    """Of several arrays: the constants among them are no path."""
    del either
    varies = any(x.varies for x in values)
    shape = eqn.outvars[0].aval.shape if onto is None else onto
    return sum(
        jnp.broadcast_to(x.flow, shape) for x in values if x.varies or not varies
    )


def _parted(eqn, either, value):
    del either
    return list(eqn.primitive.bind(value.flow, **eqn.params))


def _looked_up(eqn, either, operand, indices):
    """Rows of an array: those that are named, or where that is not known, any.

    It is zero where all rows are; else what names them matters too.
    """
    del either
    if indices.known is not None:
        return eqn.primitive.bind(operand.flow, indices.known, **eqn.params)
    numbers, shape = eqn.params["dimension_numbers"], eqn.outvars[0].aval.shape
    rows, offsets = tuple(numbers.start_index_map), tuple(numbers.offset_dims)
    if set(rows) == set(numbers.collapsed_slice_dims) and not (
        numbers.operand_batching_dims
    ):
        row = lax.broadcast_in_dim(operand.flow.sum(rows), shape, offsets)
    else:
        row = jnp.broadcast_to(operand.flow.sum(), shape)
    places = tuple(i for i in range(len(shape)) if i not in offsets)
    names = lax.broadcast_in_dim(indices.flow.sum(-1), shape, places)
    return row * (1 + names)


def _sliced(eqn, either, operand, *starts):
    del either
    if any(start.known is None for start in starts):
        raise ValueError("slices at places that are computed cannot be followed")
    known = (start.known for start in starts)
    return eqn.primitive.bind(operand.flow, *known, **eqn.params)


_RULES: dict[str, Callable] = {
    **dict.fromkeys(
        (
            "reshape",
            "transpose",
            "squeeze",
            "expand_dims",
            "broadcast_in_dim",
            "slice",
            "rev",
            "pad",
            "concatenate",
            "stack",
        ),
        _moved,
    ),
    **dict.fromkeys(
        (
            "convert_element_type",
            "reduce_precision",
            "stop_gradient",
            "copy",
            "neg",
            "sharding_constraint",
        ),
        _same,
    ),
    "mul": _product,
    "div": _quotient,
    "dot_general": _by_both(_dot),
    "conv_general_dilated": _by_both(_convolved),
    **dict.fromkeys((*walking.REDUCTIONS, "argmax", "argmin"), _reduced),
    **dict.fromkeys(walking.WINDOWS, _windows),
    **dict.fromkeys(walking.CUMULATIVE, _cumulative),
    **dict.fromkeys(("sort", "top_k"), _any_along),
    "split": _parted,
    "gather": _looked_up,
    "dynamic_slice": _sliced,
}
# Of equal shapes, perhaps, but not number by number.
_OTHERWISE = ("scatter", "scatter-add", "fft", "dynamic_update_slice")


def reached(
    network: Callable,
    params: Any,
    flows: Any,
    x: Any,
    *,
    sources: bool = False,
) -> tuple[jax.Array, Any]:
    """What a network lets through, and which parameters that may change.

    Args:
      network: `(params, x) -> outputs`, pytrees of arrays.
      params: arrays, or their shapes and dtypes.
      flows: of each parameter, 0 where it is no path, in the same tree.
      x: an input, or its shape and dtype.
      sources: whether all that is not zero is a start, see `Paths`.

    Returns:
      `(reach, grads)`: of every output 1 where anything reaches it, and of every
      parameter 1 where a path leads from a start through its place to an output.

    Raises:
      ValueError: a step of the network cannot be followed: it is named.
    """
    jaxpr = walking.steps(network, params, x)
    domain = Paths(sources=sources)

    def total(flows):
        start = [Reach(flow, False) for flow in jax.tree.leaves(flows)]
        start += [
            Reach(jnp.ones(leaf.shape, jnp.float32), True)
            for leaf in jax.tree.leaves(x)
        ]
        found = walking.walk(jaxpr, start, domain)
        outputs = [_seen(out.flow) for out in found if out.varies or sources]
        return sum(map(jnp.sum, outputs), jnp.zeros(())), outputs

    # One program even where nobody else makes one of it: the steps are small.
    return jax.jit(jax.grad(total, has_aux=True))(flows)[::-1]
