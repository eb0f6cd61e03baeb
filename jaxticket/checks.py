"""Checks: what a value must be, and the one sentence that says so where it is not.

A check is called with values under the names by which the user knows them, and raises
`Refused` for the first that will not do:

    checks.fraction(density=density)
    checks.whole(1)(rounds=rounds, epochs=epochs)
    checks.positive(**{"--learning_rate": rate})

Numbers of any type are checked, in every entry of an array: as they are, and rounded to
the floats that programs compute in. What is traced is not known, and passes; but whole
numbers are structure, which cannot be traced.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

INT32 = 2**31 - 1  # the largest number that steps and places are counted in


class Refused(ValueError):
    """A value that cannot be.

    Attributes:
      name: whose value it is, with which the message begins.
      why: the rest of the message.
    """

    def __init__(self, name: str, why: str):
        super().__init__(name, why)
        self.name, self.why = name, why

    def __str__(self) -> str:
        return f"{self.name} {self.why}"


@dataclasses.dataclass(frozen=True)
class Check:
    """What a value must be.

    Attributes:
      wanted: in words, after "must be".
      failing: value -> those parts of it that are something else.
      hint: such a part -> what else there is to say.
    """

    wanted: str
    failing: Callable[[Any], Iterable[Any]]
    hint: Callable[[Any], str] = lambda part: ""

    def __call__(self, **values: Any) -> None:
        """Raises `Refused` for the first of the named values that will not do."""
        for name, value in values.items():
            for part in self.failing(value):
                why = f"must be {self.wanted}; got {part!r}{self.hint(part)}"
                raise Refused(name, why)


def number(
    wanted: str, holds: Callable[[float], bool], *, rounds: bool = True
) -> Check:
    """A number for which a condition holds, as it is and, where it rounds, rounded."""

    def failing(value):
        if isinstance(value, jax.core.Tracer):
            return
        entries = _entries(value)
        if entries is None:
            yield value
            return
        for x in entries:
            if not (holds(x) and holds(_rounded(x) if rounds else x)):
                yield x

    def hint(x):
        if not _is_number(x) or not holds(x):
            return ""
        return f", which is {_rounded(x)} in {_floats().name}"

    return Check(wanted, failing, hint)


def above(low: float) -> Check:
    """A finite number above another."""
    return number(f"above {low} and finite", lambda x: low < x < math.inf)


def below(high: float) -> Check:
    """A finite number below another."""
    return number(f"below {high} and finite", lambda x: -math.inf < x < high)


def between(low: float, high: float) -> Check:
    """A number between two others, and neither of them."""
    return number(f"between {low} and {high}", lambda x: low < x < high)


fraction = number("the fraction kept, in (0, 1]", lambda x: 0 < x <= 1)
share = number("a share, in [0, 1]", lambda x: 0 <= x <= 1)
positive = above(0)
not_negative = number("at least 0 and finite", lambda x: 0 <= x < math.inf)
finite = number("a finite number", lambda x: -math.inf < x < math.inf)


def whole(least: int, most: int = INT32) -> Check:
    """A whole number, which cannot be traced: it says how much there is to do."""

    def failing(value):
        entries = _entries(value)
        if entries is None or np.ndim(value) or not isinstance(entries[0], int):
            yield value
        elif not least <= entries[0] <= most:
            yield entries[0]

    def hint(value):
        beyond = most == INT32 and _is_number(value) and value > most
        return f", which is beyond {most}" if beyond else ""

    limit = "" if most == INT32 else f" to {most}"
    return Check(f"a whole number from {least}{limit}", failing, hint)


def one_of(choices: Collection[str]) -> Check:
    """One of some words."""

    def failing(value):
        if not (isinstance(value, str) and value in choices):
            yield value

    def hint(value):
        near = difflib.get_close_matches(str(value), [*choices], n=1)
        return f"; did you mean {near[0]!r}?" if near else ""

    return Check(f"one of {', '.join(choices)}", failing, hint)


def each(check: Check) -> Check:
    """Several values, and at least one, of which each must be so."""

    def failing(values):
        if not isinstance(values, list | tuple) or not values:
            yield values
            return
        for value in values:
            yield from check.failing(value)

    return Check(f"one or more, each {check.wanted}", failing, check.hint)


def concrete(x: Any) -> bool:
    """Whether the numbers of an array are known here and now."""
    return not isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct) and getattr(
        x, "is_fully_addressable", True
    )


def _entries(value: Any) -> list[int | float] | None:
    """The entries of a number or an array as Python's; `None` of what is no number."""
    if _is_number(value):
        return [value]
    if isinstance(value, jax.core.Tracer):
        return None
    dtype = getattr(value, "dtype", None)
    if dtype is None or not (
        jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)
    ):
        return None
    kind = int if jnp.issubdtype(dtype, jnp.integer) else float
    return [kind(x) for x in np.asarray(value).ravel()]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _floats() -> np.dtype:
    """What programs compute in: float32, or float64 where JAX is told so."""
    return jnp.result_type(float)


def _rounded(x: int | float) -> float:
    """As a program has it: beyond its range infinite, and 0 below it."""
    limits = jnp.finfo(_floats())
    if abs(x) > float(limits.max):
        return math.inf if x > 0 else -math.inf
    return 0.0 if abs(x) < float(limits.tiny) else float(_floats().type(x))
