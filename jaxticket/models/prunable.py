"""Which weights of a network of the zoo can be pruned: rules for `masks.full`."""

import jax

from jaxticket import masks


def is_convolution(path: tuple, leaf: jax.Array) -> bool:
    """Kernels of the layers `conv_0`, `conv_1`, ...

    Of ResNet-20 every 3x3 convolution, 267,696 weights, and neither the projections of
    the shortcuts nor the output layer: what Continuous Sparsification prunes.
    """
    return masks.is_kernel(path, leaf) and masks.name(path).startswith("conv_")


def is_hidden(path: tuple, leaf: jax.Array) -> bool:
    """Every kernel but that of the layer `output`.

    Of a network whose other layers are convolutions, all of these, the projections of
    its shortcuts among them: what lottery jackpots prune.
    """
    return masks.is_kernel(path, leaf) and not masks.name(path).startswith("output/")
