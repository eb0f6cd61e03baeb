"""How far the masks overlap that trainings on other orders of the data lead to."""

import pandas as pd

from experiments.reports import statistics, tables
from experiments.study import records

FILE = "multiplicity.csv"
COLUMNS = {
    **records.WHOSE,
    **dict.fromkeys(("one", "other"), str),
    **dict.fromkeys(("kept", "observed", "expected", "deviation"), float),
}
TERMS = {
    "overlap of copies": "Of the weights that the mask of one copy keeps, the share "
    "that the mask of another keeps too. By chance their number is hypergeometric in "
    "every layer."
}


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    """One table: of every ticket and density the overlap, against chance."""
    keys = [*statistics.TICKET, "density", "kept", "seed"]
    mean = rows.groupby(keys, sort=False).mean(numeric_only=True).reset_index()
    groups = statistics.groups(mean, [*statistics.TICKET, "kept"])
    columns: tables.Columns = {
        **tables.METHOD,
        **tables.NAMED,
        "pruned\nto, %": ("kept", tables.percent),
        "overlap, %": ("observed", tables.accuracy),
        "by\nchance, %": ("expected", tables.percent),
        "deviation\nof chance, %": ("deviation", tables.percent),
    }
    title = "How far the masks overlap that magnitude makes of two copies"
    return [tables.table(title, columns, groups)]
