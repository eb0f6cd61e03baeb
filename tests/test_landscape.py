"""Networks between two, and losses from mask to mask, by plain numpy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxticket import landscape


def test_a_network_between_two(x64):
    """In float64 by plain numpy; the ends to the bit; counters are the first's."""
    random = np.random.default_rng(0)
    one, other = ({"w": random.normal(size=(3, 2)), "n": np.array(n)} for n in (4, 9))
    for alpha in (0.0, 0.3, 1.0):
        found = landscape.interpolated(alpha, one, other)
        expected = alpha * one["w"] + (1 - alpha) * other["w"]
        np.testing.assert_allclose(found["w"], expected, rtol=1e-15)
        assert found["n"] == 4
    alphas = jnp.linspace(0, 1, 4)
    along = jax.jit(jax.vmap(landscape.interpolated, (0, None, None)))
    found = along(alphas, one, other)["w"]
    assert found.shape == (4, 3, 2)
    np.testing.assert_array_equal(found[0], other["w"])
    np.testing.assert_array_equal(found[-1], one["w"])


def test_the_types_of_weights_stay_and_networks_of_two_kinds_are_an_error():
    half = {"w": jnp.ones(3, jnp.bfloat16)}
    assert landscape.interpolated(0.5, half, half)["w"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="not of one network"):
        landscape.interpolated(0.5, half, {"w": jnp.ones(4, jnp.bfloat16)})


def test_a_barrier_is_the_worst_less_the_mean_of_the_ends():
    errors = np.random.default_rng(1).random((4, 5, 30))
    found = landscape.barrier(errors)
    for i, j in itertools.product(range(4), range(5)):
        path = [*errors[i, j]]
        assert math.isclose(found[i, j], max(path) - (path[0] + path[-1]) / 2)
    assert found.min() > 0
    np.testing.assert_allclose(landscape.barrier(jnp.array(errors)), found, rtol=1e-5)
    assert landscape.barrier(np.linspace(0.1, 0.3, 7)) == pytest.approx(0.1)  # no bump
    assert landscape.barrier(np.full(7, 0.2)) == 0


def test_a_change_of_a_quadratic_loss_by_plain_numpy(x64):
    """`L = (a . (w m) - b)^2 + c . (w m)`, whose gradient is known."""
    random = np.random.default_rng(7)
    w, a, c = (
        {"k": random.normal(size=(5, 4)), "b": random.normal(size=4)} for _ in "wac"
    )
    old, new = ({"k": random.random((5, 4)) < 0.5, "b": None} for _ in range(2))

    def dot(x, y):
        return sum(jnp.vdot(x[name], y[name]) for name in ("k", "b"))

    def loss(params):
        return (dot(a, params) - 2) ** 2 + dot(c, params)

    def by_hand(mask):
        masked = w["k"] * mask["k"]
        inner = np.sum(a["k"] * masked) + a["b"] @ w["b"] - 2
        value = inner**2 + np.sum(c["k"] * masked) + c["b"] @ w["b"]
        return value, 2 * inner * a["k"] + c["k"]

    found = jax.jit(landscape.change, static_argnums=0)(loss, w, old, new)
    before, gradient = by_hand(old)
    moved = new["k"].astype(float) - old["k"]
    np.testing.assert_allclose(found.predicted, np.sum(gradient * w["k"] * moved))
    np.testing.assert_allclose(found.actual, by_hand(new)[0] - before)
    assert abs(found.predicted - found.actual) > 0.1  # it is not linear
    assert landscape.change(loss, w, old, old) == (0, 0)
    # A ticket from its file has lost what it prunes.
    less = {"k": old["k"] & new["k"], "b": None}
    lost = w | {"k": np.where(old["k"], w["k"], np.nan)}
    np.testing.assert_array_equal(
        landscape.change(loss, lost, old, less), landscape.change(loss, w, old, less)
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_swaps_are_those_that_promise_most(count):
    random = np.random.default_rng(8)
    mask = {"a": random.random((4, 5)) < 0.4, "b": random.random(30) < 0.5, "c": None}
    gains = {"a": random.normal(size=(4, 5)), "b": random.normal(size=30), "c": None}
    counts = {"a": count, "b": 2, "c": None}
    found = jax.jit(landscape.exchanged)(mask, gains, counts)
    assert found["c"] is None
    for name, q in (("a", count), ("b", 2)):
        m, gain, new = mask[name].ravel(), gains[name].ravel(), found[name].ravel()
        coming = [i for i in np.argsort(gain) if not m[i]][:q]
        going = [i for i in np.argsort(-gain) if m[i]][:q]
        assert {*np.flatnonzero(new & ~m)} == {*coming}
        assert {*np.flatnonzero(m & ~new)} == {*going}
