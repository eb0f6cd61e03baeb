"""Tickets from their files alone, and the network and data of the run they lie in."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.study import own, settings, sound
from experiments.study.methods import OPTIONS
from jaxticket import data, export, files, models
from jaxticket.base import Ticket


def found(paths: Iterable[str]) -> list[Path]:
    """Files, and those that folders have: of runs those in `tickets`, else all.

    What lies in `work` is no ticket. Numbers in names are in their order.

    Raises:
      ValueError: a folder has none.
    """
    all_of: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            all_of.append(path)
            continue
        every = [x for x in path.rglob("*.npz") if "work" not in _folders(x, path)]
        inside = [x for x in every if "tickets" in _folders(x, path)] or every
        if not inside:
            raise ValueError(f"no ticket in {path}")
        all_of += sorted(inside, key=_in_order)
    return all_of


def _folders(file: Path, above: Path) -> tuple[str, ...]:
    return file.relative_to(above).parts[:-1]


def _in_order(path: Path) -> list:
    parts = re.split(r"(\d+(?:\.\d+)?)", str(path))
    return [float(x) if i % 2 else x for i, x in enumerate(parts)]


def read(path: str | Path) -> tuple[Ticket, dict]:
    """The ticket of a file, as a tree of dicts, and its facts.

    Raises:
      OSError: there is no file.
      ValueError: it is damaged, or no ticket.
    """
    like: dict[str, Any] = {"weights": {}, "mask": {}, "model_state": {}}
    for name, (dtype, shape) in export.read(path).kinds.items():
        *where, leaf = name.split("/")
        inner = like
        for part in where:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{path} is no ticket: {name!r:.80} is in a leaf")
        inner[leaf] = _shaped(dtype, shape)
    ticket = Ticket(like["weights"], None, like["model_state"] or None)
    return files.load_ticket(path, ticket)


def _shaped(dtype: str, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    kind = dtype.removeprefix("key of ")
    if kind != dtype:
        return jax.ShapeDtypeStruct(shape, jax.random.key(0, impl=kind).dtype)
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


class Origin(NamedTuple):
    """What a ticket was found with.

    Attributes:
      told: what the run and flags say.
      dataset: its data.
      prepare: of images, before the network.
      image: the shape of one that is prepared.
    """

    told: settings.Settings
    dataset: data.Dataset
    prepare: Callable
    image: tuple[int, ...]

    @property
    def options(self) -> dict[str, Any]:
        """Those of a network of the zoo; it has no names in PyTorch otherwise."""
        name = self.told.model
        known = models.defaults(name) if name in models.NAMES else {}
        return own.given("model", self.told.options("model"), known)

    def images(self, count: int) -> jax.Array:
        """The first of the test images, prepared."""
        return self.prepare(jnp.asarray(self.dataset.test.images[:count]))

    def network(self, path: str | Path) -> tuple[models.Model, Ticket]:
        """The network, and the ticket of a file in its structure."""
        told, classes = self.told, self.dataset.num_classes
        model = own.model(told.model, classes, told.options("model"))
        like = jax.eval_shape(model.init, jax.random.key(0), self.images(1))
        ticket, _ = files.load_ticket(path, Ticket(like[0], None, like[1]))
        return model, ticket


def told(said: Mapping[str, Any], **given: Any) -> settings.Told:
    """The settings that decide a run's data and network.

    Args:
      said: the `config` of the run's `config.json`; flags of its methods are left out.
      **given: what stands in the place of that, where it is not None.
    """
    known = {field.name for field in dataclasses.fields(settings.Told)}
    found = settings.USUAL | {k: x for k, x in said.items() if x is not None}
    found |= {k: x for k, x in given.items() if x is not None}
    hyper = {k: x for k, x in found.get("hyper", {}).items() if k.startswith(OPTIONS)}
    values = {k: tuple(x) if isinstance(x, list) else x for k, x in found.items()}
    values = {k: x for k, x in values.items() if k in known}
    return settings.Told(**values | {"hyper": hyper})


def origin(path: str | Path, **given: str | None) -> Origin:
    """What the `config.json` of the run that a file lies in says, and what is given.

    Args:
      path: the file.
      **given: `model`, `dataset` and `data_dir`, or None.

    Raises:
      ValueError: neither says what the network is, or the data.
    """
    config = told((sound.of(path) or {"config": {}})["config"], **given)
    for name in ("model", "dataset"):
        if getattr(config, name) is None:
            raise ValueError(f"give --{name}: no config.json above {path} says it")
    dataset = own.dataset(config)
    prepare = own.prepare(config, dataset)
    image = jax.eval_shape(prepare, jnp.asarray(dataset.train.images[:1])).shape[1:]
    return Origin(config, dataset, prepare, image)
