"""Optimisers that need the loss get it, and those that move a part move only that."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from cases import METHODS, STEPS, assert_same

from jaxticket import (
    Ticket,
    as_optax,
    continuous_sparsification,
    fixed,
    imp,
    masks,
    run,
    training,
)

KEY = jax.random.key(0)


def told(name="value"):
    """An optimiser that moves nothing and notes what it is told."""

    def update(grads, state, params=None, **known):
        note = known.get(name, -1.0)
        note = note(params) if callable(note) else note
        return jax.tree.map(jnp.zeros_like, grads), jnp.float32(note)

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)


def loss_of(params):
    return cases.loss(params, cases.UNSEEN, cases.data(), None)[0]


def noted(state):
    """What the optimiser of a state has noted."""
    while not hasattr(state, "optimizer"):
        state = state.training
    return state.optimizer


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("what", ["value", "value_fn"])
def test_every_search_tells_its_optimiser_of_the_loss(name, what):
    """As a function of what is trained, with what the search adds to it."""
    search = METHODS[name].make(optimizer=told(what))
    state = search.init(KEY, toy.ticket(lost=6))
    params = search.params(state)
    known = {"value": loss_of(params), "value_fn": loss_of}
    after = search.update(cases.gradient(params), state, 1, **known)
    found = noted(after)
    if what == "value_fn" and name in ("edge_popup", "jackpot", "supermask", "dnw"):
        assert found == -1  # a mask that jumps has no line to search along
        return
    added = found - loss_of(params)
    added_to = ("continuous_sparsification", "factored", "iss", "l0", "slimming")
    penalised = name in added_to
    assert added > 1e-4 if penalised else abs(added) < 1e-5
    assert noted(search.update(params, state, 1)) == -1


def test_the_penalty_is_part_of_the_loss_that_is_told():
    search = continuous_sparsification(
        told(), temperature=lambda step: 2.0, penalty=0.1, scaling=False
    )
    state = search.init(KEY, toy.ticket())
    state = search.update(toy.ticket().weights, state, 0, value=jnp.float32(3.0))
    np.testing.assert_allclose(state.optimizer, 3 + 0.1 * 54 / 2, rtol=1e-6)


PLATEAU = optax.chain(
    optax.adam(0.05), optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
)


def test_a_rate_falls_on_a_plateau_as_in_optax():
    ticket = toy.ticket()

    @toy.hurried
    def ours(ticket):
        search = fixed(PLATEAU)
        result = run(
            search,
            cases.loss,
            KEY,
            ticket._replace(model_state={"seen": jnp.int32(0)}),
            cases.data(),
            rounds=1,
            epochs=40,
            batch_size=cases.ROWS,
        )
        return result.carry.search

    @toy.hurried
    def theirs(params):
        def step(_, loop):
            params, state = loop
            value, grads = jax.value_and_grad(loss_of)(params)
            updates, state = PLATEAU.update(grads, state, params, value=value)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 40, step, (params, PLATEAU.init(params)))

    found, (params, state) = ours(ticket), theirs(ticket.weights)
    assert found.optimizer[1].scale == state[1].scale
    assert_same(found.weights, params, rtol=1e-4)
    # Through `as_optax` too, in a loop that hands the loss to what it knows.
    optimizer = as_optax(fixed(PLATEAU), ticket, KEY)
    chained = optax.chain(optax.clip(10.0), optimizer)
    state, params = chained.init(ticket.weights), ticket.weights
    value = jnp.float32(1.0)
    for _ in range(3):
        updates, state = chained.update(
            cases.gradient(params), state, params, value=value
        )
    assert state[1].search.optimizer[1].scale == 0.25


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(9)),
    ],
    ids=["lbfgs", "backtracking"],
)
@pytest.mark.parametrize("lost", [0, 6])
def test_line_searches_run_under_a_mask(optimizer, lost):
    """With a full mask they are the optimiser itself."""
    ticket = toy.ticket(lost=lost)._replace(model_state={"seen": jnp.int32(0)})

    @toy.hurried
    def ours(ticket):
        return run(
            fixed(optimizer),
            cases.loss,
            KEY,
            ticket,
            cases.data(),
            rounds=1,
            epochs=8,
            batch_size=cases.ROWS,
        )

    @toy.hurried
    def theirs(params):
        def step(_, loop):
            params, state = loop
            value, grads = jax.value_and_grad(loss_of)(params)
            updates, state = optimizer.update(
                grads, state, params, value=value, grad=grads, value_fn=loss_of
            )
            return optax.apply_updates(params, updates), state

        start = params, optimizer.init(params)
        return jax.lax.fori_loop(0, 8, step, start)[0]

    found = ours(ticket)
    weights = found.carry.search.weights
    assert (jnp.diff(found.losses[0]) < 0).all()
    if lost:
        gone = jax.tree.map(lambda m: ~m, ticket.mask)
        left = masks.prunable_like(weights, gone)
        assert all(
            (w[g] == 0).all()
            for w, g in zip(jax.tree.leaves(left), jax.tree.leaves(gone), strict=True)
        )
    else:
        expected = loss_of(theirs(ticket.weights))
        np.testing.assert_allclose(loss_of(weights), expected, rtol=0.02)


def test_an_optimiser_that_takes_the_step_alone_is_told_no_more():
    strict = optax.GradientTransformationExtraArgs(
        lambda params: jnp.int32(0),
        lambda grads, state, params, *, step: (grads, jnp.int32(step)),
    )
    carry = training.start(
        fixed(strict), KEY, toy.ticket()._replace(model_state={"seen": jnp.int32(0)})
    )
    carry, *_ = toy.hurried(
        lambda carry: training.steps(
            fixed(strict),
            cases.loss,
            carry,
            KEY,
            cases.data(),
            first=0,
            last=3,
            round=0,
            batch_size=13,
        )
    )(carry)
    assert carry.search.optimizer == 2


# Leaves that stay as they are.


def low_rank(params, x):
    """A frozen base with adapters: `x (w + a b)`."""
    for layer in ("dense", "head"):
        base, pair = params["base"][layer], params["low_rank"][layer]
        kernel = base["kernel"] + pair["a"] @ pair["b"]
        x = jnp.tanh(x @ kernel + base["bias"][None])
    return x


@pytest.mark.parametrize("rewind_step", [0, 2])
def test_the_base_under_adapters_stays_and_only_adapters_are_pruned(rewind_step):
    """In rounds too, under weight decay and momentum: bit for bit."""
    base = toy.init(KEY)
    pairs = {
        layer: {
            "a": jax.random.normal(KEY, (len(base[layer]["kernel"]), 2)),
            "b": jnp.zeros((2, len(base[layer]["bias"]))),
        }
        for layer in base
    }
    weights = {"base": base, "low_rank": pairs}
    mask = masks.only(
        masks.full(weights), lambda path, _: masks.name(path).startswith("low_rank")
    )
    assert masks.size(mask) == 2 * (5 + 6 + 6 + 4)

    labels = {"base": True, "low_rank": False}
    optimizer = optax.partition({True: optax.set_to_zero(), False: cases.ADAMW}, labels)
    search = imp(optimizer, density=0.5, select="equal", rewind_step=rewind_step)

    def loss_fn(params, model_state, batch, key):
        error = low_rank(params, batch["x"]) - batch["y"]
        return jnp.mean(error**2), model_state

    result = toy.hurried(
        lambda ticket: run(
            search,
            loss_fn,
            KEY,
            ticket,
            cases.data(),
            rounds=2,
            epochs=STEPS,
            batch_size=cases.ROWS,
            record=lambda state, _: search.params(state),
        )
    )(Ticket(weights, mask))
    for epoch in np.ndindex(2, STEPS):
        assert_same(cases.at(result.records["base"], *epoch), base)
    assert_same(result.ticket.weights["base"], base)
    assert masks.density(result.ticket.mask) == 0.5
    moved = cases.at(result.records["low_rank"], 1, -1)
    assert all(
        (new != old).any()
        for new, old in zip(jax.tree.leaves(moved), jax.tree.leaves(pairs), strict=True)
    )
