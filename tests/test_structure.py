"""Movement, valleys, wires and neighbours, by plain numpy and by shuffling."""

import jax
import numpy as np
import pytest

from jaxticket import structure


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
    found = jax.jit(structure.movement)(initial, trained, mask)
    assert found["c"] is None
    for name in ("a", "b"):
        w0, w1 = initial[name][mask[name]], trained[name][mask[name]]
        expected = np.abs(w1 - w0).mean(), (np.abs(w1) > np.abs(w0)).mean()
        expected += ((np.abs(w1) - np.abs(w0)).mean(),)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
    nothing = structure.movement(
        initial, trained, {**mask, "a": np.zeros((6, 5), bool)}
    )
    assert np.isnan(nothing["a"]).all()


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_valley_by_plain_numpy(width):
    initial, _, mask = toy_weights(1)
    found = structure.valley(initial, mask, width=width)["b"]
    w = initial["b"]
    bounds = width * np.arange(0, 50) * np.sqrt(np.mean(w**2))
    counts, _ = np.histogram(np.abs(w[mask["b"]]), bounds)
    np.testing.assert_allclose(found, counts[0] / counts[1:].max(), rtol=1e-6)


def test_a_valley_tells_one_peak_from_two():
    """Without its small values a normal distribution has two."""
    w = {"a": np.random.default_rng(2).normal(size=(300, 300)).astype(np.float32)}
    whole = {"a": np.ones((300, 300), bool)}
    assert structure.valley(w, whole)["a"] == pytest.approx(1.28, abs=0.03)
    without = {"a": np.abs(w["a"]) > 0.4}
    assert structure.valley(w, without)["a"] < 0.4
    half = {"a": np.arange(90_000).reshape(300, 300) % 2 == 0}  # whatever their size
    assert structure.valley(w, half)["a"] == pytest.approx(1.28, abs=0.04)
    assert np.isnan(structure.valley(w, {"a": ~whole["a"]})["a"])


@pytest.mark.parametrize("width", [0.0, -1.0, 9.0])
def test_a_valley_needs_bins(width):
    with pytest.raises(ValueError, match=f"width must be between 0 and 8; got {width}"):
        structure.valley({"a": np.ones(3)}, {"a": np.ones(3, bool)}, width=width)


def test_a_valley_counts_beyond_single_precision():
    small = np.full((2**25, 1), 0.01, np.float32)
    small[::32] = 1
    found = structure.valley({"a": small}, {"a": np.ones(small.shape, bool)})["a"]
    assert found == 31


@pytest.mark.parametrize(
    ("of", "axes"), [("incoming", (0, 1, 2)), ("outgoing", (0, 1, 3))]
)
def test_connections_by_plain_numpy_and_by_shuffling(of, axes):
    _, _, mask = toy_weights(3)
    m = mask["b"]
    found = jax.jit(getattr(structure, of))({"b": m, "c": None, "d": m[0, 0, 0]})["b"]
    kept = m.sum(axes)
    np.testing.assert_array_equal(found.kept, kept)
    np.testing.assert_allclose(found.variation, kept.std() / kept.mean(), rtol=1e-5)
    random = np.random.default_rng(4)
    shuffled = [random.permutation(m.ravel()).reshape(m.shape) for _ in range(4000)]
    variances = [x.sum(axes).var() / kept.mean() ** 2 for x in shuffled]
    deviation = np.std(variances) / np.sqrt(len(variances))
    assert abs(found.expected**2 - np.mean(variances)) < 4 * deviation
    assert getattr(structure, of)([m[0, 0, 0]]) == [None]


def test_adjacency_by_counting_and_by_shuffling():
    random = np.random.default_rng(5)
    mask = random.random((8, 6)) < np.linspace(0.1, 0.9, 8)[:, None]
    found = jax.jit(structure.adjacency)(mask)

    def pairs(m):
        return np.mean([m[i, u] and m[i + 1, u] for i in range(7) for u in range(6)])

    np.testing.assert_allclose(found.observed, pairs(mask), rtol=1e-6)
    for expected, shuffle in (
        (found.shuffled, lambda: random.permutation(mask.ravel()).reshape(8, 6)),
        (found.by_input, lambda: random.permuted(mask, axis=1)),
    ):
        drawn = [pairs(shuffle()) for _ in range(2000)]
        assert abs(expected - np.mean(drawn)) < 4 * np.std(drawn) / np.sqrt(2000)
