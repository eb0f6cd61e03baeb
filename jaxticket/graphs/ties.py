"""Which axes of a network's parameters have the same units.

The columns of one kernel, its bias, the scale of its normalisation and the rows of the
next kernel all have an entry for the same unit: their axes are *tied*. Ties are read
off the network's steps. An axis is an ordered product of atoms, the units' names: of
images that are flattened the rows, the columns and the channels, of which a kernel
that follows knows nothing.

An atom is *fixed* where units cannot be removed: what the network is given and gives,
sums over all units that a network divides by their number, and every step of which
nothing is known here.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxticket.graphs import walking

Atom = int
FREE = None  # no units of its own: an axis that anything may lie along
KERNEL = "the size of a kernel"
Axis = tuple[tuple[Atom | None, int], ...]  # atoms and their sizes, the last innermost
Axes = tuple[Axis, ...]  # of an array


class Ties:
    """Collects ties, as a domain of `walking.walk`.

    Attributes:
      made: axes of kernels and activations along which layers have their outputs.
    """

    def __init__(self):
        self.made: list[Axis] = []
        self._same: dict[Atom, Axis] = {}  # an atom that is known to be others
        self._fixed: dict[Atom, str] = {}  # and why
        self._count = 0

    def fresh(self, shape: Sequence[int]) -> Axes:
        """Axes of units of their own."""
        first, self._count = self._count, self._count + len(shape)
        return tuple(((first + i, size),) for i, size in enumerate(shape))

    def axis(self, axis: Axis) -> Axis:
        """The atoms of an axis as they are known by now."""
        found = []
        for atom, size in axis:
            if atom in self._same:
                found.extend(self.axis(self._same[atom]))
            else:
                found.append((atom, size))
        return tuple(part for part in found if part[1] != 1)

    def fixed(self, atom: Atom) -> str | None:
        """What needs all units of an atom, if anything does."""
        return self._fixed.get(atom)

    def fix(self, why: str, *axes: Axis) -> None:
        """Says that no unit can be removed from these, and what needs them."""
        for axis in axes:
            for atom, _ in self.axis(axis):
                if atom is not FREE:
                    self._fixed.setdefault(atom, why)

    def tie(self, one: Axis, other: Axis) -> Axis:
        """Says that two axes have the same units; returns what they are."""
        one, other = self.axis(one), self.axis(other)
        if one == other or _is_free(other):
            return one
        if _is_free(one):
            return other
        if len(one) == 1 or len(other) == 1:
            single, several = (one, other) if len(one) == 1 else (other, one)
            [(atom, _)] = single
            if any(a == atom for a, _ in several):
                self.fix("a layer that is tied to itself", one, other)
                return several
            if atom in self._fixed:
                self.fix(self._fixed[atom], several)
            self._same[atom] = several
            return several
        if [size for _, size in one] == [size for _, size in other]:
            pairs = zip(one, other, strict=True)
            return tuple(p for a, b in pairs for p in self.tie((a,), (b,)))
        self.fix("axes that are divided in two ways", one, other)
        return one

    def constant(self, array: Any) -> Axes:
        axes = self.fresh(np.shape(array))
        self.fix("an array that is written with its size", *axes)
        return axes

    def row(self, value: Axes, index: int) -> Axes:
        del index
        return value[1:]

    def stack(self, values: Sequence[Axes]) -> Axes:
        first, *others = values
        for other in others:
            first = tuple(map(self.tie, first, other))
        return (((FREE, len(values)),), *first)

    def step(self, eqn: Any, values: Sequence[Axes]) -> list[Axes]:
        name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
        if name in _RULES:
            return [_RULES[name](self, eqn, *values)]
        if all(walking.spreads(var.aval.shape, shape) for var in eqn.invars) and (
            not eqn.primitive.multiple_results and name not in _ALONG
        ):
            return [self._elementwise(values, shape)]
        for value in values:
            self.fix(f"the step {name!r}", *value)
        return [_free(var.aval.shape) for var in eqn.outvars]

    def _elementwise(self, values: Sequence[Axes], shape: Sequence[int]) -> Axes:
        found = list(_free(shape))
        for value in values:
            for i, axis in enumerate(value):
                if count(axis) == shape[i] and shape[i] != 1:
                    found[i] = self.tie(found[i], axis)
        return tuple(found)


# Of equal shapes, but not number by number.
_ALONG = (*walking.CUMULATIVE, "sort", "rev", "fft")


def count(axis: Axis) -> int:
    """How many units lie along an axis."""
    return math.prod(size for _, size in axis)


def _free(shape: Sequence[int]) -> Axes:
    return tuple(((FREE, size),) for size in shape)


def _is_free(axis: Axis) -> bool:
    return all(atom is FREE for atom, _ in axis)


def _reshape(ties, eqn, value, *_):
    """Regroups atoms; those that would be torn apart are fixed."""
    parts = [part for axis in value for part in ties.axis(axis)]
    axes = []
    for sizes, block in _blocks(eqn.outvars[0].aval.shape, parts):
        found = []
        for size in sizes:
            taken = ()
            while block and count(taken) < size:
                taken += (block.pop(0),)
            found.append(taken)
        if [count(axis) for axis in found] != sizes:
            ties.fix("the step 'reshape'", *found, tuple(block))
            found = _free(sizes)
        axes.extend(found)
    return tuple(axes)


def _blocks(shape: Sequence[int], parts: list) -> Iterator[tuple[list[int], list]]:
    """The fewest sizes in a row that are as many units as the fewest parts in a row."""
    parts, sizes, block = list(parts), [], []
    for size in shape:
        sizes.append(size)
        while parts and count(block) < math.prod(sizes):
            block.append(parts.pop(0))
        if count(block) == math.prod(sizes):
            yield sizes, block
            sizes, block = [], []
    if sizes:
        yield sizes, block


def _transpose(ties, eqn, value):
    del ties
    return tuple(value[i] for i in eqn.params["permutation"])


def _broadcast(ties, eqn, value, *_):
    del ties
    shape = eqn.params["shape"]
    found = list(_free(shape))
    for axis, i in zip(value, eqn.params["broadcast_dimensions"], strict=True):
        if count(axis) == shape[i]:
            found[i] = axis
    return tuple(found)


def _squeeze(ties, eqn, value):
    del ties
    gone = {d % len(value) for d in eqn.params["dimensions"]}
    return tuple(axis for i, axis in enumerate(value) if i not in gone)


def _expand(ties, eqn, value):
    del ties
    shape, rest = eqn.outvars[0].aval.shape, iter(value)
    new = {d % len(shape) for d in eqn.params["dimensions"]}
    return tuple(((FREE, 1),) if i in new else next(rest) for i in range(len(shape)))


def _reduced(ties, eqn, value):
    """A sum over units may be a mean: it is not known what the network divides by."""
    gone = eqn.params["axes"]
    ties.fix(f"the step {eqn.primitive.name!r}", *(value[i] for i in gone))
    return tuple(axis for i, axis in enumerate(value) if i not in gone)


def _whole(ties, eqn, value, *_):
    """Axes that keep their size are as they were; what was cut or widened is fixed."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    found = []
    for axis, a, b in zip(value, before, after, strict=True):
        if a != b:
            ties.fix(f"the step {eqn.primitive.name!r}", axis)
        found.append(axis if a == b else ((FREE, b),))
    return tuple(found)


def _windows(ties, eqn, value, *_):
    sizes = eqn.params["window_dimensions"]
    wide = (axis for axis, size in zip(value, sizes, strict=True) if size != 1)
    ties.fix(f"the step {eqn.primitive.name!r}", *wide)
    return _whole(ties, eqn, value)


def _joined(ties, eqn, *values):
    axis = eqn.params.get("dimension", eqn.params.get("axis"))
    ties.fix(f"the step {eqn.primitive.name!r}", *(value[axis] for value in values))
    found = list(_free(eqn.outvars[0].aval.shape))
    for value in values:
        for i in range(len(found)):
            if i != axis:
                found[i] = ties.tie(found[i], value[i])
    return tuple(found)


def _stacked(ties, eqn, *values):
    axis = eqn.params["axis"]
    first, *others = ties.stack(values)
    others.insert(axis, first)
    return tuple(others)


def _dot(ties, eqn, a, b):
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    for i, j in zip(left, right, strict=True):
        both = ties.tie(a[i], b[j])
        if _is_scaled(eqn):
            ties.fix("a product of two activations", both)
    batch = [ties.tie(a[i], b[j]) for i, j in zip(left_batch, right_batch, strict=True)]
    rest = [x for i, x in enumerate(a) if i not in (*left, *left_batch)]
    rest += [x for j, x in enumerate(b) if j not in (*right, *right_batch)]
    ties.made += rest
    return (*batch, *rest)


def _is_scaled(eqn: Any) -> bool:
    """Whether this is a product of queries and keys, divided by a root of their width.

    It is where there are batch axes: a layer has none.
    """
    return bool(eqn.params["dimension_numbers"][1][0])


def _convolved(ties, eqn, x, kernel):
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    outputs = kernel[rhs[0]]
    ties.made.append(outputs)
    if groups == 1 and eqn.params["batch_group_count"] == 1:
        ties.tie(x[lhs[1]], kernel[rhs[1]])
    elif groups == count(x[lhs[1]]) == count(outputs):
        ties.fix("a convolution by channels", ties.tie(x[lhs[1]], outputs))
    else:
        ties.fix("a convolution in groups", x[lhs[1]], outputs)
    shape = eqn.outvars[0].aval.shape
    ties.fix(KERNEL, *(kernel[i] for i in rhs[2:]))
    found = list(_free(shape))
    found[out[0]], found[out[1]] = x[lhs[0]], outputs
    return tuple(found)


def _looked_up(ties, eqn, operand, indices):
    """Rows of a table: its other axes go along whole."""
    numbers = eqn.params["dimension_numbers"]
    sizes = eqn.params["slice_sizes"]
    gone = set(numbers.collapsed_slice_dims)
    ties.fix("rows that are looked up", *(operand[i] for i in numbers.start_index_map))
    rest = [
        axis if count(axis) == sizes[i] else ((FREE, sizes[i]),)
        for i, axis in enumerate(operand)
        if i not in gone
    ]
    found = list(_free(eqn.outvars[0].aval.shape))
    for i, axis in zip(numbers.offset_dims, rest, strict=True):
        found[i] = axis
    return tuple(found)


def _numbered(ties, eqn):
    """Numbers from 0 along an axis: other units would have others."""
    shape, along = eqn.outvars[0].aval.shape, eqn.params["dimension"]
    found = list(_free(shape))
    [found[along]] = ties.fresh([shape[along]])
    ties.fix("numbers of the units", found[along])
    return tuple(found)


_RULES = {
    "iota": _numbered,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "expand_dims": _expand,
    "dot_general": _dot,
    "conv_general_dilated": _convolved,
    "concatenate": _joined,
    "stack": _stacked,
    "gather": _looked_up,
    **dict.fromkeys(("pad", "slice", "dynamic_slice"), _whole),
    **dict.fromkeys(walking.REDUCTIONS, _reduced),
    **dict.fromkeys(walking.WINDOWS, _windows),
}


def tied(network: Any, variables: Any, x: Any) -> tuple[Ties, list[Axes]]:
    """The ties of a network.

    Args:
      network: `(variables, x) -> outputs`, pytrees of arrays.
      variables: parameters and model state, or their shapes and dtypes.
      x: an input, or its shape and dtype.

    Returns:
      `(ties, axes)`: of every leaf of `variables` its own axes, in their order;
      `Ties.axis` says what they are.

    Raises:
      ValueError: the network has a loop without a known length, or a branch.
    """
    jaxpr = walking.steps(network, variables, x)
    ties = Ties()
    axes = [ties.fresh(leaf.shape) for leaf in jax.tree.leaves(variables)]
    given = [ties.fresh(leaf.shape) for leaf in jax.tree.leaves(x)]
    for value in given:
        ties.fix("the inputs of the network", *value)
    for value in walking.walk(jaxpr, [*axes, *given], ties):
        ties.fix("the outputs of the network", *value)
    return ties, axes
