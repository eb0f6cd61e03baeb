"""Continuous Sparsification's parallel search: many initial logits side by side."""

from collections.abc import Iterator

import numpy as np

from experiments.benchmarks import measure, trainer
from experiments.benchmarks.bench import Bench


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Seconds that an epoch takes each search: one alone, and as many values of s0.

    Both have the whole machine; `of one alone`: what a search costs beside the others.
    """
    for model, _ in bench.sizes.wide_models:
        images, _ = trainer.work(bench.sizes, model)
        values = np.linspace(-0.3, 0.3, bench.sizes.many, dtype=np.float32)
        works = {}
        for count in (1, len(values)):
            works[count], _ = trainer.epoch(
                model,
                "many values of s0",
                images=images,
                batch_size=bench.sizes.batch_size,
                seeds=count,
                settings=values[:count],
            )
        times = bench.together(works)
        for count, timing in times.items():
            ratio = measure.ratio(timing, times[1]) / count
            also = {"of one alone": ratio}
            name = f"{model}: values of s0 {count}"
            yield measure.cost(name, timing, "s", count, also)
