"""Weights from PyTorch, in safetensors files: checked, and nothing is executed."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket.base import Params
from jaxticket.models.model import from_linen

_FLOATS = ("F16", "BF16", "F32", "F64")
_PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl")
_LEAVES = {  # in the order of a PyTorch state dictionary
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_STATISTICS = ("mean", "var")


def load(
    path: str | Path,
    name: str,
    *,
    num_classes: int | None = None,
    image: tuple[int, int, int] = (224, 224, 3),
    **options: Any,
) -> tuple[Params, Any]:
    """Reads a network's weights and batch statistics from a PyTorch state dictionary.

    The names are those of torchvision or timm for "resnet_50" and "vgg_19_bn"; for
    "vgg_19" and "vgg_16" `features.0`, ..., counted as torchvision does, and
    `classifier`, one linear layer. `num_batches_tracked` is left out. Numbers of any
    floating-point type become those of the parameters, float32.

    Args:
      path: a safetensors file.
      name: of the network, as for `create`.
      num_classes: the width of the output layer to expect, or None for the file's.
      image: `(height, width, channels)` of one image; the height and width matter only
        to "vgg_19_bn".
      **options: further fields of the network, as for `create`.

    Returns:
      `(params, state)` of `create(name, num_classes, **options)`, in float32.

    Raises:
      ValueError: the file is no safetensors file, is damaged, or does not fit: then the
        first name that does not is given, in the order of the layers.
    """
    _check_name(name)
    path = Path(path).expanduser()
    if Path(path).suffix.lower() in _PICKLED:
        raise ValueError(_conversion(Path(path)))
    from safetensors import SafetensorError, safe_open

    params, stats = {}, {}
    try:
        with safe_open(path, framework="numpy") as file:
            there = _headers(file)
            places = _expected(name, there, num_classes, image, options)
            _check(f"{path} does not fit {name!r}", places, there)
            for key, place in places.items():
                layers = stats if place.leaf in _STATISTICS else params
                leaf = place.from_torch(file.get_tensor(key))
                layers.setdefault(place.layer, {})[place.leaf] = jnp.asarray(leaf)
    except SafetensorError as e:
        raise ValueError(f"{path} is damaged or is no safetensors file: {e}") from e
    return params, {"batch_stats": stats}


def save(
    path: str | Path,
    name: str,
    params: Params,
    state: Any,
    *,
    image: tuple[int, int, int] = (224, 224, 3),
    **options: Any,
) -> None:
    """Writes what `load` reads, under torchvision's names.

    Args:
      path: the file, by custom ending in `.safetensors`.
      name: of the network, as for `create`.
      params: its parameters.
      state: its batch statistics, as from `Model.init`.
      image: `(height, width, channels)` of one image.
      **options: further fields of the network, as for `create`.

    Raises:
      ValueError: these are not the parameters of that network.
    """
    _check_name(name)
    from safetensors.numpy import save_file

    module = _module(name, params["output"]["bias"].size, options)
    if _shapes((params, state)) != _shapes(_like(module, image)):
        raise ValueError(
            f"these are not the parameters of {name!r} for images {image} and {options}"
        )
    places = _places(name, module, (params, state), image)
    save_file({key: _exported(place) for key, place in places.items()}, path)


def _check_name(name):
    if name not in _NAMES:
        raise ValueError(
            f"no names in PyTorch are known for {name!r}, only for {', '.join(_NAMES)}"
        )


def _conversion(path):
    return (
        f"{path} may hold code, which is never executed here; where torch is "
        'installed, convert it by python -c "import torch, safetensors.torch as s; '
        f"d = torch.load({str(path)!r}, map_location='cpu', weights_only=True); "
        "s.save_file({k: v.contiguous() for k, v in d.items()}, "
        f'{str(path.with_suffix(".safetensors"))!r})"'
    )


def _module(name, num_classes, options):
    from jaxticket.models import zoo  # imports flax

    return getattr(zoo, name)(num_classes, **options)


def _like(module, image):
    """`(params, state)` of the module, without values."""
    images = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    return jax.eval_shape(from_linen(module).init, jax.random.key(0), images)


def _shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def _headers(file):
    """Dtype and shape of every array, of which nothing else is read."""
    names = file.keys()
    slices = {key: file.get_slice(key) for key in names}
    return {
        key: (part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()
    }


def _exported(place):
    return np.ascontiguousarray(place.to_torch(np.asarray(place.here)))


def _expected(name, there, num_classes, image, options):
    """The places of a network with as many classes as the file has, or as are asked."""
    timm = name == "vgg_19_bn" and any(key.startswith("head.") for key in there)
    module = _module(name, num_classes or 1, options)
    if num_classes is None:
        output = dict(_NAMES[name](module, timm))["output"]
        _, shape = there.get(f"{output}.weight", (None, ()))
        module = module.clone(num_classes=shape[0] if shape else 1)
    return _places(name, module, _like(module, image), image, timm=timm)


def _check(message, places, there):
    """Refuses the first name that does not fit, in the order of the layers."""
    found = {key: f"{dtype}{list(shape)}" for key, (dtype, shape) in there.items()}
    unknown = [
        key
        for key in there
        if key not in places and not key.endswith(".num_batches_tracked")
    ]
    for key, place in places.items():
        expected = f"{message}: expected {key!r} float{list(place.shape)}"
        if key not in there:
            hint = f", but {unknown[0]!r}" if unknown else ""
            raise ValueError(f"{expected}, found no such name{hint}")
        dtype, shape = there[key]
        if shape != place.shape or dtype not in _FLOATS:
            raise ValueError(f"{expected}, found {found[key]}")
    if unknown:
        key = unknown[0]
        raise ValueError(
            f"{message}: found {key!r} {found[key]}, expected no such name"
        )


class _Place(NamedTuple):
    """A leaf of a layer, here and in PyTorch.

    Attributes:
      layer: its name here.
      leaf: "kernel", "scale", "bias", "mean" or "var".
      here: what `Model.init` makes of it, or its shape and dtype.
      parts: shape here of a kernel with its window and channels apart, `(height, width,
        in, out)`; `None` of what is no kernel.
      shape: in PyTorch.
    """

    layer: str
    leaf: str
    here: jax.Array | jax.ShapeDtypeStruct
    parts: tuple[int, int, int, int] | None
    shape: tuple[int, ...]

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """The leaf as PyTorch has it."""
        if self.parts:
            array = array.reshape(self.parts).transpose(3, 2, 0, 1)
        return array.reshape(self.shape)

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """The leaf as it is here."""
        if self.parts:
            height, width, features, out = self.parts
            array = array.reshape(out, features, height, width).transpose(2, 3, 1, 0)
        return array.reshape(self.here.shape).astype(self.here.dtype, copy=False)


def _places(
    name: str,
    module,
    variables: tuple,
    image: tuple[int, int, int],
    *,
    timm: bool = False,
) -> dict[str, _Place]:
    """Every leaf by its name in PyTorch, in the order of the layers.

    Args:
      name: of the network, one of `_NAMES`.
      module: its flax module.
      variables: `(params, state)` of it, of which only shapes and dtypes matter.
      image: `(height, width, channels)` of one image.
      timm: whether the names are timm's where they differ from torchvision's.
    """
    params, state = variables
    found = {}
    for layer, prefix in _NAMES[name](module, timm):
        window = (1, 1)
        if layer == "fc_0":  # of all pixels that the poolings leave
            window = tuple(size >> len(module.widths) for size in image[:2])
        convolves = prefix.startswith("pre_logits.")
        leaves = {**params.get(layer, {}), **state["batch_stats"].get(layer, {})}
        for leaf, theirs in _LEAVES.items():
            if leaf in leaves:
                place = _place(layer, leaf, leaves[leaf], window, convolves)
                found[f"{prefix}.{theirs}"] = place
    return found


def _place(layer, leaf, here, window, convolves):
    if leaf != "kernel":
        return _Place(layer, leaf, here, None, here.shape)
    parts = here.shape
    if here.ndim == 2:
        parts = (*window, parts[0] // math.prod(window), parts[1])
    height, width, features, out = parts
    if here.ndim == 2 and not convolves:
        return _Place(layer, leaf, here, parts, (out, features * height * width))
    return _Place(layer, leaf, here, parts, (out, features, height, width))


def _vgg(module, timm) -> Iterator[tuple[str, str]]:
    layer = index = 0
    for widths in module.widths:
        for _ in widths:
            yield f"conv_{layer}", f"features.{index}"
            yield f"norm_{layer}", f"features.{index + 1}"
            layer, index = layer + 1, index + 3  # a ReLU is the third
        index += 1  # the pooling
    for hidden in range(len(module.hidden)):  # a ReLU and dropout follow each
        there = f"pre_logits.fc{hidden + 1}" if timm else f"classifier.{3 * hidden}"
        yield f"fc_{hidden}", there
    last = f".{3 * len(module.hidden)}" if module.hidden else ""
    yield "output", "head.fc" if timm else f"classifier{last}"


def _resnet(module, timm) -> Iterator[tuple[str, str]]:
    del timm  # calls all as torchvision does
    yield "conv_0", "conv1"
    yield "norm_0", "bn1"
    layer = 0
    for stage, blocks in enumerate(module.blocks):
        for block in range(blocks):
            prefix = f"layer{stage + 1}.{block}"
            for part in (1, 2, 3):
                layer += 1
                yield f"conv_{layer}", f"{prefix}.conv{part}"
                yield f"norm_{layer}", f"{prefix}.bn{part}"
            if block == 0:
                yield f"shortcut_{stage}", f"{prefix}.downsample.0"
                yield f"shortcut_norm_{stage}", f"{prefix}.downsample.1"
    yield "output", "fc"


_NAMES = {"resnet_50": _resnet, "vgg_19_bn": _vgg, "vgg_19": _vgg, "vgg_16": _vgg}
