"""What lies between trainings that differ in the order of the data: barriers."""

import pandas as pd

from experiments.reports import drawings, figures, statistics, tables
from experiments.study import records
from jaxticket import landscape

FILE = "instability.csv"
COLUMNS = {
    **records.WHOSE,
    **dict.fromkeys(("one", "other"), str),
    "alpha": float,
    **dict.fromkeys(("train_error", "train_loss", "test_error", "test_loss"), float),
}
TERMS = {
    "barrier": "Of two copies of a ticket, trained from the same weights on other "
    "orders of the data: the largest error of a network on the line between them, less "
    "the mean error of the two, in points. A seed has the mean of its pairs.",
    "stable": "The barrier on test images is below 2 points.",
}
STABLE = 0.02
SHOWN = 6  # panels
SPLITS = ("test", "train")


def barriers(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a ticket and seed: means over its pairs of copies."""
    keys = [*statistics.TICKET, "seed", "density"]
    found = []
    for names, pair in rows.groupby([*keys, "one", "other"], sort=False):
        errors = pair.sort_values("alpha")[[f"{x}_error" for x in SPLITS]].to_numpy().T
        ends = (errors[:, 0] + errors[:, -1]) / 2
        values = [*landscape.barrier(errors), *ends]
        found.append((*names[: len(keys)], *values))
    names = [f"{x}_{what}" for what in ("barrier", "ends") for x in SPLITS]
    found = pd.DataFrame(found, columns=[*keys, *names])
    return found.groupby(keys, sort=False).mean().reset_index()


def headlines(rows: pd.DataFrame) -> list[str]:
    """A sentence a method."""
    said = []
    for method, found in barriers(rows).groupby("method", sort=False):
        tickets = statistics.groups(found)
        stable = sum((x["test_barrier"] < STABLE).all() for x in tickets)
        worst = max(tickets, key=lambda x: x["test_barrier"].mean())
        said.append(
            f"{tables.words(method)}: {stable} of {len(tickets)} tickets are stable "
            f"for every seed; the largest barrier on test is "
            f"{_points(worst['test_barrier'])} points, at "
            f"{tables.percent(worst['density'])}% of the weights."
        )
    return said


def _points(values: pd.Series) -> str:
    return tables.plus_minus(values, form="{:.2f}", scale=100)


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    """One table: of every ticket its barriers, and the errors of its copies."""
    columns: tables.Columns = {
        **tables.METHOD,
        **tables.NAMED,
        "barrier on\ntest, points": ("test_barrier", _points),
        "barrier on\ntrain, points": ("train_barrier", _points),
        "seeds that\nare stable": (
            "test_barrier",
            lambda x: f"{(x < STABLE).sum()}/{len(x)}",
        ),
        "test error\nof copies, %": ("test_ends", tables.accuracy),
        "train error\nof copies, %": ("train_ends", tables.accuracy),
    }
    title = "Between trainings that differ in the order of the data"
    return [tables.table(title, columns, statistics.groups(barriers(rows)))]


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """The error along the path of some tickets; and barriers by density."""
    found = barriers(rows)
    shown = {"instability": _paths(rows)}
    if found["density"].round(4).nunique() > 1:
        names = {"test_barrier": "test", "train_barrier": "train"}
        whose = [*statistics.TICKET, "seed", "density"]
        long = found.melt(whose, [*names], "line", "y")
        long = long.assign(line=long["line"].map(names), y=100 * long["y"])
        drawing = figures.by_density(long, "barrier, points")
        drawings.level(drawing, 100 * STABLE)
        caption = (
            "How much worse the worst network between two copies is than these, by the "
            "weights kept. Dotted: 2 points, below which a ticket is called stable."
        )
        shown["barriers"] = drawing, caption
    return shown


def _paths(rows: pd.DataFrame) -> tuple:
    """Errors by alpha, a panel a ticket, the mean over the pairs of a seed."""
    shown = []
    for ticket in statistics.some(statistics.groups(rows), SHOWN):
        panel = tables.panel(ticket)
        errors = ticket.groupby(["seed", "alpha"]).mean(numeric_only=True).reset_index()
        shown += [
            errors.assign(panel=panel, line=split, y=100 * errors[f"{split}_error"])
            for split in SPLITS
        ]
    points = statistics.points(pd.concat(shown), "alpha", "y", by=["alpha"])
    drawing, grid = drawings.panels(points, "alpha", "error, %", curves=True)
    grid[0, 0].set_ylim(bottom=0)
    caption = (
        "Error of the networks alpha W1 + (1 - alpha) W2 between two copies of a "
        "ticket, in the mean over the pairs of a seed; the bands are over seeds."
    )
    return drawing, caption
