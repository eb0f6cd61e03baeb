"""Sparse training (RigL, SET, SNFS, DNW) in plain numpy, and what must not break."""

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
    descend_all,
    draw,
    drawn,
    follow,
    gradient,
    mask_tree,
    masked,
    ones,
    optimizer,
    rate,
    some,
)

from jaxticket import Ticket, as_optax, masks, schedules, scores, searches, selection

pytestmark = pytest.mark.usefixtures("x64", "unoptimised")
SEARCHES = {"rigl": searches.rigl, "set": searches.set, "snfs": searches.snfs}
methods = pytest.mark.parametrize("method", SEARCHES)

EVERY, STOP, DROP = 2, 5, 0.6
NUMBERS = {"drop": DROP, "every": EVERY, "stop": STOP}


# Optimisers by hand: `(w, g, moments, updates before, step) -> (w, moments)`.


def by_momentum(w, g, moments, count, step):
    w, v = descend_all(w, g, moments["v"], step)
    return w, {"v": v}


def by_adam(w, g, moments, count, step):
    mu = {n: 0.9 * m + 0.1 * g[n] for n, m in moments["mu"].items()}
    nu = {n: 0.999 * m + 0.001 * g[n] ** 2 for n, m in moments["nu"].items()}
    m_hat = {n: m / (1 - 0.9 ** (count + 1)) for n, m in mu.items()}
    v_hat = {n: m / (1 - 0.999 ** (count + 1)) for n, m in nu.items()}
    step = {n: rate(step) * m_hat[n] / (np.sqrt(v_hat[n]) + 1e-8) for n in w}
    return {n: w[n] - step[n] for n in w}, {"mu": mu, "nu": nu}


OPTIMIZERS = {
    "momentum": (optimizer(), by_momentum, ["v"]),
    "adam": (
        optax.chain(optax.scale_by_adam(), schedules.scale_by_step(rate)),
        by_adam,
        ["mu", "nu"],
    ),
}


def exchange(w, mask, allowed, score, fraction):
    """One layer's new mask, and how many weights came back at once."""
    w, score, mask, allowed = (x.ravel() for x in (np.abs(w), score, mask, allowed))
    places, k = np.arange(w.size), int(mask.sum() * fraction)
    left = mask.copy()
    worst = [i for i in np.lexsort((-places, w)) if mask[i]][:k]
    left[worst] = False
    best = [i for i in np.lexsort((places, -score)) if allowed[i] and not left[i]][:k]
    new = left.copy()
    new[best] = True
    assert new.sum() == mask.sum()
    return new, len({*worst} & {*best})


def moving(method, also_train, allowed, mask, descend, names, key):
    """Evci et al. 2020, section 3, as released: drop, grow, forget what has grown."""
    w, count, updates = masked(mask, draw()), 0, 0
    moments = {n: {k: np.zeros(s) for k, s in SHAPES.items()} for n in names}
    path, tickets, changed, back = [], [], 0, 0
    average = dict.fromkeys(KERNELS, 0.0)
    for round_ in range(ROUNDS):
        path.append(w)
        for step in range(STEPS):
            grads = gradient(w, *batch(round_, step))
            average = {n: 0.9 * average[n] + 0.1 * grads[n] for n in KERNELS}
            due = step % EVERY == 0 and step <= STOP
            if also_train or not due:
                kept = masked(mask, grads)
                w, moments = descend(w, kept, moments, count, step)
                w, count = masked(mask, w), count + 1
            if due:
                fraction = DROP / 2 * (1 + np.cos(np.pi * step / STOP))
                score = {n: np.abs(grads[n]) for n in KERNELS}
                if method == "set":
                    score = drawn(key, updates)
                elif method == "snfs":
                    score = {n: np.abs(average[n]) for n in KERNELS}
                stayed = {}
                for n in KERNELS:
                    new, again = exchange(w[n], mask[n], allowed[n], score[n], fraction)
                    new = new.reshape(SHAPES[n])
                    stayed[n], back = mask[n] & new, back + again
                    changed += np.sum(mask[n] & ~new)
                    mask = mask | {n: new}
                w = masked(mask, w)
                moments = {n: masked(stayed, m) for n, m in moments.items()}
            updates += 1
            path.append(w)
        tickets.append((w, mask))
    assert changed > 3, "a reference that decides nothing"
    assert back > 0, "no weight is dropped and grown at once"
    return path, tickets


@methods
@pytest.mark.parametrize("also_train", [False, True], ids=["instead", "also"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("allowed", [ones(), some()], ids=["full", "sparse"])
def test_sparse_training(method, also_train, name, allowed):
    ours, descend, names = OPTIMIZERS[name]
    search = SEARCHES[method](
        ours, density=0.6, select="equal", also_train=also_train, **NUMBERS
    )
    given = Ticket(draw(), mask_tree(allowed))
    first = search.ticket(search.init(jax.random.key(0), given)).mask
    first = {n: np.asarray(first[n]) for n in KERNELS}
    key = jax.random.split(jax.random.key(0))[1]
    expected = moving(method, also_train, allowed, first, descend, names, key)
    check(follow(search, allowed), expected, rtol=1e-10)


def wired(allowed, density):
    """Wortsman et al. 2019: the largest weights run, the gradient is for all."""
    w, v = masked(allowed, draw()), {n: np.zeros(s) for n, s in SHAPES.items()}
    path, tickets, masks_seen = [], [], []

    def largest():
        found = {}
        for n in KERNELS:
            k = allowed[n].sum() - round(allowed[n].sum() * (1 - density))
            order = np.argsort(-np.where(allowed[n], np.abs(w[n]), -1).ravel())
            found[n] = np.isin(np.arange(w[n].size), order[:k]).reshape(w[n].shape)
        return found

    for round_ in range(ROUNDS):
        mask = largest()
        path.append(masked(mask, w))
        for step in range(STEPS):
            grads = gradient(path[-1], *batch(round_, step))
            w, v = descend_all(w, masked(allowed, grads), v, step)
            mask = largest()
            path.append(masked(mask, w))
            masks_seen.append(np.concatenate([mask[n].ravel() for n in KERNELS]))
        tickets.append((w, mask))
    back = [b & ~a for a, b in zip(masks_seen, masks_seen[1:], strict=False)]
    assert np.sum(back) > 3, "a reference in which no weight comes back"
    return path, tickets


@pytest.mark.parametrize("allowed", [ones(), some()], ids=["full", "sparse"])
def test_neural_wirings(allowed):
    search = searches.dnw(optimizer(), density=0.6)
    check(follow(search, allowed), wired(allowed, 0.6), rtol=1e-10)


@pytest.mark.parametrize("select", ["equal", "uniform", "global_top", "two_of_four"])
def test_neural_wirings_by_any_selection(select):
    """At every step the mask that it makes of the weights, from the last cut or not."""
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=(8, 8)) for n in ("a", "b")}
    allowed = {n: rng.random((8, 8)) < 0.9 for n in weights}
    search = searches.dnw(optax.sgd(0.1), density=0.5, select=select)
    state = search.init(jax.random.key(0), Ticket(weights, allowed))
    assert (state.cuts is not None) == (select in ("equal", "uniform"))
    update = jax.jit(search.update)
    for step in range(8):
        grads = {n: rng.normal(size=(8, 8)) for n in weights}
        state = update(grads, state, step)
        wanted = selection.named(select)(scores.magnitude(state.weights), allowed, 0.5)
        jax.tree.map(np.testing.assert_array_equal, state.mask, wanted)


def test_as_released_only_rigl_takes_no_step_where_the_mask_moves():
    biases = {}
    for method, make in SEARCHES.items():
        path, _ = follow(make(optimizer(), density=0.5, **NUMBERS), ones(), rounds=1)
        biases[method] = [
            (a["b1"] == b["b1"]).all() for a, b in zip(path, path[1:], strict=False)
        ]
    every_step = [False] * STEPS
    rigl = [True, False] * 2 + [True]
    assert biases == {"rigl": rigl, "set": every_step, "snfs": every_step}


def test_static_trains_under_the_mask_that_it_has_drawn():
    """To the last bit as `fixed` does; and another key draws another one."""
    given = Ticket(draw(), mask_tree(some()))
    search = searches.static(optimizer(), density=0.4)
    opened, other = (search.init(jax.random.key(i), given) for i in (0, 1))
    assert masks.layer_counts(opened.mask) == {"w1": 3, "w2": 3}
    assert (np.asarray(opened.mask["w1"]) != other.mask["w1"]).any()
    assert bool(masks.nested(opened.mask, given.mask))
    drawn_mask = {n: np.asarray(opened.mask[n]) for n in KERNELS}
    path, _ = follow(search, some(), rounds=1)
    like, _ = follow(searches.fixed(optimizer()), drawn_mask, rounds=1)
    jax.tree.map(np.testing.assert_array_equal, path, like)


# What holds at every step.

NOISY = optax.chain(  # moves what nothing holds back, some leaves apart from others
    optax.add_noise(0.1, 0.5, 0),
    optax.partition(
        {"a": optax.trace(0.9), "b": optax.scale_by_adam()},
        {"w1": "a", "b1": "a", "w2": "b", "b2": "b"},
    ),
    optax.add_decayed_weights(0.1),
    schedules.scale_by_step(rate),
)


def moments(state, name):
    """What an optimiser keeps for each weight of a leaf."""
    return [
        np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if f"['{name}']" in jax.tree_util.keystr(path)
    ]


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.rprop(1e-2),
        optax.adagrad(1e-2),
        optax.rmsprop(1e-2, initial_scale=1.0),
        optax.contrib.schedule_free_sgd(0.1),
        optax.chain(optax.add_noise(0.0, 0.5, jax.random.key(1)), optax.adam(1e-2)),
    ],
    ids=["rprop", "adagrad", "rmsprop", "schedule-free", "noise"],
)
def test_a_weight_that_grows_has_the_state_that_its_optimiser_opens_with(optimizer):
    """Which is zero for few of them: a step size of zero would never move it."""
    search = SEARCHES["set"](optimizer, density=0.4, drop=1.0, every=4, stop=8)
    state = search.init(jax.random.key(1), Ticket(draw(), mask_tree(ones())))
    update = jax.jit(search.update)
    for step in range(4):
        grads = gradient(
            jax.tree.map(np.asarray, search.params(state)), *batch(0, step)
        )
        before, state = state.training, update(grads, state, jnp.int32(step + 1))
    grown = jax.tree.map(
        lambda now, then: now & ~then, state.training.mask, before.mask
    )
    opened = optimizer.init(state.training.weights)
    for name in KERNELS:
        new = np.asarray(grown[name])
        assert new.any()
        pairs = [moments(x, name) for x in (state.training.optimizer, opened)]
        for ours, theirs in zip(*pairs, strict=True):
            np.testing.assert_array_equal(ours[new], theirs[new])
        assert pairs[0]


@methods
@pytest.mark.parametrize(
    ("allowed", "counts"),
    [(ones(), {"w1": 4, "w2": 4}), (some(), {"w1": 3, "w2": 3})],
    ids=["full", "sparse"],
)
def test_counts_and_zeros_are_exact_in_a_loop_of_optax(method, allowed, counts):
    search = SEARCHES[method](NOISY, density=0.4, **NUMBERS | {"stop": 20})
    ticket = Ticket(draw(), mask_tree(allowed))
    bridge, grew = as_optax(search, ticket, jax.random.key(2)), 0
    state, update = bridge.init(draw()), jax.jit(bridge.update)
    params = search.params(state.search)
    for step in range(20):
        before = search.ticket(state.search).mask
        grads = gradient(jax.tree.map(np.asarray, params), *batch(0, step))
        updates, state = update(grads, state, params)
        params, mask = optax.apply_updates(params, updates), state.search.training.mask
        assert masks.layer_counts(mask) == counts
        for name in KERNELS:
            now, grown = np.asarray(mask[name]), np.asarray(mask[name] & ~before[name])
            assert not (now & ~allowed[name]).any()
            assert not np.asarray(params[name])[~now | grown].any()
            assert not grown.any() or step % EVERY == 0
            found = moments(state.search.training.optimizer, name)
            assert len(found) == {"w1": 1, "w2": 2}[name]
            assert not any(moment[grown].any() for moment in found)
            grew += grown.sum()
    assert grew > (1 if method == "snfs" else 5)  # its average turns slowly


@methods
def test_layers_of_lenet_have_the_densities_of_the_paper_before_and_after(method):
    """The last is dense: what it drops can only come back, and stays as it was."""
    key, shapes = jax.random.key(0), {"a": (784, 300), "b": (300, 100), "c": (100, 10)}
    draws = np.random.default_rng(0)
    weights = {n: draws.normal(size=shape) for n, shape in shapes.items()}
    search = SEARCHES[method](optax.sgd(0.0), density=0.1, stop=10)
    before = jax.jit(search.init)(key, Ticket(weights, masks.full(weights)))
    after = jax.jit(search.update)(weights, before, 0)
    mask, other = (search.ticket(state).mask for state in (before, after))
    densities = [float(d) for d in masks.layer_densities(mask).values()]
    np.testing.assert_allclose(densities, [0.0796, 0.2302, 1.0], atol=1e-4)
    counts = masks.layer_counts(mask)
    assert masks.layer_counts(other) == counts
    kept = masks.layer_counts(jax.tree.map(jnp.logical_and, mask, other))
    for name in "ab":  # some of what is dropped is drawn again
        assert 0.7 <= kept[name] / counts[name] < 0.8
    np.testing.assert_array_equal(search.params(after)["c"], weights["c"])


@methods
@pytest.mark.parametrize("also_train", [False, True], ids=["instead", "also"])
def test_the_exchange_is_the_only_branch_under_vmap(method, also_train):
    def update(key, drop, step):
        search = SEARCHES[method](
            optimizer(), also_train=also_train, **NUMBERS | {"drop": drop}
        )
        ticket = Ticket(draw(), mask_tree(ones()))
        return search.update(draw(), search.init(key, ticket), step)

    lanes = jax.random.split(jax.random.key(0), 3), jnp.array([0.1, 0.5, 0.9])
    program = jax.jit(jax.vmap(update, in_axes=(0, 0, None))).lower(*lanes, 0)
    assert program.as_text().count("stablehlo.case") == 1
