"""Layers that the networks of the zoo share, as flax modules."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxticket.models import convolution

glorot_normal = nn.initializers.glorot_normal()


class Conv(nn.Module):
    """A convolution with bias: `nn.Conv`'s parameters, `convolution.conv`'s speed."""

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = glorot_normal
    dtype: jnp.dtype | None = None
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `[batch, height, width, in]`."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x = x.astype(self.dtype or jnp.promote_types(x.dtype, kernel.dtype))
        y = convolution.conv(
            x, kernel, strides=self.strides, padding=self.padding, impl=self.impl
        )
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return y + bias.astype(y.dtype).reshape(1, 1, 1, -1)


def centred(
    features: int,
    size: int,
    stride: int,
    *,
    dtype: jnp.dtype | None,
    impl: str,
    name: str,
) -> nn.Module:
    """A square convolution without bias, padded by half its size as in PyTorch.

    With "SAME" strides would pad at the end alone.
    """
    return Conv(
        features,
        (size, size),
        (stride, stride),
        padding=((size // 2, size // 2),) * 2,
        use_bias=False,
        dtype=dtype,
        impl=impl,
        name=name,
    )


def dense(features: int, *, dtype: jnp.dtype | None, name: str) -> nn.Module:
    """A fully connected layer, initialised as all layers of the zoo are."""
    return nn.Dense(features, dtype=dtype, kernel_init=glorot_normal, name=name)


def dense_by_fan(
    features: int, x: jax.Array, *, dtype: jnp.dtype | None, name: str
) -> jax.Array:
    """A fully connected layer of `x` `[batch, n]`, initialised by default of PyTorch.

    Kernel and bias are uniform within `1 / sqrt(n)` of 0.
    """
    bound = x.shape[-1] ** -0.5

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    layer = nn.Dense(
        features, dtype=dtype, kernel_init=uniform, bias_init=uniform, name=name
    )
    return layer(x)


def hidden(
    x: jax.Array,
    widths: Sequence[int],
    *,
    dropout: float,
    dtype: jnp.dtype | None,
    train: bool,
) -> jax.Array:
    """The ReLU layers `fc_0`, `fc_1`, ... on flattened inputs, each with dropout."""
    x = x.reshape(x.shape[0], -1)
    for layer, width in enumerate(widths):
        x = nn.relu(dense(width, dtype=dtype, name=f"fc_{layer}")(x))
        x = nn.Dropout(dropout, deterministic=not train)(x)
    return x


def logits(num_classes: int, x: jax.Array, *, dtype: jnp.dtype | None) -> jax.Array:
    """The layer `output` of `[batch, features]`, in float32 at least."""
    y = dense(num_classes, dtype=dtype, name="output")(x)
    return y.astype(jnp.promote_types(y.dtype, jnp.float32))


def check_images(shape: Sequence[int], *, smallest: int) -> None:
    """Refuses images of which the network would leave no pixel."""
    if len(shape) != 4 or min(shape[1:3]) < smallest:
        raise ValueError(
            f"got images of shape {shape}; the network needs "
            f"[batch, height, width, channels] of at least {smallest}x{smallest}"
        )
