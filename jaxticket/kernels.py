"""Which leaves of a network are kernels, and how many inputs each of their outputs has.

Libraries say what a parameter is by its name, and shapes alone mislead: the bias of an
attention is `[heads, d]`, a scale under `scan` is `[layers, d]`. Where a name says
nothing, what stands beside it in the same layer does; else its shape.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import FlattenedIndexKey, GetAttrKey, keystr, tree_leaves_with_path

from jaxticket.base import Params

FanIn = Callable[[Params], Params]  # parameters -> a number for every leaf
Layers = dict[tuple[str, ...], dict[str, Any]]  # what each holder holds, by name

# flax: kernel, embedding; haiku: w, embeddings; equinox and PyTorch: weight, weight_ih.
_KERNEL = re.compile(r"(.*_)?(kernel|embeddings?|w\d*)|w_.*")
_WEIGHT = re.compile(r"(.*_)?weight(_.*)?")
_VECTOR = re.compile(
    r"(.*_)?(bias(es|_table)?|(scale|offset|shift|gain|gamma|beta|slope)s?)"
    r"|bias_.*|mean|var|alpha"
)
_SHORT_BIAS = re.compile(r"(.*_)?b\d*|b_.*")
_NORM = re.compile(r"(.*norm|ln|bn|gn)(_?\w{1,2})?")
_SCALE_OF_NORM = re.compile(r"(.*_)?(\w*norm|ln|bn|gn)_?\d*(_(g|w|weight))?")


class _Leaf(NamedTuple):
    """A parameter: the names of what holds it, its own, and its value."""

    holder: tuple[str, ...]
    name: str
    value: jax.Array


def is_kernel(path: tuple, leaf: jax.Array) -> bool:
    """Whether a leaf is a kernel by its own name and shape, whatever is beside it.

    A floating-point array of two dimensions or more whose name is no bias's, scale's or
    other vector's. `masks.full` looks at its neighbours too, see `found`.
    """
    own = _leaf(path, leaf)
    if jnp.ndim(leaf) < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return False
    if _VECTOR.fullmatch(own.name):
        return False
    if _KERNEL.fullmatch(own.name):
        return True
    # A vector may have further axes of length 1, to be broadcast.
    return jnp.ndim(leaf) == 2 or leaf.size > max(leaf.shape)


def found(params: Params) -> Params:
    """Which leaves are kernels or embeddings: a tree of Python's truth values.

    Of those that `is_kernel` accepts these are none:

    - what a normalisation holds, known by its name or its class (`weight` in equinox),
      or what is called as one itself, `ln1_g`;
    - a `weight` beside a `bias` of its own shape: they scale and shift;
    - `b` with fewer axes than a `w` beside it, `bq` than `wq`, or in a layer called
      `bias`;
    - the second of a pair whose shape is that of the first without its input.
    """
    norms = set()

    def visit(path, node):
        if re.fullmatch(r"\w*Norm\d*[dD]?", type(node).__name__):
            norms.add(_names(path))
        return False

    leaves = tree_leaves_with_path(params, is_leaf=visit, is_leaf_takes_path=True)
    accepted = [is_kernel(path, leaf) for path, leaf in leaves]
    layers = _layers(params)
    return jax.tree.structure(params).unflatten(
        ok and not _is_vector(leaf, layers[leaf.holder], leaf.holder in norms)
        for ok, leaf in zip(accepted, _leaves(params), strict=True)
    )


def _is_vector(leaf: _Leaf, beside: dict[str, jax.Array], normalises: bool) -> bool:
    """Whether what looks like a kernel is a vector of each layer of a stack."""
    layer = leaf.holder[-1].lower() if leaf.holder else ""
    if _SCALE_OF_NORM.fullmatch(leaf.name):
        return True
    if _KERNEL.fullmatch(leaf.name):
        return False
    if normalises or _NORM.fullmatch(layer):
        return True
    if _WEIGHT.fullmatch(leaf.name):
        bias = beside.get(leaf.name.replace("weight", "bias", 1))
        return bias is not None and bias.shape == leaf.value.shape
    pairs = leaf.name.replace("b", "a", 1) in beside  # the two factors of LoRA
    if _SHORT_BIAS.fullmatch(leaf.name) and not pairs:
        kernels = [w.ndim for name, w in beside.items() if _KERNEL.fullmatch(name)]
        return layer.startswith("bias") or leaf.value.ndim < max(kernels, default=0)
    kernel = beside.get(re.sub(r"(^|_)b", r"\1w", leaf.name, count=1), leaf.value)
    if leaf.value.ndim < kernel.ndim:  # `bq` beside `wq`
        return True
    if set(beside) == {"0", "1"} and leaf.name == "1":
        first = beside["0"].shape
        return leaf.value.shape == (*first[:-2], *first[-1:])
    return False


def fan_in(params: Params) -> Params:
    """How many inputs each output of a kernel has: a tree of whole numbers.

    An output has one bias, so beside a bias the number is `size(kernel) / size(bias)`,
    wherever a library puts the outputs: grouped and transposed convolutions, the
    several axes of an attention's heads, stacks of layers. Without one a `weight` is
    `[out, in, ...]`, as in equinox and PyTorch; the kernels of `query`, `key` and
    `value` with three axes are `[in, heads, d]`, as in flax; transposed convolutions of
    haiku are `[..., out, in]`; all else is `[..., in, out]`.
    """
    layers = _layers(params)
    return jax.tree.structure(params).unflatten(
        _fan_in(leaf, layers) for leaf in _leaves(params)
    )


class Layout(NamedTuple):
    """Axes of a kernel along which its outputs lie, and its inputs.

    Axes that are neither are windows of a convolution.
    """

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


def layouts(params: Params) -> list[Layout | None]:
    """Where outputs and inputs of every leaf lie, in the order of `jax.tree.leaves`.

    `None` for vectors, and where there are not as many outputs along these axes as
    `fan_in` tells: stacks of layers, kernels laid out in a way of their own.
    """
    layers = _layers(params)

    def of(leaf):
        layout, shape = _layout(leaf, layers), leaf.value.shape
        if len(shape) < 2:
            return None
        outputs = math.prod(shape[axis] for axis in layout.outputs)
        inputs = _fan_in(leaf, layers)
        return layout if outputs * inputs == leaf.value.size else None

    return [of(leaf) for leaf in _leaves(params)]


def _layout(leaf: _Leaf, layers: Layers) -> Layout:
    """By the names of a leaf, of its holder and of what stands beside that."""
    last = leaf.value.ndim - 1
    holder = leaf.holder[-1] if leaf.holder else ""
    if _WEIGHT.fullmatch(leaf.name):
        return Layout((0,), (1,))
    if last == 2 and holder in ("query", "key", "value"):
        return Layout((1, 2), (0,))
    if last == 2 and holder == "out" and (*leaf.holder[:-1], "query") in layers:
        return Layout((2,), (0, 1))
    if last > 1 and "transpose" in holder and leaf.name == "w":
        return Layout((last - 1,), (last,))
    return Layout((last,), (last - 1,))


def _fan_in(leaf: _Leaf, layers: Layers) -> int:
    shape, size, beside = leaf.value.shape, leaf.value.size, layers[leaf.holder]
    for bias in _biases(leaf.name):
        if bias in beside and size % max(beside[bias].size, 1) == 0:
            return size // max(beside[bias].size, 1)
    outputs = _layout(leaf, layers).outputs
    return math.prod(n for i, n in enumerate(shape) if i not in outputs)


def _biases(name: str) -> list[str]:
    """What the bias of a kernel may be called; none of a leaf that is no kernel."""
    if _WEIGHT.fullmatch(name):
        return [name.replace("weight", "bias"), "bias"]
    if name.endswith("kernel"):
        return [name.replace("kernel", "bias")]
    if re.fullmatch(r"(.*_)?w\d*|w_.*", name):
        return [re.sub(r"(^|_)w", r"\1b", name, count=1), "b"]
    return []


def _leaves(params: Params) -> Iterator[_Leaf]:
    for path, leaf in tree_leaves_with_path(params):
        yield _leaf(path, leaf)


def _layers(params: Params) -> Layers:
    """What each holder holds: name -> value, of the first layer of a stack."""
    layers: Layers = {}
    for leaf in _leaves(params):
        layers.setdefault(leaf.holder, {}).setdefault(leaf.name, leaf.value)
    return layers


def _leaf(path: tuple, value: jax.Array) -> _Leaf:
    while path and isinstance(path[-1], FlattenedIndexKey):  # of `stacks.Layers`
        path = path[:-1]
    if len(path) > 1 and path[-1] == GetAttrKey("value"):  # of a variable of nnx
        path = path[:-1]
    *holder, name = _names(path) or ("",)
    return _Leaf(tuple(holder), name.lower(), value)


def _names(path: tuple) -> tuple[str, ...]:
    """The words of a path; haiku and files of weights join several in one key."""
    joined = keystr(path, simple=True, separator="/")
    return tuple(filter(None, re.split(r"[/.]", joined)))
