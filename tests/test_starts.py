"""Starts: what each gives, from an opening made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxticket import controls, masks, revalued, starts, units
from jaxticket.base import Evidence, Ticket
from jaxticket.engine import keys

TRUE = np.array([1.0, -1.0, 0.5, 0.0, 0.0, 2.0], np.float32)


def ticket(seed):
    kernel = jax.random.normal(jax.random.key(seed), (6, 8))
    weights = {"kernel": kernel, "bias": jnp.full(8, float(seed))}
    return Ticket(weights, masks.full(weights), {"mean": jnp.full(2, float(seed))})


def evidence(model_state, temperature):
    """The loss looks at some inputs only, so that gradients tell weights apart."""
    scale = model_state["mean"].sum() + temperature
    return Evidence(loss=lambda w: scale * jnp.sum((TRUE @ w["kernel"]) ** 2))


GIVEN = ticket(3)._replace(
    mask={"kernel": jnp.arange(48).reshape(6, 8) < 9, "bias": None}
)
FILTERS = [units.Filters("kernel", 1, ())]
OPENING = starts.Opening(
    jax.random.key(5), ticket(1), ticket(2), evidence, GIVEN, lambda ticket: FILTERS
)
CASES = {
    "initial": {},
    "trained": {},
    "signed_constant": {},
    "kaiming_constant": {"density": 0.3, "scale_fan": "density"},
    "kaiming_normal": {"density": 0.3, "scale_fan": "code"},
    "pruned": {"density": 0.25},
    "given": {"file": "ticket-{seed}.npz"},
    "deviating": {"quality": 0.8},
    "filters": {"density": 0.5},
}


def test_every_start_has_a_case():
    assert {*CASES} == {*starts.__all__}


@pytest.mark.parametrize("name", starts.__all__)
def test_a_start_says_whether_it_needs_a_trained_network(name):
    start = getattr(starts, name)(**CASES[name])
    found, without = start.ticket(OPENING), OPENING._replace(trained=None)
    if start.trained:
        with pytest.raises(AttributeError):
            assert start.ticket(without).weights
    else:
        leaves = map(jax.tree.leaves, (found, start.ticket(without)))
        for ours, theirs in zip(*leaves, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("state", [True, False])
def test_a_given_ticket_lies_on_the_initial_network(state):
    """What its file has left out are the initial values."""
    mask, initial = GIVEN.mask["kernel"], OPENING.initial
    kernel = jnp.where(mask, GIVEN.weights["kernel"], jnp.nan)
    lacking = GIVEN._replace(weights=GIVEN.weights | {"kernel": kernel})
    lacking = lacking if state else lacking._replace(model_state=None)
    opening = OPENING._replace(given=lacking)
    found = starts.given(file="x").ticket(opening)
    expected = jnp.where(mask, GIVEN.weights["kernel"], initial.weights["kernel"])
    np.testing.assert_array_equal(found.weights["kernel"], expected)
    np.testing.assert_array_equal(found.weights["bias"], GIVEN.weights["bias"])
    np.testing.assert_array_equal(found.mask["kernel"], mask)
    theirs = (GIVEN if state else initial).model_state["mean"]
    np.testing.assert_array_equal(found.model_state["mean"], theirs)
    fresh = starts.given(file="x", weights="initial").ticket(opening)
    for ours, theirs in zip(fresh.weights, initial.weights, strict=True):
        np.testing.assert_array_equal(fresh.weights[ours], initial.weights[theirs])
    np.testing.assert_array_equal(fresh.mask["kernel"], mask)


def test_starts_without_pruning():
    same = {"initial": OPENING.initial, "trained": OPENING.trained}
    same["signed_constant"] = revalued.signed_constant(OPENING.key, OPENING.initial)
    same["kaiming_constant"] = revalued.kaiming_constant(OPENING.initial, density=0.3)
    same["kaiming_normal"] = revalued.kaiming_normal(
        OPENING.key, OPENING.initial, density=0.7
    )
    for name, expected in same.items():
        found = getattr(starts, name)(**CASES[name]).ticket(OPENING)
        for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.parametrize("of", ["initial", "trained"])
@pytest.mark.parametrize("weights", ["initial", "trained"])
def test_pruned_scores_one_network_and_keeps_the_weights_of_another(of, weights):
    start = starts.pruned(density=0.25, score="snip", of=of, weights=weights)
    found = start.ticket(OPENING)
    scored = getattr(OPENING, of).weights["kernel"]
    scale = np.float64(2 * float(of == "trained") + 2 + 1)
    gradient = 2 * scale * np.outer(TRUE, TRUE @ np.float64(scored))
    score = np.abs(np.float64(scored) * gradient)
    kept = score >= np.sort(score.ravel())[-12]
    np.testing.assert_array_equal(found.mask["kernel"], kept)
    assert found.weights is getattr(OPENING, weights).weights
    assert found.model_state is getattr(OPENING, weights).model_state
    assert start.trained == ("trained" in (of, weights))


def test_pruned_shuffles_and_lays_over_constants():
    options = {"density": 0.25, "of": "trained", "weights": "initial"}
    plain = starts.pruned(**options).ticket(OPENING)
    other = starts.pruned(**options, shuffle=True).ticket(OPENING)
    expected = controls.shuffle(keys.named(OPENING.key, "shuffle"), plain)
    np.testing.assert_array_equal(other.mask["kernel"], expected.mask["kernel"])
    assert int(masks.count(other.mask)) == int(masks.count(plain.mask)) == 12
    assert not np.array_equal(other.mask["kernel"], plain.mask["kernel"])
    constant = starts.pruned(**options, constants=True).ticket(OPENING)
    np.testing.assert_array_equal(constant.mask["kernel"], plain.mask["kernel"])
    kernel = np.asarray(constant.weights["kernel"])
    assert len(np.unique(np.abs(kernel))) == 1
    np.testing.assert_array_equal(
        np.sign(kernel), np.sign(OPENING.initial.weights["kernel"])
    )


def test_what_deviates_little_from_zero_goes():
    """By the deviation of each layer's weights, counted where the mask keeps them."""
    weights = {"a": jnp.arange(-2.0, 4.0).reshape(2, 3), "b": 10 * jnp.arange(4.0)}
    mask = {"a": weights["a"] != 3, "b": None}
    whole = Ticket(weights, mask)
    found = starts.deviating(quality=0.8, weights="initial")
    found = found.ticket(OPENING._replace(initial=whole))
    threshold = 0.8 * np.std([-2, -1, 0, 1, 2])  # 1.13
    kept = (np.abs(weights["a"]) >= threshold) & np.asarray(mask["a"])
    assert kept.sum() == 2
    np.testing.assert_array_equal(found.mask["a"], kept)
    assert found.mask["b"] is None
    everything = starts.deviating(quality=0.0).ticket(OPENING)
    assert float(masks.density(everything.mask)) == 1
    assert starts.deviating(quality=0.8).kept is None
    with pytest.raises(ValueError, match="quality must be"):
        starts.deviating(quality=-1.0)


def test_filters_are_those_of_the_trained_network_and_of_the_layers_asked_for():
    found = starts.filters(density=0.5, weights="initial").ticket(OPENING)
    norms = np.abs(np.float64(OPENING.trained.weights["kernel"])).sum(0)
    stay = np.zeros(8, bool)
    stay[np.argsort(-norms)[:4]] = True
    np.testing.assert_array_equal(found.mask["kernel"], np.tile(stay, (6, 1)))
    np.testing.assert_array_equal(
        found.weights["kernel"], OPENING.initial.weights["kernel"]
    )
    with pytest.raises(ValueError, match="no filters of conv_7 can be pruned"):
        starts.filters(density=0.5, layers="conv_7").ticket(OPENING)
