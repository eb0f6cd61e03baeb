"""Lanes: the same numbers on any devices, and nothing said between them."""

import functools
import re

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS, STEPS, assert_same, at
from programs import (
    lane,
    search_of,
    side_by_side,
    stretch,
    whole,
)

from jaxticket import training
from jaxticket.engine import lanes

# With every optimisation: without them no layout changes a bit, even where
# `lanes.SAME_BITS` is left out.
pytestmark = pytest.mark.usefixtures("short_shuffles")


def told(name):
    """`(key, ticket) -> story` of a method: all moves and views, on the full batch."""
    return lambda key, ticket: cases.told(METHODS[name], key, ticket, jnp.bool_(False))


def ran(key, ticket):
    """A whole run, with the order of its batches and noise."""
    return whole("imp")(key, ticket, {})


@functools.cache
def spread(search, devices, turns=1, width=2):
    """A search in `width` lanes on each device: the layout and the compiled program."""
    layout = lanes.layout(width, jax.devices()[:devices], turns=turns)
    program = lanes.mapped(
        layout, ran if search == "run" else told(search), (True, True)
    )
    starts = jax.eval_shape(lambda: side_by_side([lane(0)] * layout.width))
    return layout, program.lower(*starts).compile()


def on(program, seeds):
    return jax.device_get(program(*side_by_side(map(lane, seeds))))


@pytest.mark.parametrize("search", [*METHODS, "run"])
def test_a_seed_is_the_same_bits_on_any_devices_beside_any_seeds(search):
    _, program = spread(search, 4)
    expected = on(program, range(8))
    for devices in (1, 4):
        layout, program = spread(search, devices)
        for group in lanes.groups([6, 3, 1], layout.width):
            found = on(program, group)
            for position, seed in enumerate(group):
                assert_same(at(found, position), at(expected, seed))


@pytest.mark.parametrize(("search", "width"), [("run", 2), ("l0", 1)])
def test_turns_and_devices_stand_in_for_each_other(search, width):
    layout, program = spread(search, 2, 2, width)
    expected = on(program, range(layout.width))
    for devices, turns in ((4, 1), (1, 4)):
        _, program = spread(search, devices, turns, width)
        found = on(program, range(layout.width))
        for seed in range(layout.width):
            assert_same(at(found, seed), at(expected, seed))


def test_one_lane_has_no_batch_axis():
    layout = lanes.layout(1, jax.devices()[:2])
    product = lanes.mapped(layout, lambda x, y: x @ y, (True, False))
    x, y = np.ones((2, 3, 4), np.float32), np.ones((4, 5), np.float32)
    text = product.lower(x, y).as_text()
    assert re.search(r"dot_general.*\(tensor<3x4xf32>, tensor<4x5xf32>\)", text)
    np.testing.assert_array_equal(product(x, y), np.full((2, 3, 5), 4.0))


@pytest.mark.parametrize(("per_device", "turns"), [(0, 1), (1, 0)])
def test_no_lanes_are_refused(per_device, turns):
    with pytest.raises(ValueError, match="must be at least 1"):
        lanes.layout(per_device, turns=turns)


@pytest.mark.parametrize("search", [*METHODS, "run"])
def test_devices_do_not_talk(search):
    _, program = spread(search, 4)
    text = program.as_text()
    assert "num_partitions=4" in text
    assert not re.search(r"all-|collective|reduce-scatter|send|recv", text)


def test_what_a_search_starts_from_outlives_donated_carries():
    search, layout = search_of("imp"), lanes.layout(2, jax.devices()[:1])
    start = lanes.mapped(layout, functools.partial(training.start, search), (True,) * 2)
    batched = (True, True, False, False, False)
    take = lanes.mapped(layout, stretch(search), batched, donate=(0,))
    next_round = functools.partial(training.next_round, search)
    advance = lanes.mapped(layout, next_round, (True,), donate=(0,))

    def starts():
        return side_by_side([lane(seed) for seed in (0, 1)])

    given = starts()
    carry, _ = take(start(*given), given[0], 0, STEPS, 0)
    take(advance(carry), given[0], 0, STEPS, 1)
    assert_same(given, starts())
