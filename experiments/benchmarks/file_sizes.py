"""Files of tickets: how large they are beside the dense network's values.

Masks are drawn at random, which is the largest that they come: those that a search
finds are less even, and deflate to less.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.benchmarks import measure, tasks
from experiments.benchmarks.bench import Bench
from jaxticket import files, masks, models
from jaxticket.base import Evidence, Ticket
from jaxticket.files import Recipe
from jaxticket.pruners import prune


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Bytes of the file with float32 values, and shares of the dense float32 bytes."""
    for name in bench.sizes.file_models:
        shape = tasks.DATASETS[tasks.dataset_of(name)]
        key = jax.random.key(0)
        model = models.create(name)
        weights, state = jax.jit(model.init)(key, jnp.zeros((1, *shape)))
        whole = Ticket(weights, masks.full(weights), state)
        dense = sum(x.nbytes for x in jax.tree.leaves(weights))
        for density in bench.sizes.file_densities:
            drawn = Evidence(key=jax.random.key(1))
            ticket = prune(whole, "random", density, evidence=drawn)
            size = _bytes(ticket)
            yield measure.number(
                f"{name} at {density:g}",
                "kB",
                size / 1e3,
                {
                    "of dense": size / dense,
                    "bfloat16": _bytes(ticket, values="bfloat16") / dense,
                    "mask, recipe": _bytes(ticket, recipe=Recipe(name, key, shape))
                    / dense,
                },
            )


def _bytes(ticket: Ticket, **form) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ticket.npz"
        files.save_ticket(path, ticket, **form)
        return path.stat().st_size
