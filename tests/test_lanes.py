"""Lanes: the same numbers on any devices, and nothing said between them."""

import re

import cases
import jax
import numpy as np
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
        for group in lanes.groups([6, 3, 1], layout.width):
            found = on(program, group)
            for position, seed in enumerate(group):
                assert_same(at(found, position), at(expected, seed))


@searching
def test_devices_do_not_talk(name):
    layout, program = spread(name, 4)
    starts = side_by_side([lane(seed) for seed in range(layout.width)])
    text = program.lower(*starts).compile().as_text()
    assert "num_partitions=4" in text
    assert not re.search(r"all-|collective|reduce-scatter|send|recv", text)


def test_what_a_search_starts_from_outlives_donated_carries():
    search, layout = pruning(0.8), lanes.layout(2, jax.devices()[:1])
    start, take, advance = (
        lanes.mapped(layout, f, batched, donate=donate)
        for f, batched, donate in (
            (lambda *x: training.start(search, *x), (True,) * 3, ()),
            (stretch(search), (True, True, False, False, False), (0,)),
            (
                lambda carry: training.next_round(search, carry, rewind_model=True),
                (True,),
                (0,),
            ),
        )
    )
    given = side_by_side([(*lane(seed), cases.UNSEEN) for seed in (0, 1)])
    before = jax.device_get(given[1:])
    carry, _ = take(start(*given), given[0], 0, TOTAL, 0)
    take(advance(carry), given[0], 0, TOTAL, 1)
    assert_same(jax.device_get(given[1:]), before)
    fresh = jax.tree.map(np.array, side_by_side([lane(seed)[1] for seed in (0, 1)]))
    assert_same(before[0], fresh)
