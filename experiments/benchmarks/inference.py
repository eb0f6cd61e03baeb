"""Running a ticket: what sparsity buys, and what not, in arrays of several kinds.

A chain of dense layers, pruned at random to some densities, beside the whole network:
masked, which is as large; compacted by `jaxticket.compact`, in JAX and, where that is
installed, in PyTorch; and in compressed rows, by `jaxticket.export`, in numpy and scipy
without JAX. A random mask leaves nearly every unit some weights; where whole filters go
instead, to as few weights, little is left to multiply.

Each library has all cores. What else a machine does only adds to so short a time, so
that shares are of the lowest of many: `--repeats=100`.

    python -m experiments.benchmarks.inference inference.json inference.png

draws the shares of the largest network from what the benchmark has written.
"""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench
from experiments.reports import drawings
from jaxticket import export, files, masks, models, units
from jaxticket.base import Evidence, Ticket
from jaxticket.compaction import compact
from jaxticket.models import Model
from jaxticket.pruners import prune

SHAPE = (28, 28, 1)
AGAINST = {"JAX": "dense, JAX", "PyTorch": "dense, PyTorch"}  # else numpy


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Microseconds a batch, and bytes of the weights."""
    for hidden in bench.sizes.inference_layers:
        name = "x".join(map(str, hidden))
        model = models.create("mlp", hidden=hidden)
        key = jax.random.key(0)
        weights, state = jax.jit(model.init)(key, jnp.zeros((1, *SHAPE)))
        dense = Ticket(weights, masks.full(weights), state)
        for density in bench.sizes.inference_densities:
            networks = _networks(model, dense, density)
            for batch in bench.sizes.inference_batches:
                title = f"{name} at {density:g}, batch {batch}"
                yield from _group(bench, title, networks, batch)


def _networks(model: Model, dense: Ticket, density: float) -> dict:
    """The networks that are compared, and their tickets."""
    x = jax.random.normal(jax.random.key(3), (2, *SHAPE))
    drawn = prune(dense, "random", density, evidence=Evidence(key=jax.random.key(2)))
    found = units.filters(lambda v, x: model.apply(*v, x)[0], dense, x[:1])
    # Filters of two layers share their weights: a root of the density is left of each.
    cut = units.prune_filters(dense, found, density**0.5)
    return {
        "dense": (model, dense),
        "masked": (model, _zeroed(drawn)),
        "compacted": compact(model, drawn, x)[:2],
        "filters, compacted": compact(model, cut, x)[:2],
    }


def _group(bench: Bench, title: str, networks: dict, batch: int) -> Iterator:
    """All of them on a batch, by turns."""
    x = np.asarray(jax.random.normal(jax.random.key(1), (batch, *SHAPE)))
    works, bytes_of = {}, {}
    for key, (model, ticket) in networks.items():
        works[f"{key}, JAX"] = _jitted(model, ticket, x)
        bytes_of[f"{key}, JAX"] = _bytes(ticket)
    chains = {
        "dense, numpy": export.chain(_read(networks["dense"][1]), sparse=False),
        "rows, scipy": export.chain(_read(networks["masked"][1]), sparse=True),
    }
    for key, chain in chains.items():
        works[key], bytes_of[key] = _called(chain, x), _chain_bytes(chain)
    for key, (_, ticket) in networks.items() if _has_pytorch() else ():
        if key != "masked":
            works[f"{key}, PyTorch"] = in_pytorch(ticket, x)
            bytes_of[f"{key}, PyTorch"] = _bytes(ticket)
    timings = bench.together(works, apart=True)
    for key, timing in timings.items():
        dense_one = AGAINST.get(key.split(", ")[-1], "dense, numpy")
        yield measure.cost(
            f"{title}: {key}",
            timing,
            "us a batch",
            1e-6,
            {
                "of dense": min(timing.seconds) / min(timings[dense_one].seconds),
                "kB of weights": bytes_of[key] / 1e3,
            },
        )


def _has_pytorch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _zeroed(ticket: Ticket) -> Ticket:
    return ticket._replace(weights=masks.apply(ticket.mask, ticket.weights))


def _jitted(model, ticket, x) -> measure.Work:
    run = jax.jit(lambda weights, state, x: model.apply(weights, state, x)[0])
    x = jnp.asarray(x)
    return lambda: run(ticket.weights, ticket.model_state, x)


def _called(chain, x) -> measure.Work:
    return lambda: chain(x)


def in_pytorch(ticket: Ticket, x: np.ndarray) -> measure.Work:
    """The same dense layers as PyTorch has them, without gradients."""
    import torch

    layers = []
    for layer in export.chain(_read(ticket), sparse=False).layers.values():
        out, ins = layer.kernel.shape
        linear = torch.nn.Linear(ins, out)
        arrays = {"weight": layer.kernel, "bias": layer.bias[:, 0]}
        linear.load_state_dict({k: torch.tensor(a) for k, a in arrays.items()})
        layers += [linear, torch.nn.ReLU()]
    network = torch.nn.Sequential(torch.nn.Flatten(), *layers[:-1]).eval()
    batch = torch.tensor(x)

    def work():
        with torch.inference_mode():
            return network(batch)

    return work


def _read(ticket: Ticket) -> export.Ticket:
    """A ticket as its file would have it."""
    named = masks.named(_zeroed(ticket).weights)
    weights = {name: np.asarray(leaf) for name, leaf in named.items()}
    kinds = {f"weights/{key}": (str(x.dtype), x.shape) for key, x in weights.items()}
    return export.Ticket(weights, {}, {}, {}, kinds)


def _bytes(ticket: Ticket) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(ticket.weights))


def _chain_bytes(chain: export.Chain) -> int:
    total = 0
    for layer in chain.layers.values():
        kernel = layer.kernel
        arrays = (
            [kernel]
            if isinstance(kernel, np.ndarray)
            else [kernel.data, kernel.indices, kernel.indptr]
        )
        total += sum(a.nbytes for a in [*arrays, layer.bias] if a is not None)
    return total


def points(rows: Sequence[dict]) -> pd.DataFrame:
    """What the shares of the last network look like, for `drawings.panels`."""
    found = []
    for row in rows:
        name, density, batch, line = re.fullmatch(
            r"(.*) at (.*), batch (.*?): (.*)", row["name"]
        ).groups()
        if not line.startswith("dense"):
            share = row["also"]["of dense"]
            found.append(
                {
                    "network": name,
                    "panel": f"batch {batch}",
                    "line": line,
                    "x": 100 * float(density),
                    **dict.fromkeys(("mean", "low", "high"), share),
                }
            )
    table = pd.DataFrame(found)
    return table[table["network"] == table["network"].iloc[-1]]


def drawn(rows: Sequence[dict]) -> bytes:
    """The picture: a panel a batch size, a line a way to run the network."""
    table = points(rows)
    drawing, grid = drawings.panels(table, drawings.KEPT, "time, of dense")
    drawings.density_axis(grid, table["x"].min(), table["x"].max())
    drawings.log_axis(grid)
    for axes in grid.flat:
        axes.axhline(1, linewidth=1.2, zorder=1, **drawings.GREY)
    return drawings.png(drawing)


if __name__ == "__main__":
    there, picture = sys.argv[1:]
    files.write(picture, drawn(json.loads(Path(there).read_text())["rows"]))
