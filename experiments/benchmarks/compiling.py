"""How long programs take to compile, and the memory that they need, by size."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measure, tasks, trainer
from experiments.benchmarks.bench import Bench, layout
from experiments.benchmarks.lenet import MODEL
from jaxticket import training
from jaxticket.engine import lanes, programs


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Seconds; compiled once, since a second time could come from a cache."""
    sizes = bench.sizes
    for name, values, make in (
        ("stretch of the search, lanes {}", sizes.compiled_lanes, _stretch),
        ("search as one program, rounds {}", sizes.compiled_rounds, _whole),
    ):
        first = None
        for value in values:
            function, arguments = make(sizes, value)
            begun = time.perf_counter()
            compiled = function.lower(*arguments).compile()
            taken = time.perf_counter() - begun
            first = taken if first is None else first
            also = {"of first": taken / first}
            if (memory := compiled.memory_analysis()) is not None:
                also["temporary MB"] = memory.temp_size_in_bytes / 1e6
                also["results MB"] = memory.output_size_in_bytes / 1e6
            yield measure.number(f"{MODEL}: {name.format(value)}", "s", taken, also)


def _stretch(sizes, width):
    what = tasks.on_noise(MODEL, sizes.images, sizes.batch_size)
    where = layout(1, width)
    program = trainer.search_program(what, where)
    held_out = tasks.random_images("mnist", sizes.test_images, seed=1)
    rows = lanes.everywhere(where, programs.Data(what.train, held_out))
    keys = jnp.stack([jax.random.key(seed) for seed in range(width)])
    carry = jax.eval_shape(
        program.start, keys, jax.eval_shape(jax.vmap(what.init), keys), ()
    )
    steps = sizes.images // sizes.batch_size
    numbers = [np.int32(x) for x in (0, steps, 0)]
    return program.stretch, (carry, keys, rows, *numbers)


def _whole(sizes, rounds):
    what = tasks.on_noise(MODEL, sizes.images, sizes.batch_size)

    def search(key, rows):
        return training.run(
            what.searches["imp"](()),
            what.loss_fn,
            key,
            what.init(key),
            rows,
            rounds=rounds,
            epochs=sizes.epochs,
            batch_size=sizes.batch_size,
        )

    return jax.jit(search), (jax.random.key(0), what.train)
