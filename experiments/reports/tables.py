"""Tables: what their cells say of a group of rows, such as the seeds of a ticket."""

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from rich import console, text
from rich import table as rich_table

from experiments.reports import statistics
from jaxticket import analysis

DASH = "–"
NAMES = {
    "reinitialise": "re-initialised",
    "reorder": "another order",
    "shuffle": "shuffled",
    "tuned": "weights tuned",
}
# Headers of words, at the left.
WORDED = ("method", "layer", "chosen on\nvalidation", "verdict")


class Table(NamedTuple):
    """A title, headers of columns, and lines of cells, of which some are good."""

    title: str
    headers: Sequence[str]
    lines: Sequence[Sequence[str]]
    good: Sequence[bool]


# Header -> of which columns of a group of rows a cell speaks, and how.
Columns = dict[str, tuple[str | list[str], Callable[..., str]]]


def table(title: str, columns: Columns, groups: Sequence[pd.DataFrame]) -> Table:
    """A line a group of rows, such as the seeds of a ticket."""
    lines = [[say(group[name]) for name, say in columns.values()] for group in groups]
    good = [not {*line}.isdisjoint(statistics.ACCEPTED) for line in lines]
    return Table(title, [*columns], lines, good)


def words(name: str) -> str:
    """A method or treatment as a reader says it."""
    return NAMES.get(name, name.replace("_", " "))


def word(values: pd.Series) -> str:
    """What all seeds have in common."""
    return words(values.iloc[0])


def number(values: pd.Series, scale: float = 1) -> str:
    """The mean of the seeds that have one."""
    mean = scale * values.mean()
    return DASH if math.isnan(mean) else f"{mean:.3g}"


def plus_minus(values: pd.Series, *, form: str, scale: float = 1) -> str:
    """The mean of the seeds that have not failed, and half of its interval."""
    left = values.dropna()
    mean, _, high = analysis.interval(scale * left)
    if math.isnan(mean):
        return DASH
    half = "" if math.isnan(high) else f" ±{form.replace('+', '').format(high - mean)}"
    of = "" if len(left) == len(values) else f" ({len(left)} of {len(values)})"
    return form.format(mean) + half + of


percent = functools.partial(number, scale=100)
accuracy = functools.partial(plus_minus, form="{:.2f}", scale=100)
points = functools.partial(plus_minus, form="{:+.2f}", scale=100)
steps = functools.partial(plus_minus, form="{:.0f}")


def times(ratio: analysis.Interval) -> str:
    if math.isnan(ratio.mean):
        return DASH
    if math.isnan(ratio.low):
        return f"{ratio.mean:.2f}×"
    return f"{ratio.mean:.2f}× ({ratio.low:.2f}–{ratio.high:.2f})"


def ratio(pair: pd.DataFrame) -> str:
    """The first column over the second."""
    return times(analysis.ratio(*pair.to_numpy(float).T))


def densest_first(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each method and setting, the largest mean density first."""
    groups = [group for _, group in rows.groupby(["method", "setting"], sort=False)]
    return sorted(groups, key=lambda group: -group["density"].mean())


def name(ticket: pd.DataFrame) -> str:
    """What tells the tickets of a method apart."""
    setting, prunings = ticket[["setting", "prunings"]].iloc[0]
    if setting and prunings == 1:
        return setting
    return f"{setting}, pruned {prunings}×".removeprefix(", ")


def panel(ticket: pd.DataFrame) -> str:
    """What a ticket is called where it has a part of a figure for itself."""
    kept = f"{percent(ticket['density'])}% of the weights"
    return f"{word(ticket['method'])}, {name(ticket)}: {kept}"


METHOD: Columns = {"method": ("method", word)}
KEPT: Columns = {"weights\nkept, %": ("density", percent)}
NAMED: Columns = {"ticket": (["setting", "prunings"], name), **KEPT}
LAYER: Columns = {"layer": ("layer", lambda names: names.iloc[0])}


def show(*shown: Table | str) -> None:
    """Prints tables and notes; a file or pipe gets whole lines, however long."""
    terminal = console.Console(width=None if sys.stdout.isatty() else 180)
    for one in shown:
        if isinstance(one, str):
            terminal.print(one, highlight=False, markup=False)
            continue
        printed = rich_table.Table(box=None, pad_edge=False, header_style="dim")
        for header in one.headers:
            side = "left" if header in WORDED else "right"
            # A narrow terminal breaks cells, but never inside a word.
            widest = max(map(len, header.split()))
            printed.add_column(header, justify=side, min_width=widest)
        for line, good in zip(one.lines, one.good, strict=True):
            style = "green" if good else ""
            printed.add_row(*(text.Text(cell, style=style) for cell in line))
        terminal.print("", text.Text(one.title, style="bold"), printed, sep="\n")
