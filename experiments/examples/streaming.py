"""A run of one's own whose data are read while it trains, through Grain.

The data are any `grain.MapDataset`, or whatever else has a length and elements by
number: threads read and decode the rows of the steps that come, which the seed's key
tells, each seed in an order of its own. The numbers are those of a run in memory, and
after a kill the same command goes on at the same row.

    pip install grain
    python -m experiments.examples.streaming
"""

from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxticket as jt
from experiments.examples import own_engine
from jaxticket.data import streams
from jaxticket.engine import keys, lanes, programs, resumable

SEEDS = (0, 1)
ROWS, BATCH = 256, 32


def decode(record: bytes) -> tuple[np.ndarray, np.ndarray]:
    """An element of a record: here five numbers, elsewhere a JPEG and its class."""
    numbers = np.frombuffer(record, np.float32)
    return numbers[:4], numbers[4:]


def records() -> tuple[list[bytes], tuple[np.ndarray, np.ndarray]]:
    """What would lie in files (`grain.sources.ArrayRecordDataSource`), and a test."""
    x = np.random.default_rng(0).normal(size=(ROWS + 64, 4)).astype(np.float32)
    y = np.sin(x[:, :1])
    train = [np.append(*row).tobytes() for row in zip(x[:ROWS], y[:ROWS], strict=True)]
    return train, (x[ROWS:], y[ROWS:])


def main(
    folder: str | Path = "runs/streaming", *, in_memory: bool = False
) -> dict[str, np.ndarray]:
    """Runs, or goes on; the metrics by name, `[stretches, seeds]`."""
    files, held_out = records()
    source = streams.Rows(grain.MapDataset.source(files).map(decode))
    search = jt.imp(optax.adam(0.01), density=0.5)
    layout = lanes.layout(len(SEEDS), jax.devices()[:1])
    program = programs.program(
        lambda settings: search,
        own_engine.loss_fn,
        own_engine.evaluate,
        ["error"],
        layout,
        batch_size=BATCH,
        streams=not in_memory,
    )
    train = source[:] if in_memory else streams.stream(source)
    data = lanes.everywhere(layout, programs.Data(train, held_out))

    seeds = [keys.of_seed(seed) for seed in SEEDS]
    tickets = jax.vmap(own_engine.ticket)(jnp.stack([seed.init for seed in seeds]))
    unit = resumable.Unit(
        lanes=len(SEEDS),
        begin=lambda: program.start(
            jnp.stack([seed.search for seed in seeds]), tickets, ()
        ),
        round_keys=keys.of_rounds(seeds),
        plan=resumable.stretches(2, 60, 20, promises=search.promises),
    )
    *_, outcome = resumable.run(program, unit, data, folder, config={"density": 0.5})
    return outcome.metrics


if __name__ == "__main__":
    metrics = main()
    print("density", metrics["density"][-1], "error", metrics["error"][-1])
