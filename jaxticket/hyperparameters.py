"""The hyper-parameters of a search, read from its factory: names, kinds, defaults.

A search says once what it can be told: in the signature of its factory, where a number
annotated `ArrayLike` may be traced and so be a batch axis, and in the `Args:` of its
docstring. Whoever lists them (flags, sweeps, tests) reads them here.
"""

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jax.typing import ArrayLike

CONTEXT = ("steps", "epoch_steps", "rewind_step")  # what the loop knows: given, not set
NUMBERS = {*typing.get_args(ArrayLike)}


class Hyper(NamedTuple):
    """A hyper-parameter of a factory: a keyword-only argument that takes plain values.

    Attributes:
      name: of the argument.
      default: its value; `inspect.Parameter.empty` where one must be given.
      kind: float, int, bool or str.
      swept: whether it may have several values, which then run as lanes.
      choices: of a word, where they are known.
      help: from the docstring.
    """

    name: str
    default: Any
    kind: type
    swept: bool
    choices: tuple[str, ...]
    help: str


def of(factory: Callable) -> dict[str, Hyper]:
    """The keyword-only arguments that a plain value can be given for.

    What a `functools.partial` binds is none any more.
    """
    takes, factory = arguments(factory), unbound(factory)
    hints = typing.get_type_hints(factory)
    about = described(factory.__doc__ or "")
    found = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if name not in takes or name in CONTEXT:
            continue
        kind, swept, choices = _kind(hints[name])
        if kind is None:
            continue
        found[name] = Hyper(
            name, parameter.default, kind, swept, choices, about.get(name, "")
        )
    return found


def unbound(factory: Callable) -> Callable:
    """The function itself, of a variant."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return factory


def arguments(factory: Callable) -> set[str]:
    """The keyword-only arguments that a factory still takes: a variant decides some."""
    decided: set[str] = set()
    while isinstance(factory, functools.partial):
        decided |= factory.keywords.keys()
        factory = factory.func
    parameters = inspect.signature(factory).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - decided


def _kind(hint: Any) -> tuple[type | None, bool, tuple[str, ...]]:
    """What values a hint allows: their type, whether several, and the words."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    if set(parts) >= NUMBERS:
        return float, True, ()
    for part in parts:
        if typing.get_origin(part) is Literal:
            return str, False, typing.get_args(part)
    for kind in (bool, str, float, int):
        if kind in parts:
            return kind, False, ()
    return None, False, ()


def described(docstring: str) -> dict[str, str]:
    """Argument -> what the `Args:` of a docstring say of it, in one line."""
    _, _, rest = inspect.cleandoc(docstring).partition("\nArgs:\n")
    about, names = {}, ()
    for line in rest.splitlines():
        if line and not line.startswith("  "):
            break
        if entry := re.match(r"  (\w+(?:, \w+)*): (.*)", line):
            names = entry[1].split(", ")
            about |= dict.fromkeys(names, entry[2])
        else:
            about |= {name: f"{about[name]} {line.strip()}" for name in names}
    return {name: text.strip() for name, text in about.items()}
