"""Convolution and pooling that stay fast inside a loop and over a lane axis, on CPU.

Inside `scan` or `fori_loop`, XLA's CPU backend misses its fast path for the gradient
of a convolution (jax-ml/jax#12868), and `vmap` over kernels makes grouped
convolutions: 30 to 60 times slower. The forms here use only what stays fast: ordinary
forward convolutions and matrix products of two dimensions.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_FIRST_AXES = (((0,), (0,)), ((), ()))  # contracted, with no batch axes

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
      impl: "lax": `lax.conv_general_dilated`. "gemm": a forward convolution whose
        gradients are a forward convolution and matrix products; one lane after another
        under `vmap`. It has reverse-mode gradients of every order, and `jvp` of `grad`,
        but no `jvp` of its own. "shift": a sum over kernel offsets of matrix
        products. "im2col": one matrix product, at `height * width` times the
        activation memory. "auto": on CPU "shift" for a 1x1 kernel, "im2col" for
        strides or at most 4 input channels, else "gemm"; "lax" on other backends.

    Returns:
      `[batch, height', width', out]`.
    """
    strides = tuple(strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            x.shape[1:3], kernel.shape[:2], strides, padding.upper()
        )
    padding = tuple((int(before), int(after)) for before, after in padding)
    if impl == "auto":
        impl = _choose(kernel.shape, strides)
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}; it must be 'auto' or one of {[*IMPLS]}")
    return IMPLS[impl](x, kernel.astype(x.dtype), strides, padding)


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


def _choose(kernel_shape, strides):
    # Looked up while tracing: the backend may be configured after the import.
    if jax.default_backend() != "cpu":
        return "lax"
    if kernel_shape[:2] == (1, 1):
        return "shift"
    # As measured: there the patches are few, and one product beats nine thin ones.
    few_patches = strides != (1, 1) or kernel_shape[2] <= 4
    return "im2col" if few_patches else "gemm"


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gemm(x, kernel, strides, padding):
    return _lanewise(x, kernel, strides, padding)


def _gemm_forward(x, kernel, strides, padding):
    return _lanewise(x, kernel, strides, padding), (x, kernel)


def _gemm_backward(strides, padding, saved, grad):
    x, kernel = saved
    return (
        _input_gradient(x.shape, kernel, strides, padding, grad),
        _kernel_gradient(x, kernel.shape, strides, padding, grad),
    )


_gemm.defvjp(_gemm_forward, _gemm_backward)


def _input_gradient(x_shape, kernel, strides, padding, grad):
    """Convolves ``grad``, with zeros between strides, with the flipped kernel."""
    gaps, edges = [(0, 0, 0)], []
    for axis, (stride, (before, _)) in enumerate(
        zip(strides, padding, strict=True), start=1
    ):
        spread = (grad.shape[axis] - 1) * stride + 1
        # These stay the convolution's padding: an explicit pad takes twice the time.
        edges.append(
            (kernel.shape[axis - 1] - 1 - before, x_shape[axis] + before - spread)
        )
        gaps.append((0, 0, stride - 1))
    gaps.append((0, 0, 0))
    if strides != (1, 1):
        grad = lax.pad(grad, jnp.zeros((), grad.dtype), gaps)
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _lanewise(grad, flipped, (1, 1), tuple(edges))


def _kernel_gradient(x, kernel_shape, strides, padding, grad):
    """One product a kernel offset: `[in, b * h * w] @ [b * h * w, out]`."""
    slices = _slices(x, kernel_shape, strides, padding)
    grad = _rows(grad)
    products = [lax.dot_general(_rows(part), grad, _FIRST_AXES) for part in slices]
    return jnp.stack(products).reshape(kernel_shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _lanewise(x, kernel, strides, padding):
    """A convolution that `vmap` runs one lane after another, never as grouped."""

    @jax.custom_batching.custom_vmap
    def run(x, kernel):
        return _lax(x, kernel, strides, padding)

    @run.def_vmap
    def rule(lanes, batched, x, kernel):
        x_batched, kernel_batched = batched
        if not kernel_batched:  # the lanes are then only a larger batch
            y = run(x.reshape(-1, *x.shape[2:]), kernel)
            return y.reshape(lanes, -1, *y.shape[1:]), True
        y = [run(x[i] if x_batched else x, kernel[i]) for i in range(lanes)]
        return jnp.stack(y), True

    return run(x, kernel)


@_lanewise.defjvp
def _lanewise_jvp(strides, padding, primals, tangents):
    # `custom_vmap` cannot be transposed; this serves second derivatives alone.
    (x, kernel), (dx, dkernel) = primals, tangents
    return _lanewise(x, kernel, strides, padding), (
        _shift(dx, kernel, strides, padding) + _shift(x, dkernel, strides, padding)
    )


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
    "gemm": _gemm,
    "shift": _shift,
    "im2col": _im2col,
}
