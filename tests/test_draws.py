"""Cheap draws: what they depend on, and whether they are as good as random ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxticket import draws

LEAF = (1000, 300)
CHANCE = 1e-4  # of each of the tests here to fail by chance, if another seed were taken


def make_draws(seed=0, count=0, shape=LEAF):
    """Two leaves of one shape, flat; what a step of a search draws."""
    like = [jnp.zeros(shape)] * 2
    found = jax.jit(draws.uniform)(jax.random.key(seed), jnp.int32(count), like)
    return [np.asarray(x).ravel() for x in found]


def assert_even(*values, cells):
    """Chi-squared of how often each combination of equal parts of [0, 1) comes."""
    parts = [np.floor(x * cells).astype(int) for x in values]
    places = np.ravel_multi_index(parts, (cells,) * len(values))
    counts = np.bincount(places, minlength=cells ** len(values))
    assert stats.chisquare(counts).pvalue > CHANCE
    # As even as a permutation would be as suspicious.
    assert stats.chisquare(counts).pvalue < 1 - CHANCE


def test_draws_depend_on_key_count_and_leaf_alone():
    like = {"a": jnp.zeros((3, 4)), "b": None, "c": jnp.zeros((3, 4))}
    keys, count = [jax.random.key(i) for i in (0, 1)], jnp.int32(7)
    first = draws.uniform(keys[0], count, like)
    again = jax.vmap(lambda key: draws.uniform(key, count, like))(jnp.stack(keys[::-1]))
    others = (
        draws.uniform(keys[1], count, like),
        draws.uniform(keys[0], count + 1, like),
    )
    for name in ("a", "c"):
        np.testing.assert_array_equal(first[name], again[name][1])
    values = np.hstack([x for tree in (first, *others) for x in jax.tree.leaves(tree)])
    assert len(np.unique(values)) == 3 * 2 * 12


def test_they_are_the_same_in_double_precision():
    with jax.enable_x64(True):
        wide = make_draws(shape=(30, 10))
    assert wide[0].dtype == np.float64
    np.testing.assert_array_equal(wide, make_draws(shape=(30, 10)))


def test_a_sharded_leaf_has_the_same_draws_and_nothing_moves():
    mesh = jax.make_mesh((4,), ("x",))
    along = jax.NamedSharding(mesh, jax.P(None, "x"))
    draw = jax.jit(draws.uniform, out_shardings=[along])
    sharded = [jax.ShapeDtypeStruct((6, 8), jnp.float32, sharding=along)]
    args = jax.random.key(0), jnp.int32(1), [jnp.zeros((6, 8))]
    text = draw.lower(*args[:2], sharded).compile().as_text()
    assert "num_partitions=4" in text
    assert "all-" not in text
    assert "collective" not in text
    np.testing.assert_array_equal(draw(*args)[0], draws.uniform(*args)[0])


def test_draws_for_half_precision_are_fine_enough():
    """In bfloat16 the largest draw, `1 - 1e-6`, would be 1, and its logit infinite."""
    like = [jnp.zeros(10_000, jnp.bfloat16)]
    (found,) = draws.uniform(jax.random.key(0), jnp.int32(0), like, 1e-6, 1 - 1e-6)
    assert found.dtype == jnp.float32
    assert len(np.unique(found)) > 9_900
    assert 0 < found.min() < found.max() < 1


def test_they_are_uniform_and_never_zero_or_one():
    for found in make_draws():
        assert_even(found, cells=1000)
        assert stats.kstest(found, "uniform").pvalue > CHANCE
    ends = draws._float(jnp.array([0, 2**32 - 1], jnp.uint32))
    np.testing.assert_array_equal(ends, [2**-24, 1 - 2**-24])
    scaled = draws.uniform(
        jax.random.key(0), jnp.int32(0), jnp.zeros(10_000, jnp.bfloat16), -1.0, 3.0
    )
    assert scaled.dtype == jnp.float32
    assert -1 < scaled.min() < -0.99
    assert 2.99 < scaled.max() < 3


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_steps_leaves_and_seeds_are_independent(seed):
    leaf, other = make_draws(seed, count=seed)
    assert_even(leaf[:-1:2], leaf[1::2], cells=32)
    grid = leaf.reshape(LEAF)
    assert_even(grid[::2].ravel(), grid[1::2].ravel(), cells=32)
    assert_even(leaf, other, cells=32)
    assert_even(leaf, make_draws(seed, count=seed + 1)[0], cells=32)
    assert_even(leaf, make_draws(seed + 1, count=seed)[0], cells=32)
    assert_even(leaf[:-2:3], leaf[1:-1:3], leaf[2::3], cells=16)


def test_one_bit_changes_half_of_the_bits():
    draw = np.random.default_rng(0)
    x, *salt = draw.integers(0, 2**32, (3, 2**14), np.uint32)
    hashed = jax.jit(draws._hashed)

    def bits(*args):
        return np.unpackbits(np.asarray(hashed(*args)).view(np.uint8).reshape(-1, 4), 1)

    # 1024 frequencies with a deviation of 0.0039: the largest is 4 of them away.
    for args in (lambda b: (x ^ b, *salt), lambda b: (x, salt[0] ^ b, salt[1])):
        for bit in np.uint32(1) << np.arange(32, dtype=np.uint32):
            changed = bits(x, *salt) != bits(*args(bit))
            assert abs(changed.mean(0) - 0.5).max() < 0.02


def test_a_gate_is_open_as_often_as_its_probability():
    leaf, _ = make_draws()
    for p in (0.5, 0.1, 0.01):
        found = stats.binomtest(int((leaf < p).sum()), leaf.size, p)
        assert found.pvalue > CHANCE
