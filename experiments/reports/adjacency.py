"""Whether a first layer over a signal keeps neighbouring inputs together."""

import pandas as pd

from experiments.reports import drawings, figures, statistics, tables
from experiments.study import records
from jaxticket import structure

FILE = "adjacency.csv"
COLUMNS = {
    **records.WHOSE,
    **dict.fromkeys(structure.Adjacency._fields, float),
}
TERMS = {
    "neighbours": "Two inputs that lie side by side in the signal, both kept by a unit "
    "of the first layer: their share of all such pairs, over that of shuffled masks, "
    "and over that of masks in which every input keeps as many weights, of any units.",
}


def headlines(rows: pd.DataFrame) -> list[str]:
    """A sentence a method, of its sparsest ticket."""
    found = []
    for method, ours in rows.groupby("method", sort=False):
        ticket = statistics.groups(ours)[-1]
        found.append(
            f"{tables.words(method)}, {tables.percent(ticket['density'])}% of the "
            "weights: units keep neighbouring inputs "
            f"{tables.ratio(ticket[['observed', 'shuffled']])} as often as in shuffled "
            "masks."
        )
    return found


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    columns: tables.Columns = {
        **tables.METHOD,
        **tables.NAMED,
        "neighbours, times\nshuffled masks'": (["observed", "shuffled"], tables.ratio),
        "times those of\nas many an input": (["observed", "by_input"], tables.ratio),
    }
    title = "Neighbouring inputs in the first layer"
    return [tables.table(title, columns, statistics.groups(rows))]


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """By density: against shuffled masks, and those of as many an input."""
    ratios = {
        "against shuffled masks": rows["observed"] / rows["shuffled"],
        "against as many an input": rows["observed"] / rows["by_input"],
    }
    both = pd.concat([rows.assign(line=name, y=y) for name, y in ratios.items()])
    drawing = figures.by_density(both, "neighbours, times chance")
    caption = "How often a unit of the first layer keeps two neighbouring inputs."
    return {"adjacency": (drawing, caption)}
