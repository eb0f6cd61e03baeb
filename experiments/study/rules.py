"""Checks of settings that are no plain numbers: names, paths, lanes, places."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection
from pathlib import Path

from jaxticket import checks
from jaxticket.checks import Check

COUNT = checks.whole(1)
MANY = checks.whole(1, 2**16)  # of what is made one by one


def named(choices: Collection[str]) -> Check:
    """One of the names, or a function of the user's."""
    known = checks.one_of((*choices, "package.module:function"))

    def failing(x):
        is_function = re.fullmatch(r"[\w.]+:\w+", str(x))
        return [] if is_function else known.failing(x)

    return dataclasses.replace(known, failing=failing)


def _path(wanted: str, wrong: Callable[[Path], str]) -> Check:
    """A path, as a shell user writes it.

    Args:
      wanted: what must be there.
      wrong: path -> what is wrong with it, or nothing.
    """

    def why(x):
        if not isinstance(x, str | Path) or not str(x).strip():
            return ", which is no path"
        try:
            return wrong(Path(x).expanduser().absolute())
        except (OSError, RuntimeError, ValueError) as error:  # too long, ~nobody, NUL
            return f", of which the system says: {error}"

    return Check(wanted, lambda x: [x] if why(x) else [], why)


def _cannot_be_made(path: Path) -> str:
    there = next(each for each in (path, *path.parents) if each.exists())
    return "" if there.is_dir() else f": {there} is a file"


def _is_none(path: Path) -> str:
    return "" if path.is_dir() else ", which is none"


FOLDER = _path("a folder, there or to be made", _cannot_be_made)
FOLDER_THERE = _path("a folder that is there", _is_none)
IN_A_FOLDER = _path(
    "a file in a folder that is there",
    lambda path: ", which is a folder" if path.is_dir() else _is_none(path.parent),
)


ADDRESS = Check(
    "a host and a port, as node1:1234",
    lambda x: [] if re.fullmatch(r"[^\s,]+:\d{1,5}", str(x)) else [x],
)


def _is_lanes(x) -> bool:
    return x == "auto" or (str(x).isdecimal() and not [*MANY.failing(int(x))])


LANES = Check(
    "a whole number from 1 to 65536, or auto", lambda x: [] if _is_lanes(x) else [x]
)


def _are_drops(values) -> bool:
    """Whether they are places in a training, in their order as far as it is known."""
    if not isinstance(values, list | tuple):
        return False
    if any([*checks.positive.failing(x)] or (x > 1 and x != int(x)) for x in values):
        return False
    fractions, steps = ([x for x in values if (x < 1) == early] for early in (1, 0))
    pairs = itertools.chain(itertools.pairwise(fractions), itertools.pairwise(steps))
    return all(x < y for x, y in pairs)


DROPS = Check(
    "steps from 1, or fractions of a training below 1, each later than the one before",
    lambda values: [] if _are_drops(values) else [values],
)
