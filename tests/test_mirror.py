"""Mirror steps against plain numpy, and under a mask."""

import types

import jax
import numpy as np
import optax
import pytest
from references import (
    KERNELS,
    ROUNDS,
    STEPS,
    batch,
    check,
    descend_all,
    draw,
    follow,
    gradient,
    masked,
    ones,
    optimizer,
    rate,
    some,
)

from experiments.study import optimizers
from jaxticket import fixed, mirror

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("mask", [ones(), some()], ids=["full", "sparse"])
@pytest.mark.parametrize("alpha", [0.5, 300.0])
def test_every_step_is_that_of_the_equation(mask, alpha):
    """The larger `alpha` reaches both ends of the exponent."""
    beta, clipped = 0.3, 0
    w, v, path, tickets = masked(mask, draw()), dict.fromkeys(draw(), 0.0), [], []
    for round_ in range(ROUNDS):
        for step in range(STEPS + 1):
            path.append(w)
            if step == STEPS:
                break
            g = masked(mask, gradient(w, *batch(round_, step)))
            w, v = descend_all(w, g, v, step)
            w = masked(mask, w)
            for n in KERNELS:
                exponent = rate(step) * (-alpha * np.sign(w[n]) * g[n] - beta)
                clipped += np.sum(np.abs(exponent) > 5)
                w = w | {n: w[n] * np.exp(np.clip(exponent, -5, 5))}
        tickets.append((w, mask))
    search = fixed(mirror.ham(optimizer(), rate, alpha=alpha, beta=beta))
    check(follow(search, mask), (path, tickets), rtol=1e-9)
    assert (clipped > 0) == (alpha == 300.0)


def test_zero_stays_and_a_constant_rate_needs_no_step():
    params = {"w": np.array([[0.0, 0.5], [-0.5, 0.0]]), "b": np.ones(2)}
    step = mirror.ham(optax.set_to_zero(), 0.1, alpha=10.0)
    updates, _ = step.update(
        jax.tree.map(np.ones_like, params), step.init(params), params
    )
    moved = optax.apply_updates(params, updates)
    assert (moved["w"] == 0).tolist() == [[True, False], [False, True]]
    np.testing.assert_allclose(moved["w"][0, 1], 0.5 * np.exp(-1 - 1e-4))
    np.testing.assert_allclose(moved["w"][1, 0], -0.5 * np.exp(1 - 1e-4))
    np.testing.assert_array_equal(moved["b"], params["b"])


@pytest.mark.parametrize("alpha", [0.0, 50.0])
def test_the_settings_put_it_around_the_optimiser_of_the_weights(alpha):
    config = types.SimpleNamespace(
        optimizer="sgd", learning_rate=0.2, weight_decay=0.0, warmup_steps=0,
        learning_rate_drops=(), learning_rate_factor=0.1, ham=alpha, steps=10,
        learning_rate_cosine=False, momentum=0.9,
    )  # fmt: skip
    plain = optax.sgd(0.2)
    wanted = mirror.ham(plain, 0.2, alpha=alpha) if alpha else plain
    params, grads = draw(), draw(1)
    found = (
        step.update(grads, step.init(params), params, **told)[0]
        for step, told in ((optimizers.of_weights(config), {"step": 3}), (wanted, {}))
    )
    for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_what_it_cannot_do_without_is_asked_for():
    step = mirror.ham(optax.sgd(0.1), lambda at: 0.1)
    params = draw()
    with pytest.raises(ValueError, match="ham needs params"):
        step.update(params, step.init(params))
    with pytest.raises(ValueError, match="ham follows a schedule by the step"):
        step.update(params, step.init(params), params)
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        mirror.ham(optax.sgd(0.1), 0.1, alpha=-1.0)
