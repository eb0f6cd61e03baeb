"""The figures of a ticket search: accuracy and steps against density, curves."""

import io
import math
from collections.abc import Iterable
from pathlib import Path

from experiments.reports import (
    curves,
    drawings,
    overlap_tables,
    search_curves,
    search_figures,
    statistics,
)
from experiments.study.study import common

CAPTIONS = {
    "accuracy": "Test accuracy at the early-stopping step, against density. Here "
    f"and below, panels end {drawings.DEPTH} points below the dense network.",
    "final_accuracy": "Test accuracy after the last step, against density.",
    "early_stopping_step": "Early-stopping step (sooner is better), against density.",
    "comparison": "Test accuracy of all tickets after the last step, against density "
    "and against the cost of finding them. A parallel search finds all of its tickets "
    "at one cost, each in a lane of its own.",
}


def draw(output_dir: str | Path) -> list[Path]:
    """Draws every figure into ``output_dir/figures``."""
    folder = Path(output_dir)
    rows = statistics.read_results(folder / "results.csv")
    records = statistics.read_metrics(folder / "metrics.jsonl")
    drawn = {
        "accuracy": _against_density(
            rows, "early_stopping_test_accuracy", "test accuracy at early stop, %", 100
        ),
        "final_accuracy": _against_density(
            rows, "test_accuracy", "test accuracy at the end, %", 100
        ),
        "early_stopping_step": _against_density(
            rows, "early_stopping_step", "early-stopping step", 1
        ),
    }
    if drawings.methods(rows):
        drawn["comparison"] = _comparison(rows)
    drawn |= search_figures.drawn(records, rows)
    if found := overlap_tables.read(folder):
        names = search_curves.searched(records) or statistics.distinct(found, "method")
        drawn["overlaps"] = overlap_tables.figure(found, names)
    tickets = statistics.select(records, treatment="ticket")
    for method, colour in drawings.methods(rows).items():
        if not any(r["step"] for r in statistics.select(tickets, method=method)):
            continue  # masks that were only tested
        drawn[f"learning_curves_{method}"] = curves.learning_curves(
            statistics.select(records, treatment="dense"),
            statistics.select(records, method=method),
            statistics.select(rows, method=method),
            colour,
        )
    (folder / "figures").mkdir(exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=drawings.DPI)
        paths.append(folder / "figures" / f"{name}.png")
        common.write(paths[-1], buffer.getvalue())
    return paths


def captions(rows: Iterable[statistics.Row]) -> dict[str, str]:
    """Name of every figure, without suffix -> caption."""
    curves = {
        f"learning_curves_{method}": f"Learning curves of {method.replace('_', ' ')}, "
        "of a middle round and the last. The lowest fifth of the accuracies, the steep "
        "start, lies below the axis."
        for method in drawings.methods(rows)
    }
    searches = search_figures.CAPTIONS | {"overlaps": overlap_tables.CAPTION}
    return searches | CAPTIONS | curves


def _against_density(rows: list[statistics.Row], column: str, label: str, scale: float):
    """One panel a method: a line a treatment, the dense network as a band."""
    from matplotlib import figure, lines  # here: importing the experiment stays light

    methods = drawings.methods(rows)
    across = max(1, min(3, len(methods)))
    down = max(1, math.ceil(len(methods) / across))
    size = (1.2 + 4.4 * across, 0.9 + 3.2 * down)
    drawing = figure.Figure(figsize=size, layout="constrained")
    panels = drawing.subplots(down, across, sharey=True, squeeze=False).flat
    dense = statistics.interval(
        scale * row[column] for row in statistics.select(rows, treatment="dense")
    )
    smallest = min((r["density"] for r in rows if r["density"] > 0), default=1)
    handles = {}
    for axes, (method, colour) in zip(panels, methods.items(), strict=False):
        handles |= drawings.dense_band(axes, dense)
        here = statistics.select(rows, method=method)
        present = [
            t for t in drawings.TREATMENTS if statistics.select(here, treatment=t)
        ]
        for index, treatment in enumerate(present):
            name, line, marker, opacity = drawings.TREATMENTS[treatment]
            points = _points(statistics.select(here, treatment=treatment), column)
            style = {
                "linestyle": line,
                "marker": marker,
                "alpha": opacity,
                "markersize": 4,
            }
            legend_colour = colour if len(methods) == 1 else "#222222"
            handles[name] = lines.Line2D([], [], color=legend_colour, **style)
            axes.errorbar(
                # Set apart a little, or the bars of one round would hide each other.
                [d * 0.985 ** (index - (len(present) - 1) / 2) for d, _ in points],
                [scale * value.mean for _, value in points],
                [scale * value.half_width for _, value in points],
                color=colour,
                **style,
                linewidth=1.6,
                elinewidth=1,
                capsize=2,
                zorder=4 - index / 10,
            )
        tickets = statistics.select(here, treatment="ticket")
        drawings.density_axis(axes, [d for d, _ in _points(tickets, column)], smallest)
        axes.set_title(method.replace("_", " "), color=colour, fontweight="bold")
        if scale == 100:
            drawings.crop(axes, dense)
    for axes in drawing.axes[len(methods) :]:
        axes.set_visible(False)
    for axes in drawing.axes[::across]:
        axes.set_ylabel(label)
    drawings.legend(drawing, handles)
    return drawing


def _points(
    rows, column: str, against: str = "density"
) -> list[tuple[float, statistics.Interval]]:
    """Mean of `against` and interval of a column, round by round."""
    points = []
    for round_ in sorted(statistics.distinct(rows, "round")):
        here = statistics.select(rows, round=round_)
        place = statistics.interval(row[against] for row in here).mean
        if place > 0:  # an empty network has no place on a log axis
            points.append((place, statistics.interval(r[column] for r in here)))
    return points


def _comparison(rows: list[statistics.Row]):
    """The tickets of all methods in one panel: by density, and by what they cost."""
    from matplotlib import figure

    methods = drawings.methods(rows)
    drawing = figure.Figure(figsize=(10.0, 4.2), layout="constrained")
    panels = by_density, by_cost = drawing.subplots(1, 2, sharey=True)
    dense = statistics.interval(
        100 * row["test_accuracy"] for row in statistics.select(rows, treatment="dense")
    )
    handles, densities = {}, []
    for axes in panels:
        handles |= drawings.dense_band(axes, dense)
    for index, (method, colour) in enumerate(methods.items()):
        tickets = statistics.select(rows, method=method, treatment="ticket")
        densities += [density for density, _ in _points(tickets, "test_accuracy")]
        for axes, column in ((by_density, "density"), (by_cost, "search_epochs")):
            points = _points(tickets, "test_accuracy", column)
            handles[method.replace("_", " ")] = axes.errorbar(
                [x for x, _ in points],
                [100 * value.mean for _, value in points],
                [100 * value.half_width for _, value in points],
                color=colour,
                marker="os^Dv<>Ph"[index % 9],
                markersize=4,
                linewidth=1.4,
                elinewidth=0.8,
                capsize=2,
            )
    drawings.crop(by_density, dense)
    drawings.density_axis(by_density, densities, min(densities, default=1))
    by_density.set_ylabel("test accuracy at the end, %")
    by_cost.set_xlabel("epochs of search")
    by_cost.grid(alpha=0.25)
    drawings.legend(drawing, handles)
    return drawing
