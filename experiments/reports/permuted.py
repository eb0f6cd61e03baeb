"""Masks that were permuted to another network's units: of `experiments.alignment`."""

import pandas as pd

from experiments.reports import drawings, statistics, tables

FILE = "alignment.csv"
COLUMNS = {
    **dict.fromkeys(("method", "setting", "arm"), str),
    **dict.fromkeys(("seed", "prunings"), int),
    **dict.fromkeys(("density", "overlap", "test_accuracy"), float),
}
ARMS = ("ticket", "aligned", "plain")
TERMS = {
    "aligned": "From another initialisation, under the ticket's mask with its units "
    "permuted to those of the network that this initialisation leads to.",
    "plain": "From the same other initialisation, under the ticket's mask as it is.",
    "overlap": "The share of the ticket's weights that are in the permuted mask too.",
}


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a ticket and seed: accuracies of all arms, and what they differ by."""
    keys = [*statistics.TICKET, "seed", "density", "overlap"]
    wide = rows.set_index([*keys, "arm"])["test_accuracy"].unstack(sort=False)
    wide = wide.reset_index()
    return wide.assign(
        to_plain=wide["aligned"] - wide["plain"],
        to_aligned=wide["ticket"] - wide["aligned"],
    )


def headlines(rows: pd.DataFrame) -> list[str]:
    """A sentence a ticket."""
    return [
        f"{tables.word(group['method'])}, {tables.name(group)}: at "
        f"{tables.percent(group['density'])}% of the weights the aligned mask is "
        f"{tables.points(group['to_plain'])} points against the plain one, and the "
        f"ticket {tables.points(group['to_aligned'])} against the aligned mask."
        for group in statistics.groups(compared(rows), statistics.TICKET)
    ]


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    """One table: a line a ticket."""
    columns: tables.Columns = {
        **tables.METHOD,
        **tables.NAMED,
        "overlap,\n%": ("overlap", tables.percent),
        **{f"{arm},\n%": (arm, tables.accuracy) for arm in ARMS},
        "aligned against\nplain, points": ("to_plain", tables.points),
        "ticket against\naligned, points": ("to_aligned", tables.points),
    }
    groups = statistics.groups(compared(rows), statistics.TICKET)
    return [tables.table("A mask for another initialisation", columns, groups)]


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """Test accuracy against density, a line an arm."""
    rows = rows.assign(
        panel=rows["method"].map(tables.words),
        line=rows["arm"],
        x=100 * rows["density"],
        y=100 * rows["test_accuracy"],
    )
    points = statistics.points(rows, "x", "y", by=[*statistics.TICKET, "arm"])
    drawing, _ = drawings.by_density(points, drawings.ACCURACY, curves=True)
    caption = (
        "Test accuracy of a ticket from its own initialisation, and of its mask from "
        "another, with its units permuted to that network's and as it is; bands are "
        "intervals over the seeds."
    )
    return {"alignment": (drawing, caption)}
