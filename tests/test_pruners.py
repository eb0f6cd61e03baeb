"""Pruning in one shot and in several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from jaxticket import Evidence, Ticket, masks, prune, scores, searches, selection

pytestmark = pytest.mark.usefixtures("unoptimised")

KEY = jax.random.key(1)


def kernels(tree):
    return np.concatenate([np.ravel(tree[layer]["kernel"]) for layer in toy.SHAPES])


def test_one_shot_keeps_the_largest_of_what_is_left():
    ticket = toy.ticket(lost=4)
    pruned = prune(ticket, scores.magnitude, 0.5)
    alive = kernels(ticket.mask)
    threshold = np.sort(np.abs(kernels(ticket.weights)[alive]))[-23]  # 46 are left
    expected = alive & (np.abs(kernels(ticket.weights)) >= threshold)
    np.testing.assert_array_equal(kernels(pruned.mask), expected)
    assert pruned.weights is ticket.weights
    assert pruned.mask["dense"]["bias"] is None


def test_scores_compare_with_the_initial_weights():
    ticket, initial = toy.ticket(0), toy.ticket(1).weights
    moved = prune(ticket, "movement", 0.5, evidence=Evidence(initial))
    distance = np.abs(kernels(ticket.weights) - kernels(initial))
    kept = distance >= np.sort(distance)[27]
    np.testing.assert_array_equal(kernels(moved.mask), kept)


def test_marks_are_no_mistakes():
    """What is pruned is marked by NaN: programs that look for NaN do not stop there."""
    weights = {"w": jnp.arange(1.0, 33).reshape(8, 4)}
    ticket = prune(Ticket(weights, masks.full(weights)), "magnitude", 0.5)
    with jax.debug_nans(True):
        for options in ({}, {"iterations": 3}, {"select": "two_of_four"}):
            pruned = prune(ticket, "magnitude", 0.5, **options)
            assert 8 <= masks.count(pruned.mask) < 16
        for search in (
            searches.jackpot(optax.sgd(0.1)),
            searches.edge_popup(optax.sgd(0.1), density=0.5),
            searches.dnw(optax.sgd(0.1), density=0.5),
        ):
            search.ticket(search.init(KEY, ticket))
        with pytest.raises(FloatingPointError):
            jnp.log(-1.0)


@pytest.mark.parametrize("name", ["global_top", "erk"])
def test_iterations_are_nested_and_end_at_the_count_of_one_shot(name):
    """Scored at random, so that whatever is not held back would return."""
    ticket = toy.ticket(lost=3)

    @functools.partial(jax.jit, static_argnames="iterations")
    def after(ticket, key, density, iterations):
        known, options = Evidence(key=key), {"select": name, "iterations": iterations}
        return prune(ticket, scores.random, density, evidence=known, **options).mask

    # The first i of n iterations are i iterations at the density in between.
    path = [ticket.mask]
    for done in (1, 3):
        fraction = 0.3 ** (done / 3)
        path.append(after(ticket, KEY, fraction, done))
        assert masks.nested(path[-1], path[-2])
        slack = 0.5 if name == "global_top" else 1.0  # rounded once, or in either layer
        assert abs(masks.count(path[-1]) - 48 * fraction) <= slack + 1e-3
    once = after(ticket, KEY, 0.3, 1)
    assert masks.count(path[-1]) == masks.count(once)
    assert not masks.nested(once, path[-1])  # every iteration draws anew


def test_scores_of_iterations_are_of_the_pruned_weights():
    """The most common sign goes first: a score that changes as weights go."""

    def rarity(weights, evidence):
        negative = sum(jnp.sum(w < 0) for w in jax.tree.leaves(weights))
        positive = sum(jnp.sum(w > 0) for w in jax.tree.leaves(weights))
        sign = jnp.where(negative > positive, 1.0, -1.0)
        return jax.tree.map(lambda w: sign * jnp.sign(w), weights)

    ticket = Ticket([jnp.array([1.0, 1, 1, 1, 1, -1, -1, -1])], [jnp.ones(8, bool)])
    signs = [
        int(np.sum(np.asarray(ticket.weights[0])[pruned.mask[0]] > 0))
        for pruned in (
            prune(ticket, rarity, 0.25, iterations=iterations) for iterations in (1, 8)
        )
    ]
    assert signs == [0, 1]


@pytest.mark.parametrize("value", [jnp.nan, -jnp.inf])
def test_pruned_weights_stay_out_whatever_the_scores(value):
    """The lowest scores there are still go after what is gone."""
    ticket = Ticket([jnp.ones((4, 5))], [jnp.ones((4, 5), bool)])

    def score(weights, evidence):
        """First the last ones lead; once they are alone, all are as bad as can be."""
        order = jnp.arange(20.0).reshape(4, 5)
        return [jnp.where(jnp.all(weights[0] != 0), order, value)]

    pruned = prune(ticket, score, 0.25, iterations=2)
    np.testing.assert_array_equal(np.flatnonzero(pruned.mask[0]), np.arange(10, 15))


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_density_may_be_traced_and_mapped(iterations):
    densities = np.array([0.1, 0.25, 0.5, 1.0], np.float32)
    ticket = toy.ticket()
    mapped = jax.vmap(
        lambda density: prune(ticket, scores.magnitude, density, iterations=iterations)
    )(densities)
    for i, density in enumerate(densities):
        one = prune(ticket, scores.magnitude, float(density), iterations=iterations)
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_array_equal(x[i], y),
            mapped.mask,
            one.mask,
        )


def test_random_pruning_comes_from_its_key():
    ticket = toy.ticket()
    one, again, other = (
        kernels(
            prune(ticket, "random", 0.5, evidence=Evidence(key=jax.random.key(s))).mask
        )
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_scores_and_selections_go_by_name():
    found = prune(toy.ticket(), "small_final", 0.3, select="equal")
    alike = prune(
        toy.ticket(),
        scores.small_final,
        0.3,
        select=selection.per_layer(selection.equal),
    )
    jax.tree.map(np.testing.assert_array_equal, found, alike)
