"""Scores against numpy, and what selection makes of them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from references import (
    KERNELS,
    SHAPES,
    batch,
    close,
    draw,
    gradient,
    mask_tree,
    masked,
    ones,
    some,
)

from jaxticket import (
    Evidence,
    Ticket,
    imp,
    masks,
    prune,
    scores,
    selection,
    supervised,
)
from jaxticket.data import Split
from jaxticket.models import Model, create

pytestmark = pytest.mark.usefixtures("unoptimised")

KEY = jax.random.key(1)
few = settings(deadline=None, max_examples=40)
alone = selection.per_layer(selection.equal)


def kernels(tree):
    return np.concatenate([np.ravel(tree[layer]["kernel"]) for layer in toy.SHAPES])


def cubic(weights):
    """A loss with a slope of either sign, zeros among them, for every weight."""
    each = jax.tree.map(lambda w: jnp.where(w > 1, 0, 2 / 3 * w**3 - w), weights)
    return sum(leaf.sum() for leaf in jax.tree.leaves(each))


def squares(weights):
    """The outputs of a network that makes one of every weight."""
    return jnp.concatenate([w.ravel() ** 2 for w in jax.tree.leaves(weights)])


def slope(w):
    return np.where(w > 1, 0, 2 * w**2 - 1)


def percentile(values, w):
    """The fraction of the weights that are not zero that each value reaches."""
    alive = w != 0
    return np.sum(values[alive] <= values[..., None], axis=-1) / max(alive.sum(), 1)


def same(w, w0):
    return np.sign(w) == np.sign(w0)


def smaller(sign):
    """Of two percentiles; both magnitudes ranked upwards, or both downwards."""
    return lambda w, w0: np.minimum(
        percentile(sign * np.abs(w), w), percentile(sign * np.abs(w0), w)
    )


# Name -> the formula for one layer.
FORMULAS = {
    "magnitude": lambda w, w0: np.abs(w),
    "large_final": lambda w, w0: np.abs(w),
    "small_final": lambda w, w0: -np.abs(w),
    "large_init": lambda w, w0: np.abs(w0),
    "small_init": lambda w, w0: -np.abs(w0),
    "movement": lambda w, w0: np.abs(w - w0),
    "magnitude_increase": lambda w, w0: np.abs(w) - np.abs(w0),
    "large_init_large_final": smaller(1),
    "small_init_small_final": smaller(-1),
    "large_final_same_sign": lambda w, w0: np.where(same(w, w0), np.abs(w), 0),
    "large_final_diff_sign": lambda w, w0: np.where(same(w, w0), 0, np.abs(w)),
    # Many of these are below the zeros.
    "magnitude_increase_same_sign": lambda w, w0: np.where(
        same(w, w0), np.abs(w) - np.abs(w0), 0
    ),
    "magnitude_increase_diff_sign": lambda w, w0: np.where(
        same(w, w0), 0, np.abs(w) - np.abs(w0)
    ),
    "gradient": lambda w, w0: np.abs(slope(w)),
    "gradient_at_initial": lambda w, w0: np.abs(slope(w0)),
    "grasp": lambda w, w0: w * np.where(w > 1, 0, 4 * w) * slope(w),
    "snip": lambda w, w0: np.abs(slope(w) * w),
    "snip_at_initial": lambda w, w0: np.abs(slope(w0) * w0),
    "synflow": lambda w, w0: np.abs(w) * 2 * np.abs(w),
    "obd": lambda w, w0: w**4 / 2,
    # Exact for any draw: the Hessian has nothing but its diagonal.
    "obd_hutchinson": lambda w, w0: np.where(w > 1, 0, 4 * w) * w**2 / 2,
}


def evidence(initial):
    def curvature(weights):
        return jax.tree.map(jnp.square, weights)

    return Evidence(initial, KEY, loss=cubic, forward=squares, curvature=curvature)


def trained(coarse):
    """Weights that have lost some, and those before; coarse ones have many ties."""
    ticket, initial = toy.ticket(0, lost=4), toy.ticket(1).weights
    weights = masks.apply(ticket.mask, ticket.weights)
    if coarse:
        weights, initial = (jax.tree.map(jnp.round, w) for w in (weights, initial))
    return weights, initial


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("name", FORMULAS)
def test_scores(name, coarse):
    score = scores.NAMES[name]
    weights, initial = jax.tree.map(np.float64, trained(coarse))
    found = jax.jit(lambda w, w0: score(w, evidence(w0)))(weights, initial)
    expected = jax.tree.map(FORMULAS[name], weights, initial)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected
    )
    if not coarse:
        assert len({*kernels(found)}) > 5, "a score that decides nothing"


def test_every_score_has_its_formula():
    assert {*FORMULAS, "random"} == {*scores.NAMES} == {*scores.__all__}


@pytest.mark.parametrize("name", FORMULAS)
def test_pruning_by_any_score_keeps_its_highest(name):
    """And exactly as many as asked for, of what was left; mapped over seeds."""
    weights, initial = trained(coarse=False)
    ticket = Ticket(weights, toy.ticket(lost=4).mask)
    found = prune(ticket, name, 0.5, evidence=evidence(initial), select="equal").mask
    for layer, left in {"dense": 13, "head": 10}.items():  # of 26 and 20
        w, w0, alive, kept = (
            np.asarray(tree[layer]["kernel"]).ravel()
            for tree in (weights, initial, ticket.mask, found)
        )
        values = FORMULAS[name](w, w0)
        assert kept.sum() == left
        assert not kept[~alive].any()
        assert values[kept].min() >= values[alive & ~kept].max()


@pytest.mark.parametrize("name", FORMULAS)
def test_scores_keep_the_types_of_weights_and_can_be_mapped(name):
    score = scores.NAMES[name]
    lanes = [toy.ticket(seed).weights for seed in range(4)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *lanes)
    mapped = jax.vmap(lambda w, w0: score(w, evidence(w0)))(
        jax.tree.map(lambda x: x[:2], stacked), jax.tree.map(lambda x: x[2:], stacked)
    )
    for i in range(2):
        one = score(lanes[i], evidence(lanes[i + 2]))
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), mapped, one
        )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(mapped))


def test_random_scores_of_halves_are_as_many_as_those_of_floats():
    """Ties would go to the first rows of the first layer."""
    mask = {"a": np.ones((300, 200), bool), "b": np.ones((300, 200), bool)}
    for kinds in ((jnp.bfloat16, jnp.bfloat16), (jnp.float16, jnp.float32)):
        weights = {n: jnp.ones((300, 200), k) for n, k in zip("ab", kinds, strict=True)}
        random = Evidence(key=jax.random.key(0))
        found = prune(Ticket(weights, mask), "random", 0.01, evidence=random).mask
        kept = masks.layer_counts(found)
        assert abs(kept["a"] - 600) < 4 * math.sqrt(300)  # of 1200, each here or there
        rows = np.nonzero(found["a"])[0]
        assert abs(rows.mean() - 149.5) < 4 * 300 / math.sqrt(12 * len(rows))


def test_random_scores_are_no_business_of_leaves_that_stay():
    weights = {"w": jnp.ones((4, 5)), "wave": jnp.ones(3, jnp.complex64)}
    ticket = Ticket(weights, {"w": jnp.ones((4, 5), bool), "wave": None})
    found = prune(ticket, "random", 0.5, evidence=Evidence(key=jax.random.key(0)))
    assert masks.layer_counts(found.mask) == {"w": 10}


@pytest.mark.parametrize("name", ["snip", "obd"])
def test_products_of_small_halves_are_not_zero(name):
    weights = {"w": jnp.linspace(1e-4, 3e-4, 9, dtype=jnp.float16)}
    known = Evidence(
        loss=lambda p: jnp.sum(p["w"] * jnp.float16(1e-4)),
        curvature=lambda p: jax.tree.map(lambda w: jnp.float32(w) ** 0, p),
    )
    found = scores.NAMES[name](weights, known)["w"]
    wide = np.float32(weights["w"])
    wanted = {"snip": wide * np.float32(np.float16(1e-4)), "obd": wide**2 / 2}[name]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_random_scores_come_from_their_key():
    weights = toy.ticket().weights
    one, again, other = (
        kernels(scores.random(weights, Evidence(key=jax.random.key(seed))))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert len({*one, *other}) == 2 * len(one)  # all differ, between leaves too
    assert ((one >= 0) & (one < 1)).all()


# Evidence.


@pytest.mark.parametrize("name", scores.NAMES)
def test_a_score_reads_what_it_declares_and_says_what_is_missing(name):
    score, (weights, initial) = scores.NAMES[name], trained(coarse=False)
    have = evidence(initial)._asdict()
    known = {member: have[member] for member in scores.needed(score)}
    jax.eval_shape(lambda w: score(w, Evidence(**known)), weights)
    for member in known:
        missing = Evidence(**known | {member: None})
        with pytest.raises(ValueError, match=rf"needs evidence\.{member}: give .*="):
            score(weights, missing)


def classifier():
    """A layer under a model state that scales its inputs, in evaluation alone."""

    def apply(params, state, x, *, train=False, key=None):
        inputs = x.reshape(len(x), -1) * (1.0 if train else state["scale"])
        return jnp.tanh(inputs @ params["w"]), state

    return Model(lambda key, x: ({}, {}), apply)


@pytest.mark.parametrize(("images", "used"), [(25, 20), (10_000, 30), (4, 4)])
def test_the_evidence_of_a_classifier_is_of_its_first_images(images, used):
    """In whole batches, as in a test; and a network that runs on an input of ones."""
    rng = np.random.default_rng(0)
    split = Split(
        rng.integers(0, 256, (34, 2, 2, 1)).astype(np.uint8), rng.integers(0, 3, 34)
    )
    state, w = {"scale": jnp.float32(0.7)}, {"w": jnp.asarray(rng.normal(size=(4, 3)))}

    def prepare(images):
        return images.astype(jnp.float32) / 255

    known = supervised.evidence(
        classifier(), split, prepare=prepare, images=images, batch_size=10
    )(state)
    first = Split(split.images[:used], split.labels[:used])
    loss = supervised.objective(classifier(), prepare=prepare, train=False)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(
        near,
        jax.jit(jax.value_and_grad(known.loss))(w),
        jax.value_and_grad(lambda w: loss(w, state, first, KEY)[0])(w),
    )
    near(known.forward(w), np.tanh(0.7 * np.sum(w["w"], 0, keepdims=True)))
    assert known.initial is known.key is None


def test_the_memory_of_a_gradient_does_not_depend_on_the_number_of_images():
    model, w = classifier(), {"w": jnp.ones((4, 1000))}

    def needed(images):
        split = Split(np.zeros((images, 4), np.float32), np.zeros(images, np.int32))
        loss = supervised.evidence(model, split)({"scale": 1.0}).loss
        memory = jax.jit(jax.grad(loss)).lower(w).compile().memory_analysis()
        return memory.temp_size_in_bytes

    assert needed(2000) < 1.1 * needed(200)


def test_makers_need_what_their_score_needs_too():
    made = scores.ties_at_random(scores.at_initial(scores.snip))
    assert scores.needed(made) == ("key", "initial", "loss")
    with pytest.raises(
        ValueError, match=r"score ties_at_random\(at_initial\(snip\)\) needs .*loss"
    ):
        made(toy.ticket().weights, Evidence(toy.ticket().weights, KEY))


def test_a_search_by_a_score_that_draws_says_that_it_is_random():
    sgd = optax.sgd(0.1)
    assert imp(sgd, score="random").promises.random
    assert imp(sgd, score=scores.ties_at_random(scores.snip)).promises.random
    assert not imp(sgd, score="snip").promises.random


# A network of two layers with its derivatives by hand.


def by_hand():
    """What scores may look at, of the network of `references`."""
    x, y = batch(0, 0)

    def forward(p, x):
        return jnp.tanh(x @ p["w1"] + p["b1"][None]) @ p["w2"] + p["b2"][None]

    return Evidence(
        loss=lambda p: jnp.sum((forward(p, x) - y) ** 2) / (2 * len(x)),
        forward=lambda p: forward(p, jnp.ones((1, 3))),
    )


def snip_by_hand(p):
    g = gradient(p, *batch(0, 0))
    return {name: np.abs(g[name] * p[name]) for name in SHAPES}


def grasp_by_hand(p):
    """The product with the Hessian: every line of `gradient`, differentiated."""
    x, y = batch(0, 0)
    g = gradient(p, x, y)
    v = {name: np.where(p[name] == 0, 0, g[name]) for name in SHAPES}
    h = np.tanh(x @ p["w1"] + p["b1"])
    error = (h @ p["w2"] + p["b2"] - y) / len(x)
    dh = (1 - h**2) * (x @ v["w1"] + v["b1"])
    derror = (dh @ p["w2"] + h @ v["w2"] + v["b2"]) / len(x)
    dback = (derror @ p["w2"].T + error @ v["w2"].T) * (1 - h**2)
    dback -= (error @ p["w2"].T) * 2 * h * dh
    product = {
        "w1": x.T @ dback,
        "b1": dback.sum(0),
        "w2": dh.T @ error + h.T @ derror,
        "b2": derror.sum(0),
    }
    return {name: p[name] * product[name] for name in SHAPES}


def synflow_by_hand(p):
    p = {name: np.abs(x) for name, x in p.items()}
    h = np.tanh(p["w1"].sum(0) + p["b1"])
    back = (1 - h**2) * p["w2"].sum(1)
    grads = {
        "w1": np.tile(back, (3, 1)),
        "b1": back,
        "w2": np.tile(h[:, None], (1, 2)),
        "b2": np.ones(2),
    }
    return {name: p[name] * grads[name] for name in SHAPES}


BY_HAND = {
    "grasp": grasp_by_hand,
    "snip": snip_by_hand,
    "synflow": synflow_by_hand,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mask", [ones(), some()], ids=["dense", "pruned"])
@pytest.mark.parametrize("name", BY_HAND)
def test_scores_of_a_network(name, mask):
    """Also where some of its weights are zero, as pruned ones are."""
    p = masked(mask, draw())
    found = jax.jit(lambda p: scores.NAMES[name](p, by_hand()))(p)
    close(found, BY_HAND[name](p), 1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", BY_HAND)
def test_iterations_take_derivatives_at_the_pruned_weights(name):
    p, count = draw(6), sum(m.size for m in ones().values())
    left = np.ones(count, bool)
    for i in range(1, 6):
        w = p | dict(zip(KERNELS, parts(np.where(left, flat(p), 0)), strict=True))
        values = np.where(left, flat(BY_HAND[name](w)), -np.inf)
        left = np.zeros(count, bool)
        left[np.argsort(values)[round((1 - 0.4 ** (i / 5)) * count) :]] = True

    def found(iterations):
        ticket = Ticket(p, mask_tree(ones()))
        options = {"evidence": by_hand(), "iterations": iterations}
        return flat(prune(ticket, name, 0.4, **options).mask)

    np.testing.assert_array_equal(found(5), left)
    assert (found(1) != left).any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", BY_HAND)
def test_a_search_prunes_by_derivatives_at_its_trained_weights(name):
    """Round after round, of what is left; none of the scores is a constant."""
    search = imp(optax.sgd(0.2), density=0.6, score=name, retrain="continue")
    state = search.init(KEY, Ticket(draw(6), mask_tree(ones())))
    for left in (12, 7):  # of 20 weights
        w = jax.tree.map(np.asarray, search.params(state))
        state = search.update(gradient(w, *batch(0, 0)), state, 0)
        w = jax.tree.map(np.asarray, search.params(state))
        alive, grade = flat(search.ticket(state).mask), flat(BY_HAND[name](w))
        state = search.advance(state, by_hand())
        kept = flat(search.ticket(state).mask)
        assert kept.sum() == left
        assert not (kept & ~alive).any()
        assert grade[kept].min() > grade[alive & ~kept].max()


def chained(w):
    """A network of the layers `w`, `[layers, 8, 8]`, on ones."""
    return jax.lax.scan(lambda x, w: (x @ w, None), jnp.ones((1, 8)), w)[0]


@pytest.mark.parametrize(("size", "power"), [(3, -30), (1e-3, 150)])
def test_a_flow_beyond_single_precision_keeps_its_ranks(size, power):
    """In a chain all scores differ by one power of two; what is broken ends."""
    rng, shape = np.random.default_rng(0), (30, 8, 8)
    chain = (size * rng.normal(1, 1 / 3, shape)).astype(np.float32)
    known = Evidence(forward=chained)
    found = np.asarray(jax.jit(lambda w: scores.synflow(w, known))(chain))
    sizes = np.abs(chain).astype(float)
    before, after = [np.ones(8)], [np.ones(8)]
    for forwards, backwards in zip(sizes, sizes[::-1], strict=True):
        before.append(before[-1] @ forwards)
        after.append(backwards @ after[-1])
    flow = np.stack(
        [np.outer(x, y) for x, y in zip(before, after[-2::-1], strict=False)]
    )
    ratio = found / (sizes * flow)
    most = np.finfo(np.float32).max
    assert before[-1].max() > most or before[-1].max() < 1 / most
    np.testing.assert_allclose(ratio, 2.0**power, rtol=1e-5)
    assert not np.isfinite(scores.synflow(chain * np.nan, known)).all()


@pytest.mark.parametrize("cut", [False, True])
def test_a_network_that_is_cut_is_looked_at_twice_and_no_deeper(cut):
    """Of a deep one of small weights, too, the scores are all 0 at first."""
    passes = []

    def forward(w):
        jax.debug.callback(lambda: passes.append(1))
        return chained(w)

    lines = jnp.broadcast_to(1e-3 * jnp.eye(8), (30, 8, 8))
    lines = lines.at[jnp.array([9, 20])].multiply(not cut)
    found = scores.synflow(lines, Evidence(forward=forward))
    jax.effects_barrier()
    assert (len(passes) == 2) == cut
    np.testing.assert_array_equal(found > 0, (lines > 0) & (not cut))


def flat(tree):
    return np.concatenate([np.ravel(tree[name]) for name in KERNELS])


def parts(values):
    first = math.prod(SHAPES["w1"])
    return values[:first].reshape(SHAPES["w1"]), values[first:].reshape(SHAPES["w2"])


# Two magnitudes above a common percentile.


def both_above(first, second, alive, k):
    """Bisection: the highest common percentile at which at least `k` are kept."""
    ordered = [np.sort(x[alive]) for x in (first, second)]
    low, high = 0, alive.sum() - 1  # at the first threshold all are kept

    def kept(j):
        return alive & (first >= ordered[0][j]) & (second >= ordered[1][j])

    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if kept(middle).sum() >= k else (low, middle - 1)
    return kept(low)


@functools.partial(jax.jit, static_argnums=0)
def highest(score, w, w0, alive, k):
    return selection.top(score([w], Evidence(initial=[w0])), [alive], k)[0]


@few
@given(
    hnp.arrays(np.float32, (2, 24), elements=st.floats(-8, 8, width=16)),
    hnp.arrays(bool, 24),
    st.integers(1, 24),
)
def test_the_smaller_percentile_is_what_bisection_finds(values, alive, k):
    """With ties too, where bisection may keep more than were asked for."""
    w, w0 = np.where(alive, values[0], 0), values[1]
    alive = w != 0
    k = min(k, alive.sum())
    if k == 0:
        return
    for sign, score in [
        (1, scores.large_init_large_final),
        (-1, scores.small_init_small_final),
    ]:
        expected = both_above(sign * np.abs(w0), sign * np.abs(w), alive, k)
        found = highest(score, w, w0, alive, expected.sum())
        np.testing.assert_array_equal(found, expected)


def test_percentiles_are_comparable_between_layers():
    """Else a global selection would empty the small layers."""
    rng = np.random.default_rng(0)
    weights, initial = (
        [rng.normal(size=n).astype(np.float32) for n in (2000, 100)] for _ in range(2)
    )
    ticket = Ticket(weights, [jnp.ones(n, bool) for n in (2000, 100)])
    known = Evidence(initial=initial)
    found = prune(ticket, "large_init_large_final", 0.25, evidence=known)
    large, small = (float(m.mean()) for m in found.mask)
    assert abs(large - 0.25) < 0.02
    assert abs(small - 0.25) < 0.2


def test_percentiles_of_nothing_and_of_nan():
    found = scores.large_init_large_final(
        [jnp.zeros(3), jnp.array([1.0, jnp.nan, 3.0])],
        Evidence(initial=[jnp.ones(3), jnp.array([5.0, 6.0, 7.0])]),
    )
    np.testing.assert_array_equal(found[0], [0, 0, 0])
    np.testing.assert_array_equal(np.isnan(found[1]), [False, True, False])


# Ties at random.

special = st.sampled_from([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf])
finite = st.floats(width=32, allow_subnormal=False)
tied = hnp.arrays(np.float32, 30, elements=special | finite)


def split(flat):
    return {"a": flat[:12].reshape(3, 4), "b": flat[12:13], "c": flat[13:]}


def given_scores(weights, evidence):
    """The score that is its weights."""
    return weights


@jax.jit
def orders(values, key):
    return scores.ties_at_random(given_scores)(values, Evidence(key=key))


@few
@given(tied, st.integers(0, 2**31 - 1))
def test_ties_at_random_is_an_order_of_all_leaves(values, seed):
    """Distinct, in the order of the scores across leaves, NaN lowest, -0.0 as 0.0."""
    found = orders(split(values), jax.random.key(seed))
    flat = np.concatenate([np.ravel(found[n]) for n in "abc"])
    ranks = flat.view(np.int32) - 2**23
    assert sorted(ranks) == list(range(30))
    assert (np.argsort(flat) == np.argsort(ranks)).all()
    lowest = np.where(np.isnan(values), -1, np.unique(values, return_inverse=True)[1])
    assert (np.diff(lowest[np.argsort(ranks)]) >= 0).all()


def test_equal_scores_are_kept_equally_often():
    """Of 12 zeros beside 6 ones, 9 to keep: all ones, and each zero 3 times in 12."""
    weights = {"a": jnp.zeros((2, 4)), "b": jnp.ones(6), "c": jnp.zeros(4)}
    mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool), weights)

    def kept(key):
        values = scores.ties_at_random(given_scores)(weights, Evidence(key=key))
        return selection.top(values, mask, 9)

    many = jax.jit(jax.vmap(kept))(jax.random.split(KEY, 2000))
    assert np.asarray(many["b"]).all()
    zeros = np.concatenate([many["a"].reshape(2000, 8), many["c"]], axis=1)
    assert (zeros.sum(1) == 3).all()
    z = (zeros.sum(0) - 500) / np.sqrt(2000 * 0.25 * 0.75)
    assert np.abs(z).max() < 4
    pairs = np.einsum("ni,nj->ij", zeros, zeros, dtype=float)[np.triu_indices(12, 1)]
    share = 3 * 2 / (12 * 11)
    assert np.abs(pairs / 2000 - share).max() < 4.5 * np.sqrt(share / 2000)


def test_ties_at_random_serve_both_selects():
    """Zeros are chosen from only where there is nothing better in reach."""
    weights, initial = trained(coarse=False)
    ticket = Ticket(weights, toy.ticket(lost=4).mask)
    base = scores.large_final_same_sign
    zero = kernels(base(weights, Evidence(initial))) == 0
    alive = kernels(ticket.mask)
    for select in (selection.global_top, alone):
        first, one, other = (
            kernels(
                prune(
                    ticket, score, 0.8, evidence=Evidence(initial, key), select=select
                ).mask
            )
            for score, key in [
                (base, None),
                (scores.ties_at_random(base), jax.random.key(0)),
                (scores.ties_at_random(base), jax.random.key(1)),
            ]
        )
        assert first.sum() == one.sum() == other.sum() == 37
        for kept in (first, one, other):
            assert kept[alive & ~zero].all()
        assert (one != other).any()
        assert (first != one).any()


def test_ties_at_random_of_random_scores_keep_their_order():
    """The score's own key is not the one that breaks the ties."""
    weights = {"w": jnp.zeros(2000)}
    seen = {}

    def score(weights, evidence):
        seen["key"] = evidence.key
        seen["values"] = scores.random(weights, evidence)
        return seen["values"]

    found = scores.ties_at_random(score)(weights, Evidence(key=KEY))["w"]
    assert (np.argsort(found) == np.argsort(seen["values"]["w"], stable=True)).all()
    assert (jax.random.key_data(seen["key"]) != jax.random.key_data(KEY)).any()


# In an iterated search.


def test_criteria_in_iterative_pruning():
    """Every score serves `imp`; a round keeps what the numpy formula ranks highest."""
    weights = toy.init(KEY)
    ticket = Ticket(weights, masks.full(weights))
    score = scores.ties_at_random(scores.large_final_same_sign)
    search = imp(optax.sgd(0.5), density=0.5, score=score, select=alone)
    grads = toy.init(jax.random.key(7))
    state = search.init(KEY, ticket)
    for left in (27, 13):  # of 30 and 24, of 15 and 12; halves round down
        state = search.update(grads, state, 0)
        before = jax.tree.map(np.asarray, search.params(state))
        alive = kernels(search.ticket(state).mask)
        state = search.advance(state)
        kept = kernels(search.ticket(state).mask)
        assert kept.sum() == left
        assert not (kept & ~alive).any()
        for place in (slice(0, 30), slice(30, 54)):
            w, w0 = kernels(before)[place], kernels(weights)[place]
            values = np.where(same(w, w0), np.abs(w), 0)
            assert values[kept[place]].min() >= (
                values[alive[place] & ~kept[place]].max()
            )


def test_evidence_divides_logits_by_a_temperature():
    model = create("mlp", 3, hidden=(4,))
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 2, 2, 1)).astype(np.float32)
    split = Split(images, np.arange(6, dtype=np.int32) % 3)
    params, state = model.init(jax.random.key(0), split.images[:1])
    of = supervised.evidence(model, split, batch_size=6)
    logits = np.asarray(model.apply(params, state, split.images)[0], np.float64)
    for temperature in (1.0, 200.0):
        cool = logits / temperature
        log_z = np.log(np.exp(cool).sum(1))
        expected = np.mean(log_z - cool[np.arange(6), split.labels])
        found = of(state, temperature).loss(params)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
