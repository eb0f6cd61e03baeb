"""Where torchvision and timm keep the layers of a network of the zoo, and how."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

_LEAVES = {  # in the order of a PyTorch state dictionary
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
STATISTICS = ("mean", "var")


class Place(NamedTuple):
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


def places(
    name: str,
    module,
    variables: tuple,
    image: tuple[int, int, int],
    *,
    timm: bool = False,
) -> dict[str, Place]:
    """Every leaf by its name in PyTorch, in the order of the layers.

    Args:
      name: of the network, one of `NAMES`.
      module: its flax module.
      variables: `(params, state)` of it, of which only shapes and dtypes matter.
      image: `(height, width, channels)` of one image.
      timm: whether the names are timm's where they differ from torchvision's.
    """
    params, state = variables
    found = {}
    for layer, prefix in NAMES[name](module, timm):
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
        return Place(layer, leaf, here, None, here.shape)
    parts = here.shape
    if here.ndim == 2:
        parts = (*window, parts[0] // math.prod(window), parts[1])
    height, width, features, out = parts
    if here.ndim == 2 and not convolves:
        return Place(layer, leaf, here, parts, (out, features * height * width))
    return Place(layer, leaf, here, parts, (out, features, height, width))


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


NAMES = {"resnet_50": _resnet, "vgg_19_bn": _vgg, "vgg_19": _vgg, "vgg_16": _vgg}
