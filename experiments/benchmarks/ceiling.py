"""What the machine can do: matrix products and copies, the measure of all else."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench, layout
from jaxticket.engine import lanes

SGEMM = "sgemm"
COPY = "copy"

# LeNet's first layer at batch 60, forward and weight gradient: rows, inner, columns.
LENET = ((60, 784, 300), (784, 60, 300))
CALLS = 20  # of the small ones, to be longer than the clock is coarse


def sgemm(bench: Bench) -> tuple[measure.Work, float]:
    """The ceiling's work, and how many FLOP it is."""
    size = bench.sizes.matrix
    return _product(size, size, size, calls=1)


def copy(bench: Bench) -> tuple[measure.Work, float]:
    """Reads and writes an array beyond the caches; and how many bytes that is."""
    return copied(bench.sizes.copy), 2 * 4 * bench.sizes.copy


def copied(floats: int, calls: int = 1) -> measure.Work:
    """Reads and writes so many floats, so many times.

    The array is donated: a fresh one would cost more in page faults than the copy.
    """
    held = [jnp.zeros(floats, jnp.float32)]
    move = jax.jit(lambda x: x + 1, donate_argnums=0)

    def work():
        for _ in range(calls):
            held[0] = move(held[0])
        return held

    return work


def achieved(
    times: Mapping[str, measure.Timing], name: str, flops: float, of: float
) -> dict[str, float]:
    """GFLOP/s of a piece of work, and their share of sgemm's in the same turns.

    Args:
      times: of the piece and of `SGEMM`.
      name: of the piece.
      flops: of the piece.
      of: FLOP of `SGEMM`.
    """
    share = measure.ratio(times[SGEMM], times[name]) * flops / of
    return {"GFLOP/s": flops / times[name].median / 1e9, "of sgemm": share}


def rows(bench: Bench) -> Iterator[measure.Row]:
    """FLOP/s and bytes/s."""
    size = bench.sizes.matrix
    name = f"sgemm {size}x{size}x{size}"
    products = {name: sgemm(bench)}
    if jax.device_count() > 1:
        products[f"{name}, one on each of {jax.device_count()} devices"] = _everywhere(
            size
        )
    for shape in LENET:
        label = "sgemm " + "x".join(map(str, shape))
        products[label] = _product(*shape, calls=CALLS)
    times = bench.together({label: work for label, (work, _) in products.items()})
    for label, (_, flops) in products.items():
        work_ratio = flops / products[name][1]
        share = work_ratio * measure.ratio(times[name], times[label])
        yield measure.rate(
            label,
            times[label],
            "GFLOP/s",
            flops / 1e9,
            also={"of sgemm": share},
        )
    work, size_bytes = copy(bench)
    taken = bench.together({COPY: work})[COPY]
    label = f"read and write {size_bytes / 2e6:.3g} MB"
    yield measure.rate(label, taken, "GB/s", size_bytes / 1e9)


def _product(rows, inner, columns, *, calls):
    x = jnp.ones((rows, inner), jnp.float32)
    y = jnp.ones((inner, columns), jnp.float32)
    product = jax.jit(jnp.matmul)
    flops = 2.0 * rows * inner * columns * calls
    return lambda: [product(x, y) for _ in range(calls)], flops


def _everywhere(size):
    """A product on every device at once."""
    everywhere = layout(jax.device_count())
    fill = lanes.mapped(everywhere, lambda x: jnp.full((size, size), x), (True,))
    x = fill(jnp.ones(everywhere.width, jnp.float32))
    product = lanes.mapped(everywhere, lambda x: x @ x, (True,))
    return lambda: product(x), 2.0 * size**3 * everywhere.width
