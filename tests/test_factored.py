"""Factored weights: their minima are the Lasso's, and every step is as the equation."""

import jax
import jax.numpy as jnp
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
    mask_tree,
    masked,
    ones,
    optimizer,
    some,
)

from jaxticket import Ticket, factored

pytestmark = pytest.mark.usefixtures("x64")


def lasso(x, y, penalty):
    """Minimum of `|x w - y|^2 / 2n + penalty |w|_1`, by coordinate descent."""
    n, w = len(x), np.zeros(x.shape[1])
    for i in list(range(len(w))) * 500:
        rest = x[:, i] @ (y - x @ w + x[:, i] * w[i]) / n
        size = max(abs(rest) - penalty, 0) / (x[:, i] @ x[:, i] / n)
        w[i] = np.sign(rest) * size
    return w


@pytest.mark.parametrize("decay", [0.02, 0.1])
def test_the_minimum_is_that_of_the_lasso(decay):
    """On a random design; half of the weights begin with the wrong sign."""
    rng = np.random.default_rng(0)
    x, true = rng.normal(size=(60, 12)), np.where(np.arange(12) < 6, 1.0, 0.0)
    true *= rng.choice([-1, 1], 12) * rng.uniform(0.3, 2, 12)
    y = x @ true + 0.3 * rng.normal(size=60)
    given = Ticket(
        {"w": 0.1 * np.where(np.arange(12) % 2, 1, -1) * np.sign(true + 0.5)},
        {"w": np.ones(12, bool)},
    )
    search = factored(optax.sgd(0.1), decay=decay, threshold=1e-6)

    def step(state, at):
        grads = {"w": x.T @ (x @ search.params(state)["w"] - y) / len(x)}
        return search.update(grads, state, at), ()

    state = search.init(jax.random.key(0), given)
    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(20_000)))(state)
    found, expected = search.ticket(state), lasso(x, y, 2 * decay)
    np.testing.assert_allclose(found.weights["w"], expected, atol=1e-4)
    np.testing.assert_array_equal(found.mask["w"], expected != 0)
    assert 0 < np.sum(expected == 0) < 12, "a reference that decides nothing"
    assert (np.sign(expected) * given.weights["w"] < 0).any(), "no sign has changed"


@pytest.mark.parametrize("mask", [ones(), some()], ids=["full", "sparse"])
def test_every_step_is_that_of_the_equation(mask):
    decay, threshold = 0.05, 0.2
    m = masked(mask, draw())
    u = {name: np.ones(m[name].shape) for name in KERNELS}
    velocity, path, tickets = dict.fromkeys([*m, "u_w1", "u_w2"], 0.0), [], []
    for round_ in range(ROUNDS):
        for step in range(STEPS + 1):
            path.append(masked(mask, m | {n: m[n] * u[n] for n in KERNELS}))
            if step == STEPS:
                break
            g = masked(mask, gradient(path[-1], *batch(round_, step)))
            alive = {n: mask[n].astype(float) for n in KERNELS}
            slopes = g | {n: g[n] * u[n] + 2 * decay * m[n] for n in KERNELS}
            slopes |= {
                f"u_{n}": g[n] * m[n] + 2 * decay * u[n] * alive[n] for n in KERNELS
            }
            both = m | {f"u_{n}": u[n] for n in KERNELS}
            both, velocity = descend_all(both, slopes, velocity, step)
            m, u = {n: both[n] for n in m}, {n: both[f"u_{n}"] for n in KERNELS}
        kept = {n: mask[n] & (np.abs(path[-1][n]) > threshold) for n in KERNELS}
        tickets.append((path[-1], kept))
    search = factored(optimizer(), decay=decay, threshold=threshold)
    check(follow(search, mask), (path, tickets), rtol=1e-12)
    kept = [sum(m.sum() for m in mask.values()) for _, mask in tickets]
    alive = sum(m.sum() for m in mask.values())
    assert all(0 < n < alive for n in kept), "a reference that decides nothing"


def test_it_opens_with_the_given_network_to_the_last_bit():
    search = factored(optax.sgd(0.1))
    state = search.init(jax.random.key(0), Ticket(draw(), mask_tree(ones())))
    for name, w in draw().items():
        np.testing.assert_array_equal(search.params(state)[name], w)
