"""The figures of searches over frozen weights: how fast they get where, and how calmly.

They are drawn of every run whose `metrics.jsonl` counts the entries of a mask that
change.
"""

from collections.abc import Sequence

import numpy as np

from experiments.reports import curves, drawings, search_curves, statistics
from experiments.reports.statistics import Row

CAPTIONS = {
    "search_curves": "Test accuracy of the mask after every epoch of a search over "
    "frozen weights, density by density; dashed: masks without a search. The axis is "
    "logarithmic in the error, so that starts and ends both show.",
    "oscillation": "Entries of the mask that change in a step (a swap is two), on "
    "average over the steps since the last look, and the training loss over them.",
}
PANELS, COLUMNS = 9, 4  # at most; of more settings some are drawn, evenly spaced


def drawn(records: Sequence[Row], rows: Sequence[Row]) -> dict:
    """Name -> figure; none where no mask was searched."""
    looks = search_curves.looks(records)
    if not looks:
        return {}
    names = search_curves.searched(records)
    moving = [record for record in looks if record["method"] in names]
    colours = drawings.methods(rows)
    return {
        "search_curves": _search_curves(looks, names, rows, colours),
        "oscillation": _oscillation(moving, colours),
    }


def _search_curves(looks, names: Sequence[str], rows, colours: dict[str, str]):
    """Accuracy against epochs of search: a panel a setting, a line a method."""
    unit = search_curves.epochs_of_a_step(rows)
    moving = [record for record in looks if record["method"] in names]
    settings = _some(statistics.distinct(moving, "setting"), PANELS)
    drawing, panels = drawings.panels(len(settings))
    dense = statistics.interval(
        100 * row["test_accuracy"] for row in statistics.select(rows, treatment="dense")
    )
    handles = {}
    for axes, setting in zip(panels, settings, strict=True):
        here = statistics.select(looks, setting=setting)
        handles |= drawings.dense_band(axes, dense)
        axes.set_xlabel("epochs of search")
        for method in statistics.distinct(here, "method"):
            ours = statistics.select(here, method=method)
            colour = colours.get(method, drawings.GREY)
            name = method.replace("_", " ")
            if method in names:
                options = "test_accuracy", 100, colour, "-", unit
                handles[name] = curves.curve(axes, ours, *options)
                handles[name].set(marker="o", markersize=3)
            else:
                mean = statistics.interval(100 * r["test_accuracy"] for r in ours).mean
                line = axes.axhline(mean, color=colour, linestyle="--", linewidth=1.4)
                handles[name] = line
        axes.set_title(_title(setting, here))
        axes.grid(alpha=0.25)
    drawings.accuracy_axis(panels)
    drawings.label_heights(panels, "test accuracy, %")
    drawings.legend(drawing, handles)
    return drawing


def _oscillation(moving, colours: dict[str, str]):
    """Changes of the mask above, training loss below: a column a setting."""
    from matplotlib import figure

    settings = _some(statistics.distinct(moving, "setting"), COLUMNS)
    size = (1.0 + 3.6 * len(settings), 6.0)
    drawing = figure.Figure(figsize=size, layout="constrained")
    panels = drawing.subplots(
        2, len(settings), sharex=True, sharey="row", squeeze=False
    )
    handles = {}
    for (changes, loss), setting in zip(panels.T, settings, strict=True):
        here = [r for r in statistics.select(moving, setting=setting) if r["step"]]
        for method in statistics.distinct(here, "method"):
            ours = statistics.select(here, method=method)
            for axes, column in ((changes, "changed"), (loss, "train_loss")):
                colour = colours.get(method, drawings.GREY)
                line = curves.curve(axes, ours, column, 1, colour, "-")
                line.set(marker="o", markersize=3)
                handles[method.replace("_", " ")] = line
        changes.set_title(_title(setting, here))
        loss.set_xlabel("optimiser step")
        changes.grid(alpha=0.25)
        loss.grid(alpha=0.25)
    panels[0, 0].set_ylabel("mask entries changed in a step")
    panels[1, 0].set_ylabel("training loss")
    for row in panels:
        drawings.log_axis(row[0], row)
        values = drawings.heights(row)
        if (values := values[values > 0]).size:  # bands may reach down to 0
            row[0].set_ylim(0.7 * values.min(), 1.4 * values.max())
    drawings.legend(drawing, handles)
    return drawing


def _some(settings: Sequence[str], most: int) -> list[str]:
    """All, or as many as fit, from the first to the last."""
    chosen = np.linspace(0, len(settings) - 1, min(most, len(settings)))
    return [settings[i] for i in np.round(chosen).astype(int)]


def _title(setting: str, records) -> str:
    density = statistics.interval(record["density"] for record in records).mean
    kept = f"{100 * density:.3g}% of the weights"
    return kept if not setting or "density" in setting else f"{setting}: {kept}"
