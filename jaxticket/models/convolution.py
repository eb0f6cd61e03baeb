"""Convolution and pooling that stay fast inside a loop and over a lane axis, on CPU.

Inside `scan` or `fori_loop`, XLA's CPU backend misses its fast path for the gradient
of a convolution (jax-ml/jax#12868), and `vmap` over kernels makes grouped
convolutions: 30 to 60 times slower. The forms here use only what stays fast: ordinary
forward convolutions and matrix products of two dimensions.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_FIRST_AXES = (((0,), (0,)), ((), ()))  # contracted, with no batch axes

_FEW = 32  # output channels, below which two columns are computed as one
_CACHED = 2**17  # numbers that a kernel's gradient works on at once: half a megabyte

_BY_DEFINITION = contextvars.ContextVar("by_definition", default=False)

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: str | Sequence[Pair] = "SAME",
    impl: str = "auto",
) -> jax.Array:
    """Convolves images with a kernel; every ``impl`` computes the same.

    Args:
      x: images, `[batch, height, width, in]`; its dtype is the one computed in.
      kernel: `[height, width, in, out]`, cast to the dtype of ``x``.
      strides: step over rows and over columns.
      padding: "SAME", "VALID" or the two pairs `(before, after)`.
      impl: "lax": `lax.conv_general_dilated`. "lanes": the same with XLA's gradients,
        one lane after another under `vmap`. "gemm": a forward convolution whose
        gradients are a forward convolution and matrix products; one lane after another
        under `vmap`. It has reverse-mode gradients of every order, and `jvp` of `grad`,
        but no `jvp` of its own. "shift": a sum over kernel offsets of matrix
        products. "im2col": one matrix product, at `height * width` times the
        activation memory. "auto": on CPU "shift" for a 1x1 kernel, "im2col" for
        2 to 4 input channels or images of few pixels, else "gemm"; "lanes" on other
        backends, whose grouped convolutions are slow (jax-ml/jax#13800, #26568).

    Returns:
      `[batch, height', width', out]`.
    """
    strides = tuple(strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            x.shape[1:3], kernel.shape[:2], strides, padding.upper()
        )
    padding = tuple((int(before), int(after)) for before, after in padding)
    if _BY_DEFINITION.get():
        impl = "lax"
    if impl == "auto":
        impl = _choose(x.shape, kernel.shape)
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}; it must be 'auto' or one of {[*IMPLS]}")
    return IMPLS[impl](x, kernel.astype(x.dtype), strides, padding)


@contextlib.contextmanager
def by_definition() -> Iterator[None]:
    """Convolutions that are traced meanwhile are `lax.conv_general_dilated`.

    For what reads the steps of a network: all other forms are detours.
    """
    token = _BY_DEFINITION.set(True)
    try:
        yield
    finally:
        _BY_DEFINITION.reset(token)


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 2x2 windows, `[b, h, w, c]` -> `[b, h // 2, w // 2, c]`.

    An odd last row or column is dropped, as with "VALID" padding.
    """
    return _windows(x).max((2, 4))


def avg_pool(x: jax.Array) -> jax.Array:
    """Mean over 2x2 windows, `[b, h, w, c]` -> `[b, h // 2, w // 2, c]`.

    An odd last row or column is dropped, as with "VALID" padding.
    """
    return _windows(x).mean((2, 4))


def _windows(x):
    """`[b, h, w, c]` -> `[b, h // 2, 2, w // 2, 2, c]`."""
    batch, height, width, channels = x.shape
    height, width = height // 2, width // 2
    x = x[:, : 2 * height, : 2 * width]
    return x.reshape(batch, height, 2, width, 2, channels)


def _choose(image_shape, kernel_shape):
    # Looked up while tracing: the backend may be configured after the import.
    if jax.default_backend() != "cpu":
        return "lanes"
    if kernel_shape[:2] == (1, 1):
        return "shift"
    # As measured: with 3 channels half to a third of the time, since the gradient of
    # the images is a convolution of few channels; at 2x2, 512 channels a fiftieth. With
    # one channel four times as long: XLA writes the patches number by number.
    small = math.prod(image_shape[1:3]) <= math.prod(kernel_shape[:2])
    return "im2col" if 1 < kernel_shape[2] <= 4 or small else "gemm"


def _lax(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_LAYOUT
    )


def _shift(x, kernel, strides, padding):
    slices = _slices(x, kernel.shape, strides, padding)
    matrices = kernel.reshape(-1, *kernel.shape[2:])
    return sum(map(_product, slices, matrices))


def _im2col(x, kernel, strides, padding):
    slices = _slices(x, kernel.shape, strides, padding)
    patches = jnp.concatenate(slices, axis=-1)
    return _product(patches, kernel.reshape(-1, kernel.shape[-1]))


def _lanes_gradients(strides, padding, saved, grad):
    def run(x, kernel, grad):
        pull_back = jax.vjp(lambda x, k: _lax(x, k, strides, padding), x, kernel)[1]
        return pull_back(grad)

    return _one_by_one(run)(*saved, grad)


def _gemm_gradients(strides, padding, saved, grad):
    x, kernel = saved
    return (
        _input_gradient(x.shape, kernel, strides, padding, grad),
        _kernel_gradient(x, grad, kernel.shape[:2], strides, padding),
    )


def _input_gradient(x_shape, kernel, strides, padding, grad):
    """Convolves ``grad`` with the flipped kernel.

    With strides, the `strides[0] * strides[1]` kinds of positions, each of which meets
    its own part of the kernel, are as many groups of output channels.
    """
    parts, edges = [], []
    for axis, (stride, (before, _)) in enumerate(zip(strides, padding, strict=True)):
        # Position `stride * m + a` meets `kernel[a + before + stride * t]` at
        # `grad[m - t]`, for `t` from `low` to `high`.
        size, taken = kernel.shape[2 * axis], x_shape[1 + axis]
        low, high = -((stride - 1 + before) // stride), (size - 1 - before) // stride
        taps = high - low + 1
        starts = -(before + stride * low)
        pads = [(0, 0)] * kernel.ndim
        pads[2 * axis] = (starts, stride * taps - size - starts)
        kernel = jnp.pad(kernel, pads)
        shape = kernel.shape
        kernel = kernel.reshape(
            *shape[: 2 * axis], taps, stride, *shape[2 * axis + 1 :]
        )
        parts.append(-(-taken // stride))
        edges.append((high, parts[-1] - grad.shape[1 + axis] - low))
    # [taps, stride, taps, stride, in, out] -> [taps, taps, out, stride * stride * in]
    kernel = jnp.flip(kernel, (0, 2)).transpose(0, 2, 5, 1, 3, 4)
    kernel = kernel.reshape(*kernel.shape[:3], -1)
    y = _lanewise(_blocked, (1, 1), tuple(edges))(grad, kernel)
    if strides == (1, 1):
        return y
    y = y.reshape(-1, *parts, *strides, x_shape[-1]).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(len(y), parts[0] * strides[0], parts[1] * strides[1], x_shape[-1])
    return y[:, : x_shape[1], : x_shape[2]]


def _blocked(x, kernel, strides, padding):
    """Two columns of few channels as one of twice as many: the vector units are wide.

    That is a convolution with a kernel one column wider, and a stride of two columns:
    on one core 68 instead of 93 microseconds an image for 16->16 at 32x32.
    """
    height, width, features, out = kernel.shape
    across = x.shape[2] + sum(padding[1]) - width + 1
    if strides != (1, 1) or out >= _FEW or across % 2:
        return _lax(x, kernel, strides, padding)
    pads = [((0, 0), (a, 1 - a), (0, 0), (0, 0)) for a in (0, 1)]
    kernel = jnp.stack([jnp.pad(kernel, pad) for pad in pads], 3)
    kernel = kernel.reshape(height, width + 1, features, 2 * out)
    y = _lax(x, kernel, (1, 2), padding)
    return y.reshape(*y.shape[:2], across, out)


def _kernel_gradient(
    x: jax.Array,
    grad: jax.Array,
    size: Pair,
    strides: Pair,
    padding: Padding,
) -> jax.Array:
    """Sums `x[strides * p + (i, j) - before].T @ grad[p]` over all positions `p`.

    A few images at a time, since what is shifted is several times as large as they are:
    two to four times as fast as all at once, for ResNet-20's layers on CPU.

    Args:
      x: the convolution's input, `[batch, height, width, in]`.
      grad: the gradient of its output, `[batch, height', width', out]`.
      size: height and width of the kernel.
      strides: of the convolution.
      padding: of the convolution, `(before, after)` of both dimensions.

    Returns:
      `[*size, in, out]`.
    """

    def part(x, grad):
        return shifted(x, grad, size, strides, padding)

    shifted = _separable if tuple(strides) == (1, 1) else _gathered
    batch, weights = len(x), size[0] * size[1] * x.shape[-1] * grad.shape[-1]
    # Where the kernel is larger than the images, adding it up is what costs.
    images = max(1, max(_CACHED, weights) * batch // x.size)
    rounds, rest = divmod(batch, min(images, batch))
    if rounds == 1 and not rest:
        return part(x, grad)

    def add(index, total):
        # Slices, not `scan`'s rows: with those a lane axis costs a copy of everything.
        chunk = [lax.dynamic_slice_in_dim(a, index * images, images) for a in (x, grad)]
        return total + part(*chunk)

    first = jnp.zeros((*size, x.shape[-1], grad.shape[-1]), grad.dtype)
    total = lax.fori_loop(0, rounds, add, first)
    return total + part(x[-rest:], grad[-rest:]) if rest else total


def _separable(x, grad, size, strides, padding):
    """One product of `x` under all row offsets and `grad` under all column offsets.

    That is `height + width` copies instead of `height * width`, and a product of
    matrices that are as many times as wide.
    """
    del strides
    (height, width), (rows, (before, after)) = size, padding
    x = jnp.pad(x, ((0, 0), rows, (0, 0), (0, 0)))
    edge = (width - 1 - before, width - 1 - after, 0)
    none = (0, 0, 0)
    grad = lax.pad(grad, jnp.zeros((), grad.dtype), (none, none, edge, none))
    tall, wide = x.shape[1] - height + 1, x.shape[2]
    xs = [x[:, i : i + tall] for i in range(height)]
    grads = [grad[:, :, j : j + wide] for j in reversed(range(width))]
    xs, grads = (_rows(jnp.concatenate(parts, -1)) for parts in (xs, grads))
    product = lax.dot_general(xs, grads, _FIRST_AXES)
    return product.reshape(height, x.shape[-1], width, -1).swapaxes(1, 2)


def _gathered(x, grad, size, strides, padding):
    """One product of `x` under all offsets, a row for each position, and `grad`."""
    xs = _rows(jnp.concatenate(_slices(x, size, strides, padding), -1))
    product = lax.dot_general(xs, _rows(grad), _FIRST_AXES)
    return product.reshape(*size, x.shape[-1], -1)


def _lanewise(forward, strides, padding):
    return _one_by_one(lambda x, kernel: forward(x, kernel, strides, padding))


def _one_by_one(run):
    """A function that `vmap` runs one lane after another, never as a grouped one."""
    by_lane = jax.custom_batching.custom_vmap(run)

    @by_lane.def_vmap
    def rule(lanes, batched, *args):
        found = [
            by_lane(*(x[i] if b else x for x, b in zip(args, batched, strict=True)))
            for i in range(lanes)
        ]
        found = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
        return found, jax.tree.map(lambda _: True, found)

    call = jax.custom_jvp(lambda *args: by_lane(*args))

    @call.defjvp
    def jvp(primals, tangents):
        # `custom_vmap` cannot be transposed; this serves second derivatives alone.
        return call(*primals), jax.jvp(run, primals, tangents)[1]

    return call


def _with_gradients(forward, gradients):
    """A convolution that runs lane by lane, with gradients of its own."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
    def conv(x, kernel, strides, padding):
        return _lanewise(forward, strides, padding)(x, kernel)

    def save(x, kernel, strides, padding):
        return _lanewise(forward, strides, padding)(x, kernel), (x, kernel)

    conv.defvjp(save, gradients)
    return conv


def _slices(x, kernel_shape, strides, padding):
    """The input under each kernel offset, row by row: each `[b, h', w', in]`."""
    height, width = kernel_shape[:2]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    return [
        x[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i in range(height)
        for j in range(width)
    ]


def _rows(x):
    # Of two dimensions, because products that contract three take twice the time.
    return x.reshape(-1, x.shape[-1])


def _product(x, matrix):
    return (_rows(x) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


IMPLS: dict[str, Callable] = {
    "lax": _lax,
    "lanes": _with_gradients(_lax, _lanes_gradients),
    "gemm": _with_gradients(_blocked, _gemm_gradients),
    "shift": _shift,
    "im2col": _im2col,
}
