"""Residual networks for small images, as a flax module."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxticket.models import layers
from jaxticket.models.batch_norm import NormReLU


class ResNet(nn.Module):
    """Stages of basic blocks, each stage at half the size and twice the width.

    A block is `relu(x + norm(conv(relu(norm(conv(x))))))` of 3x3 convolutions without
    bias. Where the shape changes, `x` passes through a 1x1 convolution of stride 2,
    without normalisation. After the last stage comes the mean over the image.

    Parameters are `conv_0` and `norm_0` of the first layer, `conv_1` and `norm_1`, ...
    of the blocks, `shortcut_1`, ... of the stages that have one, and `output`.

    Attributes:
      num_classes: width of the output layer.
      width: channels of the first stage.
      blocks: how many each stage has.
      dtype: computed in, or None for that of the inputs and parameters, which stay
        float32 as do the batch statistics; the logits are float32 at least.
      impl: of the convolutions, see `convolution.conv`.

    Reference:
      He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2; the
      projections and initialisation are those of the code released with Savarese et
      al., "Winning the Lottery with Continuous Sparsification", 2020.
    """

    num_classes: int = 10
    width: int = 16
    blocks: tuple[int, ...] = (3, 3, 3)
    dtype: jnp.dtype | None = None
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[batch, height, width, channels]` to logits `[batch, num_classes]`."""
        layer = 0

        def conv(x, width, stride, size, name):
            return layers.Conv(
                width,
                (size, size),
                (stride, stride),
                # PyTorch's: with "SAME" strides would pad at the end alone.
                padding=((size // 2, size // 2),) * 2,
                use_bias=False,
                dtype=self.dtype,
                impl=self.impl,
                name=name,
            )(x)

        def normed(x, width, stride=1, shortcut=None):
            nonlocal layer
            y = conv(x, width, stride, 3, f"conv_{layer}")
            norm = NormReLU(dtype=self.dtype, name=f"norm_{layer}")
            layer += 1
            return norm(y, shortcut, train=train)

        x = normed(x, self.width)
        for stage, blocks in enumerate(self.blocks):
            width = self.width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                y = normed(x, width, stride)
                if stride > 1:
                    x = conv(x, width, stride, 1, f"shortcut_{stage}")
                x = normed(y, width, shortcut=x)
        return layers.logits(self.num_classes, x.mean((1, 2)), dtype=self.dtype)
