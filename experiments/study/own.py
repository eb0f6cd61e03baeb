"""Networks, data and losses by name: the library's, or a function of the user's.

`package.module:function` names a function that can be imported from where the command
runs. What it takes by name are options: `--model.width=2` hands `width=2` to the
function, or to the network of the zoo, that `--model` names.
"""

import ast
import functools
import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxticket
from experiments.study.settings import Settings
from jaxticket import checks, data, models, supervised
from jaxticket.base import Ticket
from jaxticket.models import Model
from jaxticket.training import LossFn

# Where code lies that is not the user's.
OTHERS = (
    "<",
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib")),
    *(str(Path(file).parent) for file in (__file__, jaxticket.__file__)),
)


def named(flag: str, name: str) -> Callable:
    """The function that a flag names as `package.module:function`.

    Raises:
      ValueError: there is none; it says what is missing, or what importing raised.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--{flag}={name}: {error}; it is looked for where the command runs, and "
            "among what is installed"
        ) from None
    except Exception as error:  # whatever a module of the user's raises
        raise ValueError(f"--{flag}={name}: {_said(error)}") from error
    if found is None:
        raise ValueError(f"--{flag}={name}: {module} has no {attribute!r}")
    if not callable(found):
        kind = type(found).__name__
        raise ValueError(f"--{flag}={name} must be a function, got {kind}")
    return found


def _said(error: Exception) -> str:
    """What the user's code, or what it called, has raised, and where that is."""
    said = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    if theirs := [x for x in frames if not x.filename.startswith(OTHERS)]:
        return f"{said} (line {theirs[-1].lineno} of {theirs[-1].filename})"
    return str(error) if isinstance(error, ValueError) else said


def model(name: str, outputs: int, options: Mapping[str, Any]) -> Model:
    """The network of `--model`.

    Args:
      name: one of `models.NAMES`, or a function `(outputs, **options)` that returns
        what `models.adapted` takes.
      outputs: width of the output layer.
      options: name -> value, or its text.

    Raises:
      ValueError: an option that the network does not have, or no network.
    """
    if name in models.NAMES:
        known = models.defaults(name)
        return models.create(name, outputs, **given("model", options, known))
    return models.adapted(called("model", name, options, outputs))


def dataset(config: Settings) -> data.Dataset:
    """The data of `--dataset`.

    A function of the user's is called with the options as `--dataset.name` gives them,
    and returns training and test `Split`, or pairs of arrays: see `data.of_splits`.
    Where data stream, images may be any source that `data.streams.Rows` takes.

    Raises:
      ValueError: an unknown name or option, or arrays that do not fit together.
    """
    found = _dataset(config)
    return data.with_label_noise(found, config.label_noise)


def _dataset(config: Settings) -> data.Dataset:
    name, options = config.dataset, config.options("dataset")
    if ":" not in name:
        return data.load(
            name,
            data_dir=config.data_dir,
            cache_dir=config.cache_dir,
            validation=config.validation,
            stream=config.stream,
            **given("dataset", options, data.OPTIONS.get(name, {})),
        )
    found = called("dataset", name, options)
    try:
        train, test = (data.Split(*_pair(split)) for split in _pair(found))
    except (TypeError, ValueError):
        raise ValueError(
            f"--dataset={name} must return training and test (images, labels), "
            f"got {_kind(found)}"
        ) from None
    return data.of_splits(
        name, train, test, validation=config.validation, stream=config.stream
    )


def unseen(dataset: data.Dataset) -> str | None:
    """Which classes no training image is of, in words; None where there are none.

    They are learned by nobody: labels that count from 1, or a class of the test set.
    """
    labels = dataset.train.labels
    if labels.ndim > 1 or not np.issubdtype(labels.dtype, np.integer):
        return None
    missing = sorted({*range(dataset.num_classes)} - {*np.unique(labels).tolist()})
    if not missing:
        return None
    more = f" and {len(missing) - 5} more" if missing[5:] else ""
    return (
        f"the network has {dataset.num_classes} outputs, for labels from 0 to "
        f"{dataset.num_classes - 1}, and no training image is of "
        f"{', '.join(map(str, missing[:5]))}{more}"
    )


def _pair(found: Any) -> Any:
    """Itself, but no dictionary, of which only the names would be seen."""
    if isinstance(found, Mapping):
        raise TypeError
    return found


def _kind(found: Any) -> str:
    """What it is, and what is in it."""
    kind = type(found).__name__
    if not isinstance(found, tuple | list):
        return kind
    return f"{kind} of {', '.join(type(x).__name__ for x in found) or 'nothing'}"


def prepare(config: Settings, dataset: data.Dataset) -> Callable:
    """Images as they are stored -> what the network takes.

    Raises:
      ValueError: `--crop` of what is no image, or is smaller.
    """
    images = dataset.train.images
    normalise = data.normalizer(config.normalization, images, name=dataset.name)
    if config.crop is None:
        return normalise
    if images.ndim != 4:
        raise ValueError(
            f"--crop cuts images [height, width, channels]; {config.dataset} has "
            f"{list(images.shape[1:])}: leave it out"
        )
    checks.whole(1, min(images.shape[1:3]))(**{"--crop": config.crop})
    return lambda images: normalise(data.centre_crop(images, config.crop))


def augmented(config: Settings, train: data.Split) -> tuple[data.Split, Any]:
    """Training data and what augments them on the device: `--augment`, with `--crop`.

    Of many sizes that stream, parts are cut out of the whole image where it is decoded,
    and the device has nothing left to do.
    """
    if not config.augment:
        return train, None
    if config.crop is None:
        return train, data.augment
    images, size = train.images, {"size": config.crop}
    if isinstance(images, data.streams.Rows) and images.many_sizes:
        vary = functools.partial(data.pictures.random_part, **size)
        return train._replace(images=images.varied(vary)), None
    # Of what this leaves, preparing has no more to cut off.
    return train, functools.partial(data.random_resized_crop, **size)


def shapes(config: Settings, init: Callable, split: data.Split) -> None:
    """Tries to make the network for the data, without computing.

    Raises:
      ValueError: it takes other images; it says what each is.
    """
    try:
        jax.eval_shape(init, jax.random.key(0))
    except Exception as error:  # whatever a network of the user's raises
        images = split.images
        raise ValueError(
            f"--model={config.model} does not fit images {images.dtype} "
            f"{list(images.shape[1:])}: {_said(error)}"
        ) from error


def check(config: Settings, loss_fn: LossFn, like: Ticket, split: data.Split) -> None:
    """Tries the network and the loss on one row of the data, without computing.

    Raises:
      ValueError: they do not fit together; it says what each is.
    """
    row = jax.tree.map(lambda x: x[:1], split)
    key = jax.random.key(0)
    try:
        loss_fn.check((like.weights, like.model_state), split)
        jax.eval_shape(loss_fn, like.weights, like.model_state, row, key)
    except Exception as error:  # whatever a network or a loss of the user's raises
        raise ValueError(
            f"--model={config.model} and --loss={config.loss} do not fit data of "
            f"images {row.images.dtype} {list(row.images.shape[1:])} and labels "
            f"{row.labels.dtype} {list(row.labels.shape[1:])}: {_said(error)}"
        ) from error


def loss(name: str) -> supervised.Loss:
    """The loss of `--loss`: see `supervised.Loss`."""
    if name in supervised.LOSSES:
        return getattr(supervised, name)
    return named("loss", name)


def training_loss(config: Settings) -> supervised.Loss:
    """What training minimises: the loss of `--loss`, of labels that may be smoothed.

    Raises:
      ValueError: `--label_smoothing` of what has no classes.
    """
    if not config.label_smoothing:
        return loss(config.loss)
    if config.loss != "cross_entropy":
        raise ValueError(
            f"--label_smoothing is of --loss=cross_entropy; got --loss={config.loss}"
        )
    return supervised.smoothed(config.label_smoothing)


def called(flag: str, name: str, options: Mapping[str, Any], *args: Any) -> Any:
    """What a function of the user's returns; its arguments with defaults are options.

    Raises:
      ValueError: there is no such function, it takes other arguments, or it fails.
    """
    function = named(flag, name)
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    known = {p.name: p.default for p in parameters if p.default is not p.empty}
    options = given(flag, options, known)
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        raise ValueError(f"--{flag}={name}{signature}: {error}") from None
    try:
        return function(*args, **options)
    except Exception as error:  # whatever a function of the user's raises
        raise ValueError(f"--{flag}={name}: {_said(error)}") from error


def given(
    flag: str, options: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Options as values: a text is read as the default is written.

    Raises:
      ValueError: an unknown option, or a text that is no such value.
    """
    values = {}
    for name, value in options.items():
        if name not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"there is no --{flag}.{name}; its options are: {there}")
        values[name] = _read(f"--{flag}.{name}", value, known[name])
    return values


def _read(flag: str, value: Any, default: Any) -> Any:
    if not isinstance(value, str) or isinstance(default, str):
        return value
    try:
        value = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        if default is not None:
            kind = type(default).__name__
            raise ValueError(f"{flag} takes a {kind}, got {value!r}") from None
    if isinstance(default, tuple) and not isinstance(value, tuple):
        return (value,)
    return value
