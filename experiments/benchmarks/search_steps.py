"""A step of every search of the library, beside one of plain training."""

from collections.abc import Iterator

from experiments.benchmarks import measure, trainer
from experiments.benchmarks.bench import Bench, place

MODEL = "lenet_300_100"
STEPS = 128  # at least, of a repetition: room for the schedules of all


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Microseconds of a step of one seed, and how many times `fixed`'s that is.

    All by turns. Searches over scores train half of what `fixed` trains.
    """
    for batch in bench.sizes.search_batches:
        for seeds in (1, bench.sizes.many):
            yield from _together(bench, batch, seeds)


def _together(bench, batch, seeds):
    images = max(bench.sizes.images, STEPS * batch)
    devices, width = place(seeds)
    works, steps = {}, seeds * (images // batch)
    for name in ("fixed", *bench.sizes.searches):
        works[name], _ = trainer.epoch(
            MODEL,
            name,
            seeds=seeds,
            images=images,
            batch_size=batch,
            devices=devices,
            width=width,
        )
    times = bench.together(works)
    for name, timing in times.items():
        also = {"of fixed": measure.ratio(timing, times["fixed"])}
        label = f"{name}, batch {batch}, seeds {seeds}"
        yield measure.cost("searches", label, timing, "us", steps * 1e-6, also)
