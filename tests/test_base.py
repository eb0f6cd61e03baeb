"""The bridge to optax."""

import cases
import jax
import numpy as np
import optax
import pytest
import toy
from cases import CASES, METHODS, ROUNDS, STEPS, assert_same, at

from jaxticket import as_optax, fixed, masks

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("name", METHODS)
def test_as_optax_follows_the_native_loop_and_keeps_its_last_ticket(name):
    search, (key, ticket) = CASES[name].make(), cases.start(0)
    rounds = ROUNDS if search.promises.rounds else 1
    bridge = as_optax(
        search,
        ticket,
        key,
        rounds=rounds,
        round_steps=STEPS,
        evidence=cases.evidence(),
    )

    def step(loop, _):
        params, state = loop
        updates, state = bridge.update(cases.gradient(params), state, params)
        return (optax.apply_updates(params, updates), state), params

    @toy.hurried
    def looped(params):
        opened = params, bridge.init(params)
        last, path = jax.lax.scan(step, opened, length=rounds * STEPS)
        return *last, path, search.ticket(last[1].search)

    params, _, path, found = looped(search.params(search.init(key, ticket)))
    _, native, tickets = cases.story(name)
    before = jax.tree.map(lambda x: np.concatenate(x[0, :rounds, :STEPS]), native)
    last = 0, rounds - 1, STEPS
    assert_same(path, before, rtol=1e-10)
    assert_same(params, at(native, *last), rtol=1e-10)
    assert_same(found, at(tickets, *last), rtol=1e-10)
    if search.promises.hard:  # zeros that an optimiser around it could lose
        weights = masks.prunable_like(params, found.mask)
        for w, m in zip(*map(jax.tree.leaves, (weights, found.mask)), strict=True):
            assert not w[~m].any()
            assert w[m].any()  # not all: what has just grown is zero too


def test_as_optax_needs_params():
    bridge = as_optax(fixed(cases.ADAMW), toy.ticket(), jax.random.key(0))
    weights = toy.ticket().weights
    with pytest.raises(ValueError, match="needs params"):
        bridge.update(weights, bridge.init(weights))
