"""Residual networks of bottleneck blocks for large images, as a flax module."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxticket.models import modules
from jaxticket.models.batch_norm import NormReLU


class Bottlenecks(nn.Module):
    """Stages of bottleneck blocks, each stage at half the size and twice the width.

    A 7x7 convolution of stride 2 and 3x3 max-pooling of stride 2 come first. A block is
    a 1x1, a 3x3 and a 1x1 convolution to four times the width, all normalised and
    without bias, beside a shortcut; the ReLU of the last follows their sum. Where the
    shape changes, the shortcut is a normalised 1x1 convolution. Strides are in the 3x3
    convolutions and the shortcuts. After the last stage comes the mean over the image.

    Parameters are `conv_0` and `norm_0` of the first layer, `conv_1` and `norm_1`, ...
    of the blocks, `shortcut_0` and `shortcut_norm_0`, ... of the stages, and `output`.

    Attributes:
      num_classes: width of the output layer.
      width: channels of the first layer, and inside the blocks of the first stage.
      blocks: how many each stage has.
      dtype: computed in, or None for that of the inputs and parameters, which stay
        float32 as do the batch statistics; the logits are float32 at least.
      impl: of the convolutions, see `convolution.conv`.

    Reference:
      He et al., "Deep Residual Learning for Image Recognition", 2016, table 1, with the
      strides of torchvision's ("v1.5").
    """

    num_classes: int = 10
    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    dtype: jnp.dtype | None = None
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[batch, height, width, channels]` to logits `[batch, num_classes]`."""
        layer = 0

        def conv(x, width, size, stride, name):
            return modules.centred(
                width, size, stride, dtype=self.dtype, impl=self.impl, name=name
            )(x)

        def normed(x, width, size, stride=1, shortcut=None):
            nonlocal layer
            y = conv(x, width, size, stride, f"conv_{layer}")
            norm = NormReLU(dtype=self.dtype, name=f"norm_{layer}")
            layer += 1
            return norm(y, shortcut, train=train)

        def projected(x, width, stride, stage):
            x = conv(x, width, 1, stride, f"shortcut_{stage}")
            # Without a ReLU, but with the numbers of `NormReLU`.
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                dtype=self.dtype,
                name=f"shortcut_norm_{stage}",
            )(x)

        x = normed(x, self.width, 7, 2)
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.blocks):
            width = self.width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                y = normed(x, width, 1)
                y = normed(y, width, 3, stride)
                if block == 0:
                    x = projected(x, 4 * width, stride, stage)
                x = normed(y, 4 * width, 1, shortcut=x)
        return modules.logits(self.num_classes, x.mean((1, 2)), dtype=self.dtype)
