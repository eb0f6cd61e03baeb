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
    gradual,
    imp,
    iss,
    l0,
    masks,
    schedules,
    scores,
    selection,
    slimming,
    soft_threshold,
)
from jaxticket.searches import gates

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


def multiplied(factor, w):
    return w | {name: factor * w[name] for name in KERNELS}


def train_beside(c, w, mask):
    """The released retraining of a ticket: `v` is trained, `w = c v` in the kernels."""
    path, v, velocity = [masked(mask, w)], multiplied(1 / c, w), dict.fromkeys(w, 0.0)
    for step in range(STEPS):
        g = multiplied(c, masked(mask, gradient(path[-1], *batch(0, step))))
        v, velocity = descend_all(masked(mask, v), g, velocity, step)
        path.append(masked(mask, multiplied(c, v)))
    return path


def test_fixed_with_a_multiplier_beside_the_weights():
    c, mask = 1 + np.exp(0.3), some()
    path = train_beside(c, draw(), mask)
    found = follow(fixed(optimizer(), multiplier=c), mask, rounds=1)
    check(found, (path, [(path[-1], mask)]), rtol=1e-12)
    folded, _ = follow(fixed(optimizer()), mask, rounds=1)
    close(folded[0], path[0], 1e-14)
    for name in KERNELS:
        assert (np.abs(folded[1][name] - path[1][name]) > 1e-4)[mask[name]].all()


@pytest.mark.parametrize("one", [1, np.float32(1)])
def test_a_multiplier_of_one_changes_no_bit(one):
    plain, beside = (
        follow(search, some(), rounds=1)
        for search in (fixed(optimizer()), fixed(optimizer(), multiplier=one))
    )
    jax.tree.map(np.testing.assert_array_equal, plain, beside)


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
    weights="early",
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
            w, vw = descend_all(w, dw, vw, step, nesterov=True)
            s, vs = descend_all(s, ds, vs, step, nesterov=True, decay=0)
        mask = {name: (s[name] > 0) & alive[name] for name in KERNELS}
        start = anchor if weights == "early" else w
        kernels = {name: scale * start[name] for name in KERNELS}
        tickets.append((start | kernels, mask))
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
        {"weights": "trained"},
        {"weights": "trained", "scaling": False},
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


@pytest.mark.parametrize("scaling", [True, False])
def test_a_trained_ticket_is_the_network_at_the_end_of_a_round(scaling):
    """At `beta = 200` gates are binary, and what is binarised is what has trained."""
    search = released(initial_logit=0.3, scaling=scaling, weights="trained")
    s = {name: np.where(draw(1)[name] > 0, 0.3, -0.3) for name in KERNELS}
    state = gated_state(search, draw(), s)._replace(temperature=jnp.float32(200))
    found = search.ticket(state)
    close(masks.apply(found.mask, found.weights), search.params(state), 1e-12)
    tuning = fixed(optax.sgd(0.1))
    opened = tuning.params(tuning.init(jax.random.key(0), found))
    close(opened, search.params(state), 1e-12)


# Gates that are drawn. The draws come from the library; `test_gates` judges them.


def drawn(key, count, low=0.0, high=1.0):
    like = {name: jnp.zeros(SHAPES[name]) for name in KERNELS}
    return {
        name: np.asarray(u)
        for name, u in gates.uniform(key, count, like, low, high).items()
    }


class Bernoulli:
    """ISS: `m ~ Bernoulli(sigmoid(s))`, straight-through."""

    def __init__(self, s0=0.0):
        self.s0 = s0

    def gate(self, s, u):
        """The gate, what the gradient takes for its slope, and the penalised slope."""
        p = sigmoid(s)
        return (u < p) * 1.0, p * (1 - p), p * (1 - p)

    def close_round(self, s, alive):
        mask = {name: self.test(s[name], alive[name])[1] for name in KERNELS}
        return {name: np.full(SHAPES[name], self.s0) for name in KERNELS}, mask

    def test(self, s, alive):
        """What a trained ticket multiplies its weights with, and the mask."""
        return 1.0, alive & (sigmoid(s) >= 0.5)

    def constrain(self, s):
        return s


class HardConcrete:
    """Louizos et al. 2018, eq. 10 to 13, with the constants of the released code."""

    beta, gamma, zeta = 2 / 3, -0.1, 1.1

    def gate(self, log_alpha, u):
        s = sigmoid((np.log(u) - np.log(1 - u) + log_alpha) / self.beta)
        stretched = s * (self.zeta - self.gamma) + self.gamma
        z = np.minimum(1, np.maximum(0, stretched))
        slope = (self.zeta - self.gamma) * s * (1 - s) / self.beta * (z == stretched)
        active = sigmoid(log_alpha - self.beta * np.log(-self.gamma / self.zeta))
        return z, slope, active * (1 - active)

    def close_round(self, s, alive):
        return s, alive

    def test(self, log_alpha, alive):
        stretched = sigmoid(log_alpha) * (self.zeta - self.gamma) + self.gamma
        z = alive * np.minimum(1, np.maximum(0, stretched))
        return z, z > 0

    def constrain(self, log_alpha):
        return np.clip(log_alpha, np.log(1e-2), np.log(1e2))


def stochastic(
    kind, key, s, *, ends, penalty, rewind_step=0, weights="early", fresh=False, alive
):
    """A search over gates that are drawn, from `u` between `ends`, at every step."""
    w, rest = draw(), (dict.fromkeys(SHAPES, 0.0), dict.fromkeys(KERNELS, 0.0))
    (vw, vs), count, path, tickets = rest, 0, [], []
    for round_ in range(ROUNDS):
        if round_:
            s, alive = kind.close_round(s, alive)
            vw, vs = rest if fresh else (vw, vs)
        for step in range(STEPS + 1):
            u = drawn(key, count, *ends)
            gate = {name: kind.gate(s[name], u[name]) for name in KERNELS}
            run = w | {name: gate[name][0] * w[name] for name in KERNELS}
            path.append(masked(alive, run))
            if round_ == 0 and step == rewind_step:
                anchor = w
            if step == STEPS:
                break
            dw, ds = gradient(path[-1], *batch(round_, step)), {}
            for name in KERNELS:
                m, slope, penalised = gate[name]
                ds[name] = slope * w[name] * dw[name] + penalty * penalised
                ds[name] = alive[name] * ds[name]
                dw[name] = alive[name] * m * dw[name]
            w, vw = descend_all(w, dw, vw, step)
            s, vs = descend_all(s, ds, vs, step, decay=0)
            s = {name: kind.constrain(s[name]) for name in KERNELS}
            count += 1
        test = {name: kind.test(s[name], alive[name]) for name in KERNELS}
        kernels = {name: test[name][0] * w[name] for name in KERNELS}
        found = anchor if weights == "early" else w | kernels
        tickets.append((found, {name: test[name][1] for name in KERNELS}))
    return path, tickets


def opening(search, alive):
    """The key of the gates, and the logits, with which `follow` opens a search."""
    state = search.init(jax.random.key(0), Ticket(draw(), mask_tree(alive)))
    return state.key, {name: np.asarray(state.gated.logits[name]) for name in KERNELS}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fresh": True},
        {"rewind_step": 2},
        {"alive": some()},
        {"weights": "trained"},
        {"penalty": 0.1, "s0": 0.06},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_iss(options):
    options = {"penalty": 0.02, "s0": 0.02, "alive": ones()} | options
    s0, alive = options.pop("s0"), options.pop("alive")
    search = iss(
        optimizer(decayed=Gated(True, False)),
        initial_logit=s0,
        keep_momentum=not options.get("fresh"),
        **{name: value for name, value in options.items() if name != "fresh"},
    )
    opened = opening(search, alive)
    expected = stochastic(Bernoulli(s0), *opened, ends=(0, 1), alive=alive, **options)
    check(follow(search, alive), expected, rtol=1e-11)
    kept = [sum(m.sum() for m in mask.values()) for _, mask in expected[1]]
    assert 20 > kept[0] > kept[-1] > 0, "a reference that decides nothing"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rewind_step": 2},
        {"alive": some()},
        {"weights": "trained"},
        {"penalty": 0.15},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_l0(options):
    options = {"penalty": 0.2, "alive": ones()} | options
    alive = options.pop("alive")
    search = l0(optimizer(decayed=Gated(True, False)), initial_logit=-2.35, **options)
    ends, opened = (1e-6, 1 - 1e-6), opening(search, alive)
    expected = stochastic(HardConcrete(), *opened, ends=ends, alive=alive, **options)
    check(follow(search, alive), expected, rtol=1e-11)
    kept = [sum(m.sum() for m in mask.values()) for _, mask in expected[1]]
    assert all(0 <= n < 20 for n in kept)
    assert kept[0] > 0, "a reference that decides nothing"


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
    shrink = slimming.shrink(0.3, lambda params: [("w1", "b1", "w2")])
    found = follow(fixed(optax.chain(shrink, optimizer())), ones(), rounds=1)
    check(found, (path, [(path[-1], ones())]), rtol=1e-12)
