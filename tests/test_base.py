"""The bridge to optax."""

import cases
import jax
import numpy as np
import optax
import pytest
import toy
from cases import CASES, ROUNDS, STEPS, assert_same, at

from jaxticket import as_optax, fixed

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("fixed-adamw", 1),
        ("imp-rewind-2", ROUNDS),
        ("imp-finetune-0", ROUNDS),
        ("imp-random", 2),
        ("cs-paper-scaled", 1),
        ("cs-rewind-2", ROUNDS),
        ("iss", ROUNDS),
        ("gradual", ROUNDS),
        ("soft-threshold", 1),
    ],
)
def test_as_optax_follows_the_native_loop_and_keeps_its_last_ticket(name, rounds):
    search, (key, ticket) = CASES[name].make(), cases.start(0)
    bridge = as_optax(search, ticket, key, rounds=rounds, round_steps=STEPS)

    def step(loop, _):
        params, state = loop
        updates, state = bridge.update(cases.gradient(params), state, params)
        return (optax.apply_updates(params, updates), state), params

    params = search.params(search.init(key, ticket))
    (params, state), path = jax.lax.scan(
        step, (params, bridge.init(params)), length=rounds * STEPS
    )

    _, native, tickets = cases.story(name)
    before = jax.tree.map(lambda x: np.concatenate(x[0, :rounds, :STEPS]), native)
    last = 0, rounds - 1, STEPS
    assert_same(path, before, rtol=1e-10)
    assert_same(params, at(native, *last), rtol=1e-10)
    assert_same(search.ticket(state.search), at(tickets, *last), rtol=1e-10)


@pytest.mark.parametrize(
    "options", [{"rounds": 0}, {"rounds": 2}, {"rounds": 2, "round_steps": 0}], ids=str
)
def test_as_optax_refuses_rounds_without_steps(options):
    with pytest.raises(ValueError, match=f"got rounds={options['rounds']}"):
        as_optax(fixed(cases.ADAMW), toy.ticket(), jax.random.key(0), **options)


def test_as_optax_needs_params():
    bridge = as_optax(fixed(cases.ADAMW), toy.ticket(), jax.random.key(0))
    weights = toy.ticket().weights
    with pytest.raises(ValueError, match="needs params"):
        bridge.update(weights, bridge.init(weights))
