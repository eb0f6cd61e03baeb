"""Networks without normalisation, as flax modules."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxticket.models import convolution, modules


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
        x = modules.hidden(
            x, self.hidden, dropout=self.dropout, dtype=self.dtype, train=train
        )
        return modules.logits(self.num_classes, x, dtype=self.dtype)


class ResidualMLP(nn.Module):
    """A hidden layer, a second one added to it, and the output layer.

    `h = relu(x W0 + b0)`, `h = h + relu(h W1 + b1)`, `y = h W + b`, initialised as
    PyTorch does by default.

    Attributes:
      num_classes: width of the output layer.
      width: of the hidden layers.
      dtype: computed in, see `MLP`.

    Reference:
      Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", 2024, the
      notebook on lottery tickets.
    """

    num_classes: int = 10
    width: int = 500
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[batch, ...]` to logits `[batch, num_classes]`."""
        del train

        def layer(x, features, name):
            return modules.dense_by_fan(features, x, dtype=self.dtype, name=name)

        h = nn.relu(layer(x.reshape(x.shape[0], -1), self.width, "fc_0"))
        h = h + nn.relu(layer(h, self.width, "fc_1"))
        y = layer(h, self.num_classes, "output")
        return y.astype(jnp.promote_types(y.dtype, jnp.float32))


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
        modules.check_images(x.shape, smallest=2 ** len(self.widths))
        for pair, width in enumerate(self.widths):
            for layer in (2 * pair, 2 * pair + 1):
                name = f"conv_{layer}"
                conv = modules.Conv(width, dtype=self.dtype, impl=self.impl, name=name)
                x = nn.relu(conv(x))
            x = convolution.max_pool(x)
        return super().__call__(x, train=train)


class LeNet5(MLP):
    """Two 5x5 convolutions, the second unpadded, each max-pooled, then an `MLP`.

    Attributes:
      widths: channels of the two.
      impl: of the convolutions, see `convolution.conv`.

    Reference:
      LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998,
      with ReLU and max-pooling, and every feature map connected to all before it.
    """

    hidden: tuple[int, ...] = (120, 84)
    widths: tuple[int, int] = (6, 16)
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[batch, height, width, channels]` to logits `[batch, num_classes]`."""
        modules.check_images(x.shape, smallest=12)
        paddings = ("SAME", "VALID")
        for layer, (width, padding) in enumerate(
            zip(self.widths, paddings, strict=True)
        ):
            conv = modules.Conv(
                width,
                (5, 5),
                padding=padding,
                dtype=self.dtype,
                impl=self.impl,
                name=f"conv_{layer}",
            )
            x = convolution.max_pool(nn.relu(conv(x)))
        return super().__call__(x, train=train)
