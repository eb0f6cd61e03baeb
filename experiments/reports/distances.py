"""How the weights of tickets move in the dense training, and how they are wired."""

import pandas as pd

from experiments.reports import drawings, figures, statistics, tables
from experiments.study import records
from jaxticket import analysis, structure

FILE = "movement.csv"
COLUMNS = {
    **records.WHOSE,
    "layer": str,
    **dict.fromkeys(("weights", "kept"), int),
    **{
        f"{name}_{side}": float
        for side in ("in", "out")
        for name in structure.Movement._fields
    },
    **dict.fromkeys(("valley", "layer_valley"), float),
    **dict.fromkeys(("incoming", "incoming_shuffled"), float),
    **dict.fromkeys(("outgoing", "outgoing_shuffled"), float),
}
ALL = "all"
TERMS = {
    "moves": "The mean distance that weights go in the dense network's training, "
    "|w_T - w_0|: of those in the ticket, over that of the others.",
    "grow": "The share of weights whose magnitude has grown in that training.",
    "valley": "Initial values of what the ticket keeps of a layer, in bins of half a "
    "standard deviation of their magnitude: the first bin over the fullest other. "
    "Below 1 they are bimodal; of a normal distribution it is 1.28.",
    "variation": "Standard deviation over mean of the weights kept of each unit; in "
    "brackets that of shuffled masks.",
}


def _variation(pair: pd.DataFrame) -> str:
    ours, shuffled = pair.mean()
    if pd.isna(ours):
        return tables.DASH
    return f"{ours:.2f} ({shuffled:.2f})"


def headlines(rows: pd.DataFrame) -> list[str]:
    """A sentence a method, of its sparsest ticket that keeps some and prunes some."""
    some = rows["density"].between(0, 1, "neither")
    found, rows = [], rows[some & (rows["layer"] == ALL)]
    for method, ours in rows.groupby("method", sort=False):
        ticket = statistics.groups(ours)[-1]
        more = ticket["distance_in"] - ticket["distance_out"]
        ratio = tables.ratio(ticket[["distance_in", "distance_out"]])
        found.append(
            f"{tables.words(method)}, {tables.percent(ticket['density'])}% of the "
            f"weights: they move {ratio} as far as the others in the dense network's "
            f"training, further in {(more > 0).sum()} of {len(more)} seeds (sign test: "
            f"{analysis.sign_test(more):.2g})."
        )
    return found


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    """What all layers do together; and each by itself."""
    ticket: tables.Columns = {**tables.METHOD, **tables.NAMED}
    moves: tables.Columns = {
        "moves, times\nthe others": (["distance_in", "distance_out"], tables.ratio),
        "grow, %": ("grown_in", tables.accuracy),
        "others\nthat grow, %": ("grown_out", tables.accuracy),
    }
    layer: tables.Columns = {
        **tables.LAYER,
        **moves,
        "valley": ("valley", lambda x: tables.plus_minus(x, form="{:.2f}")),
        "of the\nwhole layer": ("layer_valley", lambda x: f"{x.mean():.2f}"),
        "variation\nof inputs": (["incoming", "incoming_shuffled"], _variation),
        "variation\nof outputs": (["outgoing", "outgoing_shuffled"], _variation),
    }
    whole = rows["layer"] == ALL
    by_layer = statistics.groups(rows[~whole], [*statistics.TICKET, "layer"])
    return [
        tables.table(
            "Weights of tickets in the dense network's training",
            ticket | moves,
            statistics.groups(rows[whole]),
        ),
        tables.table("The same of each layer, and its wires", ticket | layer, by_layer),
    ]


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """How far, and which grow, by density: a panel a method."""
    moved = rows.assign(
        line=rows["layer"], y=rows["distance_in"] / rows["distance_out"]
    )
    sides = {"grown_in": "in the ticket", "grown_out": "others"}
    names = [*statistics.TICKET, "seed", "density"]
    grown = rows[rows["layer"] == ALL].melt(names, [*sides], "line", "y")
    grown = grown.assign(line=grown["line"].map(sides), y=100 * grown["y"])
    return {
        "movement": (
            figures.by_density(moved.dropna(subset="y"), "distance, times the others'"),
            "How far the weights of tickets move in the dense network's training, "
            "against the others of their layer.",
        ),
        "growth": (
            figures.by_density(grown.dropna(subset="y"), "grow in magnitude, %"),
            "Which share of the weights grows in magnitude in that training.",
        ),
    }
