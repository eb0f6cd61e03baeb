"""What a search costs by its seeds, its rounds and its weights: linear, or why not.

    python -m experiments.benchmarks.scaling ROWS.json FOLDER

draws the rows of a kept file, a figure each.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pandas as pd

from experiments.benchmarks import lenet, measure
from experiments.benchmarks.bench import Bench
from experiments.reports import drawings
from jaxticket import Ticket, files, masks, searches, training

INPUTS, CLASSES, BATCH = 784, 10, 60
KINDS = ("seeds", "rounds", "weights")


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Milliseconds a piece, and how many times those of the fewest.

    Seeds: an epoch of LeNet-300-100 over all devices. Rounds: IMP of two hidden layers
    of one device, so many steps a round, with the prunings between. Weights: two rounds
    of the same, by the number of weights.
    """
    sizes = bench.sizes
    few, steps = sizes.scaled_weights[0], sizes.scaled_steps
    works = {
        "seeds": {n: lenet.throughput(bench, seeds=n)[0] for n in bench.seeds},
        "rounds": {n: _imp(few, n, steps) for n in sizes.scaled_rounds},
        "weights": {n: _imp(n, 2, steps) for n in sizes.scaled_weights},
    }
    for kind in KINDS:
        times = bench.together(works.pop(kind))
        first, *_ = times
        for n, timing in times.items():
            also = {"of first": measure.ratio(timing, times[first]) * first / n}
            unit = "us" if kind == "weights" else "ms"
            per = n * {"us": 1e-6, "ms": 1e-3}[unit]
            yield measure.cost(f"{n} {kind}", timing, unit, per, also)


def _imp(size: int, rounds: int, steps: int) -> measure.Work:
    """A search of two hidden layers with about so many weights, from given values."""
    hidden = round(math.sqrt(size + (half := (INPUTS + CLASSES) / 2) ** 2) - half)
    shapes = (INPUTS, hidden), (hidden, hidden), (hidden, CLASSES)
    key = jax.random.key(0)
    weights = [jax.random.normal(key, s) / math.sqrt(s[0]) for s in shapes]
    images = jax.random.uniform(key, (steps * BATCH, INPUTS))
    labels = jnp.arange(steps * BATCH) % CLASSES

    def loss(params, model_state, batch, key):
        del key
        x, label = batch
        for kernel in params[:-1]:
            x = jax.nn.relu(x @ kernel)
        logits = x @ params[-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return losses.mean(), model_state

    @jax.jit
    def search(weights, images, labels):
        ticket = Ticket(weights, masks.full(weights, lambda *_: True))
        found = training.run(
            searches.imp(optax.adam(1e-3), density=0.8),
            loss,
            key,
            ticket,
            (images, labels),
            rounds=rounds,
            epochs=1,
            batch_size=BATCH,
        )
        return found.losses, masks.density(found.ticket.mask)

    return partial(search, weights, images, labels)


def drawn(rows: Sequence[dict], kind: str) -> bytes:
    """The picture of one kind: what a piece costs, by how many there are."""
    found = []
    for row in rows:
        number, its = row["name"].split()
        if its == kind:
            share = row["also"]["of first"]
            point = dict.fromkeys(("mean", "low", "high"), share)
            line = {"panel": f"by {kind}", "line": f"one of the {kind}"}
            found.append(line | point | {"x": float(number)})
    fewest = f"{min(point['x'] for point in found):,.0f} {kind}"
    drawing, grid = drawings.panels(
        pd.DataFrame(found), kind, f"cost, of that with {fewest}", curves=True
    )
    for axes in grid.flat:
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.axhline(1, linewidth=1.2, zorder=1, **drawings.GREY)
    return drawings.png(drawing)


if __name__ == "__main__":
    there, folder = map(Path, sys.argv[1:])
    for kind in KINDS:
        picture = drawn(json.loads(there.read_text())["rows"], kind)
        files.write(folder / f"scaling_{kind}.png", picture)
