"""Batch normalisation with its ReLU, in few passes over the activations."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn


class NormReLU(nn.Module):
    """`relu(norm(x) + shortcut)`, with PyTorch's numbers; the statistics are float32.

    Parameters and `batch_stats` are those of `nn.BatchNorm`. The running variance is
    that of the batch, as is usual in JAX; PyTorch's is larger by `n / (n - 1)`, for `n`
    values a channel.

    Attributes:
      dtype: of the result, or None for that of `x` and the parameters.
    """

    dtype: jnp.dtype | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: jax.Array, shortcut: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Normalises `[batch, height, width, channels]` by channel."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        initial = (nn.initializers.zeros, nn.initializers.ones)
        running = [
            self.variable("batch_stats", name, init, None, shape, jnp.float32)
            for name, init in zip(("mean", "var"), initial, strict=True)
        ]
        dtype = self.dtype or jnp.promote_types(x.dtype, scale.dtype)
        shortcut = jnp.zeros((), dtype) if shortcut is None else shortcut
        if not train:
            mean, var = (stat.value for stat in running)
            factor = scale * jax.lax.rsqrt(var + self.epsilon)
            return _apply(x, shortcut, mean, factor, bias).astype(dtype)
        y, *stats = norm_relu(x, shortcut, scale, bias, self.epsilon)
        if not self.is_initializing():
            for stat, now in zip(running, stats, strict=True):
                old = self.momentum * stat.value
                stat.value = old + (1 - self.momentum) * jax.lax.stop_gradient(now)
        return y.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def norm_relu(x, shortcut, scale, bias, epsilon):
    """`relu((x - mean) / sqrt(var + epsilon) * scale + bias + shortcut)`.

    Its gradient keeps `x` and the result alone, where differentiation would also keep
    what lies between: four fewer passes over the activations.

    Args:
      x: `[batch, height, width, channels]`.
      shortcut: of the same shape, or a scalar zero.
      scale: `[channels]`.
      bias: `[channels]`.
      epsilon: added to the variance.

    Returns:
      The result, in the dtype of `x`; mean and variance, through which no gradient
      flows.
    """
    return _forward(x, shortcut, scale, bias, epsilon)[0]


def _forward(x, shortcut, scale, bias, epsilon):
    full = _full(x)
    mean = full.mean((0, 1, 2))
    # As flax computes it: both sums in one pass.
    var = jnp.maximum(jnp.square(full).mean((0, 1, 2)) - jnp.square(mean), 0)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = _apply(x, shortcut, mean, scale * inverse, bias).astype(x.dtype)
    return (y, mean, var), (x, y, mean, inverse, scale, shortcut.shape)


def _backward(epsilon, saved, grads):
    del epsilon
    x, y, mean, inverse, scale, shape = saved
    grad = jnp.where(y > 0, _full(grads[0]), 0)
    centred = _full(x) - _wide(mean)
    count = x.size // x.shape[-1]
    dbias = grad.sum((0, 1, 2))
    dscale = (grad * centred).sum((0, 1, 2)) * inverse
    along = dscale * inverse / count
    dx = _wide(scale * inverse) * (grad - _wide(dbias / count) - centred * _wide(along))
    dshortcut = grad.astype(x.dtype) if shape else jnp.zeros((), x.dtype)
    return dx.astype(x.dtype), dshortcut, dscale, dbias


norm_relu.defvjp(_forward, _backward)


def _apply(x, shortcut, mean, factor, bias):
    return nn.relu((_full(x) - _wide(mean)) * _wide(factor) + _wide(bias) + shortcut)


def _full(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _wide(x):
    return x.reshape(1, 1, 1, -1)
