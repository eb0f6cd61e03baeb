"""The tables of a run: every ticket against the dense network, and the best of each."""

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import console, text
from rich import table as rich_table

from experiments.reports import statistics

HEADERS = (
    "method",
    "round or\nsetting",
    "density\n%",
    "test\naccuracy\n%",
    "less\ndense\npp",
    "less\nre-init\npp",
    "early\nstop\nstep",
    "over\ndense",
    "wins",
    "verdict",
)
TERMS = {
    "density": "Fraction of the prunable weights that the ticket keeps.",
    "test accuracy": "Measured at the early-stopping step, as in the Lottery Ticket "
    "paper. Mean ± half of the 95% interval over the seeds (Student's t).",
    "less dense": "Accuracy less that of the dense network of the same seed, which "
    "has the same initial weights and data order. In percentage points; positive is "
    "better.",
    "less re-init": "The same difference from the re-initialised control, which has "
    "the ticket's mask and newly drawn weights.",
    "early stop": "Step with the smallest validation loss. Training always runs to its "
    "end; this step is found afterwards.",
    "over dense": "Early-stopping step as a multiple of the dense network's: below 1 "
    "is sooner.",
    "winning": "On average over the seeds the ticket is at least as accurate as the "
    "dense network, stops no later, and has fewer weights.",
    "within noise": "The interval of the difference from the dense network includes 0: "
    "these seeds do not show which of the two is more accurate.",
    "wins": "Seeds whose own ticket wins, of all seeds.",
}


def cells(summary: statistics.Summary) -> list[str]:
    """One line of the summary table, in the order of `HEADERS`."""
    return [
        summary.method.replace("_", " "),
        name(summary),
        f"{100 * summary.density:.3g}",
        plus_minus(summary.accuracy, "{:.2f}", 100),
        plus_minus(summary.to_dense, "{:+.2f}", 100),
        plus_minus(summary.to_reinitialised, "{:+.2f}", 100),
        plus_minus(summary.early_stopping_step, "{:.0f}"),
        ratio(summary),
        f"{summary.wins}/{summary.seeds}",
        verdict(summary),
    ]


def name(summary: statistics.Summary) -> str:
    """What tells the tickets of a method apart."""
    return summary.setting or str(summary.round)


def plus_minus(
    interval: statistics.Interval | None, form: str, scale: float = 1
) -> str:
    if interval is None or math.isnan(interval.mean):
        return "–"
    mean = form.format(scale * interval.mean)
    if math.isnan(interval.half_width):
        return mean
    return f"{mean} ±{form.replace('+', '').format(scale * interval.half_width)}"


def ratio(summary: statistics.Summary) -> str:
    steps = summary.step_ratio
    return "–" if steps is None or math.isnan(steps) else f"{steps:.2f}×"


def verdict(summary: statistics.Summary) -> str:
    """The verdict, and how sure it is where it hangs on the accuracy."""
    if summary.clear or summary.verdict not in ("winning", "no: lower accuracy"):
        return summary.verdict
    return summary.verdict + (", one seed" if summary.seeds == 1 else ", within noise")


class Section(NamedTuple):
    """A table under its title, and what its words mean."""

    title: str
    headers: Sequence[str]
    lines: Sequence[Sequence[str]]
    terms: Mapping[str, str]


def table(
    headers: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    words: Sequence[str] = ("method", "verdict", "ticket"),
    marks: Sequence[bool] = (),
) -> rich_table.Table:
    """A table for the terminal.

    Args:
      headers: of the columns.
      lines: their cells.
      title: above it.
      words: headers of columns that hold words, and so begin at the left.
      marks: which lines are green.
    """
    result = rich_table.Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
    )
    for header in headers:
        longest = "no: lower accuracy," if header == "verdict" else header
        result.add_column(
            header,
            justify="left" if header in words else "right",
            # A narrow terminal breaks cells, but never inside a word.
            min_width=max(map(len, longest.split())),
        )
    for line, mark in itertools.zip_longest(lines, marks, fillvalue=False):
        style = "green" if mark else ""
        result.add_row(*(text.Text(cell, style=style) for cell in line))
    return result


def of_tickets(summaries: Sequence[statistics.Summary]) -> rich_table.Table:
    """The tickets of one method, under its name, against the dense network."""
    return table(
        HEADERS[1:],
        [cells(summary)[1:] for summary in summaries],
        title=summaries[0].method.replace("_", " "),
        marks=[summary.verdict == "winning" for summary in summaries],
    )


def show(*shown: rich_table.Table | str) -> None:
    """Prints tables and notes; a file or pipe gets whole lines, however long."""
    terminal = console.Console(width=None if sys.stdout.isatty() else 150)
    for one in shown:
        if isinstance(one, str):
            terminal.print(one, style="dim")
        else:
            terminal.print(one, "")
