"""What swaps of a mask do to the loss, against what the gradient predicts."""

import pandas as pd

from experiments.reports import drawings, statistics, tables
from experiments.study import records

FILE = "swaps.csv"
COLUMNS = {
    **records.WHOSE,
    "layer": str,
    "swaps": int,
    **dict.fromkeys(("predicted", "actual"), float),
}
ALL = "all"
TERMS = {
    "swaps": "As many pruned weights come in as kept ones go: those of which the "
    "gradient at the old mask promises most.",
    "actual over predicted": "The change of the loss that swaps make, over that which "
    "the gradient predicts, on the same images.",
}
FEW, MANY = "few", "many"


def _ratios(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(ratio=rows["actual"] / rows["predicted"])


def _ends(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Of every ticket and layer a row a seed: the fewest swaps, and the most."""
    found = []
    keys = [*statistics.TICKET, "layer"]
    for ours in statistics.groups(_ratios(rows), keys):
        ours = ours.sort_values("swaps")
        by_seed = ours.groupby("seed")
        first, last = by_seed.first(), by_seed.last()
        steps = by_seed["ratio"].agg(lambda x: (x.diff().dropna() < 0).mean())
        found.append(
            first.reset_index().assign(
                few=first["ratio"].to_numpy(),
                many=last["ratio"].to_numpy(),
                most=last["swaps"].to_numpy(),
                falling=steps.to_numpy(),
            )
        )
    return found


def headlines(rows: pd.DataFrame) -> list[str]:
    """A sentence a ticket, of all layers together."""
    return [
        f"{tables.words(x['method'].iloc[0])}, {tables.percent(x['density'])}% of the "
        "weights, swaps in all layers together: actual over predicted goes from "
        f"{_number(x[FEW])} to {_number(x[MANY])}, and falls in "
        f"{(x[MANY] < x[FEW]).sum()} of {len(x)} seeds."
        for x in _ends(rows[rows["layer"] == ALL])
    ]


def _number(values: pd.Series) -> str:
    return tables.plus_minus(values, form="{:.2f}")


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    columns: tables.Columns = {
        **tables.METHOD,
        **tables.NAMED,
        **tables.LAYER,
        "fewest\nswaps": ("swaps", tables.number),
        "actual over\npredicted": (FEW, _number),
        "most\nswaps": ("most", lambda x: f"{x.mean():.0f}"),
        "actual over\npredicted ": (MANY, _number),
        "seeds in which\nit falls": (
            [FEW, MANY],
            lambda x: f"{(x[MANY] < x[FEW]).sum()}/{len(x)}",
        ),
        "doublings at\nwhich it falls, %": ("falling", tables.percent),
    }
    title = "Swaps of a mask: the change of the loss against the prediction"
    return [tables.table(title, columns, _ends(rows))]


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """The ratio by the number of swaps, a panel a ticket, a line a layer."""
    shown = [
        ticket.assign(panel=tables.panel(ticket), line=ticket["layer"])
        for ticket in statistics.groups(_ratios(rows))
    ]
    points = statistics.points(pd.concat(shown), "swaps", "ratio", by=["swaps"])
    drawing, grid = drawings.panels(points, "swaps", "actual / predicted", curves=True)
    grid[0, 0].set_xscale("log")
    drawings.level(drawing, 1)
    caption = (
        "The change of the loss that swaps make, over that which the gradient "
        "predicts. Dotted: the prediction is right. Below 0 the loss rises where it "
        "was to fall."
    )
    return {"swaps": (drawing, caption)}
