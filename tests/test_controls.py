"""Controls: what changes, what must not, and that chance is chance."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxticket import Ticket, audit, controls, masks, starts

every = pytest.mark.parametrize("name", controls.__all__)


def control(name, seed=5):
    """A control of a ticket that has a model state."""
    return apply(name)(jax.random.key(seed), given())


def apply(name):
    return lambda key, ticket: getattr(controls, name)(key, ticket, toy.network)


def given():
    return toy.ticket(lost=9)._replace(model_state={"mean": jnp.arange(6.0)})


def leaves_equal(tree, other):
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return [bool((a == b).all()) for a, b in pairs]


@every
def test_a_control_differs_from_its_ticket_as_it_says_and_nowhere_else(name):
    ticket, found, by = given(), control(name), getattr(controls, name).differs_by
    masks.check(found.mask, found.weights)
    audit.differs("here", found, ticket, by=by)
    same_weights, same_mask = by in ("mask", "order"), by in ("weights", "order")
    assert set(leaves_equal(found.weights, ticket.weights)) == {same_weights}
    assert set(leaves_equal(found.mask, ticket.mask)) == {same_mask}
    assert masks.layer_counts(found.mask) == masks.layer_counts(ticket.mask)
    types = [jax.tree.map(lambda x: (x.shape, x.dtype), t) for t in (found, ticket)]
    assert types[0] == types[1]


def test_each_way_to_differ_has_a_control():
    differences = [getattr(controls, name).differs_by for name in controls.__all__]
    assert {*differences} == {"weights", "mask", "both", "order"}


@every
def test_the_model_state_is_that_of_the_weights(name):
    found, draws = control(name), jax.random.key(5)
    if getattr(controls, name).differs_by in ("mask", "order"):
        assert found.model_state is not None
        assert all(leaves_equal(found.model_state, given().model_state))
        return
    if name == "random":
        _, draws = jax.random.split(draws)
    assert all(leaves_equal((found.weights, found.model_state), toy.network(draws)))


def test_reinitialised_weights_are_drawn_from_the_key_and_not_permuted():
    pairs = map(jax.tree.leaves, (control("reinitialise").weights, given().weights))
    for new, old in zip(*pairs, strict=True):
        assert not np.isin(new, old).any()


@every
def test_controls_come_from_their_key(name):
    one, again, other = (control(name, seed) for seed in (5, 5, 6))
    assert all(leaves_equal(one, again))
    by = getattr(controls, name).differs_by
    parts = {"both": ("weights", "mask"), "order": ()}.get(by, (by,))
    for part in parts:
        assert not any(leaves_equal(getattr(one, part), getattr(other, part)))


def test_controls_of_one_key_differ_from_each_other():
    drawn = [
        control(name)
        for name in controls.__all__
        if getattr(controls, name).differs_by in ("weights", "both")
    ]
    for one, other in itertools.combinations(drawn, 2):
        assert not any(leaves_equal(one.weights, other.weights))


@every
def test_controls_under_vmap(name):
    keys = jax.random.split(jax.random.key(0), 3)
    mapped = toy.hurried(jax.vmap(apply(name), (0, None), 0))(keys, given())
    alone = toy.hurried(apply(name))
    for i, key in enumerate(keys):
        one = jax.tree.map(lambda x, i=i: x[i], mapped)
        assert all(leaves_equal(one, alone(key, given())))


@pytest.fixture(scope="module")
def shuffled():
    """Two layers of 12 weights with 4 and 3 kept, shuffled 4000 times: `[4000, 12]`."""
    mask = {"a": jnp.arange(12).reshape(3, 4) < 4, "b": jnp.arange(12) % 4 == 0}
    ticket = Ticket(jax.tree.map(lambda m: m.astype(jnp.float32), mask), mask)
    keys = jax.random.split(jax.random.key(0), 4000)
    many = toy.hurried(jax.vmap(controls.shuffle, (0, None)))(keys, ticket).mask
    return {name: np.asarray(m).reshape(4000, 12) for name, m in many.items()}


@pytest.mark.parametrize(("name", "kept"), [("a", 4), ("b", 3)])
def test_a_shuffle_is_uniform(shuffled, name, kept):
    """Every place, and every pair of places, is kept as often as chance has it."""
    found = shuffled[name]
    assert (found.sum(1) == kept).all()
    one, two = kept / 12, kept * (kept - 1) / (12 * 11)
    together = np.einsum("ni,nj->ij", found, found, dtype=float)
    expected = 4000 * (np.eye(12) * one + (1 - np.eye(12)) * two)
    share = expected / 4000
    score = (together - expected) / np.sqrt(expected * (1 - share))
    assert np.abs(score).max() < 4.5  # of 78 different normal numbers
    assert 0.5 < np.mean(score[np.triu_indices(12)] ** 2) < 1.5


def test_layers_are_shuffled_independently(shuffled):
    """Masks of chance overlap by each other's density."""
    a, b = shuffled["a"], shuffled["b"]
    overlap = (a & b).sum(1) / 4
    error = np.std(overlap) / np.sqrt(len(overlap))
    assert abs(overlap.mean() - 3 / 12) < 4 * error


def test_overlap_with_the_ticket_is_that_of_chance():
    ticket = toy.ticket(lost=9)  # 21 of 30 and 15 of 24 are kept
    keys = jax.random.split(jax.random.key(1), 500)

    def measured(key, ticket):
        return masks.overlap(controls.shuffle(key, ticket).mask, ticket.mask)

    overlap = toy.hurried(jax.vmap(measured, (0, None)))(keys, ticket)
    chance = (21**2 / 30 + 15**2 / 24) / 36
    assert abs(np.mean(overlap) - chance) < 4 * np.std(overlap) / np.sqrt(500)


def test_a_shuffle_of_a_full_or_empty_layer_changes_nothing():
    for lost in (0, 30):
        ticket = toy.ticket(lost=lost)
        assert all(leaves_equal(controls.shuffle(jax.random.key(0), ticket), ticket))


# Other values of the same signs.

NET = {"conv": (3, 3, 4, 8), "same": (3, 3, 4, 8), "dense": (5, 6), "bias": (6,)}
FANS = {"conv": 36, "same": 36, "dense": 5}


def net(dtype=jnp.float32):
    """Kernels of mean 1 and deviation 2, a zero among them, and what is not pruned."""
    rng = np.random.default_rng(0)
    weights = {n: jnp.asarray(rng.normal(1, 2, s), dtype) for n, s in NET.items()}
    weights["dense"] = weights["dense"].at[0, 0].set(0)
    mask = masks.full(weights)
    return Ticket(weights, mask | {"conv": weights["conv"] > 1})


def deviations(ticket):
    """Over the whole layer, what is pruned included; of the population."""
    return {n: np.std(np.asarray(ticket.weights[n], np.float64)) for n in FANS}


def kaiming(density=1.0):
    return {n: np.sqrt(2) / np.sqrt(density * fan) for n, fan in FANS.items()}


def test_starts_change_values_alone():
    """All that are listed: of new values, none of the old, and all else as it was."""
    ticket = net()._replace(model_state={"mean": jnp.ones(3)})
    for name in filter(lambda name: hasattr(controls, name), starts.__all__):
        start = getattr(controls, name)
        takes_key = "key" in inspect.signature(start).parameters
        found = start(*[jax.random.key(0)] * takes_key, ticket)
        audit.differs(name, found, ticket, by="weights")
        assert found.model_state is ticket.model_state
        bias, *kernels = leaves_equal(found.weights, ticket.weights)
        assert bias
        assert not any(kernels)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("control", "constants"),
    [
        (controls.signed_constant, deviations),
        (controls.kaiming_constant, lambda _: kaiming()),
        (lambda t: controls.kaiming_constant(t, density=0.3), lambda _: kaiming(0.3)),
    ],
    ids=["deviation", "kaiming", "scaled"],
)
def test_signed_constants(control, constants, dtype):
    ticket = net(dtype)
    found = toy.hurried(control)(ticket)
    for n, constant in constants(ticket).items():
        expected = np.sign(np.asarray(ticket.weights[n], np.float64)) * constant
        assert found.weights[n].dtype == dtype
        assert not found.weights[n].weak_type
        rtol = 1e-6 if dtype == "float32" else 1e-2
        np.testing.assert_allclose(
            np.asarray(found.weights[n], np.float64), expected, rtol=rtol
        )
        np.testing.assert_array_equal(found.mask[n], ticket.mask[n])
    np.testing.assert_array_equal(found.weights["bias"], ticket.weights["bias"])
    assert found.mask["bias"] is None


def test_kaiming_normal_weights_are_a_new_draw():
    """Not a permutation of the old, not twice the same, and of the right deviation."""
    ticket, key = net(), jax.random.key(3)
    found = controls.kaiming_normal(key, ticket, density=0.5)
    for n, deviation in kaiming(0.5).items():
        w = np.asarray(found.weights[n], np.float64)
        assert found.weights[n].dtype == jnp.float32
        assert np.isin(w, ticket.weights[n]).mean() < 0.01
        # Four deviations of a mean and of a variance of normal numbers.
        assert abs(w.mean()) < 4 * deviation / np.sqrt(w.size)
        assert abs(w.var() / deviation**2 - 1) < 4 * np.sqrt(2 / w.size)
    assert np.isin(found.weights["conv"], found.weights["same"]).mean() < 0.01
    assert found.weights["bias"] is ticket.weights["bias"]
    assert all(leaves_equal(found.mask, ticket.mask))
    other = controls.kaiming_normal(jax.random.key(4), ticket, density=0.5)
    assert np.isin(found.weights["conv"], other.weights["conv"]).mean() < 0.01
    again = controls.kaiming_normal(key, ticket)  # the density is a factor only
    np.testing.assert_allclose(
        found.weights["conv"], again.weights["conv"] * np.sqrt(2), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["kaiming_constant", "kaiming_normal"])
def test_kaiming_densities_are_mapped_and_checked(name):
    control = getattr(controls, name)
    if name == "kaiming_normal":
        control = functools.partial(control, jax.random.key(0))
    densities = np.array([0.2, 1.0], np.float32)
    mapped = toy.hurried(jax.vmap(lambda density: control(net(), density=density)))(
        densities
    )
    for i, density in enumerate(densities.tolist()):
        one = control(net(), density=density).weights["conv"]
        np.testing.assert_allclose(mapped.weights["conv"][i], one, rtol=1e-6)
