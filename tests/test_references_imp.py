"""Training under a mask, and iterative magnitude pruning, against plain numpy."""

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
    descend,
    descend_all,
    draw,
    follow,
    gradient,
    mask_tree,
    masked,
    ones,
    optimizer,
    rate,
    some,
)

from jaxticket import Evidence, Ticket, fixed, imp, run, selection

pytestmark = pytest.mark.usefixtures("x64", "unoptimised")


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
        score=score,
        select=select,
        **options,
    )
    expected = iterative(removed=0.3, resume=resume, score=score, keep=keep, **options)
    check(follow(search, ones(), resume=resume), expected, rtol=1e-11)


def normalised(p, state, batch):
    """The network of `references`, its inputs less a running mean, or their own."""
    mean = batch["x"].mean(0) if state is None else state["mean"]
    hidden = jnp.tanh((batch["x"] - mean[None]) @ p["w1"] + p["b1"][None])
    error = hidden @ p["w2"] + p["b2"][None] - batch["y"]
    return jnp.sum(error**2) / (2 * len(batch["x"]))


def test_imp_prunes_with_the_weights_and_the_model_state_of_that_moment():
    """By SNIP: of the trained weights, under the statistics that training has moved."""
    x, y = (
        jnp.concatenate(z) for z in zip(*(batch(0, i) for i in (0, 1)), strict=True)
    )
    data = {"x": x + 3, "y": y}

    def loss(p, state, batch, key):
        mean = 0.5 * state["mean"] + 0.5 * batch["x"].mean(0)
        return normalised(p, None, batch), {"mean": mean}

    def evidence(state):
        return Evidence(loss=lambda p: normalised(p, state, data))

    def result(search, rounds):
        mask, before = mask_tree(ones()), {"mean": jnp.zeros(3)}
        ticket = Ticket(draw(), mask, before)
        key, sizes = jax.random.key(0), {"epochs": 3, "batch_size": 4}
        known = {"evidence": evidence}
        return run(search, loss, key, ticket, data, rounds=rounds, **sizes, **known)

    search = imp(optax.sgd(0.3), density=0.5, score="snip", retrain="learning_rate")
    _, carry, *_ = result(search, rounds=1)
    w, mean = search.params(carry.search), np.asarray(carry.model["mean"])

    def kept(p, mean):
        g = gradient(p, np.asarray(data["x"]) - mean, np.asarray(y))
        grade = {name: np.abs(g[name] * p[name]) for name in KERNELS}
        return global_keep(grade, ones(), 0.5)

    now = jax.tree.map(np.asarray, w)
    found = result(search, rounds=2).ticket
    for name, mask in kept(now, mean).items():
        np.testing.assert_array_equal(found.mask[name], mask)
    for other in (kept(draw(), mean), kept(now, np.zeros(3))):
        assert any((other[name] != found.mask[name]).any() for name in KERNELS)
    with pytest.raises(ValueError, match="score snip needs evidence.loss"):
        search.advance(carry.search)
