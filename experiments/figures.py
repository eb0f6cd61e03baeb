"""The figures of a ticket search: accuracy and steps against density, curves."""

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common, statistics

# Okabe and Ito's colours, which colour-blind readers can tell apart: one a method.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#555555"
DPI = 150
TREATMENTS = {  # treatment -> label, line, marker, opacity
    "ticket": ("ticket", "-", "o", 1.0),
    "reinitialise": ("re-initialised", "--", "s", 0.75),
    "shuffle": ("shuffled within layers", "-.", "^", 0.6),
    "random": ("random ticket", ":", "D", 0.6),
}
CAPTIONS = {
    "accuracy": "Test accuracy at the early-stopping step, against density.",
    "final_accuracy": "Test accuracy after the last step, against density.",
    "early_stopping_step": "Early-stopping step (sooner is better), against density.",
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
    for method, colour in _methods(rows).items():
        drawn[f"learning_curves_{method}"] = _learning_curves(
            statistics.select(records, treatment="dense"),
            statistics.select(records, method=method),
            statistics.select(rows, method=method),
            colour,
        )
    (folder / "figures").mkdir(exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        paths.append(folder / "figures" / f"{name}.png")
        common.write(paths[-1], buffer.getvalue())
    return paths


def captions(rows: Iterable[statistics.Row]) -> dict[str, str]:
    """Name of every figure, without suffix -> caption."""
    curves = {
        f"learning_curves_{method}": f"Learning curves of {method.replace('_', ' ')}, "
        "of a middle round and the last. The lowest fifth of the accuracies, the steep "
        "start, lies below the axis."
        for method in _methods(rows)
    }
    return CAPTIONS | curves


def _methods(rows: Iterable[statistics.Row]) -> dict[str, str]:
    """Methods that found tickets, in order of appearance -> colour."""
    names = [n for n in statistics.distinct(rows, "method") if n != "dense"]
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def _against_density(rows: list[statistics.Row], column: str, label: str, scale: float):
    """One panel a method: a line a treatment, the dense network as a band."""
    from matplotlib import figure, lines  # here: importing the experiment stays light

    methods = _methods(rows)
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
        handles |= _dense_band(axes, dense)
        here = statistics.select(rows, method=method)
        present = [t for t in TREATMENTS if statistics.select(here, treatment=t)]
        for index, treatment in enumerate(present):
            name, line, marker, opacity = TREATMENTS[treatment]
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
        _density_axis(axes, [d for d, _ in _points(tickets, column)], smallest)
        axes.set_title(method.replace("_", " "), color=colour, fontweight="bold")
    for axes in drawing.axes[len(methods) :]:
        axes.set_visible(False)
    for axes in drawing.axes[::across]:
        axes.set_ylabel(label)
    _legend(drawing, handles)
    return drawing


def _points(rows, column: str) -> list[tuple[float, statistics.Interval]]:
    """Mean density and interval of a column, round by round."""
    points = []
    for round_ in sorted(statistics.distinct(rows, "round")):
        here = statistics.select(rows, round=round_)
        density = statistics.interval(row["density"] for row in here).mean
        if density > 0:  # an empty network has no place on a log axis
            points.append((density, statistics.interval(r[column] for r in here)))
    return points


def _dense_band(axes, dense: statistics.Interval) -> dict[str, Any]:
    """The dense network: a line at its mean, a band over its interval."""
    if math.isnan(dense.mean):
        return {}
    low, high = dense.mean - dense.half_width, dense.mean + dense.half_width
    line = axes.axhline(dense.mean, color=GREY, linewidth=1.2, zorder=1)
    if math.isnan(dense.half_width):
        return {"dense": line}
    band = axes.axhspan(low, high, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    return {"dense": (line, band)}


def _density_axis(axes, densities: Iterable[float], smallest: float) -> None:
    """Log axis of density in percent, densest at the left as in the paper."""
    axes.set_xscale("log")
    axes.set_xlim(1.12, min(smallest, 0.9) / 1.12)
    gap = math.log(1.12 / smallest * 1.12) / 9  # room for one label
    ticks = [1.0]
    for density in sorted(densities, reverse=True):
        if math.log(ticks[-1] / density) >= gap:
            ticks.append(density)
    axes.set_xticks(ticks, [f"{100 * tick:.3g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("weights kept (density), %")
    axes.grid(alpha=0.25)


def _learning_curves(dense, records, rows, colour: str):
    """Validation loss and test accuracy of dense, ticket and control, by the step."""
    from matplotlib import figure, ticker

    rounds = sorted(statistics.distinct(rows, "round"))
    chosen = sorted({rounds[(len(rounds) - 1) // 2], rounds[-1]})
    size = (1.2 + 4.4 * len(chosen), 6.2)
    drawing = figure.Figure(figsize=size, layout="constrained")
    panels = drawing.subplots(2, len(chosen), sharex=True, sharey="row", squeeze=False)
    handles = {}
    for (loss, accuracy), round_ in zip(panels.T, chosen, strict=True):
        here = statistics.select(records, round=round_)
        curves = {"dense": (dense, GREY, "-")}
        for treatment in ("ticket", "reinitialise"):
            name, line, *_ = TREATMENTS[treatment]
            found = statistics.select(here, treatment=treatment)
            curves[name] = (found, colour, line)
        for name, (found, hue, line) in curves.items():
            if found:
                handles[name] = _curve(loss, found, "validation_loss", 1, hue, line)
                _curve(accuracy, found, "test_accuracy", 100, hue, line)
        tickets = statistics.select(rows, treatment="ticket", round=round_)
        density = statistics.interval(row["density"] for row in tickets).mean
        loss.set_title(f"round {round_}: {100 * density:.3g}% of the weights")
        loss.grid(alpha=0.25)
        accuracy.grid(alpha=0.25)
        accuracy.set_xlabel("optimiser step")
    loss, accuracy = panels[:, 0]
    loss.set_ylabel("validation loss")
    if (_drawn(panels[0]) > 0).any():  # a log axis fails where every loss is NaN
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        loss.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        loss.yaxis.set_minor_formatter(ticker.NullFormatter())
    accuracy.set_ylabel("test accuracy, %")
    values = _drawn(panels[1])
    if values.size:  # crop the steep start, so that the ends can be told apart
        low, high = np.quantile(values, 0.2), values.max()
        margin = 0.1 * (high - low) + 0.1
        accuracy.set_ylim(low - margin, high + margin)
    _legend(drawing, handles)
    return drawing


def _curve(axes, records, column: str, scale: float, colour: str, line: str):
    """Draws the mean over seeds, and its interval as a band; returns the line."""
    values: dict[int, dict[int, float]] = {}
    for record in records:  # after a resume a step may come twice: the later stands
        values.setdefault(record["step"], {})[record["seed"]] = scale * record[column]
    steps = sorted(values)
    means, widths = np.transpose(
        [statistics.interval(values[step].values()) for step in steps]
    )
    axes.fill_between(
        steps, means - widths, means + widths, color=colour, alpha=0.12, linewidth=0
    )
    return axes.plot(steps, means, color=colour, linestyle=line, linewidth=1.6)[0]


def _drawn(panels) -> np.ndarray:
    """The finite heights of all lines."""
    lines = [line.get_ydata() for axes in panels for line in axes.lines]
    values = np.concatenate([*lines, []])
    return values[np.isfinite(values)]


def _legend(drawing, handles: dict[str, Any]) -> None:
    """Below the panels, where it covers no data."""
    drawing.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, len(handles)),
        frameon=False,
    )
