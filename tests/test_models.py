"""The networks: counts, adapters, and convolutions against `lax.conv`."""

import functools
import math
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from jax import lax

from jaxticket import models
from jaxticket.models import convolution

KEY = jax.random.key(0)

pytestmark = pytest.mark.usefixtures("unoptimised")


def kernels(params):
    """Shapes of the kernels by layer."""
    return {
        n: layer["kernel"].shape for n, layer in params.items() if "kernel" in layer
    }


def count(params):
    return sum(math.prod(shape) for shape in kernels(params).values())


def init_shapes(model, *shape):
    return jax.eval_shape(model.init, KEY, jnp.zeros((2, *shape)))[0]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("lenet_300_100", (28, 28, 1), 266_200),
        ("mlp_1d", (40,), 275_000),
        ("lenet_300_100", (8, 8), 64 * 300 + 31_000),
        ("conv_2", (32, 32, 3), 4_300_992),
        ("conv_4", (32, 32, 3), 2_425_024),
        ("conv_6", (32, 32, 3), 2_261_184),
        ("conv_6", (28, 28, 1), 1_143_360 + 3 * 3 * 256 * 256 + 68_096),
        ("conv_6", (8, 8, 1), 1_143_360 + 256 * 256 + 68_096),
        ("resnet_20", (32, 32, 3), 267_696 + 2560 + 640),
        ("vgg_16", (32, 32, 3), 14_710_464 + 5120),
        ("lenet_5", (28, 28, 1), 150 + 2400 + 48_000 + 10_080 + 840),
        ("vgg_19", (32, 32, 3), 20_018_880 + 5120),
        ("resnet_32", (32, 32, 3), 1_844_064 + 1280),
        ("resnet_50", (224, 224, 3), 23_454_912 + 20_480),
        ("vgg_19_bn", (224, 224, 3), 20_018_880 + 25_088 * 4096 + 4096 * 4106),
    ],
)
def test_weight_counts(name, shape, expected):
    assert count(init_shapes(models.create(name), *shape)) == expected


def test_mlp_1d_is_its_equations_from_pytorchs_initialisation():
    model = models.create("mlp_1d", 3, width=200)
    x = np.random.default_rng(0).normal(size=(7, 40)).astype(np.float32)
    params, state = model.init(KEY, x)
    for layer, n in (("fc_0", 40), ("fc_1", 200), ("output", 200)):
        for leaf, tight in (("kernel", 0.98), ("bias", 0.3)):
            bound = np.sqrt(n) * np.abs(params[layer][leaf]).max()
            assert tight < bound <= 1, (layer, leaf)
        kernel = np.sqrt(3 * n) * np.asarray(params[layer]["kernel"])
        assert abs(kernel.std() - 1) < 0.06  # of a uniform distribution
        assert abs(kernel.mean()) < 0.06
    w, b = (
        {layer: np.float64(leaves[leaf]) for layer, leaves in params.items()}
        for leaf in ("kernel", "bias")
    )
    h = np.maximum(x @ w["fc_0"] + b["fc_0"], 0)
    h = h + np.maximum(h @ w["fc_1"] + b["fc_1"], 0)
    logits, _ = model.apply(params, state, x)
    np.testing.assert_allclose(logits, h @ w["output"] + b["output"], 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "smallest"),
    [("conv_6", (7, 8, 1), 8), ("conv_6", (8, 8), 8), ("lenet_5", (12, 11, 1), 12)],
)
def test_too_small_images_are_refused(name, shape, smallest):
    needed = rf"got images of shape .* at least {smallest}x{smallest}"
    with pytest.raises(ValueError, match=needed):
        init_shapes(models.create(name), *shape)


NARROW = {  # with every kind of layer that the network has
    **dict.fromkeys(("lenet_5", "conv_2", "conv_4", "conv_6"), {"hidden": (32,)}),
    **dict.fromkeys(("resnet_20", "resnet_32"), {"width": 4, "blocks": (1, 1)}),
    "resnet_50": {"width": 8, "blocks": (1, 2)},
    **dict.fromkeys(("vgg_16", "vgg_19"), {"widths": ((8, 8), (16,))}),
    "vgg_19_bn": {"widths": ((8, 8), (16,)), "hidden": (32, 32)},
}


@pytest.mark.parametrize("name", models.NAMES)
def test_zoo_computes_in_bfloat16_with_float32_params(name):
    options = {"num_classes": 3, **NARROW.get(name, {})}
    model = models.create(name, dtype=jnp.bfloat16, **options)
    x = np.random.default_rng(1).normal(size=(2, 32, 32, 1)).astype(np.float32)
    params, state = networks.drawn(model, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    logits, _ = jax.jit(model.apply)(params, state, x)
    exact, _ = jax.jit(models.create(name, **options).apply)(params, state, x)
    assert logits.shape == (2, 3)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=0.05 * np.abs(exact).max())
    assert (logits != exact).any()


def test_dropout_needs_training_and_follows_the_key():
    model = models.create("conv_2", dropout=0.5, hidden=(32,))
    x = jax.random.normal(KEY, (2, 4, 4, 1))
    variables = networks.drawn(model, x)
    apply = jax.jit(model.apply, static_argnames="train")
    still = apply(*variables, x)[0]
    first, again, other = (
        apply(*variables, x, train=True, key=jax.random.key(seed))[0]
        for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()
    assert (first != still).any()


def test_import_is_light():
    heavy = "{'flax', 'safetensors'}"
    code = f"import sys, jaxticket.models; print({heavy} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def linen():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x))
            return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))

    return models.from_linen(Net())


def nnx():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, *, rngs):
            self.first = nnx.Linear(4, 5, rngs=rngs)
            self.norm = nnx.BatchNorm(5, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.second = nnx.Linear(5, 3, rngs=rngs)

        def __call__(self, x):
            return self.second(self.drop(nnx.relu(self.norm(self.first(x)))))

    return models.from_nnx(Net)


def equinox():
    eqx = pytest.importorskip("equinox")
    return models.from_equinox(lambda key: eqx.nn.MLP(4, 3, 5, 1, key=key))


def haiku():
    hk = pytest.importorskip("haiku")

    def net(x, train):
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(5)(x), is_training=train)
        return hk.Linear(3)(jax.nn.relu(x))

    return models.from_haiku(hk.transform_with_state(net))


@pytest.mark.parametrize("make", [linen, nnx, equinox, haiku])
def test_adapters_over_seeds(make):
    model = make()
    keys = jax.random.split(KEY, 3)
    x = 2 + jax.random.normal(KEY, (6, 4))
    params, state = jax.jit(jax.vmap(model.init, (0, None)))(keys, x)

    @jax.jit
    @jax.vmap
    def step(key, params, state):
        def loss(params):
            logits, new_state = model.apply(params, state, x, train=True, key=key)
            return jnp.square(logits).mean(), new_state

        (value, new_state), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda w, g: w - 0.1 * g, params, grads), new_state, value

    new_params, new_state, values = step(keys, params, state)
    assert len(set(values.tolist())) == 3
    assert jax.tree.structure(new_params) == jax.tree.structure(params)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    changed = [
        (a != b).any()
        for a, b in zip(jax.tree.leaves(new_state), jax.tree.leaves(state), strict=True)
        if jnp.issubdtype(a.dtype, jnp.floating)
    ]
    assert any(changed) == bool(jax.tree.leaves(state))

    apply = jax.vmap(lambda params, state: model.apply(params, state, x))
    logits, kept = apply(params, new_state)
    assert logits.shape == (3, 6, 3)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), new_state, kept)
    assert all(jax.tree.leaves(same))


CASES = [  # image, kernel, in, out, strides, padding
    ((8, 8), (3, 3), 3, 4, (1, 1), "SAME"),
    ((7, 9), (3, 3), 5, 4, (1, 1), "VALID"),
    ((8, 8), (3, 3), 5, 4, (2, 2), "SAME"),
    ((7, 7), (3, 3), 5, 4, (2, 2), "SAME"),
    ((8, 7), (3, 3), 3, 4, (2, 2), "VALID"),
    ((8, 7), (1, 1), 3, 4, (1, 1), "SAME"),
    ((8, 7), (1, 1), 3, 4, (2, 2), "VALID"),
    ((9, 8), (5, 5), 6, 2, (1, 1), "SAME"),
    ((8, 9), (5, 5), 6, 2, (2, 2), "SAME"),
    ((9, 9), (5, 3), 6, 2, (2, 1), "VALID"),
    ((8, 8), (3, 3), 5, 2, (1, 1), ((0, 2), (1, 0))),
    ((13, 10), (7, 7), 3, 4, (2, 2), ((3, 3), (3, 3))),
]
OURS = [impl for impl in convolution.IMPLS if impl != "lax"]


def data(case, lanes=None, images=2):
    """An input and a kernel, of one lane or `[lanes, ...]`."""
    (height, width), kernel, features, out, *_ = case
    lead = () if lanes is None else (lanes,)
    shapes = (images, height, width, features), (*kernel, features, out)
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=(*lead, *s)).astype(np.float32) for s in shapes)
    return x, kernel / 5


def function(case, impl):
    """Value and both gradients of one convolution: `(x, kernel) -> (y, dx, dk)`."""
    strides, padding = case[4:]

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(x, kernel):
        return convolution.conv(x, kernel, strides=strides, padding=padding, impl=impl)

    def run(x, kernel):
        y, pull = jax.vjp(plain if impl is None else ours, x, kernel)
        return y, *pull(jnp.sin(y))

    return run


@functools.cache
def expected(what, *args):
    """What `what(impl, *args)` is by lax, compiled once for all implementations."""
    return what(None, *args)


def close(actual, expected, atol=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol),
        actual,
        expected,
    )


def alone(impl, case, images=2):
    return jax.jit(function(case, impl))(*data(case, images=images))


@pytest.mark.parametrize("impl", OURS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv_equals_lax(case, impl):
    close(alone(impl, case), expected(alone, case))


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=str)
def test_kernel_gradient_a_few_images_at_a_time(case, images, monkeypatch):
    numbers = math.prod(case[0]) * case[2]
    monkeypatch.setattr(convolution, "_CACHED", images * numbers)
    close(alone("gemm", case, 5), expected(alone, case, 5), 1e-4)


def over_lanes(impl, case, lanes):
    """Images and kernels after three steps in a loop."""

    def step(_, carry):
        x, kernel = carry
        _, dx, dkernel = jax.vmap(function(case, impl))(x, kernel)
        return x - 0.01 * dx, kernel - 0.01 * dkernel

    run = jax.jit(lambda *carry: lax.fori_loop(0, 3, step, carry))
    return run(*data(case, lanes))


@pytest.mark.parametrize("impl", OURS)
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=str)
def test_conv_over_lanes_in_a_loop(case, lanes, impl):
    close(over_lanes(impl, case, lanes), expected(over_lanes, case, lanes))


def one_argument_mapped(impl, in_axes):
    args = [
        a if axis == 0 else a[0]
        for a, axis in zip(data(CASES[2], 2), in_axes, strict=True)
    ]
    return jax.jit(jax.vmap(function(CASES[2], impl), in_axes))(*args)


@pytest.mark.parametrize("impl", OURS)
@pytest.mark.parametrize("in_axes", [(0, None), (None, 0)])
def test_conv_over_lanes_of_one_argument(in_axes, impl):
    close(one_argument_mapped(impl, in_axes), expected(one_argument_mapped, in_axes))


@pytest.mark.parametrize("case", CASES[:6], ids=str)
def test_auto_has_no_grouped_convolution_over_lanes_on_cpu(case):
    run = jax.vmap(jax.vmap(function(case, "auto")))
    program = str(jax.make_jaxpr(run)(*[np.stack([a, a]) for a in data(case, 3)]))
    assert not re.search(r"group_count=(?!1\b)", program)
    naive = jax.vmap(function(case, "lax"))
    assert "group_count=3" in str(jax.make_jaxpr(naive)(*data(case, 3)))


def second_derivatives(impl):
    """Products of the loss's Hessian and the kernel, in both modes."""

    @jax.jit
    def products(x, kernel):
        def loss(kernel):
            return jnp.sum(function(CASES[2], impl)(x, kernel)[0] ** 3)

        grad = jax.grad(loss)
        forward = jax.jvp(grad, (kernel,), (kernel,))[1]
        reverse = jax.grad(lambda k: jnp.vdot(grad(k), kernel))(kernel)
        return forward, reverse

    return products(*data(CASES[2]))


@pytest.mark.parametrize("impl", OURS)
def test_hessian_vector_products(impl):
    close(second_derivatives(impl), expected(second_derivatives), atol=1e-3)


@pytest.mark.parametrize("impl", OURS)
def test_conv_computes_in_the_dtype_of_x(impl):
    x, kernel = data(CASES[0])
    y, dx, dkernel = jax.eval_shape(
        function(CASES[0], impl), x.astype(jnp.bfloat16), kernel
    )
    assert (y.dtype, dx.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert dkernel.dtype == jnp.float32


def test_unknown_impl():
    with pytest.raises(ValueError, match="impl is 'fast'"):
        convolution.conv(*data(CASES[0]), impl="fast")


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 2)])
@pytest.mark.parametrize(
    ("pool", "start", "combine", "scale"),
    [
        (convolution.max_pool, -jnp.inf, lax.max, 1),
        (convolution.avg_pool, 0.0, lax.add, 4),
    ],
)
def test_pooling_equals_reduce_window(size, pool, start, combine, scale):
    def plain(x):
        window = (1, 2, 2, 1)
        return lax.reduce_window(x, start, combine, window, window, "VALID") / scale

    def both(f):
        return jax.jit(lambda x: (f(x), jax.grad(lambda x: jnp.sum(f(x) ** 2))(x)))

    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    close(both(pool)(x), both(plain)(x))
