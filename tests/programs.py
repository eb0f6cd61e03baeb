"""Whole searches and stretches of them as functions of what a program may batch."""

import cases
import jax
import jax.numpy as jnp
import optax
import pytest
import toy

from jaxticket import (
    continuous_sparsification,
    edge_popup,
    fixed,
    gradual,
    imp,
    iss,
    run,
    schedules,
    training,
)

BATCH, EPOCHS, REWIND = 8, 2, 2
PER_EPOCH = cases.ROWS // BATCH
TOTAL = EPOCHS * PER_EPOCH


def noisy(params, model_state, batch, key):
    """The toy loss with noise in what the network sees."""
    x = batch["x"] * jax.random.uniform(key)
    return cases.loss(params, model_state, {**batch, "x": x}, None)


def pruning(density, **options):
    return imp(cases.MOMENTUM, density=density, rewind_step=REWIND, **options)


def gating(logit, penalty):
    return continuous_sparsification(
        cases.GATED,
        temperature=schedules.temperature(20.0, TOTAL),
        initial_logit=logit,
        penalty=penalty,
        rewind_step=REWIND,
    )


def drawing(logit, penalty):
    return iss(cases.GATED, initial_logit=logit, penalty=penalty, rewind_step=REWIND)


def thinning(density):
    return gradual(cases.MOMENTUM, final_density=density, start=0, stop=4, every=2)


def popping(density):
    return edge_popup(cases.MOMENTUM, density=density)


# Name -> a search of some numbers, and two settings of these.
FAMILIES = {
    "fixed": (lambda rate: fixed(optax.sgd(rate)), [(0.1,), (0.01,)]),
    "imp": (pruning, [(0.8,), (0.4,)]),
    "cs": (gating, [(0.1, 0.0), (-0.05, 0.003)]),
    "iss": (drawing, [(0.1, 0.0), (-0.05, 0.003)]),
    "gradual": (thinning, [(0.8,), (0.4,)]),
    "edge_popup": (popping, [(0.8,), (0.4,)]),
}
families = pytest.mark.parametrize("name", FAMILIES)
searching = pytest.mark.parametrize(
    "name", ["imp", "cs", "iss", "gradual", "edge_popup"]
)


def whole(name, loss=noisy, rounds=2, epochs=EPOCHS):
    """`(key, ticket, numbers) -> result` of a whole search."""
    make, _ = FAMILIES[name]
    return lambda key, ticket, numbers: run(
        make(*numbers),
        loss,
        key,
        ticket,
        cases.data(),
        rounds=rounds,
        epochs=epochs,
        batch_size=BATCH,
    )


def stretch(search):
    """`(carry, key, first, last, round) -> (carry, loss, ())` of a stretch."""
    return lambda carry, key, first, last, round: training.steps(
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


def lane(seed):
    """A key and a full ticket."""
    return jax.random.key(seed), toy.ticket(seed)._replace(model_state=cases.UNSEEN)


def side_by_side(trees):
    """Trees as one with a leading axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)
