"""The networks of the lottery ticket papers, as flax modules.

Parameters are named `conv_0`, `conv_1`, ..., `norm_0`, ..., `fc_0`, ..., `output`, so
that a rule by path tells convolutions, hidden layers and the output layer apart; the
projections of a residual network are `shortcut_1`, ....
"""

from flax import linen as nn

from jaxticket.models.bottleneck import Bottlenecks
from jaxticket.models.plain import MLP, ConvNet, LeNet5, ResidualMLP
from jaxticket.models.resnet import ResNet
from jaxticket.models.vgg import VGG

_VGG_19 = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


def mlp(num_classes: int = 10, **options) -> nn.Module:
    """An `MLP` with the widths given as ``hidden``."""
    return MLP(num_classes, **options)


def mlp_1d(num_classes: int = 10, *, width: int = 500, **options) -> nn.Module:
    """The network of MNIST-1D: 275,000 weights for 40 inputs and 10 classes."""
    return ResidualMLP(num_classes, width, **options)


def lenet_300_100(num_classes: int = 10, **options) -> nn.Module:
    """LeNet-300-100: 266,200 weights for 28x28 images and 10 classes."""
    return MLP(num_classes, **{"hidden": (300, 100)} | options)


def lenet_5(num_classes: int = 10, **options) -> nn.Module:
    """LeNet-5: 61,470 weights for 28x28x1 images and 10 classes."""
    return LeNet5(num_classes, **options)


def conv_2(num_classes: int = 10, **options) -> nn.Module:
    """Conv-2: 4,300,992 weights for 32x32x3 images and 10 classes."""
    return ConvNet(num_classes, **{"widths": (64,)} | options)


def conv_4(num_classes: int = 10, **options) -> nn.Module:
    """Conv-4: 2,425,024 weights for 32x32x3 images and 10 classes."""
    return ConvNet(num_classes, **{"widths": (64, 128)} | options)


def conv_6(num_classes: int = 10, **options) -> nn.Module:
    """Conv-6: 2,261,184 weights for 32x32x3 images and 10 classes."""
    return ConvNet(num_classes, **{"widths": (64, 128, 256)} | options)


def resnet_20(num_classes: int = 10, **options) -> nn.Module:
    """ResNet-20: 270,896 weights, 267,696 of them in 3x3 convolutions."""
    return ResNet(num_classes, **options)


def resnet_32(
    num_classes: int = 10,
    *,
    width: int = 32,
    blocks: tuple[int, ...] = (5, 5, 5),
    **options,
) -> nn.Module:
    """ResNet-32 of twice the width: 1,845,344 weights, 1,844,064 in convolutions."""
    return ResNet(num_classes, width, blocks, shortcut="pad", **options)


def resnet_50(num_classes: int = 10, **options) -> nn.Module:
    """ResNet-50 for ImageNet, torchvision's `resnet50`.

    For 1000 classes it has 25,557,032 parameters, 25,502,912 of them weights and of
    those 23,454,912 in convolutions: 2,768,896 in the shortcuts.
    """
    return Bottlenecks(num_classes, **options)


def vgg_16(num_classes: int = 10, **options) -> nn.Module:
    """VGG-16: 14,715,584 weights for 10 classes."""
    return VGG(num_classes, **options)


def vgg_19(
    num_classes: int = 10,
    *,
    widths: tuple[tuple[int, ...], ...] = _VGG_19,
    **options,
) -> nn.Module:
    """VGG-19 for CIFAR: 20,024,000 weights for 10 classes, 20,018,880 convolutional."""
    return VGG(num_classes, widths=widths, **options)


def vgg_19_bn(
    num_classes: int = 10,
    *,
    widths: tuple[tuple[int, ...], ...] = _VGG_19,
    hidden: tuple[int, ...] = (4096, 4096),
    dropout: float = 0.5,
    **options,
) -> nn.Module:
    """VGG-19 with batch normalisation for ImageNet, torchvision's `vgg19_bn`.

    Of 224x224x3 images and 1000 classes it has 143,678,248 parameters, 143,652,544 of
    them weights and of those 20,018,880 in convolutions, which have biases here. Other
    sizes of images give the first hidden layer another width, where torchvision resizes
    its input to 7x7.
    """
    return VGG(
        num_classes,
        widths=widths,
        use_bias=True,
        hidden=hidden,
        dropout=dropout,
        **options,
    )
