"""LeNet-300-100's training throughput, for seeds, devices, methods and batch sizes."""

from collections.abc import Iterator
from typing import NamedTuple

import jax

from experiments.benchmarks import arithmetic, ceiling, measure, trainer
from experiments.benchmarks.bench import Bench, spread
from jaxticket.engine import layouts

MODEL = "lenet_300_100"


class Case(NamedTuple):
    """A method's training of so many seeds, and how it is laid out."""

    method: str
    seeds: int
    devices: int
    lanes: int  # on each of them
    batch: int


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Images a second, FLOP/s, and their share of the sgemm that ran by turns."""
    every, sizes = jax.device_count(), bench.sizes
    base = Case("fixed", sizes.many, every, 1, sizes.batch_size)
    by_seeds = [
        base._replace(seeds=seeds, lanes=layouts.usual(seeds)) for seeds in bench.seeds
    ]
    sweeps = {
        "seeds": by_seeds,
        # Against plain SGD: what Adam's passes over weights and moments cost.
        "method": [base._replace(method=name) for name in ("fixed", "imp", "sgd")],
        "devices": [
            base._replace(devices=devices)
            for devices in bench.devices
            if devices <= every
        ],
        "batch": [base._replace(batch=batch) for batch in bench.batch_sizes],
    }
    for name, cases in sweeps.items():
        if not cases:
            continue  # more devices asked for than there are
        yield from _sweep(bench, f"by {name}", cases)


def throughput(bench: Bench, *, seeds: int) -> tuple[measure.Work, float, float]:
    """LeNet's training over all devices; how many images, and how many FLOP, it is."""
    batch_size, images = bench.sizes.batch_size, bench.sizes.images
    work, count = trainer.epoch(
        MODEL, "fixed", images=images, batch_size=batch_size, seeds=seeds
    )
    return work, count, count * arithmetic.flops(MODEL, batch_size)


def _sweep(bench, label, cases):
    product, product_flops = ceiling.sgemm(bench)
    works, counts, costs = {ceiling.SGEMM: product}, {}, {}
    for case in cases:
        case = case._replace(devices=spread(case.devices, case.seeds, case.lanes))
        images = max(bench.sizes.images, case.batch)
        name = (
            f"{label}: {case.method}, seeds {case.seeds}, devices {case.devices}, "
            f"lanes {case.lanes}, batch {case.batch}"
        )
        works[name], counts[name] = trainer.epoch(
            MODEL,
            case.method,
            images=images,
            batch_size=case.batch,
            seeds=case.seeds,
            where=(case.devices, case.lanes),
        )
        costs[name] = arithmetic.flops(MODEL, case.batch)
    times = bench.together(works)
    first = next(iter(counts))
    for name, count in counts.items():
        timing, flops = times[name], count * costs[name]
        speedup = measure.ratio(times[first], timing) * count / counts[first]
        also = {
            **ceiling.achieved(times, name, flops, product_flops),
            "of first": speedup,
        }
        yield measure.rate(name, timing, "images/s", count, also)
