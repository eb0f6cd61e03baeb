"""Facts about gates that are drawn, and about searches that need no training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from jaxticket import Gated, iss, l0, masks
from jaxticket.searches import gates

DRAWS = 4000
KERNELS = ["dense", "head"]


def opened(search, logit=None):
    """A search over weights that are all 1, with one logit for all of them."""
    ticket = toy.ticket()
    ones = jax.tree.map(jnp.ones_like, ticket.weights)
    state = search.init(jax.random.key(1), ticket._replace(weights=ones))
    if logit is None:
        return state
    logits = jax.tree.map(lambda s: jnp.full_like(s, logit), state.gated.logits)
    return state._replace(gated=Gated(ones, logits))


def drawn(search, state):
    """The gates of many steps, if nothing moved: `[DRAWS, weights]`."""
    counts = jnp.arange(DRAWS, dtype=jnp.int32)
    params = jax.vmap(lambda count: search.params(state._replace(count=count)))(counts)
    return np.hstack([params[name]["kernel"].reshape(DRAWS, -1) for name in KERNELS])


def assert_probability(flags, p):
    """`flags` `[DRAWS, weights]` are independent, each true with probability `p`."""
    alone, all_, error = flags.mean(0), flags.mean(), np.sqrt(p * (1 - p) / DRAWS)
    assert np.abs(alone - p).max() < 5 * error
    assert abs(all_ - p) < 5 * error / np.sqrt(flags.shape[1])
    together = np.corrcoef(flags.T) - np.eye(flags.shape[1])
    assert np.abs(together).max() < 6 / np.sqrt(DRAWS)
    from_step_to_step = np.corrcoef(flags[1:].ravel(), flags[:-1].ravel())[0, 1]
    assert abs(from_step_to_step) < 5 / np.sqrt(flags.size)


@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.0])
def test_bernoulli_gates_are_open_as_often_as_their_logit_says(logit):
    search = iss(optax.sgd(0.1))
    found = drawn(search, opened(search, logit))
    assert set(np.unique(found)) == {0.0, 1.0}
    assert_probability(found == 1, 1 / (1 + np.exp(-logit)))


@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.0])
def test_the_l0_penalty_is_how_likely_a_gate_is_not_zero(logit):
    """Both ends of the stretch, by symmetry: `P(z = 1 | a) = P(z = 0 | -a)`."""
    search = l0(optax.sgd(1.0), penalty=1.0)
    state = opened(search, logit)
    found = drawn(search, state)
    still = jax.tree.map(jnp.zeros_like, toy.ticket().weights)
    after = search.update(still, state, 0)
    slope = logit - after.gated.logits["head"]["kernel"]  # p (1 - p) of the penalty
    p = np.mean(found > 0)
    np.testing.assert_allclose(slope, p * (1 - p), atol=0.01)
    expected = 1 / (1 + np.exp(2 / 3 * np.log(0.1 / 1.1) - logit))
    assert_probability(found > 0, expected)
    mirrored = drawn(search, opened(search, -logit))
    assert_probability(mirrored < 1, expected)


def test_draws_depend_on_key_count_and_leaf_alone():
    like = {"a": jnp.zeros((3, 4)), "b": None, "c": jnp.zeros((3, 4))}
    keys, count = [jax.random.key(i) for i in (0, 1)], jnp.int32(7)
    first = gates.uniform(keys[0], count, like)
    again = jax.vmap(lambda key: gates.uniform(key, count, like))(jnp.stack(keys[::-1]))
    others = (
        gates.uniform(keys[1], count, like),
        gates.uniform(keys[0], count + 1, like),
    )
    for name in ("a", "c"):
        np.testing.assert_array_equal(first[name], again[name][1])
    values = np.hstack([x for tree in (first, *others) for x in jax.tree.leaves(tree)])
    assert len(np.unique(values)) == 3 * 2 * 12


def test_draws_for_half_precision_are_fine_enough():
    """In bfloat16 the largest draw, `1 - 1e-6`, would be 1, and its logit infinite."""
    like = [jnp.zeros(10_000, jnp.bfloat16)]
    (draws,) = gates.uniform(jax.random.key(0), jnp.int32(0), like, 1e-6, 1 - 1e-6)
    assert draws.dtype == jnp.float32
    assert len(np.unique(draws)) > 9_900
    assert 0 < draws.min() < draws.max() < 1


# ISS.


def test_a_gate_as_often_open_as_closed_is_not_off():
    search = iss(optax.sgd(0.1))
    for logit, kept in ((-0.01, 0), (0.0, 54), (0.01, 54)):
        assert masks.count(search.ticket(opened(search, logit)).mask) == kept


def test_what_is_off_is_dropped_for_good_and_the_others_start_again():
    search = iss(optax.sgd(0.1), initial_logit=0.3, off=lambda s: s < -2)
    state = opened(search)
    kernel = jnp.linspace(-3, 1, 24).reshape(6, 4)
    logits = state.gated.logits | {"head": {"bias": None, "kernel": kernel}}
    state = state._replace(gated=state.gated._replace(logits=logits))
    state = search.advance(state)
    expected = kernel >= -2
    assert masks.count(search.ticket(state).mask) == 30 + expected.sum()
    for leaf in jax.tree.leaves(state.gated.logits):
        np.testing.assert_array_equal(leaf, jnp.float32(0.3))
    ever = drawn(search, state)[:, 30:].any(axis=0)
    np.testing.assert_array_equal(ever, expected.ravel())


# L0.


def test_l0_logits_start_around_the_given_one():
    weights = {"w": jnp.ones((300, 100))}
    ticket = toy.Ticket(weights, masks.full(weights))
    search = l0(optax.sgd(0.1), penalty=0.1, initial_logit=0.7)
    one, other = (
        search.init(jax.random.key(seed), ticket).gated.logits["w"] for seed in (0, 1)
    )
    assert (one != other).mean() > 0.99
    np.testing.assert_allclose(one.mean(), 0.7, atol=5 * 0.01 / np.sqrt(one.size))
    np.testing.assert_allclose(one.std(), 0.01, rtol=0.03)


@pytest.mark.parametrize(("penalty", "bound"), [(1e6, 1e-2), (-1e6, 1e2)])
def test_l0_logits_stay_between_bounds(penalty, bound):
    search = l0(optax.sgd(1.0), penalty=jnp.float32(penalty))
    state = opened(search)
    still = jax.tree.map(jnp.zeros_like, toy.ticket().weights)
    state = search.update(still, state, 0)
    for leaf in jax.tree.leaves(state.gated.logits):
        np.testing.assert_allclose(leaf, np.log(bound), rtol=1e-6)


@pytest.mark.parametrize("weights", ["anchor", "trained"])
def test_an_l0_ticket_has_the_gates_of_a_test(weights):
    """`z = 1.2 sigmoid(a) - 0.1`, clipped: 0 up to `log(1 / 11)`, 1 from `log 11`."""
    search = l0(optax.sgd(0.1), penalty=0.1, weights=weights)
    for odds, z in ((1 / 12, 0), (1 / 10, 0.1 / 11), (1, 0.5), (3, 0.8), (12, 1)):
        found = search.ticket(opened(search, np.log(odds)))
        assert masks.count(found.mask) == (54 if z else 0)
        for name in KERNELS:
            expected = 1 if weights == "anchor" else z
            np.testing.assert_allclose(
                found.weights[name]["kernel"], expected, atol=1e-6
            )
            assert (found.weights[name]["bias"] == 1).all()
