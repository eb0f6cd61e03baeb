"""A run of one's own over many seeds, which can be killed and goes on where it was.

`jaxticket.engine` compiles a search for all seeds at once, a *lane* each, and runs it
in stretches with a checkpoint between. Give the same command again after a kill: the
numbers are those of a run that was left alone, to the last bit.

    python -m experiments.examples.own_engine

In several processes call `jax.distributed.initialize` before `main`, with a folder that
all of them see: every process then has the metrics of all seeds, the first the files.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxticket as jt
from jaxticket.engine import hosts, keys, lanes, programs, resumable

SEEDS = (0, 1, 2, 3)
ROUNDS, STEPS, EVERY = 3, 60, 20


def loss_fn(params, model_state, batch, key):
    """What is trained; batch statistics and the like would be the model state."""
    del key
    x, y = batch
    hidden = jnp.tanh(x @ params["hidden"]["w"])
    error = hidden @ params["output"]["w"] - y
    return jnp.mean(error**2), model_state


def evaluate(params, model_state, held_out):
    """What is looked at after every stretch: numbers, by name."""
    return {"error": loss_fn(params, model_state, held_out, None)[0]}


def ticket(key: jax.Array) -> jt.Ticket:
    """What the search of one seed starts from."""
    hidden, output = jax.random.split(key)
    weights = {
        "hidden": {"w": jax.random.normal(hidden, (4, 16)) / 2},
        "output": {"w": jax.random.normal(output, (16, 1)) / 4},
    }
    return jt.Ticket(weights, jt.masks.full(weights), {})


def main(
    folder: str | Path = "runs/own_engine", *, save_seconds: float = 5.0
) -> dict[str, np.ndarray]:
    """Runs, or goes on; the metrics by name, `[stretches, seeds]`.

    The tickets of every seed lie in the folder, one file for each seed and round.
    """
    search = jt.imp(optax.adam(0.01), density=0.5)
    count = max(jax.process_count(), min(2, jax.device_count()))  # which divides SEEDS
    layout = lanes.layout(len(SEEDS) // count, lanes.devices(count))
    program = programs.program(
        lambda swept: search, loss_fn, evaluate, ["error"], layout, batch_size=32
    )
    x = np.random.default_rng(0).normal(size=(320, 4)).astype(np.float32)
    y = np.sin(x[:, :1])
    data = programs.Data(train=(x[:256], y[:256]), held_out=(x[256:], y[256:]))
    data = lanes.everywhere(layout, data)

    streams = [keys.of_seed(seed) for seed in SEEDS]
    stream = jnp.stack([stream.search for stream in streams])
    tickets = jax.vmap(ticket)(jnp.stack([stream.init for stream in streams]))
    round_keys = keys.of_rounds(streams)
    unit = resumable.Unit(
        lanes=len(SEEDS),
        begin=lambda: program.start(*lanes.spread(layout, (stream, tickets, ()))),
        round_keys=lambda round_: lanes.spread(layout, round_keys(round_)),
        plan=resumable.stretches(ROUNDS, STEPS, EVERY, promises=search.promises),
    )
    for event in resumable.run(
        program, unit, data, folder, config={"density": 0.5}, save_seconds=save_seconds
    ):
        if isinstance(event, resumable.Closed):
            found = resumable.apart(event.view.ticket)
            for seed, one in zip(SEEDS, found, strict=True):
                name = f"seed-{seed}-round-{event.round}.npz"
                if hosts.first():
                    jt.files.save_ticket(Path(folder) / name, one)
        if isinstance(event, resumable.Finished):
            return event.metrics
    raise AssertionError("a unit ends with Finished")


if __name__ == "__main__":
    metrics = main()
    print("density", metrics["density"][-1], "error", metrics["error"][-1])
