"""Distributions of weights and of wires, in tickets and out of them: figures alone."""

from collections.abc import Iterator

import pandas as pd

from experiments.reports import drawings, statistics, tables

FILE = "values.csv"
COLUMNS = {
    **dict.fromkeys(("method", "setting"), str),
    "prunings": int,
    "density": float,
    **dict.fromkeys(("layer", "what", "of"), str),
    **dict.fromkeys(("value", "share"), float),
}
LAYERS, TICKETS = 3, 4  # panels, and tickets in them
LABELS = {
    "initial": "initial values, deviations",
    "final": "trained values, initial deviations",
    "incoming": "inputs kept by a unit, of the mean",
    "outgoing": "outputs kept of a unit, of the mean",
}
CAPTIONS = {
    "initial": "Initial values of what tickets of {} keep, in standard deviations of "
    "the layer's; grey: the whole layer.",
    "final": "Values after the dense network's training of what tickets of {} keep, in "
    "the same unit; grey: the whole layer.",
    "incoming": "Inputs that the units of a layer keep in the sparsest ticket of {}, "
    "over their mean; grey: of shuffled masks.",
    "outgoing": "Outputs that are kept of the units before a layer, likewise, {}.",
}
BESIDE = {"layer": "dense", "shuffled": "by chance"}  # which are drawn in grey


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """A figure a method and quantity, a panel a layer."""
    figures = {}
    rows = statistics.ordered(rows)
    rows = rows[rows["layer"].isin(statistics.some(rows["layer"].unique(), LAYERS))]
    for (method, what), ours in rows.groupby(["method", "what"], sort=False):
        most = TICKETS if what in ("initial", "final") else 1
        densities = ours["density"].sort_values(ascending=False).unique()
        densities = statistics.some(densities, most) if most > 1 else densities[-1:]
        points = pd.concat(_lines(ours, densities))
        drawing, _ = drawings.panels(points, LABELS[what], "share, %", curves=True)
        caption = CAPTIONS[what].format(tables.words(method))
        figures[f"{what}_{method}"] = drawing, caption
    return figures


def _lines(rows: pd.DataFrame, densities: list[float]) -> Iterator[pd.DataFrame]:
    """What `drawings.panels` draws: no intervals, since all seeds are together."""
    for density in densities:
        for (layer, of), here in rows[rows["density"] == density].groupby(
            ["layer", "of"]
        ):
            if of in BESIDE and density != densities[-1]:
                continue
            line = BESIDE.get(of, f"{100 * density:.3g}% of the weights")
            height = 100 * here["share"]
            points = {"x": here["value"], "mean": height, "low": height, "high": height}
            yield pd.DataFrame({"panel": layer, "line": line, **points})
