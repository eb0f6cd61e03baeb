"""The networks of the lottery ticket papers, as flax modules.

Parameters are named `conv_0`, `conv_1`, ..., `norm_0`, ..., `fc_0`, ..., `output`, so
that a rule by path tells convolutions, hidden layers and the output layer apart; the
projections of a residual network are `shortcut_1`, ....
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxticket.models import convolution, layers
from jaxticket.models.resnet import ResNet
from jaxticket.models.vgg import VGG


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
        x = x.reshape(x.shape[0], -1)
        for layer, width in enumerate(self.hidden):
            x = nn.relu(layers.dense(width, dtype=self.dtype, name=f"fc_{layer}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return layers.logits(self.num_classes, x, dtype=self.dtype)


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
        layers.check_images(x.shape, poolings=len(self.widths))
        for pair, width in enumerate(self.widths):
            for layer in (2 * pair, 2 * pair + 1):
                name = f"conv_{layer}"
                conv = layers.Conv(width, dtype=self.dtype, impl=self.impl, name=name)
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


def resnet_20(num_classes: int = 10, **options) -> nn.Module:
    """ResNet-20: 270,896 weights, 267,696 of them in 3x3 convolutions."""
    return ResNet(num_classes, **options)


def vgg_16(num_classes: int = 10, **options) -> nn.Module:
    """VGG-16: 14,715,584 weights for 10 classes."""
    return VGG(num_classes, **options)
