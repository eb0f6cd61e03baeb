"""Controls: what changes, what must not, and that chance is chance."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxticket import Ticket, audit, controls, masks

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


def kernels(ticket):
    """The weights that can be pruned."""
    return masks.prunable_like(ticket.weights, ticket.mask)


@every
def test_a_control_differs_from_its_ticket_as_it_says_and_nowhere_else(name):
    ticket, found, by = given(), control(name), controls.differs_by(name)
    masks.check(found.mask, found.weights)
    audit.differs("here", found, ticket, by=by)
    same_weights, same_mask = (
        by in ("mask", "order", "pruned"),
        by in ("weights", "order", "pruned"),
    )
    assert set(leaves_equal(kernels(found), kernels(ticket))) == {same_weights}
    assert set(leaves_equal(found.mask, ticket.mask)) == {same_mask}
    assert masks.layer_counts(found.mask) == masks.layer_counts(ticket.mask)
    types = [jax.tree.map(lambda x: (x.shape, x.dtype), t) for t in (found, ticket)]
    assert types[0] == types[1]


def test_each_way_to_differ_has_a_control():
    differences = [controls.differs_by(name) for name in controls.__all__]
    assert {*differences} == {"weights", "mask", "both", "order", "pruned"}


@every
def test_the_model_state_is_that_of_the_weights(name):
    found, draws = control(name), jax.random.key(5)
    if name not in ("reinitialise", "random"):  # which draw it
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
    by = controls.differs_by(name) if name != "signed_constant" else "order"
    parts = {"both": ("weights", "mask"), "order": (), "pruned": ()}.get(by, (by,))
    for part in parts:
        read = {"weights": kernels, "mask": lambda ticket: ticket.mask}[part]
        assert not any(leaves_equal(read(one), read(other)))


def test_controls_of_one_key_differ_from_each_other():
    drawn = [
        control(name)
        for name in controls.__all__
        if controls.differs_by(name) in ("weights", "both")
    ]
    for one, other in itertools.combinations(drawn, 2):
        assert not any(leaves_equal(kernels(one), kernels(other)))


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
