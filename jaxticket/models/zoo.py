"""The small networks of the lottery ticket papers, as flax modules.

Parameters are named `conv_0`, `conv_1`, ..., `fc_0`, ..., `output`, so that a rule by
path tells convolutions, hidden layers and the output layer apart.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxticket.models import convolution

_glorot_normal = nn.initializers.glorot_normal()


class Conv(nn.Module):
    """A convolution with bias: `nn.Conv`'s parameters, `convolution.conv`'s speed."""

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = _glorot_normal
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


class MLP(nn.Module):
    """Fully connected ReLU layers on flattened inputs of any shape.

    Attributes:
      num_classes: width of the output layer.
      hidden: widths of the hidden layers.
      dropout: fraction of each hidden layer's activations dropped in training.
      dtype: computed in, or None for that of the inputs and parameters, which stay
        float32; the logits are float32 at least.
    """

    num_classes: int = 10
    hidden: tuple[int, ...] = (300, 100)
    dropout: float = 0.0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[batch, ...]` to logits `[batch, num_classes]`."""

        def dense(width, name):
            return nn.Dense(
                width, dtype=self.dtype, kernel_init=_glorot_normal, name=name
            )

        x = x.reshape(x.shape[0], -1)
        for layer, width in enumerate(self.hidden):
            x = nn.relu(dense(width, f"fc_{layer}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = dense(self.num_classes, "output")(x)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


class ConvNet(MLP):
    """Pairs of 3x3 convolutions, each followed by 2x2 max-pooling, then an `MLP`.

    Attributes:
      widths: channels of each pair.
      impl: of the convolutions, see `convolution.conv`.
    """

    hidden: tuple[int, ...] = (256, 256)
    widths: tuple[int, ...] = (64,)
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[batch, height, width, channels]` to logits `[batch, num_classes]`."""
        smallest = 2 ** len(self.widths)
        if x.ndim != 4 or min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"got images of shape {x.shape}; {len(self.widths)} poolings need "
                f"[batch, height, width, channels] of at least {smallest}x{smallest}"
            )
        for pair, width in enumerate(self.widths):
            for layer in (2 * pair, 2 * pair + 1):
                name = f"conv_{layer}"
                conv = Conv(width, dtype=self.dtype, impl=self.impl, name=name)
                x = nn.relu(conv(x))
            x = convolution.max_pool(x)
        return super().__call__(x, train=train)


def mlp(num_classes: int = 10, **options) -> nn.Module:
    """An `MLP` with the widths given as ``hidden``."""
    return MLP(num_classes, **options)


def lenet_300_100(num_classes: int = 10, **options) -> nn.Module:
    """LeNet-300-100: 266,200 weights for 28x28 images and 10 classes."""
    return MLP(num_classes, hidden=(300, 100), **options)


def conv_2(num_classes: int = 10, **options) -> nn.Module:
    """Conv-2: 4,300,992 weights for 32x32x3 images and 10 classes."""
    return ConvNet(num_classes, widths=(64,), **options)


def conv_4(num_classes: int = 10, **options) -> nn.Module:
    """Conv-4: 2,425,024 weights for 32x32x3 images and 10 classes."""
    return ConvNet(num_classes, widths=(64, 128), **options)


def conv_6(num_classes: int = 10, **options) -> nn.Module:
    """Conv-6: 2,261,184 weights for 32x32x3 images and 10 classes."""
    return ConvNet(num_classes, widths=(64, 128, 256), **options)
