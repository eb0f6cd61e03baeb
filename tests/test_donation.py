"""A search's state is its own: a program may take its memory, and it can be kept."""

import functools

import cases
import jax
import jax.numpy as jnp
import pytest
import toy
from cases import CASES, METHODS, assert_same

from jaxticket import as_optax, files, training

pytestmark = pytest.mark.usefixtures("unoptimised")
every = pytest.mark.parametrize("name", CASES)
each_method = pytest.mark.parametrize("name", METHODS)


def caller():
    """What the caller has: a key, a full ticket, and copies of both in numpy."""
    mine = jax.random.key(3), toy.ticket()
    return mine, jax.tree.map(cases.plain, jax.tree.map(jnp.copy, mine))


def assert_untouched(mine, copy):
    assert_same(jax.tree.map(cases.plain, mine), copy)


def consumed(state):
    """The state after a program that has taken its memory."""
    taken = jax.tree.map(jnp.copy, state)
    move = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), donate_argnums=0)
    kept = move(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert_same(kept, taken)
    return kept


@every
def test_the_state_of_a_search_may_be_donated(name):
    """One that was made as it is, and one of compiled functions."""
    search = CASES[name].make()
    mine, copy = caller()
    step = jax.jit(search.update, donate_argnums=1)
    for maybe in (lambda f: f, jax.jit):
        state = consumed(maybe(search.init)(*mine))
        assert_untouched(mine, copy)
        state = consumed(maybe(lambda s: search.advance(s, cases.evidence()))(state))
        step(cases.gradient(mine[1].weights), state, 0)
        assert_untouched(mine, copy)


@each_method
def test_the_state_of_a_transformation_may_be_donated(name):
    search = METHODS[name].make()
    (key, ticket), copy = caller()
    optimizer = as_optax(search, ticket, key, evidence=cases.evidence())

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        grads = cases.gradient(params)
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    for maybe in (lambda f: f, jax.jit):
        params = jax.tree.map(jnp.copy, ticket.weights)
        step(params, maybe(optimizer.init)(params))
        assert_untouched((key, ticket), copy)
    optimizer.init(ticket.weights)  # again, of what it was made with


@each_method
def test_the_carry_of_a_run_may_be_donated(name):
    search = METHODS[name].make()
    (key, ticket), copy = caller()
    ticket = ticket._replace(model_state={"seen": jnp.int32(0)})
    consumed(training.start(search, key, ticket))
    assert not ticket.model_state["seen"].is_deleted()
    assert_untouched((key, ticket._replace(model_state=None)), copy)


@each_method
def test_the_state_of_a_search_is_kept_in_a_file(name, tmp_path):
    search = METHODS[name].make()
    (key, ticket), _ = caller()
    state = search.init(key, ticket)
    state = search.update(cases.gradient(search.params(state)), state, 0)
    files.save(tmp_path / "state.npz", state, step=1)
    found, about = files.load(tmp_path / "state.npz", state)
    assert_same(found, state)
    assert about == {"step": 1}
    grads = cases.gradient(search.params(state))
    assert_same(search.update(grads, found, 1), search.update(grads, state, 1))
