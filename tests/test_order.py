"""The shuffle: a permutation of any size, and as random as one should be."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxticket import order

pytestmark = pytest.mark.usefixtures("unoptimised")


@pytest.fixture(scope="module", autouse=True)
def short_shuffles():
    """None here: as random as users have them."""


def permutations(count, size):
    def one(key):
        return order.rows(order.draw(key, size), jnp.arange(size), size)

    return np.asarray(
        jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count))
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1437, 55_000])
def test_every_row_is_visited_once(size):
    for permutation in permutations(3, size):
        np.testing.assert_array_equal(np.sort(permutation), np.arange(size))


def test_it_is_the_swap_or_not_shuffle_of_its_constants():
    size = 1000
    drawn = order.draw(jax.random.key(3), size)
    x = np.arange(size, dtype=np.uint64)
    for offset, salt in zip(*(np.asarray(c, np.uint64) for c in drawn), strict=True):
        partner = (offset + size - x) % size
        h = np.maximum(x, partner) ^ salt
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor) & np.uint64(2**32 - 1)
        h ^= h >> np.uint64(16)
        x = np.where(h & np.uint64(1), partner, x)
    np.testing.assert_array_equal(order.rows(drawn, jnp.arange(size), size), x)


def test_all_orders_of_four_rows_are_equally_likely():
    seen = collections.Counter(map(tuple, permutations(24 * 400, 4)))
    chi_square = sum((n - 400) ** 2 / 400 for n in seen.values())
    assert len(seen) == 24
    assert chi_square < 49.7  # exceeded by chance once in 1000 times, 23 degrees


def test_any_two_rows_fall_anywhere_with_any_distance():
    size, count = 101, 20_000
    drawn = permutations(count, size)
    distances = (drawn[:, 40] - drawn[:, 41]) % size
    for values, bins in ((drawn[:, 0], size), (distances - 1, size - 1)):
        expected = count / bins
        found = np.bincount(values, minlength=bins)
        assert ((found - expected) ** 2 / expected).sum() < 149.5  # 1 in 1000


def test_an_entry_does_not_depend_on_what_is_asked_beside_it():
    drawn = order.draw(jax.random.key(1), 500)
    whole = order.rows(drawn, jnp.arange(500), 500)
    part = order.rows(drawn, jnp.array([[7, 499], [0, 7]]), 500)
    np.testing.assert_array_equal(part, whole[np.array([[7, 499], [0, 7]])])
    other = order.rows(order.draw(jax.random.key(2), 500), jnp.arange(500), 500)
    assert (np.asarray(whole) != np.asarray(other)).mean() > 0.9
