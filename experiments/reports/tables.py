"""The tables of a run, in words: every ticket, and those that speak for a method."""

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from rich import console, text
from rich import table as rich_table

from experiments.reports import statistics
from experiments.reports.reading import Run
from experiments.reports.statistics import Chosen
from experiments.study.records import Lane
from jaxticket import analysis

DASH = "–"
LAST = "after the last\nstep, against\ndense, points"
STOPPED = "against dense\nat its stop,\npoints"
NAMES = {
    "reinitialise": "re-initialised",
    "reorder": "another order",
    "shuffle": "shuffled",
    "tuned": "weights tuned",
}
SHOWN = 5  # of those that have diverged
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


def step_ratio(steps: pd.DataFrame) -> str:
    """The same of steps, which a seed may not have."""
    if without := (~(steps > 0).all(axis=1)).sum():
        return f"{without} of {len(steps)} seeds without a step"
    return ratio(steps)


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


METHOD: Columns = {"method": ("method", word)}
KEPT: Columns = {"weights\nkept, %": ("density", percent)}
NAMED: Columns = {"ticket": (["setting", "prunings"], name), **KEPT}
LAYER: Columns = {"layer": ("layer", lambda names: names.iloc[0])}
EFFECTIVE: Columns = {"effective,\n%": ("effective", percent)}
TICKET: Columns = {
    **NAMED,
    **EFFECTIVE,
    "test\naccuracy, %": ("accuracy", accuracy),
    "against\ndense, points": ("to_dense", points),
    "verdict": ("verdict", word),
}
COST: Columns = {
    "search\nepochs": ("search_epochs", number),
    "search\nseconds": ("search_seconds", number),
}
STEPS: Columns = {
    "stops\nat step": ("early_stopping_step", steps),
    "steps, times\ndense's": (["early_stopping_step", "dense_step"], step_ratio),
    "seeds that\nwin": ("wins", lambda wins: f"{wins.sum()}/{len(wins)}"),
}


def every_ticket(run: Run, tickets: Sequence[pd.DataFrame]) -> Table:
    """A line a ticket, against the dense network and its controls."""
    columns = METHOD | TICKET
    for control in statistics.controls(run.rows):
        columns[f"against\n{words(control)},\npoints"] = (f"to_{control}", points)
    columns[LAST if run.at else STOPPED] = ("last_to_dense", points)
    columns |= STEPS if run.at else COST
    return table("Every ticket against the dense network", columns, tickets)


def milestones(chosen: Mapping[str, Chosen]) -> Table:
    """The sparsest ticket of each method that matches, and its most accurate."""
    found = [
        ticket.assign(chosen=f"{what}, of {tickets.among}")
        for tickets in chosen.values()
        for what, ticket in (
            ("sparsest that matches", tickets.sparsest),
            ("most accurate", tickets.best),
        )
        if ticket is not None
    ]
    columns = METHOD | {"chosen on\nvalidation": ("chosen", word)} | TICKET | COST
    return table("The sparsest that match, and the most accurate", columns, found)


def headlines(run: Run, chosen: Mapping[str, Chosen]) -> list[str]:
    """A sentence a method whose ticket matches, and one of those that have none."""
    found, without = diverged(run.divergence), []
    for method, tickets in chosen.items():
        among = f"{tickets.among}"
        if tickets.unknown:
            among += f", {tickets.unknown} unknown because a seed failed"
        if (ticket := tickets.sparsest) is not None:
            line = (
                f"{words(method)}: {percent(ticket['density'])}% of the weights match "
                f"on validation (the sparsest, selected among {among}); on test "
                f"{points(ticket['to_dense'])} points against dense, "
                f"{word(ticket['verdict'])}"
            )
            if run.at:
                ratio = step_ratio(ticket[["early_stopping_step", "dense_step"]])
                line += f"; steps to the early stop, times dense's: {ratio}"
            found.append(f"{line}.")
            continue
        if (ticket := tickets.best) is not None:
            among += f": {points(ticket['to_dense'])} points, {word(ticket['verdict'])}"
        of = f"of {among}" if tickets.among else "none is sparse"
        without.append(f"{words(method)} ({of})")
    if without:
        found.append(
            "No ticket is shown to match the dense network within "
            f"{run.margin:g} points: {', '.join(without)}. In brackets the most "
            "accurate on validation, as the test set has it."
        )
    return found + cut(run)


def cut(run: Run) -> list[str]:
    """A sentence for each of the first tickets with a layer of which nothing is left.

    That is where none of its weights lies on a path from an input to an output.
    """
    dead = run.layers[run.layers["effective_density"] == 0]
    found = []
    for ticket in statistics.groups(dead):
        layers, seeds = ticket["layer"].unique(), ticket["seed"].nunique()
        found.append(
            f"{word(ticket['method'])}, {name(ticket)}: no path leads through "
            f"{layers[0]}{' and others' if len(layers) > 1 else ''} (of {seeds} "
            f"{'seed' if seeds == 1 else 'seeds'})."
        )
    more = len(found) - SHOWN
    return found[:SHOWN] + ([f"{more} more tickets are cut."] if more > 0 else [])


def diverged(rows: pd.DataFrame) -> list[str]:
    """A sentence for each of the first that have diverged, and how many more have."""
    lanes = [Lane(*row) for row in rows[[*Lane._fields]].itertuples(index=False)]
    found = [
        f"{lane} has diverged in round {round_} before step {step}: it is left out."
        for lane, round_, step in zip(lanes, rows["round"], rows["step"], strict=True)
    ]
    more = len(found) - SHOWN
    return found[:SHOWN] + ([f"{more} more have diverged."] if more > 0 else [])


def overlaps(found: pd.DataFrame) -> list[Table]:
    """One table: of every method and density, the overlap with each criterion."""
    if found.empty:
        return []
    criteria = found["criterion"].unique()
    keys = ["method", "setting", "seed", "density", "expected", "criterion"]
    wide = found.set_index(keys)["observed"].unstack(sort=False).reset_index()
    columns = {
        **METHOD,
        **KEPT,
        "by\nchance, %": ("expected", percent),
        **{f"{criterion}, %": (criterion, accuracy) for criterion in criteria},
    }
    title = "Overlap of the masks found with those of criteria"
    return [table(title, columns, densest_first(wide))]


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
