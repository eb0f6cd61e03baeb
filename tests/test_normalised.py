"""Networks for small images: against NumPy and PyTorch, their statistics, seeds."""

import functools
import math

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from jaxticket import masks, models

KEY = jax.random.key(0)
NAMES = ("resnet_20", "vgg_16")
# Of the images: the least that tests all, odd where every second pixel is taken.
SIZE = {"resnet_20": 16, "resnet_32": 11, "vgg_16": 32}

pytestmark = pytest.mark.usefixtures("unoptimised")


@functools.cache
def example(name, **options):
    """A model, parameters and state away from where they start, and images."""
    model, rng = models.create(name, **options), np.random.default_rng(1)
    x = rng.normal(size=(8, SIZE[name], SIZE[name], 3)).astype(np.float32)
    return model, *networks.drawn(model, x), x


@functools.cache
def applied(name, **options):
    return jax.jit(example(name, **options)[0].apply, static_argnames="train")


class Numpy:
    """The layers in float64; they remember the statistics of what they normalise."""

    def __init__(self, params, state, train):
        self.params, self.stats = jax.tree.map(
            lambda x: np.asarray(x, np.float64), (params, state["batch_stats"])
        )
        self.train = train

    def conv(self, name, x, stride=1):
        kernel = self.params[name]["kernel"]
        size = len(kernel)
        edge = ((size // 2, size // 2),) * 2
        x = np.pad(x, ((0, 0), *edge, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
        windows = windows[:, ::stride, ::stride]
        return np.einsum("nhwcij,ijco->nhwo", windows, kernel, optimize=True)

    def norm(self, name, x):
        stats = self.stats[name]
        mean, var = stats["mean"], stats["var"]
        if self.train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            stats["mean"] = 0.9 * stats["mean"] + 0.1 * mean
            stats["var"] = 0.9 * stats["var"] + 0.1 * var
        layer = self.params[name]
        return (x - mean) / np.sqrt(var + 1e-5) * layer["scale"] + layer["bias"]

    def output(self, x):
        layer = self.params["output"]
        return x.mean((1, 2)) @ layer["kernel"] + layer["bias"]

    def resnet_20(self, x):
        def normed(layer, x, stride=1):
            return self.norm(f"norm_{layer}", self.conv(f"conv_{layer}", x, stride))

        x = np.maximum(normed(0, x), 0)
        for block in range(9):
            halves = block in (3, 6)
            y = np.maximum(normed(2 * block + 1, x, 2 if halves else 1), 0)
            if halves:
                x = self.conv(f"shortcut_{block // 3}", x, 2)
            x = np.maximum(x + normed(2 * block + 2, y), 0)
        return self.output(x)

    def resnet_32(self, x):
        def normed(layer, x, stride=1):
            return self.norm(f"norm_{layer}", self.conv(f"conv_{layer}", x, stride))

        x = np.maximum(normed(0, x), 0)
        for block in range(5):
            halves = block in (2, 4)
            y = np.maximum(normed(2 * block + 1, x, 2 if halves else 1), 0)
            if halves:  # to twice the channels, the old ones in the middle
                x, more = x[:, ::2, ::2], np.zeros_like(x[:, ::2, ::2, ::2])
                x = np.concatenate([more, x, more], -1)
            x = np.maximum(x + normed(2 * block + 2, y), 0)
        return self.output(x)

    def vgg_16(self, x):
        pooled = (1, 3, 6, 9, 12)
        for layer in range(13):
            x = self.norm(f"norm_{layer}", self.conv(f"conv_{layer}", x))
            x = np.maximum(x, 0)
            if layer in pooled:
                x = np.maximum(x[:, ::2], x[:, 1::2])
                x = np.maximum(x[:, :, ::2], x[:, :, 1::2])
        return self.output(x)


def close(actual, expected, rtol=1e-4):
    """Each leaf, to a fraction of the largest number of it."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=rtol * np.abs(b).max()),
        actual,
        expected,
    )


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", [*NAMES, "resnet_32"])
def test_forward_pass_equals_numpy(name, train):
    short = {"width": 4, "blocks": (2, 2, 1)} if name == "resnet_32" else {}
    _, params, state, x = example(name, **short)
    logits, new_state = applied(name, **short)(params, state, x, train=train)
    plain = Numpy(params, state, train)
    close(logits, getattr(plain, name)(np.asarray(x, np.float64)))
    close(new_state["batch_stats"], plain.stats)
    if not train:
        jax.tree.map(np.testing.assert_array_equal, new_state, state)


def torch_resnet_20(torch):
    """The network as released with Continuous Sparsification, without its masks."""
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [3] + [16] * 7 + [32] * 6 + [64] * 6
            for layer in range(19):
                ins, out = widths[layer : layer + 2]
                stride = 2 if layer in (7, 13) else 1
                conv = nn.Conv2d(ins, out, 3, stride, padding=1, bias=False)
                self.add_module(f"conv_{layer}", conv)
                self.add_module(f"norm_{layer}", nn.BatchNorm2d(out))
            self.shortcut_1 = nn.Conv2d(16, 32, 1, 2, bias=False)
            self.shortcut_2 = nn.Conv2d(32, 64, 1, 2, bias=False)
            self.output = nn.Linear(64, 10)

        def forward(self, x):
            def normed(layer, x):
                conv, norm = (getattr(self, f"{s}_{layer}") for s in ("conv", "norm"))
                return norm(conv(x))

            x = torch.relu(normed(0, x))
            for block in range(9):
                y = normed(2 * block + 2, torch.relu(normed(2 * block + 1, x)))
                if block in (3, 6):
                    x = getattr(self, f"shortcut_{block // 3}")(x)
                x = torch.relu(x + y)
            return self.output(x.mean((2, 3)))

    return Net()


def test_resnet_20_trains_as_in_pytorch():
    torch = pytest.importorskip("torch")
    model, params, state, x = example("resnet_20")
    labels = jnp.arange(len(x))

    def loss_fn(params):
        logits, new_state = model.apply(params, state, x, train=True)
        return -jax.nn.log_softmax(logits)[labels, labels].mean(), new_state

    (loss, new_state), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
        params
    )

    net = torch_resnet_20(torch).train()
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    ours = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    ours |= {"mean": "running_mean", "var": "running_var"}

    def named(tree):
        """Leaves under PyTorch's names, in its layout."""
        paths = (path.split("/") for path in masks.names(tree))
        return {
            f"{layer}.{ours[leaf]}": np.asarray(x).transpose(axes[x.ndim])
            for (layer, leaf), x in zip(paths, jax.tree.leaves(tree), strict=True)
        }

    values = named(params) | named(state["batch_stats"])
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    missing, extra = net.load_state_dict(tensors, strict=False)
    assert not extra
    assert all(name.endswith("num_batches_tracked") for name in missing)

    logits = net(torch.tensor(np.asarray(x).transpose(0, 3, 1, 2)))
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(len(x)))
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    theirs = {name: p.grad.numpy() for name, p in net.named_parameters()}
    close(named(grads), theirs, rtol=1e-3)
    stats = named(new_state["batch_stats"])
    means = {name: net.state_dict()[name].numpy() for name in stats if "mean" in name}
    close({name: stats[name] for name in means}, means)


SMALL = {"resnet_20": {"blocks": (1, 1)}, "vgg_16": {"widths": ((8, 8), (40,))}}


@pytest.mark.parametrize("name", NAMES)
def test_seeds_under_vmap_equal_each_alone(name):
    # In float64: what is just below zero for one may be just above for the other.
    with jax.enable_x64(True):
        _check_seeds(*example(name, **SMALL[name]))


def _check_seeds(model, *arrays):
    params, state, x = jax.tree.map(lambda x: x.astype(jnp.float64), arrays)

    def gradients(scale, x):
        def loss(params):
            logits, new_state = model.apply(params, state, x, train=True)
            return jnp.square(logits).mean(), new_state

        scaled = jax.tree.map(lambda w: scale * w, params)
        return jax.grad(loss, has_aux=True)(scaled)

    scales, images = np.array([1.0, 0.5]), np.stack([x, 2 * x[::-1]])
    together = jax.jit(jax.vmap(gradients))(scales, images)
    alone = [jax.jit(gradients)(*args) for args in zip(scales, images, strict=True)]
    close(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_keeps_statistics_in_float32(name):
    _, params, state, x = example(name)
    logits, new_state = applied(name, dtype=jnp.bfloat16)(params, state, x, train=True)
    kept = {leaf.dtype for leaf in jax.tree.leaves((params, new_state, logits))}
    assert kept == {jnp.dtype("float32")}
    expected = applied(name)(params, state, x, train=True)
    close((logits, new_state), expected, rtol=0.1)
    assert (logits != expected[0]).any()


def init_shapes(name, shape, num_classes=10):
    model = models.create(name, num_classes)
    return jax.eval_shape(model.init, KEY, jnp.zeros((2, *shape)))[0]


def prunable(params, rule):
    """How many weights the rule lets prune."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
    mask = jax.eval_shape(lambda: masks.full(zeros, rule))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(mask))


def test_what_is_pruned():
    params = init_shapes("resnet_20", (32, 32, 3))
    assert prunable(params, models.is_convolution) == 267_696
    assert prunable(params, models.is_hidden) == 267_696 + 2560
    assert prunable(params, masks.is_kernel) == 267_696 + 2560 + 640
    shortcuts = [params[f"shortcut_{stage}"]["kernel"] for stage in (1, 2)]
    assert [leaf.shape for leaf in shortcuts] == [(1, 1, 16, 32), (1, 1, 32, 64)]
    assert sum(leaf.size for leaf in shortcuts) == 2560


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("lenet_300_100", (28, 28, 1), 265_200),
        ("lenet_5", (28, 28, 1), 61_470 - 840),
        ("vgg_19", (32, 32, 3), 20_018_880),
        ("resnet_32", (32, 32, 3), 1_844_064),
        ("resnet_50", (224, 224, 3), 23_454_912),
    ],
)
def test_all_but_the_output_layer_can_be_pruned(name, shape, expected):
    params = init_shapes(name, shape)
    assert prunable(params, models.is_hidden) == expected
    assert (
        prunable(params, masks.is_kernel) == expected + params["output"]["kernel"].size
    )
