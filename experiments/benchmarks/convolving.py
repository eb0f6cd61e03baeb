"""Convolutions, forward and backward: in a loop and outside, one network and several.

On CPU, XLA has a fast path for a convolution's gradient that loop bodies miss, and
`vmap` over kernels makes grouped convolutions: what one program must get around.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax

from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench
from jaxticket import models
from jaxticket.models import convolution

STEPS = 2  # in the loop, and calls outside
PLAIN = "lax outside"
TRAPPED = ("lax", "lanes")  # whose gradients miss the fast path in a loop, on CPU
SLOW = 30  # times as few images for the trap, which takes so much longer


class Layer(NamedTuple):
    """A convolution of square images: its name, and what decides how fast it is."""

    size: int  # of the images
    kernel: int
    inputs: int
    outputs: int
    stride: int

    def __str__(self):
        shape = f"{self.size}x{self.size}, {self.inputs}->{self.outputs}"
        shape += f", {self.kernel}x{self.kernel}" if self.kernel != 3 else ""
        return shape + (f", stride {self.stride}" if self.stride != 1 else "")


TOY = Layer(size=4, kernel=3, inputs=3, outputs=2, stride=2)


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Microseconds an image of one network, for every layer shape of the zoo.

    `of plain` sets them against `lax.conv` outside: what is possible without loops.
    """
    for layer in layers(bench.sizes.convolution_models) or [TOY]:
        for networks in bench.lanes:
            yield from _group(bench, layer, networks)


def layers(names) -> list[Layer]:
    """Every shape once, in their order: read off the traced networks."""
    found = {}
    for name in names:
        model = models.create(name, impl="lax")
        example = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
        variables = jax.eval_shape(model.init, jax.random.key(0), example)
        program = jax.make_jaxpr(model.apply)(*variables, example).jaxpr
        for step in _steps(program):
            image, kernel = (var.aval.shape for var in step.invars)
            stride = step.params["window_strides"][0]
            layer = Layer(image[1], kernel[0], kernel[2], kernel[3], stride)
            found[layer] = None
    return list(found)


def _steps(program):
    """The convolutions of a program and of those within it."""
    for step in program.eqns:
        if step.primitive.name == "conv_general_dilated":
            yield step
        for within in jax.core.jaxprs_in_params(step.params):
            yield from _steps(within)


def _group(bench, layer, networks):
    works, images = {}, {}
    on_cpu = jax.default_backend() == "cpu"
    for impl in convolution.IMPLS:
        for where, run in (("outside", _outside), ("in a loop", _inside)):
            batch = bench.sizes.batch_size
            if impl in TRAPPED and run is _inside and on_cpu:
                if networks > 1:
                    continue  # as slow again for every network
                batch = max(1, batch // SLOW)
            name = f"{impl} {where}"
            works[name] = run(impl, networks, batch, layer)
            images[name] = batch * networks * STEPS
    times = bench.together(works)

    def compare(one, other):
        return measure.ratio(times[one], times[other]) * images[other] / images[one]

    for name, timing in times.items():
        also = {"of plain": compare(name, PLAIN)}
        if name.endswith("in a loop"):
            also["of outside"] = compare(name, name.replace("in a loop", "outside"))
        yield measure.cost(
            f"{layer}, lanes {networks}: {name}",
            timing,
            "us/image",
            per=images[name] / 1e6,
            also=also,
        )


def _inside(impl, networks, batch, layer) -> measure.Work:
    step, arrays = _training(impl, networks, batch, layer)
    loop = jax.jit(
        lambda arrays: jax.lax.fori_loop(0, STEPS, lambda _, a: step(*a), arrays)
    )
    return lambda: loop(arrays)


def _outside(impl, networks, batch, layer) -> measure.Work:
    step, arrays = _training(impl, networks, batch, layer)
    step = jax.jit(step)

    def work():
        now = arrays
        for _ in range(STEPS):
            now = step(*now)
        return now

    return work


def _training(impl, networks, batch, layer):
    """A step that moves images and kernels along their gradients, and its arguments."""
    x_key, kernel_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(
        x_key, (networks, batch, layer.size, layer.size, layer.inputs)
    )
    shape = (networks, layer.kernel, layer.kernel, layer.inputs, layer.outputs)
    kernel = 0.1 * jax.random.normal(kernel_key, shape)
    edge = layer.kernel // 2
    conv = functools.partial(
        convolution.conv,
        strides=(layer.stride, layer.stride),
        padding=((edge, edge), (edge, edge)),
        impl=impl,
    )

    def step(x, kernel):
        y, backward = jax.vjp(conv, x, kernel)
        dx, dkernel = backward(y)
        return x + 1e-9 * dx, kernel + 1e-9 * dkernel

    return (jax.vmap(step), (x, kernel)) if networks > 1 else (step, (x[0], kernel[0]))
