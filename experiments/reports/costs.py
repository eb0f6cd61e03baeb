"""What sparse training would save in arithmetic: of `experiments.sparse_training`."""

import pandas as pd

from experiments.reports import drawings, statistics, tables
from experiments.study import records

FILE = "flops.csv"
COLUMNS = {
    **records.WHOSE,
    **dict.fromkeys(
        (
            "inference",
            "training",
            "dense_inference",
            "dense_training",
            "test_accuracy",
            "dense_test_accuracy",
        ),
        float,
    ),
}
TERMS = {
    "arithmetic": "Floating-point operations of software that leaves out every pruned "
    "weight, as a share of the dense network's: of running on one example, and of the "
    "whole training. Computed, not measured.",
}


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """With shares of the dense network's arithmetic, and what accuracy exceeds its."""
    return rows.assign(
        running=rows["inference"] / rows["dense_inference"],
        trained=rows["training"] / rows["dense_training"],
        to_dense=rows["test_accuracy"] - rows["dense_test_accuracy"],
    )


def headlines(rows: pd.DataFrame) -> list[str]:
    """A sentence a density: the most accurate method, and the one of least training."""
    found = []
    rows = compared(rows)
    for density, alike in rows.groupby(rows["density"].round(3), sort=False):
        groups = statistics.groups(alike, statistics.TICKET)
        best = max(groups, key=lambda group: group["test_accuracy"].mean())
        least = min(groups, key=lambda group: group["trained"].mean())
        said = [
            f"{tables.word(group['method'])} {tables.points(group['to_dense'])} points "
            f"against dense, for {tables.percent(group['trained'])}% of its training"
            for group in (best, least)
        ]
        found.append(
            f"At {100 * density:g}% of the weights, the most accurate: {said[0]}; the "
            f"least arithmetic: {said[1]}."
        )
    return found


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    """One table: a line a ticket, the densest first."""
    columns: tables.Columns = {
        **tables.METHOD,
        **tables.NAMED,
        "arithmetic to\nrun, %": ("running", tables.percent),
        "arithmetic to\ntrain, %": ("trained", tables.percent),
        "test\naccuracy, %": ("test_accuracy", tables.accuracy),
        "against\ndense, points": ("to_dense", tables.points),
    }
    groups = statistics.groups(compared(rows), statistics.TICKET)
    groups = sorted(groups, key=lambda group: -group["density"].mean())
    return [tables.table("Arithmetic, against the dense network", columns, groups)]


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """Test accuracy against the arithmetic of the training, a line a method."""
    rows = compared(rows)
    rows = rows.assign(
        panel="",
        line=rows["method"].map(tables.words),
        x=100 * rows["trained"],
        y=100 * rows["test_accuracy"],
    )
    points = statistics.points(rows, "x", "y", by=[*statistics.TICKET])
    drawing, _ = drawings.panels(
        points,
        "arithmetic of the training, % of dense",
        drawings.ACCURACY,
    )
    caption = (
        "Test accuracy against the floating-point operations of the training, if every "
        "pruned weight were left out; bars are intervals over the seeds."
    )
    return {"flops": (drawing, caption)}
