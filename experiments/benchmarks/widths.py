"""Lanes side by side on one device, against the same searches one after another."""

from collections.abc import Iterator

from experiments.benchmarks import ceiling, measure, trainer
from experiments.benchmarks.bench import Bench


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Images a second of IMP's search at every width, of all its lanes together.

    `of one` is how many times as long a step of all lanes takes as that of one lane;
    `of sequential`, how many times as many images a second they train as one at a time.
    """
    for model, most in bench.sizes.wide_models:
        widths = sorted({1, *(width for width in bench.lanes if width <= most)})
        yield from _model(bench, model, widths)


def _model(bench, model, widths):
    batch_size = bench.sizes.batch_size
    images, flops = trainer.work(bench.sizes, model)
    product, product_flops = ceiling.sgemm(bench)
    works, counts = {ceiling.SGEMM: product}, {}
    for width in widths:
        name = f"{model}, lanes {width}"
        works[name], counts[name] = trainer.epoch(
            model,
            "imp",
            images=images,
            batch_size=batch_size,
            seeds=width,
            where=(1, width),
        )
    times = bench.together(works)
    alone = times[f"{model}, lanes 1"]
    for name, count in counts.items():
        timing = times[name]
        longer = measure.ratio(timing, alone)
        also = {
            **ceiling.achieved(times, name, count * flops, product_flops),
            "of one": longer,
            "of sequential": count / counts[f"{model}, lanes 1"] / longer,
        }
        yield measure.rate(name, timing, "images/s", count, also)
