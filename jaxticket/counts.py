"""How many weights: whole numbers beyond those of JAX, of two words.

JAX's whole numbers have 32 bits unless it is told otherwise, and large networks have
more weights than these count.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

ONE_WORD = 2**31  # what int32 cannot count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Count:
    """A whole number from 0 to `2**64 - 1`: `2**32 high + low`, both uint32."""

    high: jax.Array
    low: jax.Array

    def __add__(self, other: "Count") -> "Count":
        low = self.low + other.low
        carry = (low < other.low).astype(jnp.uint32)
        return Count(self.high + other.high + carry, low)

    def __sub__(self, other: "Count") -> "Count":
        borrowed = (self.low < other.low).astype(jnp.uint32)
        return Count(self.high - other.high - borrowed, self.low - other.low)

    def __ge__(self, other: "Count") -> jax.Array:
        above, same = self.high > other.high, self.high == other.high
        return above | (same & (self.low >= other.low))

    def __truediv__(self, other: "ArrayLike | Count") -> jax.Array:
        return as_float(self) / as_float(other)

    def __int__(self) -> int:
        return (int(self.high) << 32) + int(self.low)


def of(number: ArrayLike | Count) -> Count:
    """A whole number that is not negative."""
    if isinstance(number, Count):
        return number
    if isinstance(number, int | np.integer):
        return Count(jnp.uint32(int(number) >> 32), jnp.uint32(int(number) % 2**32))
    number = jnp.asarray(number)
    high = number >> 32 if number.dtype.itemsize > 4 else jnp.zeros_like(number)
    return Count(high.astype(jnp.uint32), number.astype(jnp.uint32))


def difference(number: Count, other: Count) -> Count:
    """`number - other`, 0 where that is less."""
    enough, left = number >= other, number - other
    return jax.tree.map(lambda word: jnp.where(enough, word, 0), left)


def as_float(number: ArrayLike | Count) -> ArrayLike:
    """A `Count`, or a Python number, in float32; an array as it is."""
    if not isinstance(number, Count):
        return jnp.float32(number) if isinstance(number, int) else number
    return number.high.astype(jnp.float32) * 2.0**32 + number.low.astype(jnp.float32)


def total(numbers: jax.Array) -> Count:
    """The sum of up to 2**16 numbers, int32 `[n]`."""
    return _of_halves(*(jnp.sum(half, dtype=jnp.uint32) for half in _halves(numbers)))


def cumulated(numbers: jax.Array) -> Count:
    """The sums of the first 1, 2, ... of up to 2**16 numbers, int32 `[n]`."""
    return _of_halves(*map(jnp.cumsum, _halves(numbers)))


def _halves(numbers):
    numbers = numbers.astype(jnp.uint32)
    return numbers >> 16, numbers & 0xFFFF


def _of_halves(high, low):
    """`2**16 high + low`."""
    return Count(high >> 16, high << 16) + Count(jnp.zeros_like(low), low)


def share(number: Count, fixed: jax.Array) -> Count:
    """`round(number * fixed / 2**31)`, halves up; `fixed` uint32, at most 2**31."""
    low, high = (_product(word, fixed) for word in (number.low, number.high))
    # Of the lower word a fraction is left over, of the higher none.
    whole = (low.high << 1) | (low.low >> 31)
    below = Count(jnp.zeros_like(whole), whole + ((low.low >> 30) & 1))
    return Count((high.high << 1) | (high.low >> 31), high.low << 1) + below


def _product(n: jax.Array, m: jax.Array) -> Count:
    """Of two words: long multiplication of 16-bit digits."""
    n1, n0 = n >> 16, n & 0xFFFF
    m1, m0 = m >> 16, m & 0xFFFF
    low = n0 * m0
    middle = n1 * m0 + (low >> 16)
    carry = n0 * m1 + (middle & 0xFFFF)
    high = n1 * m1 + (middle >> 16) + (carry >> 16)
    return Count(high, (carry << 16) | (low & 0xFFFF))
