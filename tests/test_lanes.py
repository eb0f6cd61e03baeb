"""Lanes: the same numbers on any devices, and nothing said between them."""

import functools
import re

import cases
import jax
from cases import assert_same, at
from programs import (
    FAMILIES,
    TOTAL,
    lane,
    pruning,
    searching,
    side_by_side,
    stretch,
    whole,
)

from jaxticket import lanes, training


def spread(name, devices):
    """A whole search in two lanes on each device: the layout and the program."""
    layout = lanes.layout(2, jax.devices()[:devices])
    search, setting = whole(name), FAMILIES[name][1][0]
    program = lanes.mapped(
        layout, lambda key, ticket: search(key, ticket, setting), (True, True)
    )
    return layout, program


def on(program, seeds):
    return jax.device_get(program(*side_by_side(map(lane, seeds))))


@searching
def test_a_seed_is_the_same_bits_on_any_devices_beside_any_seeds(name):
    _, program = spread(name, 4)
    expected = on(program, range(8))
    for devices in (1, 2, 4):
        layout, program = spread(name, devices)
        # XLA may round otherwise in a program for one device; what is drawn stays.
        rtol = 1e-5 if (name, devices) == ("iss", 1) else 0.0
        for group in lanes.groups([6, 3, 1], layout.width):
            found = on(program, group)
            for position, seed in enumerate(group):
                assert_same(at(found, position), at(expected, seed), rtol=rtol)


@searching
def test_devices_do_not_talk(name):
    layout, program = spread(name, 4)
    starts = side_by_side([lane(seed) for seed in range(layout.width)])
    text = program.lower(*starts).compile().as_text()
    assert "num_partitions=4" in text
    assert not re.search(r"all-|collective|reduce-scatter|send|recv", text)


def test_what_a_search_starts_from_outlives_donated_carries():
    search, layout = pruning(0.8), lanes.layout(2, jax.devices()[:1])
    start = lanes.mapped(layout, functools.partial(training.start, search), (True,) * 3)
    batched = (True, True, False, False, False)
    take = lanes.mapped(layout, stretch(search), batched, donate=(0,))
    next_round = functools.partial(training.next_round, search, rewind_model=True)
    advance = lanes.mapped(layout, next_round, (True,), donate=(0,))

    def starts():
        return side_by_side([(*lane(seed), cases.UNSEEN) for seed in (0, 1)])

    given = starts()
    carry, _ = take(start(*given), given[0], 0, TOTAL, 0)
    take(advance(carry), given[0], 0, TOTAL, 1)
    assert_same(given, starts())
