"""Running a ticket: what sparsity buys, and what not, in arrays of several kinds.

A chain of dense layers, pruned at random to some densities, beside the whole network:
masked, which is as large; compacted by `jaxticket.compact`; and in compressed rows, by
`jaxticket.export`, in numpy and scipy without JAX. A random mask leaves nearly every
unit some weights; where whole filters go instead, to as few weights, little is left to
multiply.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench
from jaxticket import export, masks, models, units
from jaxticket.base import Evidence, Ticket
from jaxticket.compaction import compact
from jaxticket.pruning import prune

SHAPE = (28, 28, 1)


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Microseconds a batch, and bytes of the weights."""
    for hidden in bench.sizes.inference_layers:
        name = "x".join(map(str, hidden))
        model = models.create("mlp", hidden=hidden)
        key = jax.random.key(0)
        weights, state = jax.jit(model.init)(key, jnp.zeros((1, *SHAPE)))
        dense = Ticket(weights, masks.full(weights), state)
        for density in bench.sizes.inference_densities:
            for batch in bench.sizes.inference_batches:
                yield from _group(bench, name, model, dense, density, batch)


def _group(bench, name, model, dense, density, batch) -> Iterator[measure.Row]:
    x = np.asarray(jax.random.normal(jax.random.key(1), (batch, *SHAPE)))
    drawn = prune(dense, "random", density, evidence=Evidence(key=jax.random.key(2)))
    found = units.filters(lambda v, x: model.apply(*v, x)[0], dense, x[:1])
    # Filters of two layers share their weights: a root of the density is left of each.
    cut = units.prune_filters(dense, found, density**0.5)
    networks = {
        "dense, JAX": (model, dense),
        "masked, JAX": (model, _zeroed(drawn)),
        "compacted, JAX": compact(model, drawn, x)[:2],
        "filters, compacted, JAX": compact(model, cut, x)[:2],
    }
    works = {key: _jitted(*pair, x) for key, pair in networks.items()}
    chains = {
        "dense, numpy": export.chain(_read(dense), sparse=False),
        "rows, scipy": export.chain(_read(drawn), sparse=True),
    }
    works |= {key: _called(chain, x) for key, chain in chains.items()}
    bytes_of = {key: _bytes(ticket) for key, (_, ticket) in networks.items()}
    bytes_of |= {key: _chain_bytes(chain) for key, chain in chains.items()}
    timings = bench.together(works)
    for key, timing in timings.items():
        against = timings["dense, numpy" if key.endswith("py") else "dense, JAX"]
        yield measure.cost(
            "inference",
            f"{name} at {density:g}, batch {batch}: {key}",
            timing,
            "us a batch",
            1e-6,
            {
                "of dense": measure.ratio(timing, against),
                "kB of weights": bytes_of[key] / 1e3,
            },
        )


def _zeroed(ticket: Ticket) -> Ticket:
    return ticket._replace(weights=masks.apply(ticket.mask, ticket.weights))


def _jitted(model, ticket, x) -> measure.Work:
    run = jax.jit(lambda weights, state, x: model.apply(weights, state, x)[0])
    x = jnp.asarray(x)
    return lambda: run(ticket.weights, ticket.model_state, x)


def _called(chain, x) -> measure.Work:
    return lambda: chain(x)


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
