"""Pruning a network to a hundredth, by size: its time, and the memory that it takes."""

import resource
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench
from jaxticket import Ticket, masks, prune

WIDTH = 4096  # columns of a layer
LARGEST = 2**26  # weights of a layer
DENSITY = 0.01


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Milliseconds and bytes a weight, in bfloat16, each layer cut over all devices.

    The bytes are of all devices together: of the program, with its weights and masks,
    and without; and the most that the process has held so far, the sizes before
    included.
    """
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    cut = NamedSharding(mesh, PartitionSpec("devices"))
    for size in bench.weights:
        weights = _drawn(size, cut)
        ticket = Ticket(weights, masks.full(weights))
        program = jax.jit(lambda t: prune(t, "magnitude", DENSITY).mask)
        program = program.lower(ticket).compile()
        held = program.memory_analysis()
        there = masks.size(ticket.mask)
        found = bench.together({"": lambda p=program, t=ticket: p(t)})
        own = held.temp_size_in_bytes
        whole = own + held.argument_size_in_bytes + held.output_size_in_bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        yield measure.cost(
            f"{there / 1e6:g}M in {len(weights)} layers",
            found[""],
            "ms",
            per=1e-3,
            also={
                "bytes a weight": whole * mesh.size / there,
                "of its own": own * mesh.size / there,
                "MB, program": whole * mesh.size / 1e6,
                "MB, process": peak / 1e6,
            },
        )


def _drawn(size: int, cut: NamedSharding) -> list[jax.Array]:
    """Layers of about `size` weights in all, on their devices from the beginning."""
    devices = cut.mesh.size
    width = min(WIDTH, max(size // devices, 1))
    layers = -(-size // LARGEST)
    lines = max(size // (layers * width * devices), 1) * devices

    def draw(key):
        return jax.random.normal(key, (lines, width), jnp.bfloat16)

    draw = jax.jit(draw, out_shardings=cut)
    return [draw(key) for key in jax.random.split(jax.random.key(0), layers)]
