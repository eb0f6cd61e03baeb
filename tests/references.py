"""Plain numpy for transcriptions of published equations, and searches to follow them.

The references know the papers, not the library: a tanh network of 20 weights with its
gradient by hand, momentum SGD by hand, and the algorithms as they are printed.
Everything is compared after every step, in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxticket import Ticket, draws, schedules

SHAPES = {"w1": (3, 4), "b1": (4,), "w2": (4, 2), "b2": (2,)}
KERNELS = ["w1", "w2"]
ROUNDS, STEPS = 3, 5
MOMENTUM, DECAY = 0.9, 0.01


# The network and its training, by hand.


def draw(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def batch(round_, step):
    rng = np.random.default_rng([round_, step])
    return rng.normal(size=(8, 3)), rng.normal(size=(8, 2))


def loss(p, x, y):
    error = np.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"] - y
    return np.sum(error**2) / (2 * len(x))


def gradient(p, x, y):
    hidden = np.tanh(x @ p["w1"] + p["b1"])
    error = (hidden @ p["w2"] + p["b2"] - y) / len(x)
    back = (error @ p["w2"].T) * (1 - hidden**2)
    return {
        "w1": x.T @ back,
        "b1": back.sum(0),
        "w2": hidden.T @ error,
        "b2": error.sum(0),
    }


def rate(step):
    return 0.1 * 0.8**step


def descend(w, g, v, lr, *, decay=DECAY, nesterov=False):
    """Momentum SGD with coupled weight decay: the new weights and velocity."""
    g = g + decay * w
    v = MOMENTUM * v + g
    return w - lr * (g + MOMENTUM * v if nesterov else v), v


def descend_all(w, g, v, step, **options):
    both = {
        name: descend(w[name], g[name], v[name], rate(step), **options) for name in w
    }
    return tuple({name: pair[i] for name, pair in both.items()} for i in (0, 1))


def optimizer(*, nesterov=False, decayed=None):
    return optax.chain(
        optax.add_decayed_weights(DECAY, decayed),
        optax.trace(MOMENTUM, nesterov),
        schedules.scale_by_step(rate),
    )


def ones():
    return {name: np.ones(SHAPES[name], bool) for name in KERNELS}


def some():
    """A mask that has lost a fourth of the weights."""
    return {
        name: np.arange(m.size).reshape(m.shape) % 4 > 0 for name, m in ones().items()
    }


def masked(mask, p):
    return {name: np.where(mask.get(name, True), p[name], 0.0) for name in p}


def mask_tree(mask):
    return {name: mask.get(name) for name in SHAPES}


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


# The searches, stepped with the gradient by hand.


def follow(search, mask, *, rounds=ROUNDS, resume=0):
    """The parameters before and after every step, and the ticket of every round."""
    update, params = jax.jit(search.update), jax.jit(search.params)
    advance, ticket = jax.jit(search.advance), jax.jit(search.ticket)
    state = search.init(jax.random.key(0), Ticket(draw(), mask_tree(mask)))
    path, tickets = [], []
    for round_ in range(rounds):
        state = advance(state) if round_ else state
        path.append(params(state))
        for step in range(resume if round_ else 0, STEPS):
            p = jax.tree.map(np.asarray, path[-1])
            state = update(gradient(p, *batch(round_, step)), state, step)
            path.append(params(state))
        tickets.append(ticket(state))
    return path, tickets


def check(found, expected, rtol):
    (path, tickets), (expected_path, expected_tickets) = found, expected
    assert len(path) == len(expected_path)
    for ours, reference in zip(path, expected_path, strict=True):
        close(ours, reference, rtol)
    for ours, (weights, mask) in zip(tickets, expected_tickets, strict=True):
        for name in KERNELS:
            np.testing.assert_array_equal(ours.mask[name], mask[name])
        close(ours.weights, weights, rtol)


def close(ours, reference, rtol):
    for name in SHAPES:
        np.testing.assert_allclose(
            ours[name], reference[name], rtol=rtol, atol=rtol, err_msg=name
        )


# Draws. They come from the library; `test_draws` judges them.


def drawn(key, count, low=0.0, high=1.0):
    like = {name: jnp.zeros(SHAPES[name]) for name in KERNELS}
    return {
        name: np.asarray(u)
        for name, u in draws.uniform(key, count, like, low, high).items()
    }
