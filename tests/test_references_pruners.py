"""Pruning while training against plain numpy: gradual, STR, and slimming's L1 norm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references import (
    KERNELS,
    ROUNDS,
    SHAPES,
    STEPS,
    batch,
    check,
    close,
    descend_all,
    draw,
    follow,
    gradient,
    mask_tree,
    masked,
    ones,
    optimizer,
    sigmoid,
    some,
)

from jaxticket import Ticket, fixed, gradual, soft_threshold
from jaxticket.searches.slimming import shrink

pytestmark = pytest.mark.usefixtures("x64", "unoptimised")


# Gradual magnitude pruning.


def thinned(*, initial, final, start, stop, every, mask):
    """Zhu and Gupta 2017, eq. 1: layer by layer, and stored weights return."""
    w, v, allowed = draw(), dict.fromkeys(SHAPES, 0.0), mask
    path, tickets, returned = [], [], 0
    for round_ in range(ROUNDS):
        allowed = mask
        for step in range(STEPS + 1):
            if step in range(start, stop + 1, every):
                sparsity = (1 - final) + (final - initial) * (
                    1 - (step - start) / (stop - start)
                ) ** 3
                new = {}
                for name in KERNELS:
                    lost = np.floor(sparsity * allowed[name].sum() + 0.5)
                    size = np.where(allowed[name], np.abs(w[name]), -1.0)
                    rank = np.argsort(np.argsort(-size, axis=None))
                    kept = allowed[name].sum() - lost
                    new[name] = (rank < kept).reshape(SHAPES[name])
                    returned += np.sum(new[name] & ~mask[name])
                mask = new
            path.append(masked(mask, w))
            if step == STEPS:
                break
            g = masked(mask, gradient(path[-1], *batch(round_, step)))
            after, v = descend_all(path[-1], g, v, step)
            w = {
                name: np.where(mask.get(name, True), after[name], w[name]) for name in w
            }
        tickets.append((w, mask))
    return (path, tickets), returned


@pytest.mark.parametrize("mask", [ones(), some()], ids=["full", "sparse"])
@pytest.mark.parametrize(
    ("numbers", "returns"),
    [
        ({"start": 0, "stop": 4, "every": 1}, True),
        ({"start": 1, "stop": 5, "every": 2, "initial": 0.8}, False),
        ({"start": 0, "stop": 4, "every": 4, "initial": 0.7, "final": 0.92}, True),
    ],
)
def test_gradual(numbers, returns, mask):
    numbers = {"initial": 1.0, "final": 0.55} | numbers
    expected, returned = thinned(mask=mask, **numbers)
    initial, final = numbers.pop("initial"), numbers.pop("final")
    search = gradual(
        optimizer(), initial_density=initial, final_density=final, **numbers
    )
    check(follow(search, mask), expected, rtol=1e-12)
    assert returned > 0 or not returns


# Soft thresholds.


def test_soft_threshold():
    """Kusupati et al. 2020, eq. 4 and 5; the same decay for weights and thresholds."""
    w, s = draw(), dict.fromkeys(KERNELS, -1.5)
    velocity, path, tickets = dict.fromkeys([*SHAPES, "s_w1", "s_w2"], 0.0), [], []
    for round_ in range(ROUNDS):
        for step in range(STEPS + 1):
            g = {name: sigmoid(s[name]) for name in KERNELS}
            on = {name: np.abs(w[name]) > g[name] for name in KERNELS}
            shrunk = {n: np.sign(w[n]) * (np.abs(w[n]) - g[n]) for n in KERNELS}
            path.append(masked(on, w | shrunk))
            if step == STEPS:
                break
            grads = masked(on, gradient(path[-1], *batch(round_, step)))
            slopes = {
                f"s_{n}": -np.sum(grads[n] * np.sign(w[n])) * g[n] * (1 - g[n])
                for n in KERNELS
            }
            both = w | {f"s_{n}": s[n] for n in KERNELS}
            both, velocity = descend_all(both, grads | slopes, velocity, step)
            w = {n: both[n] for n in SHAPES}
            s = {n: both[f"s_{n}"] for n in KERNELS}
        tickets.append((path[-1], on))
    found = follow(soft_threshold(optimizer(), initial_logit=-1.5), ones())
    check(found, (path, tickets), rtol=1e-12)
    kept = [sum(m.sum() for m in mask.values()) for _, mask in tickets]
    assert all(0 < n < 20 for n in kept), "a reference that decides nothing"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_at_the_published_start_only_decay_moves_a_threshold(dtype):
    w = {name: jnp.asarray(x, dtype) for name, x in draw().items()}
    search = soft_threshold(optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0)))
    state = search.init(jax.random.key(0), Ticket(w, mask_tree(ones())))
    close(search.params(state), w, 0)
    state = search.update(jax.tree.map(jnp.ones_like, w), state, 0)
    for leaf in jax.tree.leaves(state.gated.logits):
        assert leaf.dtype == dtype
        np.testing.assert_allclose(leaf, -3200 * 0.9, rtol=1e-6)


# Network slimming: the L1 norm of scales in training. `test_slimming` prunes by it.


def test_l1_norm_of_scales():
    """`g + penalty * sign(gamma)`, before decay and momentum."""
    path, v = [draw()], dict.fromkeys(SHAPES, 0.0)
    for step in range(STEPS):
        g = gradient(path[-1], *batch(0, step))
        g["b1"] = g["b1"] + 0.3 * np.sign(path[-1]["b1"])
        w, v = descend_all(path[-1], g, v, step)
        path.append(w)
    trained = optax.chain(shrink(0.3, lambda p: [("w1", "b1", "w2")]), optimizer())
    found = follow(fixed(trained), ones(), rounds=1)
    check(found, (path, [(path[-1], ones())]), rtol=1e-12)
