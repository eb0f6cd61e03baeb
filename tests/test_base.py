"""The bridge to optax."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from cases import CASES, ROUNDS, STEPS, assert_same, at

from jaxticket import as_optax, fixed

pytestmark = pytest.mark.usefixtures("x64")


@functools.cache
def followed(name, rounds):
    """By `as_optax`: the parameters before and after every step, and the ticket."""
    search, (key, ticket) = CASES[name].make(), cases.start(0)
    bridge = as_optax(search, ticket, key, rounds=rounds, round_steps=STEPS)

    def step(loop, _):
        params, state = loop
        updates, state = bridge.update(cases.gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params = search.params(search.init(key, ticket))
    (_, state), path = jax.lax.scan(
        step, (params, bridge.init(params)), length=rounds * STEPS
    )
    path = jax.tree.map(lambda p, ps: jnp.concatenate([p[None], ps]), params, path)
    return path, search.ticket(state.search)


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("fixed-adamw", 1),
        ("imp-rewind-2", ROUNDS),
        ("imp-finetune-0", ROUNDS),
        ("imp-random", 2),
        ("cs-paper-scaled", 1),
        ("cs-rewind-2", ROUNDS),
    ],
)
def test_as_optax_follows_the_native_loop(name, rounds):
    path, ticket = followed(name, rounds)
    _, params, native = cases.story(name)
    expected = jax.tree.map(
        lambda x: np.concatenate(
            [*x[0, :rounds, :STEPS], x[0, rounds - 1, STEPS:]], axis=0
        ),
        params,
    )
    assert_same(path, expected, rtol=1e-10)
    assert_same(ticket, at(native, 0, rounds - 1, STEPS), rtol=1e-10)


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
