"""Products of a network with its parameters: which there are, and how large.

Matrix products and convolutions are counted, as everybody counts them: a multiplication
and an addition each, those with what a convolution is padded with included. What is
done number by number is not.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxticket import masks
from jaxticket.graphs import walking

# What an array is made of: the place of a parameter; or one of these.
CONSTANT, DATA = -1, -2


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


def origin(eqn: Any, origins: Sequence[int]) -> int:
    """What the results of a step are made of: of data, or of its largest operand."""
    if DATA in origins:
        return DATA
    sizes = [math.prod(var.aval.shape) for var in eqn.invars]
    return max(zip(sizes, origins, strict=True), default=(0, CONSTANT))[1]


class Products:
    """Adds up operations, as a domain of `walking.walk`.

    Attributes:
      of: by the place of a parameter, of the products of what the network computes with
        it; in the order in which the network first does.
      others: of products of two things that are computed, as in attention.
    """

    def __init__(self):
        self.of: dict[int, int] = {}
        self.others = 0

    def constant(self, array: Any) -> int:
        del array
        return CONSTANT

    def row(self, value: int, index: int) -> int:
        del index
        return value

    def stack(self, values: Sequence[int]) -> int:
        return values[0]

    def step(self, eqn: Any, values: Sequence[int]) -> list[int]:
        if (count := operations(eqn)) and DATA in values:
            parameters = [x for x in values if x >= 0]
            if parameters:
                self.of[parameters[0]] = self.of.get(parameters[0], 0) + count
            else:
                self.others += count
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
    places = [*range(len(jax.tree.leaves(params))), *(DATA for _ in jax.tree.leaves(x))]
    domain = Products()
    walking.walk(walking.steps(network, params, x), places, domain)
    return domain
