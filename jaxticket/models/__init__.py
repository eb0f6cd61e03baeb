"""Networks as pure functions: a protocol, adapters and a small zoo.

Importing this imports no network library; `create` imports flax.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax

from jaxticket import checks
from jaxticket.models import pretrained
from jaxticket.models.model import (
    Model,
    adapted,
    from_equinox,
    from_haiku,
    from_linen,
    from_nnx,
    unstacked,
)
from jaxticket.models.prunable import is_convolution, is_hidden

__all__ = [
    "NAMES",
    "Model",
    "adapted",
    "create",
    "defaults",
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
    "mlp_1d",
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
        ``impl``; those with hidden layers take ``dropout``, "mlp" ``hidden``;
        "mlp_1d" takes ``width`` and ``dtype``.

    Returns:
      A `Model` on `[batch, height, width, channels]`; without convolutions, on
      `[batch, ...]`.

    Raises:
      ValueError: for an unknown name, or an option that the network does not have.
    """
    known = defaults(name)
    if unknown := {*options} - {*known}:
        raise ValueError(
            f"{name} has no {', '.join(sorted(unknown))}; it has {', '.join(known)}"
        )
    checks.whole(1)(num_classes=num_classes)
    for option, value in options.items():
        _check(option, value, known[option])
    return from_linen(_factory(name)(num_classes, **options))


def defaults(name: str) -> dict[str, Any]:
    """The options of a network of the zoo -> their defaults; see `create`."""
    network = _factory(name)()
    names = (field.name for field in dataclasses.fields(network))
    own = ("num_classes", "parent", "name")
    return {name: getattr(network, name) for name in names if name not in own}


def _check(option: str, value: Any, default: Any) -> None:
    """Widths and the like are whole numbers from 1, fractions dropped below 1."""
    if type(default) is float:
        dropped = checks.number("at least 0 and below 1", lambda x: 0 <= x < 1)
        dropped(**{option: value})
    elif type(default) is int:
        checks.whole(1)(**{option: value})
    elif type(default) is tuple:
        if not isinstance(value, tuple | list):
            raise checks.Refused(
                option, f"must be a tuple, as {default}; got {value!r}"
            )
        for width in jax.tree.leaves(value):
            checks.whole(1)(**{option: width})
    elif type(default) is bool and type(value) is not bool:
        raise checks.Refused(option, f"must be True or False; got {value!r}")


def _factory(name: str) -> Callable:
    checks.one_of(NAMES)(model=name)
    return getattr(importlib.import_module("jaxticket.models.zoo"), name)
