"""A step of every search of the library, beside one of plain training and its bound."""

from collections.abc import Iterator

import jax

from experiments.benchmarks import arithmetic, ceiling, measure, trainer
from experiments.benchmarks.bench import Bench

COPIES = 10  # in a row, to be longer than a call takes


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Microseconds of a step of one seed, and how many times `fixed`'s that is.

    LeNet-300-100 with all searches, and a network of convolutions with one; those of a
    network and batch by turns. Searches over scores train half of what `fixed` trains.
    A step is bound by its arithmetic at the rate of sgemm, and by its state, which is
    read and written once, at that of a copy of as many bytes: `of bound` is its time
    over the sum of the two.
    """
    sizes = bench.sizes
    for batch in sizes.search_batches:
        images = max(sizes.images, sizes.search_steps * batch)
        for seeds in (1, sizes.many):
            yield from _together(
                bench, "lenet_300_100", sizes.searches, batch, images, seeds
            )
    for model, search in sizes.convolution_searches:
        batch, images = sizes.resnet_batch, sizes.resnet_images
        yield from _together(bench, model, (search,), batch, images, 1)


def _together(bench, model, searches, batch, images, seeds):
    product, product_flops = ceiling.sgemm(bench)
    works, states, steps = {ceiling.SGEMM: product}, {}, seeds * (images // batch)
    for name in ("fixed", *searches):
        works[name], _ = trainer.epoch(
            model, name, images=images, batch_size=batch, seeds=seeds
        )
        _, carries = works[name]()
        states[name] = sum(x.nbytes for x in jax.tree.leaves(carries)) / seeds
        works[_copy(name)] = ceiling.copied(int(states[name]) // 4, COPIES)
    flops = batch * arithmetic.flops(model, batch)
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
        if model != "lenet_300_100":
            label = f"{model}, {label}"
        yield measure.cost(label, timing, "us", steps * 1e-6, also)


def _copy(name: str) -> str:
    return f"copy of the state of {name}"
