"""AC/DC against plain numpy, and its published schedule."""

import jax
import numpy as np
import optax
import pytest
from references import (
    KERNELS,
    ROUNDS,
    SHAPES,
    STEPS,
    batch,
    check,
    descend_all,
    draw,
    follow,
    gradient,
    masked,
    ones,
    optimizer,
    some,
)

from jaxticket import Ticket, ac_dc, masks

pytestmark = pytest.mark.usefixtures("x64")


def largest(w, allowed, density):
    """The largest magnitudes of all layers together."""
    sizes = np.concatenate([np.where(allowed[n], np.abs(w[n]), -1) for n in KERNELS],
                           axis=None)  # fmt: skip
    alive = sum(m.sum() for m in allowed.values())
    kept = alive - int(np.floor((1 - density) * alive + 0.5))
    bound = np.sort(sizes)[-kept]
    return {n: allowed[n] & (np.abs(w[n]) >= bound) for n in KERNELS}


@pytest.mark.parametrize("mask", [ones(), some()], ids=["full", "sparse"])
def test_every_step_is_as_published(mask):
    """In a round of 5 steps: whole and compressed by turns of one."""
    w, v, path, tickets = masked(mask, draw()), dict.fromkeys(SHAPES, 0.0), [], []
    allowed, back = mask, 0
    for round_ in range(ROUNDS):
        now = allowed
        for step in range(STEPS + 1):
            if step in (1, 3, 5):
                now = largest(w, allowed, 0.8)
                w = masked(now, w)
            elif step in (2, 4):
                now, v = allowed, dict.fromkeys(SHAPES, 0.0)
            path.append(w)
            if step == STEPS:
                break
            before = w
            g = masked(now, gradient(w, *batch(round_, step)))
            w, v = descend_all(w, g, v, step)
            w = masked(now, w)
            back += sum(np.sum((before[n] == 0) & (w[n] != 0)) for n in KERNELS)
        tickets.append((w, now))
        allowed = now
    search = ac_dc(optimizer(), density=0.8, start=1, phase=1, stop=4, final=5)
    check(follow(search, mask), (path, tickets), rtol=1e-12)
    assert back > 0, "nothing comes back"


def test_the_published_schedule():
    """100 epochs: compressed at 10 to 15, 20 to 25, ..., 70 to 75, and from 85 on."""
    search = ac_dc(optax.sgd(0.0), steps=100, density=0.5)
    weights = {"w": np.arange(1.0, 9.0).reshape(2, 4)}
    state = search.init(jax.random.key(0), Ticket(weights, masks.full(weights)))
    update, counts = jax.jit(search.update), []
    for step in range(100):
        counts.append(int(masks.count(search.ticket(state).mask)))
        state = update(weights, state, step)
    sparse = [e for e in range(100) if e >= 85 or (10 <= e < 75 and e // 5 % 2 == 0)]
    assert [step for step, n in enumerate(counts) if n == 4] == sparse
    assert {*counts} == {4, 8}


@pytest.mark.parametrize(
    "places",
    [
        {"phase": 0}, {"start": 8, "stop": 8}, {"stop": 9, "final": 8}, {"phase": 9},
    ],
)  # fmt: skip
def test_a_schedule_out_of_order_is_refused(places):
    places = {"start": 1, "phase": 2, "stop": 7, "final": 9} | places
    with pytest.raises(ValueError, match="^places must be in the order start, "):
        ac_dc(optax.sgd(0.1), **places)
