"""What every layer of a network is given: the network, run step by step."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxticket.graphs import products, walking


class Value(NamedTuple):
    """An array, and what it is made of, see `products`."""

    array: jax.Array
    origin: products.Made


class Inputs:
    """Computes, as a domain of `walking.walk`, and keeps what parameters multiply.

    Attributes:
      of: place of a parameter -> `[rows, inputs]`, of its first product.
    """

    def __init__(self):
        self.of: dict[int, jax.Array] = {}

    def constant(self, array: Any) -> Value:
        return Value(array, products.CONSTANT)

    def row(self, value: Value, index: int) -> Value:
        return Value(value.array[index], value.origin.row(index))

    def stack(self, values: Sequence[Value]) -> Value:
        arrays, origins = zip(*values, strict=True)
        lengths = [1] * len(values)
        return Value(jnp.stack(arrays), products.beside(origins, lengths, 0))

    def step(self, eqn: Any, values: Sequence[Value]) -> list[Value]:
        arrays, origins = zip(*values, strict=True) if values else ((), ())
        if products.DATA in origins:
            factors = zip(reversed(origins), arrays, products.summed(eqn), strict=False)
            for made, array, axes in factors:
                if made.place is not None and made.place not in self.of:
                    self.of[made.place] = _rows(array, axes)
        found = eqn.primitive.bind(*arrays, **eqn.params)
        origin = products.origin(eqn, origins)
        several = found if eqn.primitive.multiple_results else [found]
        return [Value(x, origin) for x in several]


def _rows(array, axes):
    """`[rows, inputs]`, with the inputs along some axes."""
    rest = [i for i in range(array.ndim) if i not in axes]
    count = math.prod(array.shape[i] for i in axes)
    return jnp.transpose(array, [*rest, *axes]).reshape(-1, count)


def inputs(network: Callable, variables: Any, x: Any) -> dict[int, jax.Array]:
    """What each parameter multiplies when a network runs.

    Args:
      network: `(variables, x) -> outputs`, pytrees of arrays.
      variables: parameters and model state.
      x: inputs.

    Returns:
      Place among the leaves of `variables` -> `[rows, inputs]`: an example, or an
      example and place of a convolution, each; of kernels that are used.

    Raises:
      ValueError: the network has a loop without a known length, or a branch.
    """
    domain, leaves = Inputs(), jax.tree.leaves(variables)
    start = [Value(leaf, products.whole(i)) for i, leaf in enumerate(leaves)]
    start += [Value(leaf, products.DATA) for leaf in jax.tree.leaves(x)]
    walking.walk(walking.steps(network, variables, x), start, domain)
    return domain.of
