"""How much arithmetic a network does with each of its parameters.

Matrix products and convolutions are counted, as everybody counts them: a multiplication
and an addition each, those with what a convolution is padded with included. What is
done number by number is not.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxticket.graphs import walking

# What an array is made of: the place of a parameter; or one of these.
CONSTANT, DATA = -1, -2


class Products:
    """Adds up operations, as a domain of `walking.walk`.

    Attributes:
      of: by the place of a parameter, of the products of what the network computes with
        it.
      others: of products of two things that are computed, as in attention.
    """

    def __init__(self, parameters: int):
        self.of, self.others = [0] * parameters, 0

    def constant(self, array: Any) -> int:
        del array
        return CONSTANT

    def row(self, value: int, index: int) -> int:
        del index
        return value

    def stack(self, values: Sequence[int]) -> int:
        return values[0]

    def step(self, eqn: Any, values: Sequence[int]) -> list[int]:
        if (count := _operations(eqn)) and DATA in values:
            parameters = [x for x in values if x >= 0]
            if parameters:
                self.of[parameters[0]] += count
            else:
                self.others += count
        # What is made of a parameter alone still is that parameter.
        sizes = [np.prod(var.aval.shape) for var in eqn.invars]
        made = max(zip(sizes, values, strict=True), default=(0, CONSTANT))[1]
        found = DATA if DATA in values else made
        return [found] * len(eqn.outvars)


def _operations(eqn: Any) -> int:
    """Of a product, twice its multiplications; of all else none."""
    name, shapes = eqn.primitive.name, [var.aval.shape for var in eqn.invars]
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        summed = [shapes[0][axis] for axis in contracted]
    elif name == "conv_general_dilated":
        outputs, *rest = eqn.params["dimension_numbers"].rhs_spec
        del outputs
        summed = [shapes[1][axis] for axis in rest]
    else:
        return 0
    return 2 * int(np.prod(eqn.outvars[0].aval.shape)) * int(np.prod(summed))


def counted(network: Callable, params: Any, x: Any) -> tuple[Any, int]:
    """The operations of `network(params, x)`: of each parameter, and all others.

    Raises:
      ValueError: a step of the network cannot be followed: it is named.
    """
    leaves, tree = jax.tree.flatten(params)
    domain = Products(len(leaves))
    places = [*range(len(leaves)), *(DATA for _ in jax.tree.leaves(x))]
    walking.walk(walking.steps(network, params, x), places, domain)
    return tree.unflatten(domain.of), domain.others
