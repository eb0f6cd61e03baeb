"""Schedules against their formulae, at Python's numbers and at tracers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxticket import schedules

STEPS = np.arange(25, dtype=np.int32)


def values(schedule):
    """The schedule at `STEPS`: one by one from Python, and traced."""
    plain = [float(schedule(int(step))) for step in STEPS]
    traced = jax.vmap(schedule)(STEPS)
    np.testing.assert_allclose(plain, traced, rtol=1e-6, atol=1e-7)
    return traced


@pytest.mark.parametrize(
    ("at", "steps", "expected"),
    [
        (0, None, 0),
        (0.0, None, 0),
        (7, None, 7),
        (np.int32(7), 7, 7),
        (1, 10, 1),
        (np.array(1), 10, 1),
        (jnp.int32(1), 10, 1),
        (jnp.int32(0), 10, 0),
        (1.0, 10, 10),
        (7.0, 10, 7),  # as a flag has it
        (0.29, 100, 29),  # 28.999999999999996 as a product
        (np.float32(0.5), 10, 5),
    ],
)
def test_a_place_in_a_round_is_a_step_or_a_fraction(at, steps, expected):
    found = schedules.position("stop", at, steps)
    assert (found, type(found)) == (expected, int)


@pytest.mark.parametrize(("steps", "epoch_steps"), [(20, 1), (20, 4), (18, 4), (4, 4)])
def test_temperature(steps, epoch_steps):
    last = max(-(-steps // epoch_steps) - 1, 1)  # a last epoch that is shorter counts
    expected = 200 ** np.minimum(STEPS // epoch_steps / last, 1)
    schedule = schedules.temperature(200, steps, epoch_steps=epoch_steps)
    np.testing.assert_allclose(values(schedule), expected, rtol=1e-5)
    assert schedule(0) == 1
    assert schedule(steps) == 200


def test_cubic_density():
    """Zhu and Gupta 2017, eq. 1, which is in sparsities."""
    initial, final, start, pruned_for = 0.0, 0.9, 4, 12
    t = np.clip(STEPS, start, start + pruned_for)
    sparsity = final + (initial - final) * (1 - (t - start) / pruned_for) ** 3
    schedule = schedules.cubic_density(1 - initial, 1 - final, 4, 16)
    np.testing.assert_allclose(values(schedule), 1 - sparsity, rtol=1e-5)
    assert schedule(0) == schedule(4) == 1
    np.testing.assert_allclose(schedule(16), 0.1, rtol=1e-6)


def test_drop_fraction():
    """Evci et al. 2020, section 3."""
    t = np.minimum(STEPS, 16)
    schedule = schedules.drop_fraction(0.3, 16)
    found = values(schedule)
    np.testing.assert_allclose(
        found, 0.15 * (1 + np.cos(np.pi * t / 16)), rtol=1e-5, atol=1e-8
    )
    np.testing.assert_array_equal(found[16:], 0)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (lambda final: schedules.temperature(final, 20), (200.0, 50.0)),
        (lambda final: schedules.cubic_density(1.0, final, 4, 16), (0.1, 0.2)),
        (lambda initial: schedules.drop_fraction(initial, 16), (0.3, 0.5)),
    ],
    ids=["temperature", "cubic_density", "drop_fraction"],
)
def test_their_numbers_may_be_traced(make, arguments):
    mapped = jax.vmap(lambda x: make(x)(7))(jnp.array(arguments))
    np.testing.assert_allclose(mapped, [make(x)(7) for x in arguments], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scale_by_step_follows_the_step_it_is_given(dtype):
    transform = schedules.scale_by_step(lambda step: 0.5 / (1 + step))
    updates = {"w": jnp.array([[2.0, -4.0]], dtype), "none": None}
    state = transform.init(updates)
    for step in (0, 3, 1, 0):  # back again, as when a round starts
        scaled, state = jax.jit(transform.update)(updates, state, step=step)
        assert scaled["w"].dtype == dtype
        expected = -0.5 / (1 + step) * np.array([[2.0, -4.0]])
        np.testing.assert_allclose(np.asarray(scaled["w"], float), expected)


def test_scale_by_step_in_a_chain_is_gradient_descent():
    ours = optax.chain(optax.trace(0.9), schedules.scale_by_step(lambda step: 0.1))
    theirs = optax.sgd(0.1, momentum=0.9)
    grads = {"w": jnp.array([1.0, -2.0])}
    states = ours.init(grads), theirs.init(grads)
    for step in range(3):
        one, mine = ours.update(grads, states[0], step=step)
        other, yours = theirs.update(grads, states[1])
        np.testing.assert_allclose(one["w"], other["w"], rtol=1e-6)
        states = mine, yours
