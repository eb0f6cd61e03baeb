"""The two kinds of figure, points with intervals and curves, and their axes.

Both are drawn of rows of all seeds, whose column `panel` says in which panel and `line`
on which line; rows of the dense network, if given, are a band in every panel.
"""

import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.reports import statistics

# Okabe and Ito's colours, which colour-blind readers can tell apart; each comes with a
# marker of its own, and the cycles differ in length, so that no pair comes again soon.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>Ph"
GREY = "#555555"
DPI = 150
DEPTH = 15  # percentage points below the dense network at which panels end
WHOLE = 100.5  # percent: where they end above
LEAST = 0.05  # percent: the smallest error of a logarithmic axis, and its ticks
ACCURACIES = (90, 99, 50, 95, 98, 99.5, 80, 0, 99.8, 97, 30, 99.9, 93, 70, 85, 10)
BARS = {"linewidth": 1.5, "markersize": 4.5, "elinewidth": 0.9, "capsize": 2}
HIDDEN = {
    "linestyle": "",
    "markersize": 7,
    "markerfacecolor": "white",
    "clip_on": False,
    "in_layout": False,
    "zorder": 5,
}
LABELS = {
    "reinitialise": "re-initialised",
    "shuffle": "shuffled",
    "tuned": "weights tuned",
}


class Frame(NamedTuple):
    """Where panels end, so that a collapsed ticket does not stretch them.

    Attributes:
      floor: the lowest accuracy in percent, or None: all are shown.
      sparsest: the smallest density of those above it.
      densest: the largest.
    """

    floor: float | None
    sparsest: float
    densest: float


def words(name: str) -> str:
    """A method or treatment as a reader says it."""
    return LABELS.get(name, name.replace("_", " "))


def frame(rows: pd.DataFrame, column: str) -> Frame:
    """Ends panels `DEPTH` below the dense network, if most tickets lie above."""
    floor = (
        100 * rows.loc[rows["treatment"] == "dense", column].mean(skipna=False) - DEPTH
    )
    tickets = _points(rows[rows["treatment"] == "ticket"], column, "density", 100)
    above = tickets["mean"] >= floor
    if 2 * above.sum() <= len(tickets):
        floor, above = None, slice(None)
    places = tickets["place"][above]
    return Frame(floor, places.min(), places.max())


def against(
    rows: pd.DataFrame,
    column: str,
    *,
    panel: str,
    line: str,
    label: str,
    frame: Frame,
    place: str = "density",
    dense: pd.DataFrame | None = None,
    accuracy: bool = True,
):
    """Means of a column with their intervals, against density or cost (`place`).

    Heights are accuracies, and so percentages, unless `accuracy` says that they are
    something else; `label` names them.
    """
    scale = 100 if accuracy else 1
    styles = _styles(rows[line])
    panels = rows.groupby(panel, sort=False)
    drawing, grid = _grid(len(panels))
    handles: dict[str, Any] = {}
    for axes, (title, here) in zip(grid.flat, panels, strict=False):
        handles |= {} if dense is None else _band(axes, dense, column, scale)
        axes.set_title(words(title))
        found = {
            name: _points(x, column, place, scale)
            for name, x in here.groupby(line, sort=False)
        }
        for index, (name, points) in enumerate(found.items()):
            places = points["place"]
            if place == "density":  # apart, or bars of one density hide each other
                places = places * 0.95 ** (index / max(1, len(found) - 1) - 0.5)
            handles[words(name)] = axes.errorbar(
                places,
                points["mean"],
                points["high"] - points["mean"],
                linestyle="-" if places.nunique() > 1 else "",
                **(styles[name] | BARS),
            )
        if place == "density":
            _density_axis(axes, frame)
        else:
            axes.set_xlabel(place.replace("_", " "))
    if accuracy:
        accuracy_axis(grid, frame.floor)
    for axes in grid.flat:
        _mark_hidden(axes)
    _finish(drawing, grid, [label], handles)
    return drawing


def curves(
    looks: pd.DataFrame,
    columns: Mapping[str, str],
    *,
    panel: str,
    line: str,
    along: str = "step",
    dense: pd.DataFrame | None = None,
):
    """Means by the step with their intervals as bands; what stands still is dashed.

    Args:
      looks: of one training a seed in every panel and line.
      columns: what to draw -> label of its heights, a row of panels each.
      panel: see above.
      line: see above.
      along: the column to draw against.
      dense: see above.

    Returns:
      The drawing, and its panels `[columns, panels]`, a grid if there is one column.
    """
    styles = _styles(looks[line])
    panels = looks.groupby(panel, sort=False)
    drawing, grid = _grid(len(panels), len(columns))
    handles: dict[str, Any] = {}
    each = grid.reshape(1, -1) if len(columns) == 1 else grid
    for row, column in zip(each, columns, strict=True):
        scale = 100 if "accuracy" in column else 1
        for axes, (title, here) in zip(row, panels, strict=False):
            handles |= {} if dense is None else _band(axes, dense, column, scale)
            for name, ours in here.groupby(line, sort=False):
                table = ours.pivot(index=along, columns="seed", values=column)
                mean, low, high = statistics.interval(scale * table)
                style = styles[name]
                if len(table) == 1:
                    drawn = axes.axhline(mean[0], color=style["color"], linestyle="--")
                else:
                    every = max(1, len(table) // 12)
                    (drawn,) = axes.plot(
                        table.index, mean, **style, markersize=4, markevery=every
                    )
                    band = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
                    axes.fill_between(table.index, low, high, **band)
                handles[words(name)] = drawn
            axes.set(title=title if axes in each[0] else "", xlabel=along)
            axes.label_outer()
    _finish(drawing, grid, [*columns.values()], handles)
    return drawing, grid


def log_axis(row) -> None:
    """Log axis of heights, for panels that share it; plain numbers at 1, 2 and 5."""
    from matplotlib import ticker

    values = heights(row)
    if not (values := values[values > 0]).size:  # it fails where every loss is NaN
        return
    row[0].set_yscale("log")
    row[0].set_ylim(0.7 * values.min(), 1.4 * values.max())  # bands may reach to 0
    row[0].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    row[0].yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    row[0].yaxis.set_minor_formatter(ticker.NullFormatter())


def accuracy_axis(grid, floor: float | None = None) -> None:
    """Ends panels at the floor and at 100%; wide ones are logarithmic in the error.

    So starts and ends both show.
    """
    axes, values = grid.flat[0], heights(grid.flat)
    if floor is not None:
        values = values[values >= floor]
    if not values.size:
        return
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -math.inf if floor is None else floor), min(top, WHOLE))
    if np.ptp(values) > DEPTH / 3:
        low = max(0.0, 100 - 1.1 * (100 - values.min()))
        high = 100 - max(LEAST, 0.75 * (100 - values.max()))
        axes.set_yscale("function", functions=(_by_error, lambda y: 100 - 10**-y))
        axes.set_ylim(low, high)
        ticks = _spaced(ACCURACIES, _by_error, low, high)
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks([], minor=True)


def heights(panels: Iterable[Any]) -> np.ndarray:
    """The finite heights of all lines."""
    lines = [line.get_ydata() for axes in panels for line in axes.lines]
    values = np.concatenate([*lines, []]).astype(float)
    return values[np.isfinite(values)]


def png(drawing) -> bytes:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Name -> colour and marker; what others are held against is grey."""
    pairs = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    return {
        name: {"color": GREY, "marker": ""}
        if name in ("dense", "by chance")
        else dict(zip(("color", "marker"), next(pairs), strict=True))
        for name in dict.fromkeys(names)
    }


def _grid(count: int, rows: int = 1):
    """A drawing and its panels: `rows` of `count`, or one row that is broken to fit."""
    from matplotlib import figure  # here: importing the experiment stays light

    across = count if rows > 1 else 2 if count == 4 else min(3, count)
    down = rows if rows > 1 else math.ceil(count / across)
    wide = 5.0 if across == 1 else 4.2
    size = (0.8 + wide * across, 0.5 + 0.72 * wide * down)
    drawing = figure.Figure(figsize=size, layout="constrained")
    share = {"sharey": "row", "sharex": True} if rows > 1 else {"sharey": True}
    grid = drawing.subplots(down, across, squeeze=False, **share)
    for axes in grid.flat[count:] if rows == 1 else ():
        axes.set_visible(False)
    for axes in grid.flat:
        axes.grid(alpha=0.25)
    return drawing, grid


def _finish(drawing, grid, labels: Sequence[str], handles: Mapping[str, Any]) -> None:
    """Names the heights at the left; the legend stands below and covers no data."""
    for axes, label in zip(grid[:, 0], itertools.cycle(labels), strict=False):
        axes.set_ylabel(label)
    widest = max(map(len, handles), default=0) + 7  # letters, with the line beside them
    across = max(1, min(len(handles), int(13 * drawing.get_figwidth() / widest)))
    down = math.ceil(len(handles) / across)
    drawing.set_figheight(drawing.get_figheight() + 0.2 * down)
    drawing.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=across,
        frameon=False,
        fontsize="small",
    )


def _band(axes, dense: pd.DataFrame, column: str, scale: float) -> dict[str, Any]:
    """The dense network: a line at its mean, a band over its interval."""
    mean, low, high = statistics.interval(scale * dense[column])
    if math.isnan(mean):
        return {}
    line = axes.axhline(mean, color=GREY, linewidth=1.2, zorder=1)
    if math.isnan(low):
        return {"dense": line}
    area = axes.axhspan(low, high, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    return {"dense": (line, area)}


def _points(rows: pd.DataFrame, column: str, place: str, scale: float) -> pd.DataFrame:
    """A row a ticket: mean of `place`, and mean and interval of a column."""
    found = [
        (group[place].mean(skipna=False), *statistics.interval(scale * group[column]))
        for _, group in statistics.tickets(rows)
    ]
    points = pd.DataFrame(found, columns=["place", "mean", "low", "high"], dtype=float)
    if place == "density":  # an empty network has no place on a log axis
        points = points[points["place"] > 0]
    return points.sort_values("place", ascending=False, kind="stable")


def _mark_hidden(axes) -> None:
    """Hollow triangles at the edges stand for points beyond them."""
    (left, right), (bottom, top) = sorted(axes.get_xlim()), axes.get_ylim()
    for line, *_ in axes.containers:
        x, y = np.asarray(line.get_data(), float)
        for marker, hidden in (("v", y < bottom), (">", (x < left) & (y >= bottom))):
            if hidden.any():
                places = x[hidden].clip(left, right), y[hidden].clip(bottom, top)
                style = {"marker": marker, "color": line.get_color()} | HIDDEN
                axes.plot(*places, **style)


def _density_axis(axes, frame: Frame) -> None:
    """Log axis of density in percent, densest at the left as in the paper."""
    left = 1.12 * (1.0 if not frame.densest < 0.4 else frame.densest)
    right = min(0.9, frame.sparsest) / 1.12 if frame.sparsest > 0 else 0.8
    digits, ticks = [], []
    for more in ((1, 5, 2), (3, 7), (8, 4, 6, 9)):  # finer only where ticks are few
        if len(ticks) < 3:
            digits += more
            numbers = [d * 10.0**-n for d in digits for n in range(12)]
            ticks = _spaced(numbers, math.log, right, left)
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_xticks(ticks, [f"{100 * tick:.3g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("weights kept, %")


def _spaced(
    numbers: Iterable[float], place: Callable[[float], float], low: float, high: float
) -> list[float]:
    """Those between the ends, in order of rank, that leave room for labels."""
    room = abs(place(high) - place(low)) / 10
    found: list[float] = []
    for number in (x for x in numbers if low <= x <= high):
        if all(abs(place(number) - place(other)) >= room for other in found):
            found.append(number)
    return sorted(found)


def _by_error(accuracy):
    return -np.log10(np.maximum(100 - accuracy, LEAST))
