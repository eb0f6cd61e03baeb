"""A step of every search of the library, beside one of plain training and its bound."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from experiments.benchmarks import arithmetic, ceiling, measure, trainer
from experiments.benchmarks.bench import Bench, place

MODEL = "lenet_300_100"
STEPS = 128  # at least, of a repetition: room for the schedules of all
COPIES = 10  # in a row, to be longer than a call takes


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Microseconds of a step of one seed, and how many times `fixed`'s that is.

    All by turns. Searches over scores train half of what `fixed` trains. A step is
    bound by its arithmetic at the rate of sgemm, and by its state, which is read and
    written once, at that of a copy of as many bytes: `of bound` is its time over the
    sum of the two.
    """
    for batch in bench.sizes.search_batches:
        for seeds in (1, bench.sizes.many):
            yield from _together(bench, batch, seeds)


def _together(bench, batch, seeds):
    images = max(bench.sizes.images, STEPS * batch)
    devices, width = place(seeds)
    product, product_flops = ceiling.sgemm(bench)
    works, states, steps = {ceiling.SGEMM: product}, {}, seeds * (images // batch)
    for name in ("fixed", *bench.sizes.searches):
        work, _ = trainer.epoch(
            MODEL,
            name,
            seeds=seeds,
            images=images,
            batch_size=batch,
            devices=devices,
            width=width,
        )
        works[name] = work
        _, carries = work()
        states[name] = sum(x.nbytes for x in jax.tree.leaves(carries)) / seeds
        works[_copy(name)] = _copied(states[name])
    flops = batch * arithmetic.flops(MODEL, images, batch)
    times = bench.together(works)
    for name, state in states.items():
        timing = times[name]
        of_product = measure.ratio(times[ceiling.SGEMM], timing) * steps
        of_copy = measure.ratio(times[_copy(name)], timing) * steps / COPIES
        bound = of_product * flops / product_flops + of_copy
        also = {
            "of fixed": measure.ratio(timing, times["fixed"]),
            "state, MB": state / 1e6,
            "of bound": 1 / bound,
        }
        label = f"{name}, batch {batch}, seeds {seeds}"
        yield measure.cost("searches", label, timing, "us", steps * 1e-6, also)


def _copy(name: str) -> str:
    return f"copy of the state of {name}"


def _copied(state: float) -> measure.Work:
    """Reads and writes as many bytes as a state has."""
    held = [jnp.zeros(max(int(state) // 4, 1), jnp.float32)]
    move = jax.jit(lambda x: x + 1, donate_argnums=0)

    def work():
        for _ in range(COPIES):
            held[0] = move(held[0])
        return held

    return work
