"""The tables of a run, in words: every ticket, and those that speak for a method."""

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from rich import console, text
from rich import table as rich_table

from experiments.reports import drawings, statistics
from experiments.reports.statistics import Chosen, Interval, Summary

DASH = "–"
CHOSEN = "chosen on\nvalidation"
WORDED = ("method", CHOSEN, "verdict")  # headers of words, at the left
# The second comparison with the dense network: its header, and the dense accuracy.
LAST = ("after the last\nstep, against\ndense, points", None)
STOPPED = ("against dense\nat its stop,\npoints", "early_stopping_test_accuracy")


class Table(NamedTuple):
    """A table under its title.

    Attributes:
      title: above it.
      headers: of the columns.
      lines: their cells.
      marks: which lines are shown as good.
    """

    title: str
    headers: Sequence[str]
    lines: Sequence[Sequence[str]]
    marks: Sequence[bool] = ()


def plus_minus(interval: Interval, form: str, scale: float = 1) -> str:
    if math.isnan(interval.mean):
        return DASH
    mean = form.format(scale * interval.mean)
    if math.isnan(interval.high):
        return mean
    half = scale * (interval.high - interval.mean)
    return f"{mean} ±{form.replace('+', '').format(half)}"


def points(values: pd.Series) -> str:
    """Accuracies of the seeds, in percent."""
    return plus_minus(statistics.interval(values), "{:.2f}", 100)


def times(ratio: Interval) -> str:
    if math.isnan(ratio.mean):
        return DASH
    if math.isnan(ratio.low):
        return f"{ratio.mean:.2f}×"
    return f"{ratio.mean:.2f}× ({ratio.low:.2f}–{ratio.high:.2f})"


def number(x: float) -> str:
    return DASH if math.isnan(x) else f"{x:.3g}"


def percent(x: float) -> str:
    return number(100 * x)


def densest_first(rows: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """`(method, setting)` and its rows, the largest mean density first."""
    groups = rows.groupby(["method", "setting"], sort=False)
    return sorted(groups, key=lambda group: -group[1]["density"].mean())


def lines(columns: Mapping[str, Callable], things: Iterable) -> list[list[str]]:
    """A line a thing: what every column says of it."""
    return [[cell(thing) for cell in columns.values()] for thing in things]


def name(ticket: Summary) -> str:
    """What tells the tickets of a method apart."""
    if not ticket.setting:
        return f"{ticket.prunings}"
    more = f", pruned {ticket.prunings}×" if ticket.prunings > 1 else ""
    return ticket.setting + more


def difference(ticket: Summary, *, control: str | None = None) -> str:
    """From the dense network, or from a control."""
    interval = ticket.to_controls[control] if control else ticket.to_dense
    return plus_minus(interval, "{:+.2f}", 100)


def step_ratio(ticket: Summary) -> str:
    if ticket.without_ratio:
        return f"{ticket.without_ratio} of {ticket.seeds} seeds without a step"
    return times(ticket.step_ratio)


COLUMNS: dict[str, Callable[[Summary], str]] = {
    "method": lambda t: drawings.words(t.method),
    "prunings\nor setting": name,
    "weights\nkept, %": lambda t: percent(t.density),
    "test\naccuracy, %": lambda t: plus_minus(t.accuracy, "{:.2f}", 100),
    "against\ndense, points": difference,
    "verdict": lambda t: t.verdict,
}
COST: dict[str, Callable[[Summary], str]] = {
    "search\nepochs": lambda t: number(t.search_epochs),
    "search\nseconds": lambda t: number(t.search_seconds),
}
STEPS: dict[str, Callable[[Summary], str]] = {
    "stops\nat step": lambda t: plus_minus(t.step, "{:.0f}"),
    "steps, times\ndense's": step_ratio,
    "seeds that\nwin": lambda t: f"{t.wins}/{t.seeds}",
}


def every_ticket(rows: pd.DataFrame, *, margin: float, at: str) -> Table:
    """A line a ticket, against the dense network and its controls.

    Args:
      rows: of `statistics.read_results`.
      margin: see `statistics.verdict`.
      at: "early_stopping_" or "", of the last step: whose accuracies.
    """
    found = statistics.summarise(rows, margin=margin, accuracy=f"{at}test_accuracy")
    columns = dict(COLUMNS)
    for control in found[0].to_controls if found else ():
        columns[f"against\n{drawings.words(control)},\npoints"] = functools.partial(
            difference, control=control
        )
    header, dense = LAST if at else STOPPED
    last = statistics.summarise(
        rows, margin=margin, accuracy="test_accuracy", dense_accuracy=dense
    )
    others = {ticket[:3]: ticket for ticket in last}
    columns[header] = lambda ticket: difference(others[ticket[:3]])
    columns |= STEPS if at else COST
    good = [ticket.verdict in statistics.ACCEPTED for ticket in found]
    title = "Every ticket against the dense network"
    return Table(title, [*columns], lines(columns, found), good)


def milestones(chosen: Mapping[str, Chosen]) -> Table:
    """The sparsest ticket of each method that matches, and its most accurate."""
    found = [
        (f"{what}, of {tickets.among}", ticket)
        for tickets in chosen.values()
        for what, ticket in (
            ("sparsest that matches", tickets.sparsest),
            ("most accurate", tickets.best),
        )
        if ticket
    ]
    columns = COLUMNS | COST
    cells = lines(columns, [ticket for _, ticket in found])
    cells = [
        [line[0], what, *line[1:]] for (what, _), line in zip(found, cells, strict=True)
    ]
    headers = [*columns]
    headers.insert(1, CHOSEN)
    good = [ticket.verdict in statistics.ACCEPTED for _, ticket in found]
    title = "The sparsest that match, and the most accurate"
    return Table(title, headers, cells, good)


def headlines(chosen: Mapping[str, Chosen], *, margin: float, at: str) -> list[str]:
    """A sentence a method whose ticket matches, and one of those that have none."""
    found, without = [], []
    for method, tickets in chosen.items():
        known = drawings.words(method)
        among = f"of {tickets.among}"
        if tickets.unknown:
            among += f", {tickets.unknown} unknown because a seed failed"
        if ticket := tickets.sparsest:
            line = (
                f"{known}: {percent(ticket.density)}% of the weights match on "
                f"validation (the sparsest, selected among {among[3:]}); on test "
                f"{difference(ticket)} points against dense, {ticket.verdict}"
            )
            if at:
                line += (
                    f"; steps to the early stop, times dense's: {step_ratio(ticket)}"
                )
            found.append(f"{line}.")
        elif ticket := tickets.best:
            points = f"{difference(ticket)} points, {ticket.verdict}"
            without.append(f"{known} ({among}: {points})")
        else:
            without.append(f"{known} ({among})")
    if without:
        found.append(
            f"No ticket is shown to match the dense network within {margin:g} points: "
            f"{', '.join(without)}. In brackets the most accurate on validation, as "
            "the test set has it."
        )
    return found


def for_terminal(table: Table) -> rich_table.Table:
    """The table as rich prints it."""
    result = rich_table.Table(
        title=table.title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
    )
    for header in table.headers:
        result.add_column(
            header,
            justify="left" if header in WORDED else "right",
            # A narrow terminal breaks cells, but never inside a word.
            min_width=max(map(len, header.split())),
        )
    for line, mark in itertools.zip_longest(table.lines, table.marks, fillvalue=False):
        style = "green" if mark else ""
        result.add_row(*(text.Text(cell, style=style) for cell in line))
    return result


def show(*shown: Table | str) -> None:
    """Prints tables and notes; a file or pipe gets whole lines, however long."""
    terminal = console.Console(width=None if sys.stdout.isatty() else 180)
    for one in shown:
        if isinstance(one, str):
            terminal.print(one, highlight=False, markup=False)
        else:
            terminal.print("", for_terminal(one))
