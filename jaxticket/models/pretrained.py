"""Weights and tickets of PyTorch, in safetensors: checked, and nothing is executed.

`load` and `save` are of weights, `load_ticket` and `save_ticket` of a ticket, as
`torch.nn.utils.prune` has it: `weight_orig` beside `weight_mask`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import masks
from jaxticket.base import Params, Ticket
from jaxticket.models.model import from_linen

Masks = Literal["pruned", "applied"]
# What a network's layers are called in PyTorch: by the name of a network of the zoo, or
# layer here -> name there. What is flattened before a layer has a window of pixels:
# layer here -> (name there, (height, width)).
Names = str | Mapping[str, str | tuple[str, tuple[int, int]]]

_FLOATS = ("F16", "BF16", "F32", "F64")
_BITS = (*_FLOATS, "BOOL", "U8")
_PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl")
_LEAVES = {  # in the order of a PyTorch state dictionary
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_STATISTICS = ("mean", "var")


def load(
    path: str | Path,
    name: Names,
    *,
    num_classes: int | None = None,
    image: tuple[int, ...] = (224, 224, 3),
    like: tuple[Params, Any] | None = None,
    **options: Any,
) -> tuple[Params, Any]:
    """Reads a network's weights and batch statistics from a PyTorch state dictionary.

    The names are those of torchvision or timm for "resnet_50" and "vgg_19_bn"; for
    "vgg_19" and "vgg_16" `features.0`, ..., counted as torchvision does, and
    `classifier`, one linear layer; for "resnet_20" and "resnet_32" as torchvision names
    basic blocks, `downsample.0` being the projections. The layers of other networks of
    the zoo have the same names there. `num_batches_tracked` is left out. Numbers of any
    floating-point type become those of the parameters, float32.

    Args:
      path: a safetensors file.
      name: of the network, as for `create`; or what the layers of one's own network are
        called there, as `{"encoder/hidden": "encoder.fc1"}`.
      num_classes: the width of the output layer to expect, or None for the file's.
      image: the shape of one example, `(height, width, channels)`; it matters where
        pixels are flattened, whose order is another there.
      like: `(params, state)` of one's own network, with arrays or their shapes; what of
        the state is no batch statistics stays as it is there.
      **options: further fields of the network, as for `create`.

    Returns:
      `(params, state)` of `create(name, num_classes, **options)`, in float32, or like
      those given.

    Raises:
      ValueError: the file is no safetensors file, is damaged, or does not fit: then the
        first name that does not is given, in the order of the layers.
    """
    ticket = _read(path, name, num_classes, image, like, options, pruned=False)
    return ticket.weights, ticket.model_state


def load_ticket(
    path: str | Path,
    name: Names,
    *,
    num_classes: int | None = None,
    image: tuple[int, ...] = (224, 224, 3),
    like: tuple[Params, Any] | None = None,
    **options: Any,
) -> Ticket:
    """Reads a ticket from the state dictionary of a network that PyTorch has pruned.

    A leaf has a mask where the dictionary has `weight_orig` and `weight_mask` in place
    of `weight`, as `torch.nn.utils.prune` writes it.

    Args:
      path: see `load`, as for all others.

    Raises:
      ValueError: see `load`; or a mask holds other numbers than 0 and 1.
    """
    return _read(path, name, num_classes, image, like, options, pruned=True)


def save(
    path: str | Path,
    name: Names,
    params: Params,
    state: Any,
    *,
    image: tuple[int, ...] = (224, 224, 3),
    **options: Any,
) -> None:
    """Writes what `load` reads, under torchvision's names.

    Args:
      path: the file, by custom ending in `.safetensors`.
      name: see `load`.
      params: the network's parameters.
      state: its batch statistics, as from `Model.init`.
      image: the shape of one example.
      **options: further fields of the network, as for `create`.

    Raises:
      ValueError: these are not the parameters of that network, or a leaf has no name.
    """
    places = _places_to_write(name, params, state, image, options)
    _write(path, {key: _exported(place) for key, place in places.items()})


def save_ticket(
    path: str | Path,
    name: Names,
    ticket: Ticket,
    *,
    masks: Masks = "pruned",
    image: tuple[int, ...] = (224, 224, 3),
    **options: Any,
) -> None:
    """Writes a ticket as a state dictionary for PyTorch.

    Args:
      path: the file, by custom ending in `.safetensors`.
      name: see `load`.
      ticket: pruned values that are not known (NaN) are written as zeros.
      masks: `pruned` writes the pairs that `load_ticket` reads, for a network to which
        `torch.nn.utils.prune.identity` has been applied; `applied` writes the weights
        with zeros, for any.
      image: the shape of one example.
      **options: further fields of the network, as for `create`.

    Raises:
      ValueError: see `save`; or an unknown `masks`.
    """
    if masks not in get_args(Masks):
        raise ValueError(f"masks must be one of {get_args(Masks)}, got {masks!r}")
    weights = jax.tree.map(
        lambda w, m: _known(w, m, masks == "applied"), ticket.weights, ticket.mask
    )
    state = {} if ticket.model_state is None else ticket.model_state
    places = _places_to_write(name, weights, state, image, options)
    arrays, pruned = {}, _masks_by_place(ticket) if masks == "pruned" else {}
    for key, place in places.items():
        mask = pruned.get((place.layer, place.leaf))
        arrays[key if mask is None else f"{key}_orig"] = _exported(place)
        if mask is not None:
            bits = np.asarray(mask).astype(place.here.dtype)
            arrays[f"{key}_mask"] = np.ascontiguousarray(place.to_torch(bits))
    _write(path, arrays)


def _known(w: Any, mask: Any, applied: bool) -> np.ndarray:
    """A leaf with zeros for what is pruned, or for what of it is not known."""
    w = np.asarray(w)
    if mask is None:
        return w
    lost = ~np.asarray(mask)
    return np.where(lost if applied else lost & np.isnan(w), np.zeros((), w.dtype), w)


def _masks_by_place(ticket: Ticket) -> dict[tuple[str, str], Any]:
    return {_layer_and_leaf(name): m for name, m in masks.named(ticket.mask).items()}


def _layer_and_leaf(name: str) -> tuple[str, str]:
    """`"a/b/kernel"` -> `("a/b", "kernel")`; batch statistics without collection."""
    layer, _, leaf = name.removeprefix("batch_stats/").rpartition("/")
    return layer, leaf


def _read(path, name, num_classes, image, like, options, *, pruned) -> Ticket:
    _check_name(name)
    path = Path(path).expanduser()
    if path.suffix.lower() in _PICKLED:
        raise ValueError(_conversion(path))
    from safetensors import SafetensorError, safe_open

    arrays: dict[tuple[str, str], np.ndarray] = {}
    bits: dict[tuple[str, str], jax.Array] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            there = _headers(file)
            pairs = _pairs(there) if pruned else set()
            places, like = _expected(name, there, num_classes, image, like, options)
            shown = name if isinstance(name, str) else "the network"
            _check(f"{path} does not fit {shown!r}", places, there, pairs)
            for key, place in places.items():
                at, is_pair = (place.layer, place.leaf), key in pairs
                found = file.get_tensor(f"{key}_orig" if is_pair else key)
                arrays[at] = place.from_torch(found)
                if is_pair:
                    bits[at] = _bits(f"{key}_mask", place, file)
    except SafetensorError as e:
        raise ValueError(f"{path} is damaged or is no safetensors file: {e}") from e

    def filled(where, leaf):
        found = arrays.get(_layer_and_leaf(masks.name(where)))
        return leaf if found is None else jnp.asarray(found)

    params, state = (jax.tree_util.tree_map_with_path(filled, x) for x in like)
    mask = jax.tree_util.tree_map_with_path(
        lambda where, leaf: bits.get(_layer_and_leaf(masks.name(where))), params
    )
    return Ticket(params, mask, state)


def _pairs(there: Mapping[str, Any]) -> set[str]:
    """Names that stand there as what was pruned and its mask."""
    names = {key.removesuffix("_orig") for key in there if key.endswith("_orig")}
    return {name for name in names if f"{name}_mask" in there}


def _bits(key: str, place: "_Place", file: Any) -> jax.Array:
    values = file.get_tensor(key)
    if not np.isin(np.asarray(values, np.float32), (0, 1)).all():
        raise ValueError(f"{key!r} holds other numbers than 0 and 1: it is no mask")
    return jnp.asarray(place.from_torch(values) != 0)


def _write(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    from jaxticket import files

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write(path, save(arrays))


def _places_to_write(name, params, state, image, options) -> dict[str, "_Place"]:
    """Every leaf by its name in PyTorch.

    Raises:
      ValueError: the parameters are of another network, or a leaf has no name there.
    """
    _check_name(name)
    if not isinstance(name, str):
        return _places_by(name, params, state)
    module = _module(name, params["output"]["bias"].size, options)
    if _shapes((params, state)) != _shapes(_like(module, image)):
        raise ValueError(
            f"these are not the parameters of {name!r} for images {image} and {options}"
        )
    return _places(name, module, (params, state), image)


def _check_name(name):
    if isinstance(name, str) and name not in _NAMES:
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


def _expected(name, there, num_classes, image, like, options):
    """The places of a network, and the network without values.

    Of the zoo it has as many classes as the file, or as are asked for.
    """
    if not isinstance(name, str):
        if like is None:
            raise ValueError("give `like`, (params, state) of your own network")
        return _places_by(name, *like), like
    timm = name == "vgg_19_bn" and any(key.startswith("head.") for key in there)
    module = _module(name, num_classes or 1, options)
    if num_classes is None:
        output = dict(_NAMES[name](module, timm))["output"]
        weight = there.get(f"{output}.weight") or there.get(f"{output}.weight_orig")
        _, shape = weight or (None, ())
        module = module.clone(num_classes=shape[0] if shape else 1)
    like = _like(module, image)
    return _places(name, module, like, image, timm=timm), like


def _check(message, places, there, pairs):
    """Refuses the first name that does not fit, in the order of the layers."""
    found = {key: f"{dtype}{list(shape)}" for key, (dtype, shape) in there.items()}
    expected = {}
    for key, place in places.items():
        parts = {f"{key}_orig": _FLOATS, f"{key}_mask": _BITS}
        for part, kinds in (parts if key in pairs else {key: _FLOATS}).items():
            expected[part] = place.shape, kinds
    unknown = [
        key
        for key in there
        if key not in expected and not key.endswith(".num_batches_tracked")
    ]
    for key, (extents, kinds) in expected.items():
        said = f"{message}: expected {key!r} float{list(extents)}"
        if key not in there:
            hint = f", but {unknown[0]!r}" if unknown else ""
            raise ValueError(f"{said}, found no such name{hint}")
        dtype, shape = there[key]
        if shape != extents or dtype not in kinds:
            raise ValueError(f"{said}, found {found[key]}")
    if unknown:
        key = unknown[0]
        raise ValueError(
            f"{message}: found {key!r} {found[key]}, expected no such name"
        )


class _Place(NamedTuple):
    """A leaf of a layer, here and in PyTorch.

    Attributes:
      layer: its name here.
      leaf: "kernel", "scale", "embedding", "bias", "mean" or "var".
      here: what `Model.init` makes of it, or its shape and dtype.
      parts: shape here of a kernel with its window and channels apart, `(..., in,
        out)`; `None` of what is no kernel.
      shape: in PyTorch.
    """

    layer: str
    leaf: str
    here: jax.Array | jax.ShapeDtypeStruct
    parts: tuple[int, ...] | None
    shape: tuple[int, ...]

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """The leaf as PyTorch has it."""
        if self.parts:
            array = array.reshape(self.parts)
            last = array.ndim - 1
            array = array.transpose(last, last - 1, *range(last - 1))
        return array.reshape(self.shape)

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """The leaf as it is here."""
        if self.parts:
            *window, features, out = self.parts
            array = array.reshape(out, features, *window)
            array = array.transpose(*range(2, array.ndim), 1, 0)
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
        if layer == _first_dense(name, module):
            window = _windows(name, module, image)
        convolves = prefix.startswith("pre_logits.")
        stats = state.get("batch_stats", {})
        leaves = {**params.get(layer, {}), **stats.get(layer, {})}
        for leaf, theirs in _LEAVES.items():
            if leaf in leaves:
                place = _place(layer, leaf, leaves[leaf], window, convolves)
                found[f"{prefix}.{theirs}"] = place
    return found


def _places_by(names: Mapping, params: Params, state: Any) -> dict[str, _Place]:
    """The same for a network of which it is said what its layers are called there.

    Of the state only batch statistics have a name there.

    Raises:
      ValueError: a leaf of the parameters has none.
    """
    found = {}
    for tree in (params, state):
        for name, here in masks.named(tree).items():
            layer, leaf = _layer_and_leaf(name)
            if tree is state and leaf not in _STATISTICS:
                continue
            if layer not in names or leaf not in _LEAVES:
                raise ValueError(
                    f"{name!r} has no name in PyTorch: names are given for "
                    f"{', '.join(names)}, and leaves may be {', '.join(_LEAVES)}"
                )
            said = names[layer]
            prefix, window = (said, (1, 1)) if isinstance(said, str) else said
            place = _place(layer, leaf, here, window, False)
            found[f"{prefix}.{_LEAVES[leaf]}"] = place
    return found


def _place(layer, leaf, here, window, convolves):
    if leaf != "kernel":
        return _Place(layer, leaf, here, None, here.shape)
    parts = here.shape
    if here.ndim == 2:
        parts = (*window, parts[0] // math.prod(window), parts[1])
    *window, features, out = parts
    if here.ndim == 2 and not convolves:
        flat = features * math.prod(window)
        if flat != here.shape[0]:
            raise ValueError(f"{layer} has {here.shape[0]} inputs, of no {window}")
        return _Place(layer, leaf, here, parts, (out, flat))
    return _Place(layer, leaf, here, parts, (out, features, *window))


def _first_dense(name: str, module) -> str:
    """The layer before which pixels are flattened."""
    pools = name.startswith(("vgg_", "resnet_"))  # the whole image, without hidden ones
    return "fc_0" if pools or getattr(module, "hidden", True) else "output"


def _windows(name: str, module, image: tuple[int, ...]) -> tuple[int, int]:
    """The height and width of what is flattened."""
    if len(image) != 3:
        return (1, 1)
    height, width = image[:2]
    if name == "lenet_5":
        return (height // 2 - 4) // 2, (width // 2 - 4) // 2
    halved = len(getattr(module, "widths", ()))
    return height >> halved, width >> halved


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


def _basic(module, timm) -> Iterator[tuple[str, str]]:
    del timm
    yield "conv_0", "conv1"
    yield "norm_0", "bn1"
    layer = 0
    for stage, blocks in enumerate(module.blocks):
        for block in range(blocks):
            prefix = f"layer{stage + 1}.{block}"
            for part in (1, 2):
                layer += 1
                yield f"conv_{layer}", f"{prefix}.conv{part}"
                yield f"norm_{layer}", f"{prefix}.bn{part}"
            if stage > 0 and block == 0 and module.shortcut == "projection":
                yield f"shortcut_{stage}", f"{prefix}.downsample.0"
    yield "output", "fc"


def _plain(pair: int = 0, hidden: int | None = None) -> Callable:
    """Layers that are called there as they are here.

    Args:
      pair: how many convolutions have the same width.
      hidden: how many dense layers come before the last; default: as the module has.
    """

    def names(module, timm) -> Iterator[tuple[str, str]]:
        del timm
        convolutions = pair * len(getattr(module, "widths", ()))
        layers = [f"conv_{i}" for i in range(convolutions)]
        dense = len(module.hidden) if hidden is None else hidden
        layers += [f"fc_{i}" for i in range(dense)]
        return ((layer, layer) for layer in [*layers, "output"])

    return names


_NAMES: dict[str, Callable] = {
    "resnet_50": _resnet,
    "resnet_20": _basic,
    "resnet_32": _basic,
    "vgg_19_bn": _vgg,
    "vgg_19": _vgg,
    "vgg_16": _vgg,
    **dict.fromkeys(("mlp", "lenet_300_100"), _plain()),
    **dict.fromkeys(("conv_2", "conv_4", "conv_6"), _plain(2)),
    "lenet_5": _plain(1),
    "mlp_1d": _plain(hidden=2),
}
