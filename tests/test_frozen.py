"""Jackpots, edge-popup and supermasks: what is exact about them (R14)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxticket import (
    Ticket,
    edge_popup,
    jackpot,
    masks,
    models,
    prune,
    scores,
    supermask,
)
from jaxticket.searches.jackpot import swap

pytestmark = pytest.mark.usefixtures("unoptimised")

SGD = optax.sgd(0.1)


def trained(seed=0):
    """Two hidden layers of unlike scale and an output layer, as after training."""
    rng = np.random.default_rng(seed)
    shapes = {"conv_0": (3, 3, 2, 8), "conv_1": (3, 3, 8, 16), "output": (16, 10)}
    return {
        name: {
            "kernel": jnp.asarray(rng.normal(size=shape) * (i + 1), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=shape[-1]), jnp.float32),
        }
        for i, (name, shape) in enumerate(shapes.items())
    }


def start(density=0.1):
    """A ticket by one threshold over all layers but the classifier."""
    weights = trained()
    mask = masks.full(weights, models.is_convolution)
    return prune(Ticket(weights, mask), scores.magnitude, density)


def noise(seed):
    return jax.tree.map(
        lambda w: jnp.asarray(
            np.random.default_rng(seed).normal(size=w.shape), w.dtype
        ),
        trained(),
    )


@pytest.mark.parametrize("density", [0.2, 0.05])
def test_a_jackpot_starts_from_the_magnitude_mask_of_one_threshold(
    density,
):
    ticket = start(density)
    search = jackpot(SGD)
    state = search.init(jax.random.key(0), ticket)
    layers = [np.abs(ticket.weights[f"conv_{i}"]["kernel"]) for i in (0, 1)]
    everything = np.sort(np.concatenate([layer.ravel() for layer in layers]))
    removed = math.floor((1 - density) * everything.size + 0.5)
    threshold = everything[removed]
    for i, layer in enumerate(layers):
        np.testing.assert_array_equal(
            state.mask[f"conv_{i}"]["kernel"], layer >= threshold
        )
    assert state.mask["output"]["kernel"] is None, "the classifier stays whole"
    output = search.params(state)["output"]["kernel"]
    np.testing.assert_array_equal(output, ticket.weights["output"]["kernel"])
    rates = [float(x) for x in jax.tree.leaves(masks.layer_densities(state.mask))]
    assert rates[0] < density < rates[1], "layers of unlike scale, unlike rates"


def test_a_first_score_that_half_precision_has_not_is_below_one_all_the_same():
    ticket = start(0.2)
    weights = jax.tree.map(lambda w: w.astype(jnp.bfloat16), ticket.weights)
    search = jackpot(optax.sgd(0.0), pruned_score=0.999)
    state = search.init(jax.random.key(0), ticket._replace(weights=weights))
    state = search.update(weights, state, 0)
    found = search.ticket(state).mask
    jax.tree.map(np.testing.assert_array_equal, found, ticket.mask)


@pytest.mark.parametrize("rate", [0.0, 0.1, 1 / 3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("pending", [0, 1, 7, 40])
def test_short_restriction_swaps_exactly_the_best_ceil_rate_n(rate, pending):
    rng = np.random.default_rng(pending)
    mask = rng.permutation(np.arange(200) < 60)
    wanted = mask.copy()
    into = rng.choice(np.flatnonzero(~mask), pending, replace=False)
    out = rng.choice(np.flatnonzero(mask), pending, replace=False)
    wanted[into], wanted[out] = True, False
    s = rng.permutation(200) * 0.01
    found = np.asarray(
        swap(*(jnp.asarray(x) for x in (s, mask, wanted)), jnp.float32(rate))
    )
    number = math.ceil(rate * pending)
    expected = mask.copy()
    expected[sorted(into, key=lambda i: -s[i])[:number]] = True
    expected[sorted(out, key=lambda i: s[i])[:number]] = False
    np.testing.assert_array_equal(found, expected)
    assert (found != mask).sum() == 2 * number


SEARCHES = {
    "jackpot": lambda: jackpot(SGD),
    "restricted": lambda: jackpot(
        SGD, absolute=False, pruned_score=0.99, restriction=lambda step: 0.3
    ),
    "edge_popup": lambda: edge_popup(SGD, density=0.3),
    "supermask": lambda: supermask(optax.sgd(10.0)),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_weights_are_bit_equal_and_counts_exact_after_every_step(name):
    ticket, search = start(), SEARCHES[name]()
    if name != "jackpot":
        ticket = ticket._replace(mask=masks.full(ticket.weights, models.is_convolution))
    if name == "restricted":
        ticket = start()
    state = search.init(jax.random.key(0), ticket)
    counts = [int(leaf.sum()) for leaf in jax.tree.leaves(state.mask)]
    update, total = jax.jit(search.update), 0
    for step in range(6):
        before, state = state.mask, update(noise(step), state, step)
        total += sum(
            int((a != b).sum())
            for a, b in zip(*map(jax.tree.leaves, (before, state.mask)), strict=True)
        )
        found = search.ticket(state)
        jax.tree.map(np.testing.assert_array_equal, found.weights, ticket.weights)
        params = search.params(state)
        jax.tree.map(
            np.testing.assert_array_equal, params, masks.apply(state.mask, trained())
        )
        if name != "supermask":
            assert counts == [int(leaf.sum()) for leaf in jax.tree.leaves(state.mask)]
    assert total > 0, "a search that moves nothing"


@pytest.mark.parametrize("name", ["jackpot", "restricted"])
def test_other_pretrained_weights_give_another_mask(name):
    """The same first mask and gradients: only the weights differ."""

    def found(weights):
        search = SEARCHES[name]()
        state = search.init(jax.random.key(0), start()._replace(weights=weights))
        for step in range(3):
            state = search.update(noise(step), state, step)
        return search.ticket(state).mask

    ours, same, others = found(trained()), found(trained()), found(trained(seed=1))
    assert all(map(np.array_equal, *map(jax.tree.leaves, (ours, same))))
    assert not all(map(np.array_equal, *map(jax.tree.leaves, (ours, others))))


def test_the_ticket_of_a_rescaled_supermask_runs_as_the_search_does():
    search = supermask(SGD, rescale=True)
    weights = trained()
    full = masks.full(weights, models.is_convolution)
    state = search.init(jax.random.key(0), Ticket(weights, full))
    found = search.ticket(state)
    jax.tree.map(
        np.testing.assert_array_equal,
        masks.apply(found.mask, found.weights),
        search.params(state),
    )
    kept = float(masks.layer_densities(found.mask)["conv_1"]["kernel"])
    np.testing.assert_allclose(
        found.weights["conv_1"]["kernel"],
        weights["conv_1"]["kernel"] / kept,
        rtol=1e-6,
    )
    np.testing.assert_array_equal(
        found.weights["output"]["kernel"], weights["output"]["kernel"]
    )


def test_edge_popup_draws_scores_by_fan_in():
    weights = trained()
    full = masks.full(weights)
    state = edge_popup(SGD).init(jax.random.key(0), Ticket(weights, full))
    for name, fan_in in (("conv_0", 18), ("conv_1", 72), ("output", 16)):
        s = np.asarray(state.scores[name]["kernel"])
        bound = 1 / math.sqrt(fan_in)
        assert np.abs(s).max() <= bound
        assert np.abs(s).max() > 0.95 * bound
        assert abs(s.mean()) < 4 * bound / math.sqrt(3 * s.size)
