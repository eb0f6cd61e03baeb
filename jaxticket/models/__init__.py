"""Networks as pure functions: a protocol, adapters and a small zoo.

Importing this imports no network library; `create` imports flax.
"""

import difflib
import importlib

from jaxticket.models import pretrained
from jaxticket.models.model import (
    Model,
    from_equinox,
    from_haiku,
    from_linen,
    from_nnx,
    unstacked,
)
from jaxticket.models.rules import is_convolution, is_hidden

__all__ = [
    "NAMES",
    "Model",
    "create",
    "from_equinox",
    "from_haiku",
    "from_linen",
    "from_nnx",
    "is_convolution",
    "is_hidden",
    "pretrained",
    "unstacked",
]

NAMES = (
    "mlp",
    "lenet_300_100",
    "lenet_5",
    "conv_2",
    "conv_4",
    "conv_6",
    "resnet_20",
    "resnet_32",
    "resnet_50",
    "vgg_16",
    "vgg_19",
    "vgg_19_bn",
)


def create(name: str, num_classes: int = 10, **options) -> Model:
    """Makes a network of the zoo.

    Args:
      name: one of `NAMES`.
      num_classes: width of the output layer.
      **options: fields of the network, such as ``dtype`` and, for convolutional ones,
        ``impl``; those with hidden layers take ``dropout``, "mlp" ``hidden``.

    Returns:
      A `Model` on `[batch, height, width, channels]`.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no model {name!r}; there are {', '.join(NAMES)}{hint}")
    zoo = importlib.import_module("jaxticket.models.zoo")
    return from_linen(getattr(zoo, name)(num_classes, **options))
