"""The training step of every model of the zoo: one seed, and several."""

from collections.abc import Iterator

from experiments.benchmarks import arithmetic, ceiling, measure, trainer
from experiments.benchmarks.bench import Bench


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Images a second over all devices, FLOP/s and their share of sgemm's.

    With `--roofline` also the bytes a second that its operations read and write, as XLA
    counts them, as a share of what a copy reaches: what is near 1 is bound by memory.
    """
    for model in bench.sizes.models:
        yield from _model(bench, model)


def _model(bench, model):
    sizes = bench.sizes
    batch_size = sizes.batch_size
    images, flops = trainer.work(sizes, model)
    product, product_flops = ceiling.sgemm(bench)
    copy, copy_bytes = ceiling.copy(bench)
    works, counts = {ceiling.SGEMM: product}, {}
    if bench.roofline:
        works[ceiling.COPY] = copy
    for seeds in (1, sizes.many):
        name = f"{model}, seeds {seeds}"
        works[name], counts[name] = trainer.epoch(
            model, "fixed", images=images, batch_size=batch_size, seeds=seeds
        )
    times = bench.together(works)
    first = next(iter(counts))
    for name, count in counts.items():
        timing = times[name]
        also = {
            **ceiling.achieved(times, name, count * flops, product_flops),
            "cost of first": measure.ratio(timing, times[first])
            * counts[first]
            / count,
        }
        if bench.roofline:
            moved = count * arithmetic.traffic(model, batch_size)
            also["GB/s"] = moved / timing.median / 1e9
            also["of copy"] = (
                measure.ratio(times[ceiling.COPY], timing) * moved / copy_bytes
            )
        yield measure.rate(name, timing, "images/s", count, also)
