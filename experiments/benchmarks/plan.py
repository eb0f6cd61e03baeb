"""Networks too large for this machine: what searches hold, and what devices move.

Nothing is run. Shapes are those of decoders, as Llama's, weights in bfloat16, each leaf
cut over all devices; what pruning takes is read from the compiled program, for as many
virtual devices as there are:

    JAX_NUM_CPU_DEVICES=64 python -m experiments.benchmark --sections=plan
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench
from jaxticket import Search, Ticket, prune, searches

MOST = 2**31  # weights of a leaf: layers are stacked, as in a scan, up to there
DENSITY = 0.01
GATHERS = 3  # of every weight in a step: forward, backward, and its gradient's sum
# Assumed of a device: what it computes a second, and the bytes that it is sent.
FLOPS, LINK = 4e14, 5e10
TIES = 1 + 8 + 32  # times that ties are counted at most: once, by guesses, by halving
RESULTS = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all)(?:-start)?\(")
SHAPES = re.compile(r"\w+\[([\d,]*)\]")


class Decoder(NamedTuple):
    """A decoder's shape; keys and values have `shared` columns."""

    name: str
    words: int
    width: int
    depth: int
    inner: int
    shared: int


def rows(bench: Bench) -> Iterator[measure.Row]:
    """By size: what states hold, what pruning holds and adds, what a step moves."""
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    for decoder in map(Decoder._make, bench.sizes.decoders):
        ticket, name = _ticket(decoder, mesh), decoder.name
        size = sum(leaf.size for leaf in ticket.weights)
        yield measure.number(
            f"{name}, weights", "billion", size / 1e9,
            {"leaves": len(ticket.weights), "devices": mesh.size},
        )  # fmt: skip
        for method, search in _searches().items():
            state = jax.eval_shape(search.init, jax.random.key(0), ticket)
            arrays = [
                x for x in jax.tree.leaves(state) if isinstance(x.dtype, np.dtype)
            ]
            held = sum(x.size * x.dtype.itemsize for x in arrays)
            yield measure.number(
                f"{name}, state of {method}", "bytes a weight", held / size,
                {"GB a device": held / mesh.size / 1e9},
            )  # fmt: skip
        yield _pruning(name, ticket, size, mesh.size)
        moved = GATHERS * 2 * size * (mesh.size - 1) / mesh.size
        tokens = moved / LINK * FLOPS / (6 * size)
        yield measure.number(
            f"{name}, moved in a step", "GB a device", moved / 1e9,
            {"tokens a device": tokens},
        )  # fmt: skip


def _searches() -> dict[str, Search]:
    adam = optax.adam(1e-4)
    return {
        "imp": searches.imp(adam, density=0.5),
        "gradual": searches.gradual(adam, final_density=0.1, every=100, stop=1000),
        "continuous_sparsification": searches.continuous_sparsification(
            adam, temperature=lambda step: 1.0 + step
        ),
        "jackpot": searches.jackpot(adam),
    }


def _ticket(decoder: Decoder, mesh: Mesh) -> Ticket:
    """The shapes of its prunable weights, and where they lie."""
    _, words, width, depth, inner, shared = decoder
    kernels = [(width, width)] * 2 + [(width, shared)] * 2 + [(width, inner)] * 3
    stacked = max(1, min(depth, (MOST - 1) // (width * inner)))
    stacked = max(n for n in range(1, stacked + 1) if depth % n == 0)
    leaves = [(stacked, *kernel) for kernel in kernels] * (depth // stacked)
    leaves += [(words, width)] * 2
    cut = [
        NamedSharding(
            mesh, PartitionSpec(*[None] * (len(leaf) - 2), "devices", None)
        )
        for leaf in leaves
    ]  # fmt: skip

    def of(dtype):
        return [
            jax.ShapeDtypeStruct(leaf, dtype, sharding=where)
            for leaf, where in zip(leaves, cut, strict=True)
        ]

    return Ticket(of(jnp.bfloat16), of(bool))


def _pruning(name: str, ticket: Ticket, size: int, devices: int) -> measure.Row:
    """What the compiled program of a pruning holds, and what its devices add."""
    program = jax.jit(lambda t: prune(t, "magnitude", DENSITY).mask)
    compiled = program.lower(ticket).compile()
    held, moved = compiled.memory_analysis(), RESULTS.findall(compiled.as_text())
    own = held.temp_size_in_bytes
    whole = own + held.argument_size_in_bytes + held.output_size_in_bytes
    passes = 8 * ticket.weights[0].dtype.itemsize + TIES
    shapes = (shape for results, _ in moved for shape in SHAPES.findall(results))
    return measure.number(
        f"{name}, pruning", "bytes a weight", whole * devices / size,
        {
            "of its own": own * devices / size,
            "GB a device": whole / 1e9,
            "bytes added": passes * 4 * len(ticket.weights),
            # In the program: of how many numbers the largest result is.
            "at once": max(
                (math.prod(map(int, filter(None, x.split(",")))) for x in shapes),
                default=0,
            ),
        },
    )  # fmt: skip
