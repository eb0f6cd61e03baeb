"""Every search against a plain-numpy transcription of its published equations.

The references know the papers, not the library: a tanh network of 20 weights with its
gradient by hand, momentum SGD by hand, and the algorithms as they are printed.
Everything is compared after every step, in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxticket import (
    Gated,
    Ticket,
    continuous_sparsification,
    fixed,
    imp,
    masks,
    schedules,
    scores,
    selection,
)

SHAPES = {"w1": (3, 4), "b1": (4,), "w2": (4, 2), "b2": (2,)}
KERNELS = ["w1", "w2"]
ROUNDS, STEPS = 3, 5
MOMENTUM, DECAY = 0.9, 0.01

pytestmark = pytest.mark.usefixtures("x64")


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


# Training under a mask, and iterative magnitude pruning.


def train(w, mask, round_, steps, rates):
    """The weights before and after every step: `w <- m * (w - lr * v)`."""
    path, v = [masked(mask, w)], dict.fromkeys(w, 0.0)
    for step, lr in zip(steps, rates, strict=True):
        w = path[-1]
        g = masked(mask, gradient(w, *batch(round_, step)))
        new = {name: descend(w[name], g[name], v[name], lr) for name in w}
        v = {name: v for name, (_, v) in new.items()}
        path.append(masked(mask, {name: w for name, (w, _) in new.items()}))
    return path


def global_keep(score, mask, removed):
    """Removes the lowest `removed` of all survivors together."""
    alive = np.concatenate([mask[name].ravel() for name in KERNELS])
    flat = np.concatenate([score[name].ravel() for name in KERNELS])
    worst = np.argsort(np.where(alive, flat, np.inf))[: round(removed * alive.sum())]
    alive[worst] = False
    parts = np.split(alive, [mask[KERNELS[0]].size])
    return {
        name: x.reshape(SHAPES[name]) for name, x in zip(KERNELS, parts, strict=True)
    }


def layer_keep(score, mask, removed):
    """Removes the lowest `removed` of each layer's survivors, half that in the last."""
    new = {}
    for name, part in zip(KERNELS, (removed, removed / 2), strict=True):
        flat = np.where(mask[name], score[name], np.inf).ravel()
        worst = np.argsort(flat)[: round(part * mask[name].sum())]
        new[name] = mask[name].copy()
        new[name].flat[worst] = False
    return new


SCORES = {
    "magnitude": lambda w, w0: np.abs(w),
    "movement": lambda w, w0: np.abs(w - w0),
    "magnitude_increase": lambda w, w0: np.abs(w) - np.abs(w0),
}
KEEPS = {
    "global": (global_keep, selection.global_top),
    "per_layer": (
        layer_keep,
        selection.per_layer(selection.at_rates({"w2": 0.5})),
    ),
}


def iterative(*, removed, rewind_step, resume, retrain, score, keep):
    """Frankle & Carbin 2019 section 2, Frankle et al. 2020 Algorithm 2, Renda 2020."""
    w0, mask, anchor, path, tickets = draw(), ones(), None, [], []
    for round_ in range(ROUNDS):
        start = w0
        if round_:
            final = path[-1]
            grade = {name: SCORES[score](final[name], w0[name]) for name in KERNELS}
            mask = keep(grade, mask, removed)
            start = anchor if retrain == "rewind" else final
        steps = range(resume if round_ else 0, STEPS)
        at_end = retrain == "finetune" and round_
        rates = [rate(STEPS - 1 if at_end else step) for step in steps]
        walked = train(start, mask, round_, steps, rates)
        if round_ == 0:
            anchor = walked[rewind_step]
        path += walked
        returns = retrain in ("rewind", "continue")
        tickets.append((anchor if returns else walked[-1], mask))
    return path, tickets


@pytest.mark.parametrize("mask", [ones(), some()], ids=["full", "sparse"])
def test_fixed_is_momentum_sgd_on_the_survivors(mask):
    path = train(draw(), mask, 0, range(STEPS), map(rate, range(STEPS)))
    found = follow(fixed(optimizer()), mask, rounds=1)
    check(found, (path, [(path[-1], mask)]), rtol=1e-12)


def test_fixed_masks_before_and_after_the_optimiser():
    """A clipped norm is that of the survivors, and no drift moves what is pruned."""
    drift = optax.stateless(lambda updates, _: jax.tree.map(lambda u: u + 1, updates))
    ours = optax.chain(optax.clip_by_global_norm(0.5), drift, optax.scale(-0.1))
    mask, path = some(), [masked(some(), draw())]
    for step in range(STEPS):
        w = path[-1]
        g = masked(mask, gradient(w, *batch(0, step)))
        clip = min(1, 0.5 / np.sqrt(sum(np.sum(x**2) for x in g.values())))
        path.append(masked(mask, {n: w[n] - 0.1 * (clip * g[n] + 1) for n in w}))
    found = follow(fixed(ours), mask, rounds=1)
    check(found, (path, [(path[-1], mask)]), rtol=1e-12)


@pytest.mark.parametrize(
    ("retrain", "rewind_step", "resume", "score", "scope"),
    [
        ("rewind", 0, 0, "magnitude", "global"),
        ("rewind", 0, 0, "magnitude_increase", "per_layer"),
        ("rewind", 2, 0, "movement", "global"),
        ("rewind", 2, 2, "magnitude_increase", "global"),
        ("continue", 0, 0, "magnitude", "per_layer"),
        ("continue", 3, 0, "movement", "per_layer"),
        ("learning_rate", 0, 0, "magnitude", "global"),
        ("learning_rate", 2, 2, "movement", "global"),
        ("finetune", 0, 0, "magnitude", "per_layer"),
        ("finetune", 2, 2, "magnitude_increase", "global"),
    ],
)
def test_imp(retrain, rewind_step, resume, score, scope):
    keep, select = KEEPS[scope]
    options = {"rewind_step": rewind_step, "retrain": retrain}
    search = imp(
        optimizer(),
        density=0.7,
        score=getattr(scores, score),
        select=select,
        **options,
    )
    expected = iterative(removed=0.3, resume=resume, score=score, keep=keep, **options)
    check(follow(search, ones(), resume=resume), expected, rtol=1e-11)


# Continuous Sparsification.


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def soft(p, s, beta, scale):
    return {name: p[name] * scale * sigmoid(beta * s[name]) for name in KERNELS}


def surrogate_gradient(w, s, alive, beta, scale, penalty, data):
    """Savarese et al. 2020: with `m = sigmoid(beta s)` the gradients are `m dL/dw_eff`
    and `beta m (1 - m) (w dL/dw_eff + penalty)`.

    The released code multiplies the gates, the penalised ones too, by `scale`.
    """
    running = masked(alive, w | soft(w, s, beta, scale))
    dw, ds = gradient(running, *data), {}
    for name in KERNELS:
        gate = sigmoid(beta * s[name])
        pull = scale * beta * gate * (1 - gate)
        ds[name] = alive[name] * pull * (w[name] * dw[name] + penalty)
        dw[name] = alive[name] * scale * gate * dw[name]
    return dw, ds


def continuous(
    *,
    s0,
    final,
    penalty,
    epoch_steps=1,
    rewind_step=0,
    between="paper",
    scaling=True,
    keep_momentum=True,
    alive=None,
):
    """Savarese et al. 2020, Algorithm 2, and the choices of its released code."""
    alive = alive or ones()
    scale = 1 / sigmoid(s0) if scaling else 1.0
    w, s = draw(), {name: np.full(SHAPES[name], s0) for name in KERNELS}
    rest = dict.fromkeys(SHAPES, 0.0), dict.fromkeys(KERNELS, 0.0)
    (vw, vs), path, tickets = rest, [], []
    last_epoch = (STEPS - 1) // epoch_steps
    for round_ in range(ROUNDS):
        if round_:
            ended = final if between == "paper" else 1.0
            s = {name: np.minimum(ended * s[name], s0) for name in KERNELS}
            vw, vs = (vw, vs) if keep_momentum else rest
        for step in range(STEPS + 1):
            beta = final ** min(step // epoch_steps / last_epoch, 1.0)
            path.append(masked(alive, w | soft(w, s, beta, scale)))
            if round_ == 0 and step == rewind_step:
                anchor = w
            if step == STEPS:
                break
            data = batch(round_, step)
            dw, ds = surrogate_gradient(w, s, alive, beta, scale, penalty, data)
            w, s, vw, vs = dict(w), dict(s), dict(vw), dict(vs)
            for name in SHAPES:
                w[name], vw[name] = descend(
                    w[name], dw[name], vw[name], rate(step), nesterov=True
                )
            for name in KERNELS:
                s[name], vs[name] = descend(
                    s[name], ds[name], vs[name], rate(step), decay=0, nesterov=True
                )
        mask = {name: (s[name] > 0) & alive[name] for name in KERNELS}
        kernels = {name: scale * anchor[name] for name in KERNELS}
        tickets.append((anchor | kernels, mask))
    return path, tickets


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"between": "code"},
        {"between": "code", "keep_momentum": False},
        {"keep_momentum": False},
        {"scaling": False},
        {"epoch_steps": 2},
        {"epoch_steps": 2, "between": "code"},
        {"penalty": 0.0, "s0": -0.02},
        {"penalty": 0.1, "s0": 0.3},
        {"penalty": 0.05, "scaling": False},
        {"rewind_step": 2},
        {"alive": some()},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_continuous_sparsification(options):
    options = {"s0": 0.1, "final": 8.0, "penalty": 0.02} | options
    expected = continuous(**options)
    alive, s0, final = options.pop("alive", ones()), *map(options.pop, ("s0", "final"))
    epoch_steps = options.pop("epoch_steps", 1)
    search = continuous_sparsification(
        optimizer(nesterov=True, decayed=Gated(True, False)),
        temperature=schedules.temperature(final, STEPS, epoch_steps=epoch_steps),
        initial_logit=s0,
        **options,
    )
    check(follow(search, alive), expected, rtol=1e-5)  # beta is kept in float32
    kept = [sum(m.sum() for m in mask.values()) for _, mask in expected[1]]
    assert all(0 < n < 20 for n in kept), "a reference that decides nothing"


def gated_state(search, w, s):
    """The opening state of a search, at other weights and logits."""
    state = search.init(jax.random.key(0), Ticket(w, mask_tree(ones())))
    return state._replace(gated=Gated(w, {name: s.get(name) for name in SHAPES}))


@pytest.mark.parametrize("scaling", [True, False])
def test_gradient_of_the_surrogate(scaling):
    """Against its closed form, and against finite differences of `L_beta` itself."""
    beta, penalty, s0, step = 3.0, 0.05, 0.2, 1e-5
    scale = 1 / sigmoid(s0) if scaling else 1.0
    data, w, s = batch(0, 0), draw(), {name: draw(1)[name] for name in KERNELS}

    def surrogate(w, s):
        gates = [np.sum(scale * sigmoid(beta * s[name])) for name in KERNELS]
        return loss(w | soft(w, s, beta, scale), *data) + penalty * sum(gates)

    search = continuous_sparsification(
        optax.sgd(1.0),
        temperature=lambda _: beta,
        penalty=penalty,
        initial_logit=s0,
        scaling=scaling,
    )
    before = gated_state(search, w, s)
    grads = gradient(jax.tree.map(np.asarray, search.params(before)), *data)
    after = search.update(grads, before, 0)
    found = jax.tree.map(lambda a, b: np.asarray(a - b), before.gated, after.gated)
    closed = surrogate_gradient(w, s, ones(), beta, scale, penalty, data)
    for tree, ours, formula in zip((w, s), found, closed, strict=True):
        for name in tree:
            np.testing.assert_allclose(ours[name], formula[name], rtol=1e-11)
            values = tree[name].ravel()  # a view: the difference is taken in place
            for i in range(values.size):
                kept = values[i]
                values[i] = kept + step
                above = surrogate(w, s)
                values[i] = kept - step
                slope = (above - surrogate(w, s)) / (2 * step)
                values[i] = kept
                np.testing.assert_allclose(ours[name].flat[i], slope, atol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.5])
def test_what_stands_where_the_starting_mask_is_false_does_not_matter(value):
    search = continuous_sparsification(optimizer(), temperature=lambda _: 1.0)
    kept = mask_tree(some())
    w = {n: np.where(some().get(n, True), x, value) for n, x in draw().items()}
    state, same = (search.init(jax.random.key(0), Ticket(x, kept)) for x in (w, draw()))
    for step in range(2):
        close(search.params(state), search.params(same), 0)
        grads = gradient(masked(some(), draw()), *batch(0, step))
        state, same = (search.update(grads, x, step) for x in (state, same))


# Facts about Continuous Sparsification that need no training.


def released(**options):
    """The search of the released recipe: 85 epochs of 352 steps, beta from 1 to 200."""
    beta = schedules.temperature(200, 85 * 352, epoch_steps=352)
    return continuous_sparsification(optax.sgd(0.1), temperature=beta, **options)


@pytest.mark.parametrize("s0", [-0.3, 0.0, 0.3])
def test_scaled_gates_are_one_at_the_start(s0):
    w = draw()
    ticket = Ticket(w, mask_tree(ones()))
    search = released(initial_logit=s0)
    close(search.params(search.init(jax.random.key(0), ticket)), w, 1e-15)
    unscaled = released(initial_logit=s0, scaling=False)
    params = unscaled.params(unscaled.init(jax.random.key(0), ticket))
    np.testing.assert_allclose(params["w1"], w["w1"] * sigmoid(s0), rtol=1e-14)


def test_released_temperature():
    beta = schedules.temperature(200, 85 * 352, epoch_steps=352)
    epochs = np.arange(85)
    for step in (352 * epochs, 352 * epochs + 351):
        found = jax.vmap(beta)(jnp.asarray(step, jnp.int32))
        np.testing.assert_allclose(found, 200 ** (epochs / 84), rtol=1e-6)
    printed = [beta(352 * epoch) for epoch in (0, 1, 42, 56, 71, 84)]
    np.testing.assert_allclose(printed, [1, 1.065, 14.1, 34.2, 88.1, 200], atol=0.05)
    assert beta(85 * 352) == 200  # what `advance` multiplies by


@pytest.mark.parametrize(
    ("between", "logit", "gate"),
    [
        ("paper", -0.05, 0.0),
        ("paper", -0.5, 0.0),
        ("paper", -5.0, 0.0),
        ("code", -0.05, 0.975),
    ],
)
def test_what_was_pruned_in_the_next_round(between, logit, gate):
    """Off for good in the paper; almost fully back, as to its gate, in the code."""
    search, w = released(between=between), draw()
    s = {name: np.full(SHAPES[name], logit) for name in KERNELS}
    state = gated_state(search, w, s)._replace(temperature=jnp.float32(200))
    grads = jax.tree.map(lambda g: g / 100, gradient(w, *batch(0, 0)))
    state = search.update(grads, search.advance(state), 0)
    for name in KERNELS:
        gates = search.params(state)[name] / state.gated.weights[name]
        np.testing.assert_allclose(gates, gate, atol=1e-3)


def test_the_ticket_is_read_before_the_round_ends():
    """Afterwards no logit is above `s0`, and with `s0 <= 0` nothing is left."""
    search = released()
    state = gated_state(search, draw(), {name: draw(1)[name] for name in KERNELS})
    found = search.ticket(state).mask
    for name in KERNELS:
        np.testing.assert_array_equal(found[name], draw(1)[name] > 0)
    assert masks.count(search.ticket(search.advance(state)).mask) == 0
