"""What the figures share: colours, lines, the dense network's band, axes, legends."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments.reports import statistics

# Okabe and Ito's colours, which colour-blind readers can tell apart: one a method.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#555555"
DPI = 150
DEPTH = 15  # percentage points below the dense network at which panels end
WHOLE = 100.5  # percent: where they end above
LEAST = 0.05  # percent: the smallest error of a logarithmic axis, and its ticks
ACCURACIES = (0, 30, 50, 70, 80, 85, 90, 93, 95, 97, 98, 99, 99.5, 99.8, 99.9)
TREATMENTS = {  # treatment -> label, line, marker, opacity
    "ticket": ("ticket", "-", "o", 1.0),
    "reinitialise": ("re-initialised", "--", "s", 0.75),
    "shuffle": ("shuffled within layers", "-.", "^", 0.6),
    "random": ("random ticket", ":", "D", 0.6),
    "tuned": ("weights tuned", "--", "v", 0.75),
}


def methods(rows: Iterable[statistics.Row]) -> dict[str, str]:
    """Methods that found tickets, in order of appearance -> colour."""
    names = [n for n in statistics.distinct(rows, "method") if n != "dense"]
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def panels(count: int):
    """A drawing with so many panels, which share one axis of heights."""
    from matplotlib import figure  # here: importing the experiment stays light

    across = 2 if count == 4 else min(3, count)
    down = math.ceil(count / across)
    size = (1.0 + 4.2 * across, 0.9 + 3.1 * down)
    drawing = figure.Figure(figsize=size, layout="constrained")
    found = drawing.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes in found[count:]:
        axes.set_visible(False)
    return drawing, found[:count]


def label_heights(panels, label: str) -> None:
    """Names the heights of the panels at the left."""
    for axes in panels:
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(label)


def dense_band(axes, dense: statistics.Interval) -> dict[str, Any]:
    """The dense network: a line at its mean, a band over its interval."""
    if math.isnan(dense.mean):
        return {}
    low, high = dense.mean - dense.half_width, dense.mean + dense.half_width
    line = axes.axhline(dense.mean, color=GREY, linewidth=1.2, zorder=1)
    if math.isnan(dense.half_width):
        return {"dense": line}
    band = axes.axhspan(low, high, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    return {"dense": (line, band)}


def crop(axes, dense: statistics.Interval) -> None:
    """Leaves accuracies out of the panel that would flatten all others."""
    low, high = axes.get_ylim()
    if low < dense.mean - DEPTH:
        axes.set_ylim(bottom=dense.mean - DEPTH)
    if high > WHOLE:  # the interval of few seeds may go past what can be
        axes.set_ylim(top=WHOLE)


def density_axis(axes, densities: Iterable[float], smallest: float) -> None:
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


def log_axis(axes, panels) -> None:
    """Log axis of heights, for panels that share it; plain numbers at 1, 2 and 5."""
    from matplotlib import ticker

    if not (heights(panels) > 0).any():  # it fails where every loss is NaN
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def accuracy_axis(panels) -> None:
    """Accuracy in percent, logarithmic in the error, for panels that share it."""
    values = heights(panels)
    if not values.size:
        return
    panels[0].set_yscale("function", functions=(_by_error, lambda y: 100 - 10**-y))
    low = max(0.0, 100 - 1.1 * (100 - values.min()))
    high = 100 - max(LEAST, 0.75 * (100 - values.max()))
    ticks = [tick for tick in ACCURACIES if low <= tick <= high]
    panels[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].set_ylim(low, high)


def _by_error(accuracy):
    return -np.log10(np.maximum(100 - accuracy, LEAST))


def heights(panels) -> np.ndarray:
    """The finite heights of all lines."""
    lines = [line.get_ydata() for axes in panels for line in axes.lines]
    values = np.concatenate([*lines, []])
    return values[np.isfinite(values)]


def legend(drawing, handles: dict[str, Any]) -> None:
    """Below the panels, where it covers no data."""
    most = max(4, int(drawing.get_figwidth() / 2.4))
    drawing.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, min(most, len(handles))),
        frameon=False,
    )
