"""Masks found from the last cut are those of `selection.like`, whatever the cut was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxticket import highest, selection, thresholds

pytestmark = pytest.mark.usefixtures("unoptimised")

SHAPES = {"a": (40, 30), "b": (70,), "c": (3, 3, 4, 5)}


def walk(seed, kind=jnp.float32, moved=0.01, ties=False):
    """Scores that go a little way at every step, and what may be kept of them."""
    rng = np.random.default_rng(seed)

    def drawn(shape):
        x = rng.normal(size=shape)
        return np.round(x, 1) if ties else x

    scores = {name: drawn(shape) for name, shape in SHAPES.items()}
    allowed = {name: rng.random(shape) < 0.7 for name, shape in SHAPES.items()}
    mask = {name: m & (rng.random(m.shape) < 0.4) for name, m in allowed.items()}
    steps = []
    for _ in range(6):
        steps.append({name: jnp.asarray(s, kind) for name, s in scores.items()})
        scores = {name: s + moved * drawn(s.shape) for name, s in scores.items()}
    return steps, mask, allowed


@jax.jit
def both(scores, mask, allowed, cuts):
    found, cuts = thresholds.highest_of_each(scores, allowed, cuts)
    return found, selection.like(mask)(scores, allowed, None), cuts


def followed(steps, mask, allowed, follow=both):
    cuts = thresholds.like(steps[0], mask, allowed)
    for scores in steps:
        found, wanted, cuts = follow(scores, mask, allowed, cuts)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    return cuts


@pytest.mark.parametrize("kind", [jnp.float32, jnp.bfloat16], ids=["float32", "half"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("moved", [0.0, 0.01, 3.0])
def test_masks_are_those_of_a_whole_search(kind, ties, moved):
    followed(*walk(0, kind, moved, ties))


def test_with_what_is_not_finite():
    steps, mask, allowed = walk(1)
    for at, value in ((0, jnp.nan), (1, jnp.inf), (2, -jnp.inf), (3, 0.0), (4, -0.0)):
        steps = [{**s, "a": s["a"].at[at].set(value)} for s in steps]
    followed(steps, mask, allowed)
    every = {name: np.ones_like(m) for name, m in allowed.items()}
    followed(steps, every, every)  # NaN must be kept too
    followed(steps, every, allowed)  # all that is allowed
    none = {name: np.zeros_like(m) for name, m in allowed.items()}
    followed(steps, none, allowed)


def test_where_nothing_can_be_pruned():
    none = {"a": None}
    cuts = thresholds.like(none, none, none)
    assert thresholds.highest_of_each(none, none, cuts)[0] == none


def test_any_cut_gives_the_same_mask():
    steps, mask, allowed = walk(2)
    kept = thresholds.like(steps[0], mask, allowed).kept
    values = np.array([np.nan, np.inf, -np.inf, 0, -1, 1e-30, 1e30, 0.5], np.float32)
    for at in values:
        for dense in values:
            cuts = thresholds.Cuts(kept, *(jnp.full(3, x) for x in (at, dense)))
            found, wanted, _ = both(steps[0], mask, allowed, cuts)
            jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_lanes_side_by_side():
    walks = [walk(seed, ties=seed == 3) for seed in range(4)]
    steps, masks, allowed = (
        jax.tree.map(lambda *x: jnp.stack(x), *some)
        for some in zip(*walks, strict=True)
    )
    cuts = jax.vmap(thresholds.like)(steps[0], masks, allowed)
    for scores in steps:
        found, wanted, cuts = jax.vmap(both)(scores, masks, allowed, cuts)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_cut_nearby_is_found_without_a_whole_search(monkeypatch):
    steps, mask, allowed = walk(4, moved=1e-3)
    wanted = [selection.like(mask)(scores, allowed, None) for scores in steps]
    cuts = thresholds.like(steps[0], mask, allowed)
    _, cuts = thresholds.highest_of_each(steps[0], allowed, cuts)

    def nothing(scores, alive, k):
        del scores, k
        return [jnp.zeros_like(m) for m in alive]

    monkeypatch.setattr(highest, "highest", nothing)
    for scores, right in zip(steps, wanted, strict=True):
        found, cuts = thresholds.highest_of_each(scores, allowed, cuts)
        jax.tree.map(np.testing.assert_array_equal, found, right)
    far = cuts._replace(at=cuts.at + 1e6)
    found, _ = thresholds.highest_of_each(steps[0], allowed, far)
    assert not any(m.any() for m in found.values())  # the whole search it was
