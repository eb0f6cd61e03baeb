"""Continuous Sparsification's parallel search: many initial logits in one program."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measure, tasks, trainer
from experiments.benchmarks.bench import Bench, layout, place
from jaxticket import lanes, training


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Seconds that an epoch takes each search: all values of s0, and one of them alone.

    Both have the whole machine; `of one alone`: what a search costs beside the others.
    """
    for model, _ in bench.sizes.wide_models:
        images, _ = trainer.work(bench.sizes, model)
        values = np.linspace(-0.3, 0.3, bench.sizes.many, dtype=np.float32)
        one, several = f"{model}: one alone", f"{model}: {len(values)} values of s0"
        works = {
            one: _epoch(bench, model, values[:1], images),
            several: _epoch(bench, model, values, images),
        }
        times = bench.together(works)
        for name, count in ((one, 1), (several, len(values))):
            ratio = measure.ratio(times[name], times[one]) / count
            also = {"of one alone": ratio}
            yield measure.cost("parallel", name, times[name], "s", count, also)


def _epoch(bench, model, values, images) -> measure.Work:
    """An epoch of a search for each value, all in one program."""
    batch_size = bench.sizes.batch_size
    what = tasks.on_noise(model, images, batch_size)
    where = layout(*place(len(values)))
    where = where._replace(turns=-(-len(values) // where.width))
    (values,) = lanes.groups(list(values), where.width)

    def start(key, s0):
        return training.start(what.gated(s0), key, *what.init(key))

    def stretch(carry, key, s0, rows, first, last, round):
        return training.steps(
            what.gated(s0),
            what.loss_fn,
            carry,
            key,
            rows,
            first=first,
            last=last,
            round=round,
            batch_size=batch_size,
        )

    both = (True, True)
    step = lanes.mapped(where, stretch, (True, *both) + (False,) * 4, donate=(0,))
    rows_ = lanes.everywhere(where, what.train)
    keys, s0 = jax.random.split(jax.random.key(0), where.width), jnp.array(values)
    held = [lanes.mapped(where, start, both)(keys, s0)]
    numbers = [np.int32(x) for x in (0, images // batch_size, 0)]

    def work():
        held[0], losses = step(held[0], keys, s0, rows_, *numbers)
        return losses

    return work
