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
    assert math.isnan(analysis.sign_test([1, math.nan, 2]))


def test_a_number_alone_has_a_mean_and_no_interval():
    for found in (analysis.interval(0.5), analysis.ratio(1, 2)):
        assert found.mean == 0.5
        assert math.isnan(found.low)
        assert math.isnan(found.high)
