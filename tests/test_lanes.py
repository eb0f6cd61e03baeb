"""Lanes: the same numbers on any devices, and nothing said between them.

Searches are compiled as users do, with the emitters that `conftest.HURRY` leaves out
and every optimisation: without these no layout changes a bit, even where
`lanes.SAME_BITS` is left out.
"""

import functools
import re

import jax
import numpy as np
import pytest
from cases import METHODS, STEPS, assert_same, at, data
from programs import BATCH, each_method, lane, noisy, side_by_side, stretch

from jaxticket import run, training
from jaxticket.engine import lanes

AS_USERS = {"xla_cpu_use_fusion_emitters": True}


@functools.cache
def spread(name, devices, turns=1, width=2):
    """A whole search in `width` lanes on each device: the layout and the program."""
    layout = lanes.layout(width, jax.devices()[:devices], turns=turns)
    sizes = {"rounds": 2, "epochs": 2, "batch_size": BATCH}

    def whole(key, ticket):
        return run(METHODS[name].make(), noisy, key, ticket, data(), **sizes)

    program = lanes.mapped(layout, whole, (True, True))
    starts = side_by_side(map(lane, range(layout.width)))
    return layout, program.lower(*starts).compile(AS_USERS)


def on(program, seeds):
    return jax.device_get(program(*side_by_side(map(lane, seeds))))


@each_method
def test_a_seed_is_the_same_bits_on_any_devices_beside_any_seeds(name):
    _, program = spread(name, 4)
    expected = on(program, range(8))
    layout, program = spread(name, 1)
    for group in lanes.groups([6, 3, 1], layout.width):
        found = on(program, group)
        for position, seed in enumerate(group):
            assert_same(at(found, position), at(expected, seed))


@pytest.mark.parametrize("name", ["imp", "iss"])
def test_turns_stand_in_for_devices(name):
    _, program = spread(name, 4)
    expected = on(program, range(8))
    layout, program = spread(name, 2, turns=2)
    assert_same(on(program, range(layout.width)), expected)


def test_one_lane_a_device_is_the_same_bits_however_many_take_turns():
    _, program = spread("imp", 4, width=1)
    expected = on(program, range(4))
    for devices, turns in ((2, 2), (1, 4)):
        _, program = spread("imp", devices, turns, width=1)
        assert_same(on(program, range(4)), expected)


def test_one_lane_has_no_batch_axis():
    layout = lanes.layout(1, jax.devices()[:2])
    product = lanes.mapped(layout, lambda x, y: x @ y, (True, False))
    x, y = np.ones((2, 3, 4), np.float32), np.ones((4, 5), np.float32)
    text = product.lower(x, y).as_text()
    assert re.search(r"dot_general.*\(tensor<3x4xf32>, tensor<4x5xf32>\)", text)
    np.testing.assert_array_equal(product(x, y), np.full((2, 3, 5), 4.0))


@each_method
def test_devices_do_not_talk(name):
    _, program = spread(name, 4)
    text = program.as_text()
    assert "num_partitions=4" in text
    assert not re.search(r"all-|collective|reduce-scatter|send|recv", text)


def test_what_a_search_starts_from_outlives_donated_carries():
    search, layout = METHODS["imp"].make(), lanes.layout(2, jax.devices()[:1])
    start = lanes.mapped(layout, functools.partial(training.start, search), (True,) * 2)
    batched = (True, True, False, False, False)
    take = lanes.mapped(layout, stretch(search), batched, donate=(0,))
    next_round = functools.partial(training.next_round, search)
    advance = lanes.mapped(layout, next_round, (True,), donate=(0,))
    given, again = (side_by_side([lane(seed) for seed in (0, 1)]) for _ in range(2))
    carry, *_ = take(start(*given), given[0], 0, STEPS, 0)
    take(advance(carry), given[0], 0, STEPS, 1)
    assert_same(given, again)
