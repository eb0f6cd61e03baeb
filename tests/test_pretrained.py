"""Networks from PyTorch's state dictionaries, against forward passes of these."""

import math
import re
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxticket import masks, models
from jaxticket.models import pretrained, zoo

KEY = jax.random.key(0)


class Numpy:
    """PyTorch's operations on `[batch, channels, height, width]`, in float64."""

    def conv(self, x, weight, bias=None, stride=1, padding=0):
        x = np.pad(x, ((0, 0), (0, 0), *[(padding, padding)] * 2))
        windows = _windows(x, weight.shape[2:], stride)
        y = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)
        return y if bias is None else y + bias[:, None, None]

    def norm(self, x, mean, var, weight, bias):
        mean, var, weight, bias = (v[:, None, None] for v in (mean, var, weight, bias))
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def max_pool(self, x, size, stride, padding=0):
        edge = [(padding, padding)] * 2
        x = np.pad(x, ((0, 0), (0, 0), *edge), constant_values=-np.inf)
        return _windows(x, (size, size), stride).max((4, 5))

    def relu(self, x):
        return np.maximum(x, 0)


def _windows(x, size, stride):
    windows = np.lib.stride_tricks.sliding_window_view(x, size, (2, 3))
    return windows[:, :, ::stride, ::stride]


class Torch:
    """The same with PyTorch, normalising by the batch if `train`."""

    def __init__(self, torch, train):
        self.functional, self.train = torch.nn.functional, train
        self.conv, self.relu = self.functional.conv2d, self.functional.relu
        self.max_pool = self.functional.max_pool2d

    def norm(self, x, mean, var, weight, bias):
        return self.functional.batch_norm(x, mean, var, weight, bias, self.train)


class Drawn:
    """A state dictionary that is drawn at random as PyTorch would name it."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.arrays = {}

    def weight(self, name, *shape):
        spread = np.sqrt(2 / math.prod(shape[1:]))
        self.arrays[f"{name}.weight"] = self.rng.normal(0, spread, shape)

    def bias(self, name, size):
        self.arrays[f"{name}.bias"] = self.rng.normal(0, 0.5, size)

    def norm(self, name, size):
        self.arrays[f"{name}.weight"] = self.rng.uniform(0.5, 1.5, size)
        self.bias(name, size)
        self.arrays[f"{name}.running_mean"] = self.rng.normal(0, 0.3, size)
        self.arrays[f"{name}.running_var"] = self.rng.uniform(0.5, 2, size)
        self.arrays[f"{name}.num_batches_tracked"] = np.int64(7)

    def linear(self, name, out, features):
        self.weight(name, out, features)
        self.bias(name, out)

    def done(self):
        return {
            name: np.asarray(x, np.int64 if x.ndim == 0 else np.float32)
            for name, x in self.arrays.items()
        }


def resnet_dictionary(width, blocks, num_classes):
    drawn = Drawn()
    drawn.weight("conv1", width, 3, 7, 7)
    drawn.norm("bn1", width)
    features = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            drawn.weight(f"{name}.conv1", inner, features, 1, 1)
            drawn.norm(f"{name}.bn1", inner)
            drawn.weight(f"{name}.conv2", inner, inner, 3, 3)
            drawn.norm(f"{name}.bn2", inner)
            drawn.weight(f"{name}.conv3", 4 * inner, inner, 1, 1)
            drawn.norm(f"{name}.bn3", 4 * inner)
            if block == 0:
                drawn.weight(f"{name}.downsample.0", 4 * inner, features, 1, 1)
                drawn.norm(f"{name}.downsample.1", 4 * inner)
            features = 4 * inner
    drawn.linear("fc", num_classes, features)
    return drawn.done()


def resnet_forward(ops, d, x, blocks):
    def normed(x, conv, norm, **options):
        y = ops.conv(x, d[f"{conv}.weight"], **options)
        parts = ("running_mean", "running_var", "weight", "bias")
        return ops.norm(y, *(d[f"{norm}.{part}"] for part in parts))

    x = ops.relu(normed(x, "conv1", "bn1", stride=2, padding=3))
    x = ops.max_pool(x, 3, stride=2, padding=1)
    for stage, count in enumerate(blocks):
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            stride = 2 if stage > 0 and block == 0 else 1
            y = ops.relu(normed(x, f"{name}.conv1", f"{name}.bn1"))
            y = normed(y, f"{name}.conv2", f"{name}.bn2", stride=stride, padding=1)
            y = normed(ops.relu(y), f"{name}.conv3", f"{name}.bn3")
            if block == 0:
                down = f"{name}.downsample"
                x = normed(x, f"{down}.0", f"{down}.1", stride=stride)
            x = ops.relu(y + x)
    return x.mean((2, 3)) @ d["fc.weight"].T + d["fc.bias"]


# A 2x2 pooling follows each stage; in PyTorch every convolution, normalisation, ReLU
# and pooling has a number.
VGG_WIDTHS = ((4, 5), (6,), (7, 8))
VGG_CONVS = {0: 4, 3: 5, 7: 6, 11: 7, 14: 8}
VGG_POOLS = (6, 10, 17)


def vgg_dictionary(num_classes, *, bias, hidden=(), pixels=()):
    drawn, features = Drawn(), 3
    for index, width in VGG_CONVS.items():
        drawn.weight(f"features.{index}", width, features, 3, 3)
        if bias:
            drawn.bias(f"features.{index}", width)
        drawn.norm(f"features.{index + 1}", width)
        features = width
    if not hidden:
        drawn.linear("classifier", num_classes, features)
        return drawn.done()
    first, second = hidden
    drawn.linear("classifier.0", first, features * math.prod(pixels))
    drawn.linear("classifier.3", second, first)
    drawn.linear("classifier.6", num_classes, second)
    return drawn.done()


def vgg_forward(ops, d, x):
    for index in range(VGG_POOLS[-1] + 1):
        if index in VGG_CONVS:
            name, norm = f"features.{index}", f"features.{index + 1}"
            x = ops.conv(x, d[f"{name}.weight"], d.get(f"{name}.bias"), padding=1)
            parts = ("running_mean", "running_var", "weight", "bias")
            x = ops.relu(ops.norm(x, *(d[f"{norm}.{part}"] for part in parts)))
        if index in VGG_POOLS:
            x = ops.max_pool(x, 2, stride=2)
    x = x.reshape(len(x), -1)
    if "classifier.weight" in d:
        return x @ d["classifier.weight"].T + d["classifier.bias"]
    for index in (0, 3):
        layer = f"classifier.{index}"
        x = ops.relu(x @ d[f"{layer}.weight"].T + d[f"{layer}.bias"])
    return x @ d["classifier.6.weight"].T + d["classifier.6.bias"]


def as_timm(dictionary, pixels):
    """VGG's linear layers as timm has them: two convolutions and a head."""
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}
    names["classifier.6"] = "head.fc"
    windows = {"classifier.0.weight": pixels, "classifier.3.weight": (1, 1)}
    found = {}
    for name, x in dictionary.items():
        layer, leaf = name.rsplit(".", 1)
        if name in windows:
            x = x.reshape(len(x), -1, *windows[name])
        found[f"{names.get(layer, layer)}.{leaf}"] = x
    return found


BLOCKS = (1, 2, 1)
RESNET = resnet_dictionary(4, BLOCKS, 6)
HIDDEN = {"widths": VGG_WIDTHS, "hidden": (9, 10)}
VGG = vgg_dictionary(6, bias=True, hidden=(9, 10), pixels=(3, 2))
CIFAR = vgg_dictionary(6, bias=False)

# The network, its fields, its dictionary in torchvision's names and in the file, and
# the height and width of the images: no square, in which they could be exchanged, and
# an even one before each of ResNet-50's first strides, where "SAME" would differ.
CASES = {
    "resnet_50": (
        "resnet_50",
        {"width": 4, "blocks": BLOCKS},
        RESNET,
        RESNET,
        (46, 31),
    ),
    "vgg_19_bn": ("vgg_19_bn", HIDDEN, VGG, VGG, (26, 16)),
    "timm": ("vgg_19_bn", HIDDEN, VGG, as_timm(VGG, (3, 2)), (26, 16)),
    "vgg_19": ("vgg_19", {"widths": VGG_WIDTHS}, CIFAR, CIFAR, (8, 8)),
}


def images(size):
    return np.random.default_rng(1).normal(0, 1, (3, 3, *size))


def forward(ops, name, dictionary, x):
    if name == "resnet_50":
        return resnet_forward(ops, dictionary, x, BLOCKS)
    return vgg_forward(ops, dictionary, x)


def apply(name, options, params, state, x, **flags):
    model = models.create(name, 6, **options)
    return jax.jit(model.apply, static_argnames="train")(params, state, x, **flags)


def close(actual, expected, rtol=1e-4):
    np.testing.assert_allclose(actual, expected, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_those_of_the_dictionary(case, tmp_path):
    name, options, dictionary, stored, size = CASES[case]
    path = tmp_path / "weights.safetensors"
    save_file(stored, path)
    params, state = pretrained.load(path, name, image=(*size, 3), **options)
    like = jax.eval_shape(
        models.create(name, 6, **options).init, KEY, jnp.zeros((1, *size, 3))
    )
    assert jax.tree.structure((params, state)) == jax.tree.structure(like)
    leaves = zip(jax.tree.leaves((params, state)), jax.tree.leaves(like), strict=True)
    assert all(x.shape == y.shape and x.dtype == y.dtype for x, y in leaves)

    x = images(size)
    exact = {key: array.astype(np.float64) for key, array in dictionary.items()}
    expected = forward(Numpy(), name, exact, x)
    assert np.ptp(expected, axis=0).min() > 0.05  # the images are told apart
    logits, _ = apply(
        name, options, params, state, jnp.float32(x.transpose(0, 2, 3, 1))
    )
    close(logits, expected)


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_is_what_was_loaded(case, tmp_path):
    name, options, dictionary, stored, size = CASES[case]
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save_file(stored, first)
    options = {"image": (*size, 3), **options}
    loaded = pretrained.load(first, name, **options)
    pretrained.save(second, name, *loaded, **options)
    again = load_file(second)
    kept = [key for key in dictionary if not key.endswith("num_batches_tracked")]
    assert set(again) == set(kept)
    for key in kept:
        np.testing.assert_array_equal(again[key], dictionary[key])


def test_only_the_networks_own_parameters_are_saved(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(CIFAR, path)
    loaded = pretrained.load(path, "vgg_19", widths=VGG_WIDTHS)
    with pytest.raises(ValueError, match="not the parameters of 'vgg_16'"):
        pretrained.save(tmp_path / "other.safetensors", "vgg_16", *loaded)
    assert not (tmp_path / "other.safetensors").exists()


def test_resnet_50_trains_as_in_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    name, options, dictionary, stored, size = CASES["resnet_50"]
    path = tmp_path / "weights.safetensors"
    save_file(stored, path)
    params, state = pretrained.load(path, name, **options)
    x = images(size).astype(np.float32)
    labels = np.array([0, 3, 5])

    tensors = {key: torch.tensor(array) for key, array in dictionary.items()}
    still = forward(Torch(torch, train=False), name, tensors, torch.tensor(x))
    trained = [key for key in tensors if key.endswith(("weight", "bias"))]
    for key in trained:
        tensors[key].requires_grad_()
    moving = forward(Torch(torch, train=True), name, tensors, torch.tensor(x))
    torch.nn.functional.cross_entropy(moving, torch.tensor(labels)).backward()

    x = jnp.asarray(x.transpose(0, 2, 3, 1))
    close(apply(name, options, params, state, x)[0], still.detach().numpy())
    model = models.create(name, 6, **options)

    @jax.jit
    @jax.grad
    def gradient(params):
        logits, _ = model.apply(params, state, x, train=True)
        return -jax.nn.log_softmax(logits)[jnp.arange(3), labels].mean()

    logits, new_state = apply(name, options, params, state, x, train=True)
    close(logits, moving.detach().numpy())
    pretrained.save(path, name, gradient(params), new_state, **options)
    ours = load_file(path)
    for key in trained:
        close(ours[key], tensors[key].grad.numpy(), rtol=1e-3)
    for key in tensors:
        if key.endswith("running_mean"):  # the variances differ by n / (n - 1)
            close(ours[key], tensors[key].numpy())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(dtype, tmp_path):
    path = tmp_path / "weights.safetensors"
    cast = {key: x.astype(dtype) if x.ndim else x for key, x in CIFAR.items()}
    save_file(cast, path)
    params, state = pretrained.load(path, "vgg_19", widths=VGG_WIDTHS)
    leaves = jax.tree.leaves((params, state))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    kernel = cast["classifier.weight"].astype(np.float32).T
    np.testing.assert_array_equal(params["output"]["kernel"], kernel)


def without(name):
    return {key: x for key, x in CIFAR.items() if key != name}


SHORT = CIFAR["features.1.running_var"][:-1]
REFUSED = {  # what the file holds, and the error
    "missing": (
        without("features.4.bias"),
        r"expected 'features\.4\.bias' float\[5\], found no such name$",
    ),
    "shape": (
        {**CIFAR, "features.1.running_var": SHORT},
        r"expected 'features\.1\.running_var' float\[4\], found F32\[3\]",
    ),
    "layout": (
        {**CIFAR, "features.3.weight": CIFAR["features.3.weight"].swapaxes(0, 1)},
        r"expected 'features\.3\.weight' float\[5, 4, 3, 3\], found F32\[4, 5, 3, 3\]",
    ),
    "dtype": (
        {**CIFAR, "features.7.weight": np.zeros((6, 5, 3, 3), np.int32)},
        r"expected 'features\.7\.weight' float\[6, 5, 3, 3\], found I32\[6, 5, 3, 3\]",
    ),
    "extra": (
        {**CIFAR, "features.0.bias": np.zeros(4, np.float32)},
        r"found 'features\.0\.bias' F32\[4\], expected no such name",
    ),
    "prefix": (
        {f"module.{key}": x for key, x in CIFAR.items()},
        r"expected 'features\.0\.weight' .*found no such name, but 'module\.classifier",
    ),
    "scalar": (
        {**CIFAR, "classifier.weight": np.float32(1)},
        r"expected 'classifier\.weight' float\[1, 8\], found F32\[\]",
    ),
    "first": (  # of two, in the order of the layers and not of the names
        {**without("classifier.bias"), "features.14.weight": SHORT},
        r"expected 'features\.14\.weight'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_does_not_fit_is_refused(case, tmp_path):
    path = tmp_path / "weights.safetensors"
    stored, message = REFUSED[case]
    save_file({key: np.array(x, order="C") for key, x in stored.items()}, path)
    with pytest.raises(ValueError, match=f"does not fit 'vgg_19': {message}") as error:
        pretrained.load(path, "vgg_19", widths=VGG_WIDTHS)
    assert str(path) in str(error.value)


def test_the_number_of_classes_is_the_files_unless_it_is_given(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(CIFAR, path)
    params, _ = pretrained.load(path, "vgg_19", widths=VGG_WIDTHS)
    assert params["output"]["kernel"].shape == (8, 6)
    with pytest.raises(
        ValueError, match=r"'classifier\.weight' float\[10, 8\], found F32\[6, 8\]"
    ):
        pretrained.load(path, "vgg_19", num_classes=10, widths=VGG_WIDTHS)


def test_other_networks_and_sizes_of_images_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(VGG, path)
    with pytest.raises(ValueError, match=r"'conv1\.weight' .*, but 'classifier\.0"):
        pretrained.load(path, "resnet_50")
    with pytest.raises(ValueError, match=r"'classifier\.0\.weight' float\[9, 32\]"):
        pretrained.load(path, "vgg_19_bn", image=(16, 16, 3), **HIDDEN)
    with pytest.raises(ValueError, match=r"known for 'resnet_18', only for resnet_50"):
        pretrained.load(path, "resnet_18")


def _damaged(kind, whole):
    match kind:
        case "empty":
            return b""
        case "short":
            return whole[:-1]
        case "header":
            return whole[:20] + b"\xff" + whole[21:]
        case "other":
            return b"no such file " * 100


@pytest.mark.parametrize("kind", ["empty", "short", "header", "other"])
def test_damage_is_one_clear_error(kind, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(CIFAR, path)
    path.write_bytes(_damaged(kind, path.read_bytes()))
    with pytest.raises(ValueError, match=r"damaged or is no safetensors") as error:
        pretrained.load(path, "vgg_19", widths=VGG_WIDTHS)
    assert str(path) in str(error.value)


def test_a_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        pretrained.load(tmp_path / "none.safetensors", "vgg_19")


def test_a_zip_of_pickles_is_not_read_under_another_name(tmp_path):
    path = tmp_path / "weights.safetensors"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"cos\nsystem\n")
    with pytest.raises(ValueError, match="no safetensors file"):
        pretrained.load(path, "vgg_19")


def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path):
    path = tmp_path / "weights.pth"  # is not even opened: there is none
    with pytest.raises(
        ValueError, match=r"never executed here; .*torch\.load"
    ) as error:
        pretrained.load(path, "vgg_19")
    torch = pytest.importorskip("torch")
    torch.save({key: torch.tensor(x) for key, x in CIFAR.items()}, path)
    exec(re.search(r'python -c "(.*)"$', str(error.value))[1], {})
    params, _ = pretrained.load(
        tmp_path / "weights.safetensors", "vgg_19", widths=VGG_WIDTHS
    )
    kernel = CIFAR["classifier.weight"].T
    np.testing.assert_array_equal(params["output"]["kernel"], kernel)


def full_size(name, *, timm=False):
    """Shapes under PyTorch's names, and `(params, state)` without values."""
    module, image = getattr(zoo, name)(1000), (224, 224, 3)
    like = jax.eval_shape(
        models.create(name, 1000).init, KEY, jax.ShapeDtypeStruct((1, *image), "f4")
    )
    places = pretrained._places(name, module, like, image, timm=timm)
    return {key: place.shape for key, place in places.items()}, like


def size(tree, rule=lambda path, leaf: True):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sum(leaf.size for path, leaf in leaves if rule(path, leaf))


def test_resnet_50_has_the_official_names_and_counts():
    shapes, (params, state) = full_size("resnet_50")
    assert len(shapes) == 161 + 2 * 53  # and 53 `num_batches_tracked`
    assert sum(map(math.prod, shapes.values())) == size((params, state))
    assert size(params) == 25_557_032
    assert size(params, masks.is_kernel) == 25_502_912
    official = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.running_var": (256,),
        "layer1.2.conv3.weight": (256, 64, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer2.3.bn2.bias": (128,),
        "layer3.0.conv1.weight": (256, 512, 1, 1),
        "layer3.5.bn3.weight": (1024,),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
        "layer4.2.bn3.running_var": (2048,),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }
    assert {key: shapes.get(key) for key in official} == official
    assert not any(key.startswith(("layer1.1.down", "layer1.3")) for key in shapes)


def test_vgg_19_bn_has_the_official_names_and_counts():
    shapes, (params, state) = full_size("vgg_19_bn")
    assert len(shapes) == 16 * 2 + 16 * 4 + 3 * 2
    assert sum(map(math.prod, shapes.values())) == size((params, state))
    assert size(params) == 143_678_248
    convs = [0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49]
    named = {int(key.split(".")[1]) for key in shapes if key.startswith("features")}
    assert named == {*convs, *(index + 1 for index in convs)}
    official = {
        "features.0.weight": (64, 3, 3, 3),
        "features.0.bias": (64,),
        "features.1.weight": (64,),
        "features.14.weight": (256, 128, 3, 3),
        "features.49.weight": (512, 512, 3, 3),
        "features.50.running_mean": (512,),
    }
    linear = {
        "classifier.0.weight": (4096, 25088),
        "classifier.3.weight": (4096, 4096),
        "classifier.6.weight": (1000, 4096),
        "classifier.6.bias": (1000,),
    }
    assert {key: shapes.get(key) for key in official | linear} == official | linear
    shapes, _ = full_size("vgg_19_bn", timm=True)
    theirs = {
        "pre_logits.fc1.weight": (4096, 512, 7, 7),
        "pre_logits.fc2.weight": (4096, 4096, 1, 1),
        "head.fc.weight": (1000, 4096),
        "head.fc.bias": (1000,),
    }
    assert {key: shapes.get(key) for key in official | theirs} == official | theirs
    assert not set(linear) & set(shapes)
