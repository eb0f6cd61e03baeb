"""A step of every search of the library, beside one of plain training."""

from collections.abc import Iterator

from experiments.benchmarks import measure, tasks, trainer
from experiments.benchmarks.bench import Bench, place
from jaxticket import searches

MODEL = "lenet_300_100"
STEPS = 128  # at least, of a repetition: room for the schedules of all
APART = ("fixed", *tasks.NORMALISED)  # which LeNet is not


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Microseconds of a step of one seed, and how many times `fixed`'s that is.

    All by turns. Searches over scores train half of what `fixed` trains.
    """
    names = ["fixed", *(x for x in searches.__all__ if x not in APART)]
    for batch in bench.sizes.search_batches:
        for seeds in (1, bench.sizes.many):
            yield from _together(bench, names, batch, seeds)


def _together(bench, names, batch, seeds):
    images = max(bench.sizes.images, STEPS * batch)
    devices, width = place(seeds)
    works, steps = {}, seeds * (images // batch)
    for name in names:
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
