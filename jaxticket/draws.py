"""Cheap uniform numbers, one for each weight and step: hashes of where a weight is.

A search with random gates draws a number for every weight at every step. Threefry,
which `jax.random` takes, needs some fifty operations a number, more than all the rest
of such a step; this needs about fifteen, in the same pass as what uses the number. The
key and the count of the step make two words of salt a leaf, by `jax.random`; the place
of a weight in its leaf is hashed with them. A number depends on nothing else: not on
lanes, devices, or how a leaf is sharded.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxticket.base import PRNGKey

# Odd numbers of C. Wellons' search for 32-bit hashes ("triple32").
_MULTIPLIERS = (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)


def uniform(
    key: PRNGKey, count: jax.Array, like: Any, low: float = 0.0, high: float = 1.0
) -> Any:
    """A uniform number between `low` and `high` for each element of a tree.

    Args:
      key: of the search.
      count: int32, of the step: another one has other numbers.
      like: tree of arrays; `None` leaves stay `None`.

    Returns:
      Of each leaf numbers `low + (high - low) (k + 1/2) / 2**23` in float32 at least,
      with `k` uniform in `0, ..., 2**23 - 1`: between 0 and 1 it is neither. Elements
      of a leaf that are `2**32` apart have the same.
    """
    leaves, tree = jax.tree.flatten(like)
    kinds = [jnp.promote_types(leaf.dtype, jnp.float32) for leaf in leaves]
    words = len(leaves), 2
    salts = jax.random.bits(jax.random.fold_in(key, count), words, jnp.uint32)
    return tree.unflatten(
        low + (high - low) * _float(_hashed(_places(leaf.shape), *salt)).astype(wide)
        for leaf, wide, salt in zip(leaves, kinds, salts, strict=True)
    )


def _places(shape: tuple[int, ...]) -> jax.Array:
    """Where each element is in its array, row by row, modulo `2**32`.

    Made of an index an axis, not of a flat one: no shape changes, and a sharded array
    is not moved.
    """
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place += index * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return place


def _hashed(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """A hash of `x` and 64 bits of salt, half of them where the bits are mixed."""
    a, b, c = map(jnp.uint32, _MULTIPLIERS)
    x += first
    x = (x ^ (x >> 17)) * a
    x = (x ^ (x >> 11)) + second
    x = (x ^ (x >> 15)) * b
    x = (x ^ (x >> 14)) * c
    return x ^ (x >> 15)


def _float(bits: jax.Array) -> jax.Array:
    # A signed number becomes a float in one instruction, an unsigned one does not; and
    # of 24 bits and a half the largest would be rounded to 1.
    whole = (bits >> 9).astype(jnp.int32).astype(jnp.float32)
    return (whole + 0.5) * jnp.float32(2**-23)
