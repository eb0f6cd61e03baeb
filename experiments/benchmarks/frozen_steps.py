"""A step of a jackpot search, up to ResNet-50 at 224x224: images a second, memory."""

from collections.abc import Iterator

from experiments.benchmarks import footprints, measure, trainer
from experiments.benchmarks.bench import Bench


def rows(bench: Bench) -> Iterator[measure.Row]:
    """One search on one device, beside the training of the same network.

    `of training`: the time of a step over that of SGD with momentum, which updates the
    weights and selects nothing. Then the memory of the search, see `footprints`.
    """
    batch = bench.sizes.large_batch
    for model in bench.sizes.jackpots:
        works = {}
        for method in ("nesterov", "jackpot"):
            works[method], images = trainer.epoch(
                model, method, images=2 * batch, batch_size=batch
            )
        times = bench.together(works)
        for method, name in (("nesterov", "training"), ("jackpot", "jackpot search")):
            yield measure.rate(
                f"{model}, batch {batch}: {name}",
                times[method],
                "images/s",
                images,
                {"of training": measure.ratio(times[method], times["nesterov"])},
            )
        if footprints.measurable():
            yield footprints.row("jackpot", model, 1, 2 * batch, batch)
