"""Whole searches and stretches of them as functions of what a program may batch."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from cases import METHODS, ROWS, STEPS

from jaxticket import Search, hyperparameters, run, training

BATCH, EPOCHS, REWIND = 12, 2, 1
PER_EPOCH = ROWS // BATCH
assert EPOCHS * PER_EPOCH == STEPS

each_method = pytest.mark.parametrize("name", METHODS)


def noisy(params, model_state, batch, key):
    """The toy loss with noise in what the network sees."""
    x = batch["x"] * jax.random.uniform(key)
    return cases.loss(params, model_state, {**batch, "x": x}, None)


def search_of(name, **numbers) -> Search:
    """The case of a method, rewinding to a step where it can."""
    make = METHODS[name].make
    if "rewind_step" in hyperparameters.arguments(make):
        numbers["rewind_step"] = REWIND
    return make(**numbers)


def settings(name):
    """The numbers of a method in two lanes: its own, and others near them."""
    near = {n: (x, 0.9 * x) for n, x in cases.numbers(name).items()}
    return {n: np.float32(pair) for n, pair in near.items()}


def whole(name, loss=noisy, rounds=2, epochs=EPOCHS):
    """`(key, ticket, numbers) -> result` of a whole search."""
    return lambda key, ticket, numbers: run(
        search_of(name, **numbers),
        loss,
        key,
        ticket,
        cases.data(),
        rounds=rounds,
        epochs=epochs,
        batch_size=BATCH,
        evidence=cases.evidence,
    )


def stretch(search):
    """`(carry, key, first, last, round) -> (carry, loss)` of a stretch."""

    def take(carry, key, first, last, round):
        carry, loss, _ = training.steps(
            search,
            noisy,
            carry,
            key,
            cases.data(),
            first=first,
            last=last,
            round=round,
            batch_size=BATCH,
        )
        return carry, loss

    return take


def lane(seed):
    """A key, and a full ticket with a model state."""
    ticket = toy.ticket(seed)._replace(model_state={"seen": jnp.int32(0)})
    return jax.random.key(seed), ticket


def side_by_side(trees):
    """Trees as one with a leading axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)
