"""VGG networks with batch normalisation, as a flax module."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxticket.models import convolution, modules
from jaxticket.models.batch_norm import NormReLU


class VGG(nn.Module):
    """Stages of normalised 3x3 convolutions, each ended by 2x2 max-pooling.

    One linear layer follows, on the mean over what is left of the image, of 32x32 a
    single pixel; or hidden layers, on all that is left, row by row.

    Parameters are `conv_0`, `norm_0`, `conv_1`, ..., `fc_0`, ..., and `output`.

    Attributes:
      num_classes: width of the output layer.
      widths: channels of the convolutions of each stage.
      use_bias: whether the convolutions have one, beside that of the normalisation.
      hidden: widths of the hidden layers.
      dropout: fraction of each hidden layer's activations dropped in training.
      dtype: computed in, or None for that of the inputs and parameters, which stay
        float32 as do the batch statistics; the logits are float32 at least.
      impl: of the convolutions, see `convolution.conv`.

    Reference:
      Simonyan and Zisserman, "Very Deep Convolutional Networks", 2015: configuration D,
      with its three linear layers replaced by one, as is usual for CIFAR-10.
    """

    num_classes: int = 10
    widths: tuple[tuple[int, ...], ...] = (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )
    use_bias: bool = False
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    dtype: jnp.dtype | None = None
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[batch, height, width, channels]` to logits `[batch, num_classes]`."""
        modules.check_images(x.shape, smallest=2 ** len(self.widths))
        layer = 0
        for widths in self.widths:
            for width in widths:
                x = modules.Conv(
                    width,
                    use_bias=self.use_bias,
                    dtype=self.dtype,
                    impl=self.impl,
                    name=f"conv_{layer}",
                )(x)
                norm = NormReLU(dtype=self.dtype, name=f"norm_{layer}")
                x = norm(x, train=train)
                layer += 1
            x = convolution.max_pool(x)
        if self.hidden:
            x = modules.hidden(
                x, self.hidden, dropout=self.dropout, dtype=self.dtype, train=train
            )
        else:
            x = x.mean((1, 2))
        return modules.logits(self.num_classes, x, dtype=self.dtype)
