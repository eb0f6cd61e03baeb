"""The order in which an epoch visits the data: a random permutation, entry by entry.

`jax.random.permutation` sorts, which on CPU takes LeNet 3% of an epoch, and keeps an
array of the data's length for every lane. Here each step computes the entries that it
needs from a few numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxticket.base import PRNGKey

ROUNDS = 32  # after r rounds, two entries are still tied with a probability of 2 ** -r


class Permutation(NamedTuple):
    """A random permutation, as the constants of its rounds: each uint32 `[ROUNDS]`."""

    offsets: jax.Array
    salts: jax.Array


def draw(key: PRNGKey, size: int) -> Permutation:
    """A random permutation of `0, ..., size - 1`."""
    offsets, salts = jax.random.bits(key, (2, ROUNDS), jnp.uint32)
    return Permutation(offsets % jnp.uint32(size), salts)


def rows(permutation: Permutation, places: jax.Array, size: int) -> jax.Array:
    """Where a permutation of `size` numbers sends `places`: the swap-or-not shuffle.

    Round `r` pairs `x` with `(offset_r - x) mod size`, and a bit of a hash of the pair
    says whether the two change places. So every round permutes exactly `size` numbers,
    whatever that is.

    Args:
      permutation: from `draw`, for the same size.
      places: integers in `[0, size)`, of any shape.
      size: how many numbers are permuted, below 2 ** 31.

    Returns:
      int32 of the shape of `places`.

    Reference:
      Hoang, Morris, Rogaway, "An Enciphering Scheme Based on a Card Shuffle", 2012.
    """
    x = jnp.asarray(places).astype(jnp.uint32)
    if size == 1:  # which XLA cannot simplify
        return jnp.zeros(x.shape, jnp.int32)
    for offset, salt in zip(*permutation, strict=True):
        partner = offset - x  # below 0 it wraps around, and a size more is the smaller
        partner = jnp.minimum(partner, partner + jnp.uint32(size))
        swap = _hash(jnp.maximum(x, partner) ^ salt) & 1
        x = jnp.where(swap == 1, partner, x)
    # Else XLA computes them anew for every pixel that it gathers.
    return jax.lax.optimization_barrier(x.astype(jnp.int32))


def _hash(x: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer: every bit of the result depends on every bit of `x`."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
