"""Convolutions, forward and backward: in a loop and outside, one network and several.

On CPU, XLA has a fast path for a convolution's gradient that loop bodies miss, and
`vmap` over kernels makes grouped convolutions: what one program must get around.
"""

import functools
from collections.abc import Iterator

import jax

from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench
from jaxticket.models import convolution

STEPS = 2  # in the loop, and calls outside
PLAIN = "lax outside"
SLOW = 30  # times as few images for the trap, which takes so much longer


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Microseconds an image of one network, for every layer shape of Conv-2/4/6.

    `of plain` sets them against `lax.conv` outside: what is possible without loops.
    """
    for shape in bench.sizes.convolutions:
        for networks in bench.sizes.convolution_lanes:
            yield from _group(bench, shape, networks)


def _group(bench, shape, networks):
    size, inputs, outputs = shape
    works, images = {}, {}
    for impl in convolution.IMPLS:
        for where, run in (("outside", _outside), ("in a loop", _inside)):
            batch = bench.sizes.batch_size
            if impl == "lax" and run is _inside:
                if networks > 1:
                    continue  # as slow again for every network
                batch = max(1, batch // SLOW)
            name = f"{impl} {where}"
            works[name] = run(impl, networks, batch, shape)
            images[name] = batch * networks * STEPS
    times = bench.together(works)

    def compare(one, other):
        return measure.ratio(times[one], times[other]) * images[other] / images[one]

    for name, timing in times.items():
        also = {"of plain": compare(name, PLAIN)}
        if name.endswith("in a loop"):
            also["of outside"] = compare(name, name.replace("in a loop", "outside"))
        yield measure.cost(
            "convolution",
            f"{size}x{size}, {inputs}->{outputs}, lanes {networks}: {name}",
            timing,
            "us/image",
            per=images[name] / 1e6,
            also=also,
        )


def _inside(impl, networks, batch, shape) -> measure.Work:
    step, arrays = _training(impl, networks, batch, shape)
    loop = jax.jit(
        lambda arrays: jax.lax.fori_loop(0, STEPS, lambda _, a: step(*a), arrays)
    )
    return lambda: loop(arrays)


def _outside(impl, networks, batch, shape) -> measure.Work:
    step, arrays = _training(impl, networks, batch, shape)
    step = jax.jit(step)

    def work():
        now = arrays
        for _ in range(STEPS):
            now = step(*now)
        return now

    return work


def _training(impl, networks, batch, shape):
    """A step that moves images and kernels along their gradients, and its arguments."""
    size, inputs, outputs = shape
    x_key, kernel_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(x_key, (networks, batch, size, size, inputs))
    kernel = 0.1 * jax.random.normal(kernel_key, (networks, 3, 3, inputs, outputs))

    def step(x, kernel):
        conv = functools.partial(convolution.conv, impl=impl)
        y, backward = jax.vjp(conv, x, kernel)
        dx, dkernel = backward(y)
        return x + 1e-9 * dx, kernel + 1e-9 * dkernel

    return (jax.vmap(step), (x, kernel)) if networks > 1 else (step, (x[0], kernel[0]))
