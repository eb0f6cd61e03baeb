"""Training as the experiments run it: the same searches, losses, steps and layouts."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import arithmetic, measure, tasks
from experiments.benchmarks.bench import Sizes, layout, place
from jaxticket import supervised, training
from jaxticket.engine import lanes, programs


class Program(NamedTuple):
    """A stretch of training, compiled for a layout.

    Attributes:
      start: `(keys, settings) -> carry`.
      stretch: `(carry, keys, settings, data, first, last, round) -> (carry, loss)`;
        donates.
      data: on every device.
      layout: where the lanes are.
    """

    start: Callable
    stretch: Callable
    data: Any
    layout: lanes.Layout


@functools.cache
def program(
    model: str, method: str, *, images: int, batch_size: int, devices: int, width: int
) -> Program:
    """Compiled as `programs.program` does it, without the evaluation."""
    what = tasks.on_noise(model, images, batch_size)
    where = layout(devices, width)
    search = what.searches[method]

    def start(key, setting):
        return training.start(search(setting), key, what.init(key))

    def stretch(carry, key, setting, rows, first, last, round):
        carry, loss, _ = training.steps(
            search(setting),
            what.loss_fn,
            carry,
            key,
            rows,
            first=first,
            last=last,
            round=round,
            batch_size=batch_size,
        )
        return carry, loss

    return Program(
        lanes.mapped(where, start, (True, True)),
        lanes.mapped(where, stretch, (True,) * 3 + (False,) * 4, donate=(0,)),
        lanes.everywhere(where, what.train),
        where,
    )


def work(sizes: Sizes, model: str) -> tuple[int, float]:
    """How many images of a model one repetition takes, and how many FLOP each."""
    least = 2 * sizes.batch_size
    flops = arithmetic.flops(model, sizes.batch_size)
    return int(min(sizes.images, max(least, sizes.step_work / flops))), flops


def epoch(
    model: str,
    method: str,
    *,
    images: int,
    batch_size: int,
    seeds: int = 1,
    where: tuple[int, int] | None = None,
    settings: Sequence[float] | None = None,
) -> tuple[measure.Work, int]:
    """An epoch of every seed, group after group; and how many images that is.

    Args:
      model: of the zoo.
      method: see `Task.searches`.
      images: of an epoch of one seed.
      batch_size: images a step.
      seeds: how many.
      where: devices, and lanes on each; by default as experiments have so many seeds.
      settings: a number of its own for every seed, see `Task.searches`.
    """
    devices, width = where or place(seeds)
    compiled = program(
        model,
        method,
        images=images,
        batch_size=batch_size,
        devices=devices,
        width=width,
    )
    steps = images // batch_size
    numbers = [np.int32(x) for x in (0, steps, 0)]
    groups = lanes.groups(range(seeds), compiled.layout.width)
    own = [  # a key and a setting for every lane of a group
        (
            jnp.stack([jax.random.key(seed) for seed in group]),
            () if settings is None else jnp.array([settings[seed] for seed in group]),
        )
        for group in groups
    ]
    carries = [compiled.start(*args) for args in own]

    def work():
        losses = []
        for i, args in enumerate(own):
            carries[i], loss = compiled.stretch(
                carries[i], *args, compiled.data, *numbers
            )
            losses.append(jax.block_until_ready(loss))
        return losses, carries

    return work, seeds * steps * batch_size


def search_program(
    what: tasks.Task, where: lanes.Layout, method: str = "imp"
) -> programs.Program:
    """A search as the experiments compile it, with a test after every stretch."""

    def evaluate(params, model_state, held_out):
        return what.metrics_of(params, model_state, held_out)._asdict()

    return programs.program(
        what.searches[method],
        what.loss_fn,
        evaluate,
        supervised.Metrics._fields,
        where,
        batch_size=what.config.batch_size,
    )
