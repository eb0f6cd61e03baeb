"""Products of a network with its parameters: which there are, and how large.

Matrix products and convolutions are counted, as everybody counts them: a multiplication
and an addition each, those with what a convolution is padded with included. What is
done number by number is not.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Self

import jax

from jaxticket import masks
from jaxticket.graphs import walking


class Made(NamedTuple):
    """What an array is made of.

    Attributes:
      parts: places of parameters, or `NONE`, and how long each is, side by side.
      axis: along which; None where there is one, or where it is not known any more.
    """

    parts: tuple[tuple[int, Fraction | int], ...]
    axis: int | None = None

    @property
    def place(self) -> int | None:
        """That of the parameter that all of it is made of; None where there is none."""
        [place, _], *others = self.parts
        return None if others or place < 0 else place

    def row(self, index: int) -> Self:
        """What `array[index]` is made of."""
        if self.axis is None:
            return self
        if self.axis:
            return self._replace(axis=self.axis - 1)
        ends = itertools.accumulate(length for _, length in self.parts)
        return whole(self.parts[sum(end <= index for end in ends)][0])


def whole(place: int) -> Made:
    """An array that is all of one parameter."""
    return Made(((place, 1),))


def beside(values: Sequence[Made], lengths: Sequence[int], axis: int) -> Made:
    """What arrays of these lengths are made of, side by side along an axis."""
    if DATA in values:
        return DATA
    if {*values} == {whole(values[0].parts[0][0])}:
        return values[0]
    parts = []
    for made, length in zip(values, lengths, strict=True):
        total = sum(n for _, n in made.parts)
        parts += [(place, Fraction(n * length, total)) for place, n in made.parts]
    known = all(made.axis == axis or len(made.parts) == 1 for made in values)
    return Made(tuple(parts), axis if known else None)


NONE = -1  # in place of a parameter
# An array that stands in the network; what is computed of the inputs; what is computed
# of several parameters, as a sum of kernels, which has the zeros of none of them.
CONSTANT, DATA, COMPUTED = whole(NONE), whole(NONE - 1), whole(NONE - 2)


def summed(eqn: Any) -> tuple[tuple[int, ...], ...]:
    """Of both factors of a product, the axes that it sums over; else nothing.

    The windows of a convolution are an axis of its kernel alone.
    """
    if eqn.primitive.name == "dot_general":
        contracted, _ = eqn.params["dimension_numbers"]
        return tuple(map(tuple, contracted))
    if eqn.primitive.name == "conv_general_dilated":
        numbers = eqn.params["dimension_numbers"]
        return (numbers.lhs_spec[1],), tuple(numbers.rhs_spec[1:])
    return ()


def operations(eqn: Any) -> int:
    """Of a product, twice its multiplications; of all else none."""
    if not (axes := summed(eqn)):
        return 0
    kernel = eqn.invars[1].aval.shape
    return (
        2
        * math.prod(eqn.outvars[0].aval.shape)
        * math.prod(kernel[axis] for axis in axes[1])
    )


def origin(eqn: Any, values: Sequence[Made]) -> Made:
    """What the results of a step are made of: of data, or of its largest operand."""
    if DATA in values:
        return DATA
    shapes = [var.aval.shape for var in eqn.invars]
    if eqn.primitive.name == "stack":
        return beside(values, [1] * len(values), eqn.params["axis"])
    if eqn.primitive.name == "concatenate":
        axis = eqn.params["dimension"]
        return beside(values, [shape[axis] for shape in shapes], axis)
    sizes = [*map(math.prod, shapes)]
    alike = operations(eqn)  # both factors of a product
    largest = {
        made.parts: made
        for made, size in zip(values, sizes, strict=True)
        if made != CONSTANT and (alike or size == max(sizes))
    }
    if len(largest) > 1:
        return COMPUTED
    return next((_moved(eqn, made) for made in largest.values()), CONSTANT)


def _moved(eqn: Any, made: Made) -> Made:
    """The same, after a step; where its parts lie then is known of few."""
    if made.axis is None:
        return made
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name == "transpose":
        return made._replace(axis=eqn.params["permutation"].index(made.axis))
    if name == "broadcast_in_dim":
        return made._replace(axis=eqn.params["broadcast_dimensions"][made.axis])
    by_number = any(var.aval.shape == shape for var in eqn.invars)
    return made if by_number else made._replace(axis=None)


class Products:
    """Adds up operations, as a domain of `walking.walk`.

    Attributes:
      of: by the place of a parameter, of the products of what the network computes with
        it; in the order in which the network first does. Of parameters that lie side by
        side each has its share.
      others: of products of two things that are computed, as in attention, or with
        what is computed of several parameters.
    """

    def __init__(self):
        self.of: dict[int, int] = {}
        self.others = 0

    def constant(self, array: Any) -> Made:
        del array
        return CONSTANT

    def row(self, value: Made, index: int) -> Made:
        return value.row(index)

    def stack(self, values: Sequence[Made]) -> Made:
        return beside(values, [1] * len(values), 0)

    def step(self, eqn: Any, values: Sequence[Made]) -> list[Made]:
        if (count := operations(eqn)) and DATA in values:
            kernel = next((made for made in values if made != DATA), DATA)
            total = sum(length for _, length in kernel.parts)
            for place, length in kernel.parts:
                share = int(Fraction(count * length, total))
                if place < 0:
                    self.others += share
                else:
                    self.of[place] = self.of.get(place, 0) + share
        return [origin(eqn, values)] * len(eqn.outvars)


def counted(network: Callable, params: Any, x: Any) -> tuple[Any, int]:
    """The operations of `network(params, x)`: of each parameter, and all others.

    Raises:
      ValueError: a step of the network cannot be followed: it is named.
    """
    count, tree = len(jax.tree.leaves(params)), jax.tree.structure(params)
    found = _of(network, params, x)
    return tree.unflatten(found.of.get(i, 0) for i in range(count)), found.others


def order(network: Callable, params: Any, x: Any) -> list[str]:
    """The names of the parameters of products, in the order of `network(params, x)`.

    Raises:
      ValueError: a step of the network cannot be followed: it is named.
    """
    paths = [masks.name(path) for path, _ in jax.tree.leaves_with_path(params)]
    return [paths[i] for i in _of(network, params, x).of]


def _of(network, params, x) -> Products:
    made = [whole(i) for i in range(len(jax.tree.leaves(params)))]
    made += [DATA for _ in jax.tree.leaves(x)]
    domain = Products()
    walking.walk(walking.steps(network, params, x), made, domain)
    return domain
