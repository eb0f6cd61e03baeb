"""The gradient of a convolution's kernel, as matrix products that stay in the cache."""

import jax
import jax.numpy as jnp
from jax import lax

_FIRST_AXES = (((0,), (0,)), ((), ()))  # contracted, with no batch axes
_CACHED = 2**17  # numbers of the input that are worked on at once: half a megabyte

Pair = tuple[int, int]


def kernel_gradient(
    x: jax.Array,
    grad: jax.Array,
    size: Pair,
    strides: Pair,
    padding: tuple[Pair, Pair],
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

    shifted = _separable if tuple(strides) == (1, 1) else _patches
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


def _patches(x, grad, size, strides, padding):
    """One product of `x` under all offsets, a row for each position, and `grad`."""
    (height, width), (down, across) = size, strides
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    tall, wide = x.shape[1] - height + 1, x.shape[2] - width + 1
    xs = [
        x[:, i : i + tall : down, j : j + wide : across]
        for i in range(height)
        for j in range(width)
    ]
    xs = _rows(jnp.concatenate(xs, -1))
    return lax.dot_general(xs, _rows(grad), _FIRST_AXES).reshape(
        height, width, x.shape[-1], -1
    )


def _rows(x):
    # Of two dimensions, because products that contract three take twice the time.
    return x.reshape(-1, x.shape[-1])
