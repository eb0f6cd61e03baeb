"""Overlap against chance, by enumeration and shuffling; what several seeds show."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from jaxticket import analysis, controls, masks

overlap = jax.jit(analysis.overlap)


def every(n, k):
    """All masks of `k` among `n`: `[masks, n]`."""
    chosen = itertools.combinations(range(n), k)
    return np.array([[i in kept for i in range(n)] for kept in chosen])


def transcribed(mask, other):
    """Of hypergeometric layers, from exact integers: mean and deviation."""
    mean = variance = kept = 0
    for m, o in zip(jax.tree.leaves(mask), jax.tree.leaves(other), strict=True):
        n, k, j = m.size, int(m.sum()), int(o.sum())
        mean += k * j / n
        variance += k * j * (n - k) * (n - j) / (n * n * (n - 1)) if n > 1 else 0
        kept += k
    return mean / max(kept, 1), math.sqrt(variance) / max(kept, 1)


@pytest.mark.parametrize("kept", [(2, 1), (0, 3), (5, 1), (1, 4)])
@pytest.mark.parametrize("others", [(3, 2), (0, 1), (5, 4), (1, 0)])
def test_chance_is_what_all_pairs_of_masks_have(kept, others):
    """Two layers, of 5 and 4 weights: one mask stays, the other is any."""
    mask = {"a": np.arange(5) < kept[0], "b": np.arange(4) >= 4 - kept[1], "c": None}
    pairs = itertools.product(every(5, others[0]), every(4, others[1]))
    shared = [
        (np.sum(mask["a"] & a) + np.sum(mask["b"] & b)) / sum(kept) for a, b in pairs
    ]
    other = {"a": every(5, others[0])[-1], "b": every(4, others[1])[-1], "c": None}
    found = overlap(mask, other)
    np.testing.assert_allclose(found.observed, shared[-1], rtol=1e-6)
    np.testing.assert_allclose(found.expected, np.mean(shared), rtol=1e-6)
    np.testing.assert_allclose(found.deviation, np.std(shared), rtol=1e-6, atol=1e-9)


def test_shuffled_masks_overlap_as_chance_has_it():
    ticket = toy.ticket(lost=9)  # 21 of 30 and 15 of 24 are kept
    other = jax.tree.map(
        lambda m: jnp.arange(m.size).reshape(m.shape) < 10, ticket.mask
    )

    def measured(key):
        return overlap(controls.shuffle(key, ticket).mask, other)

    found = toy.hurried(jax.vmap(measured))(jax.random.split(jax.random.key(1), 3000))
    assert (found.expected == found.expected[0]).all()
    expected, deviation = float(found.expected[0]), float(found.deviation[0])
    z = (found.observed - expected) / deviation
    assert abs(np.mean(z)) < 4 / np.sqrt(3000)
    # The deviation of a variance of 3000 nearly normal numbers is sqrt(2 / 3000).
    assert abs(np.var(z) - 1) < 4 * np.sqrt(2 / 3000)


layers = st.fixed_dictionaries(
    {"a": hnp.arrays(bool, (3, 4)), "b": st.none(), "c": hnp.arrays(bool, (1, 1))}
)


@settings(deadline=None, max_examples=40)
@given(layers, layers)
def test_against_exact_integers(mask, other):
    found, (mean, deviation) = overlap(mask, other), transcribed(mask, other)
    assert found.observed == masks.overlap(mask, other)
    np.testing.assert_allclose(found.expected, mean, rtol=1e-6)
    np.testing.assert_allclose(found.deviation, deviation, rtol=1e-6)
    by_layer = analysis.layer_overlaps(mask, other)
    assert by_layer["b"] is None
    for name in ("a", "c"):
        alone = {name: mask[name]}, {name: other[name]}
        np.testing.assert_allclose(by_layer[name][1:], transcribed(*alone), rtol=1e-6)
        assert by_layer[name].observed == masks.overlap(*alone)


def test_layers_without_weights_and_masks_without_any():
    empty, none = np.zeros((0, 3), bool), np.zeros(4, bool)
    assert overlap([none], [~none]) == (0, 0, 0)
    found = overlap([empty, ~none], [empty, np.arange(4) < 1])
    np.testing.assert_allclose(found, (0.25, 0.25, 0))


def test_many_weights():
    """Products of counts overflow integers; differences need their last digits."""
    one, other = np.zeros((2, 2 * 10**7), bool)
    one[: 12 * 10**6], other[10**7 - 1 :] = True, True
    found, (mean, deviation) = overlap([one], [other]), transcribed([one], [other])
    np.testing.assert_allclose(found.expected, mean, rtol=2e-7)
    np.testing.assert_allclose(found.deviation, deviation, rtol=1e-6)
    other[:-1], other[-1] = True, False
    found, (_, deviation) = overlap([one], [other]), transcribed([one], [other])
    np.testing.assert_allclose(found.deviation, deviation, rtol=1e-6)


def test_masks_of_different_networks_are_an_error():
    mask = toy.ticket().mask
    with pytest.raises(ValueError):
        analysis.overlap(mask, mask["dense"])


def test_overlap_with_the_highest_scores_of_each_layer():
    """As many as the mask keeps, whatever it keeps of other layers."""
    mask = {"a": np.arange(6) < 2, "b": np.arange(4) % 2 == 0, "c": None}
    scores = {"a": np.arange(6.0), "b": np.arange(4.0)[::-1], "c": np.ones(3)}
    found = analysis.overlap_with(scores, mask)
    highest = {"a": np.arange(6) >= 4, "b": np.arange(4) < 2, "c": None}
    assert found == analysis.overlap(mask, highest)
    assert found.observed == 1 / 4
    assert analysis.overlap_with(mask | {"c": np.ones(3)}, mask).observed == 1


def test_chance_among_what_a_mask_keeps_is_that_of_a_smaller_layer():
    """Weights that neither could keep do not count, however many there are."""
    among = np.arange(40) % 3 == 0
    places = np.flatnonzero(among)
    mask, other = np.zeros((2, 40), bool)
    mask[places[:5]], other[places[3:12]] = True, True
    found = jax.jit(analysis.overlap)([mask], [other], among=[among])
    small = [mask[among]], [other[among]]
    np.testing.assert_allclose(found, analysis.overlap(*small), rtol=1e-6)
    np.testing.assert_allclose(found[1:], transcribed(*small), rtol=1e-6)


# What lies between two networks.


def test_a_network_between_two(x64):
    """In float64 by plain numpy; the ends to the bit; counters are the first's."""
    random = np.random.default_rng(0)
    one, other = ({"w": random.normal(size=(3, 2)), "n": np.array(n)} for n in (4, 9))
    for alpha in (0.0, 0.3, 1.0):
        found = analysis.interpolated(alpha, one, other)
        expected = alpha * one["w"] + (1 - alpha) * other["w"]
        np.testing.assert_allclose(found["w"], expected, rtol=1e-15)
        assert found["n"] == 4
    alphas = jnp.linspace(0, 1, 4)
    along = jax.jit(jax.vmap(analysis.interpolated, (0, None, None)))
    found = along(alphas, one, other)["w"]
    assert found.shape == (4, 3, 2)
    np.testing.assert_array_equal(found[0], other["w"])
    np.testing.assert_array_equal(found[-1], one["w"])


def test_the_types_of_weights_stay_and_networks_of_two_kinds_are_an_error():
    half = {"w": jnp.ones(3, jnp.bfloat16)}
    assert analysis.interpolated(0.5, half, half)["w"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="not of one network"):
        analysis.interpolated(0.5, half, {"w": jnp.ones(4, jnp.bfloat16)})


def test_a_barrier_is_the_worst_less_the_mean_of_the_ends():
    errors = np.random.default_rng(1).random((4, 5, 30))
    found = analysis.barrier(errors)
    for i, j in itertools.product(range(4), range(5)):
        path = [*errors[i, j]]
        assert math.isclose(found[i, j], max(path) - (path[0] + path[-1]) / 2)
    assert found.min() > 0
    np.testing.assert_allclose(analysis.barrier(jnp.array(errors)), found, rtol=1e-5)
    assert analysis.barrier(np.linspace(0.1, 0.3, 7)) == pytest.approx(0.1)  # no bump
    assert analysis.barrier(np.full(7, 0.2)) == 0


# What weights do.


def toy_weights(seed):
    """Initial and trained weights of a dense layer, a convolution and a bias."""
    random = np.random.default_rng(seed)
    shapes = {"a": (6, 5), "b": (3, 3, 2, 4), "c": (5,)}
    initial = {name: random.normal(size=shape) for name, shape in shapes.items()}
    trained = {name: w + random.normal(size=w.shape) for name, w in initial.items()}
    mask = {"a": random.random((6, 5)) < 0.4, "b": random.random((3, 3, 2, 4)) < 0.3}
    return initial, trained, mask | {"c": None}


def test_movement_by_plain_numpy(x64):
    initial, trained, mask = toy_weights(0)
    found = jax.jit(analysis.movement)(initial, trained, mask)
    assert found["c"] is None
    for name in ("a", "b"):
        w0, w1 = initial[name][mask[name]], trained[name][mask[name]]
        expected = np.abs(w1 - w0).mean(), (np.abs(w1) > np.abs(w0)).mean()
        expected += ((np.abs(w1) - np.abs(w0)).mean(),)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
    nothing = analysis.movement(initial, trained, {**mask, "a": np.zeros((6, 5), bool)})
    assert np.isnan(nothing["a"]).all()


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_valley_by_plain_numpy(width):
    initial, _, mask = toy_weights(1)
    found = analysis.valley(initial, mask, width=width)["b"]
    w = initial["b"]
    bounds = width * np.arange(0, 50) * np.sqrt(np.mean(w**2))
    counts, _ = np.histogram(np.abs(w[mask["b"]]), bounds)
    np.testing.assert_allclose(found, counts[0] / counts[1:].max(), rtol=1e-6)


def test_a_valley_tells_one_peak_from_two():
    """Without its small values a normal distribution has two."""
    w = {"a": np.random.default_rng(2).normal(size=(300, 300)).astype(np.float32)}
    whole = {"a": np.ones((300, 300), bool)}
    assert analysis.valley(w, whole)["a"] == pytest.approx(1.28, abs=0.03)
    without = {"a": np.abs(w["a"]) > 0.4}
    assert analysis.valley(w, without)["a"] < 0.4
    half = {"a": np.arange(90_000).reshape(300, 300) % 2 == 0}  # whatever their size
    assert analysis.valley(w, half)["a"] == pytest.approx(1.28, abs=0.04)
    assert np.isnan(analysis.valley(w, {"a": ~whole["a"]})["a"])


@pytest.mark.parametrize(
    ("of", "axes"), [("incoming", (0, 1, 2)), ("outgoing", (0, 1, 3))]
)
def test_connections_by_plain_numpy_and_by_shuffling(of, axes):
    _, _, mask = toy_weights(3)
    m = mask["b"]
    found = jax.jit(getattr(analysis, of))({"b": m, "c": None, "d": m[0, 0, 0]})["b"]
    kept = m.sum(axes)
    np.testing.assert_array_equal(found.kept, kept)
    np.testing.assert_allclose(found.variation, kept.std() / kept.mean(), rtol=1e-5)
    random = np.random.default_rng(4)
    shuffled = [random.permutation(m.ravel()).reshape(m.shape) for _ in range(4000)]
    variances = [x.sum(axes).var() / kept.mean() ** 2 for x in shuffled]
    deviation = np.std(variances) / np.sqrt(len(variances))
    assert abs(found.expected**2 - np.mean(variances)) < 4 * deviation
    assert getattr(analysis, of)([m[0, 0, 0]]) == [None]


def test_adjacency_by_counting_and_by_shuffling():
    random = np.random.default_rng(5)
    mask = random.random((8, 6)) < np.linspace(0.1, 0.9, 8)[:, None]
    found = jax.jit(analysis.adjacency)(mask)

    def pairs(m):
        return np.mean([m[i, u] and m[i + 1, u] for i in range(7) for u in range(6)])

    np.testing.assert_allclose(found.observed, pairs(mask), rtol=1e-6)
    for expected, shuffle in (
        (found.shuffled, lambda: random.permutation(mask.ravel()).reshape(8, 6)),
        (found.by_input, lambda: random.permuted(mask, axis=1)),
    ):
        drawn = [pairs(shuffle()) for _ in range(2000)]
        assert abs(expected - np.mean(drawn)) < 4 * np.std(drawn) / np.sqrt(2000)


# What swaps of a mask do.


def test_a_change_of_a_quadratic_loss_by_plain_numpy(x64):
    """`L = (a . (w m) - b)^2 + c . (w m)`, whose gradient is known."""
    random = np.random.default_rng(7)
    w, a, c = (
        {"k": random.normal(size=(5, 4)), "b": random.normal(size=4)} for _ in "wac"
    )
    old, new = ({"k": random.random((5, 4)) < 0.5, "b": None} for _ in range(2))

    def dot(x, y):
        return sum(jnp.vdot(x[name], y[name]) for name in ("k", "b"))

    def loss(params):
        return (dot(a, params) - 2) ** 2 + dot(c, params)

    def by_hand(mask):
        masked = w["k"] * mask["k"]
        inner = np.sum(a["k"] * masked) + a["b"] @ w["b"] - 2
        value = inner**2 + np.sum(c["k"] * masked) + c["b"] @ w["b"]
        return value, 2 * inner * a["k"] + c["k"]

    found = jax.jit(analysis.change, static_argnums=0)(loss, w, old, new)
    before, gradient = by_hand(old)
    moved = new["k"].astype(float) - old["k"]
    np.testing.assert_allclose(found.predicted, np.sum(gradient * w["k"] * moved))
    np.testing.assert_allclose(found.actual, by_hand(new)[0] - before)
    assert abs(found.predicted - found.actual) > 0.1  # it is not linear
    assert analysis.change(loss, w, old, old) == (0, 0)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_swaps_are_those_that_promise_most(count):
    random = np.random.default_rng(8)
    mask = {"a": random.random((4, 5)) < 0.4, "b": random.random(30) < 0.5, "c": None}
    gains = {"a": random.normal(size=(4, 5)), "b": random.normal(size=30), "c": None}
    counts = {"a": count, "b": 2, "c": None}
    found = jax.jit(analysis.exchanged)(mask, gains, counts)
    assert found["c"] is None
    for name, q in (("a", count), ("b", 2)):
        m, gain, new = mask[name].ravel(), gains[name].ravel(), found[name].ravel()
        coming = [i for i in np.argsort(gain) if not m[i]][:q]
        going = [i for i in np.argsort(-gain) if m[i]][:q]
        assert {*np.flatnonzero(new & ~m)} == {*coming}
        assert {*np.flatnonzero(m & ~new)} == {*going}


# Accuracies of several seeds; `test_report` has what the reports make of them.


def test_an_interval_is_students_t():
    mean, low, high = analysis.interval([0.9, 0.92, 0.94])
    half = 4.302652729749 * 0.02 / math.sqrt(3)  # two degrees of freedom
    np.testing.assert_allclose((mean, low, high), (0.92, 0.92 - half, 0.92 + half))
    assert np.isnan(analysis.interval([0.5])).tolist() == [False, True, True]
    assert np.isnan(analysis.interval([])).all()


def test_a_ratio_is_that_of_geometric_means():
    found = analysis.ratio([2.0, 8.0], [1.0, 1.0])
    assert math.isclose(found.mean, 4.0)
    assert math.isclose(found.low * found.high, 16.0)
    assert np.isnan(analysis.ratio([0.0, 1.0], [1.0, 1.0])).all()


@pytest.mark.parametrize(
    ("low", "high", "density", "verdict"),
    [
        (0.001, 0.003, 0.2, "better"),
        (-0.004, 0.004, 0.2, "matches"),
        (-0.006, 0.02, 0.2, "unclear"),
        (-0.02, -0.001, 0.2, "worse"),
        (0.001, 0.003, 1.0, "not sparser"),
        (math.nan, math.nan, 0.2, "one seed"),
    ],
)
def test_a_verdict_needs_the_whole_interval_above_the_margin(
    low, high, density, verdict
):
    difference = analysis.Interval(0.0, low, high)
    assert analysis.verdict(difference, margin=0.5, density=density) == verdict


def test_nothing_is_known_of_a_failed_run():
    failed = analysis.interval([0.0, math.nan])
    assert analysis.verdict(failed, margin=0.5, density=0.2) == "unknown"


def test_a_sign_test_is_that_of_scipy():
    assert analysis.sign_test([0.1, 2, 3, 4, 0.5]) == 1 / 32
    values = np.random.default_rng(6).normal(0.3, 1, 12)
    expected = stats.binomtest(int((values > 0).sum()), 12, alternative="greater")
    assert math.isclose(analysis.sign_test([*values, 0.0]), expected.pvalue)
    assert analysis.sign_test([]) == 1
