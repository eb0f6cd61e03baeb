"""Draws points with their intervals, the dense network behind them; maps and masks."""

import io
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from jaxticket import masks
from jaxticket.analysis import Interval
from jaxticket.base import Mask

Figures = dict[str, tuple[Any, str]]  # name -> drawing and caption

# Okabe and Ito's colours, which colour-blind readers can tell apart; each comes with a
# marker of its own, and the cycles differ in length, so that no pair comes again soon.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>Ph"
GREY = {"color": "#555555", "marker": ""}
COMPARED = ("dense", "by chance")  # lines that others are held against
BAND = {"color": GREY["color"], "alpha": 0.15, "linewidth": 0, "zorder": 0}
BARS = {"linewidth": 1.5, "markersize": 4.5, "elinewidth": 0.9, "capsize": 2}
HOLLOW = {"linestyle": "", "markersize": 7, "markerfacecolor": "white", "zorder": 5}
OUTSIDE = {"clip_on": False, "in_layout": False}
LEGEND = {"frameon": False, "fontsize": "small"}
DPI = 150
KEPT = "weights kept, %"
ACCURACY = "test accuracy, %"
WHOLE = 100.5  # percent: where accuracies end above
LEAST = 0.05  # percent: the smallest error of a logarithmic axis
WIDE = 5  # times: errors of this range, of 1% and more, are drawn on one
DOTS = 500  # rows and columns of a picture that a panel can show
MARKED = 12  # points of a curve that have a marker


def panels(
    points: pd.DataFrame,
    x: str,
    y: str,
    *,
    dense: Interval | None = None,
    curves: bool = False,
):
    """Panels of lines, of which each has its colour and marker.

    Args:
      points: of `statistics.points`.
      x: label of the places.
      y: label of the heights.
      dense: heights of the dense network, a band in every panel.
      curves: intervals are bands, else bars.

    Returns:
      The drawing, and its panels, which share their axes.
    """
    count, styles = points["panel"].nunique(), _styles(points["line"].unique())
    across = 2 if count == 4 else min(3, count)
    wide, handles = 5.0 if across == 1 else 4.2, {}
    drawing, grid = _grid(count, across, wide, 0.75 * wide, sharex=True, sharey=True)
    by_panel = points.groupby("panel", sort=False)
    for axes, (title, here) in zip(grid.flat, by_panel, strict=False):
        axes.set(title=title, xlabel=x)
        axes.tick_params(labelbottom=True)
        axes.grid(alpha=0.25)
        if dense is not None:
            line = axes.axhline(dense.mean, linewidth=1.2, zorder=1, **GREY)
            handles["dense"] = line, axes.axhspan(dense.low, dense.high, **BAND)
        lines = [*here.groupby("line", sort=False)]
        # Apart from each other, or bars of one place hide each other.
        places = np.geomspace(1.03, 0.97, len(lines) + 2)[1:-1]
        for place, (name, line) in zip(places, lines, strict=True):
            line = line.sort_values("x")
            if curves:
                handles[name] = _curve(axes, line, styles[name])
            else:
                handles[name] = _bars(axes, place * line["x"], line, styles[name])
    for axes in grid[:, 0]:
        axes.set_ylabel(y)
    letters = max(map(len, handles)) + 7  # with the line beside them
    width, height = drawing.get_size_inches()
    columns = max(1, min(len(handles), int(13 * width / letters)))
    drawing.set_figheight(height + 0.2 * math.ceil(len(handles) / columns))
    below = "outside lower center"  # it covers no data
    drawing.legend(handles.values(), handles, loc=below, ncols=columns, **LEGEND)
    return drawing, grid


def _grid(count, across, wide, high, edges=(0.8, 0.5), **shared):
    """A drawing with places for so many panels; those that are left over are hidden."""
    from matplotlib import figure  # here: importing the experiment stays light

    across = max(1, across)
    down = max(1, math.ceil(count / across))
    size = edges[0] + wide * across, edges[1] + high * down
    drawing = figure.Figure(size, layout="constrained")
    grid = drawing.subplots(down, across, squeeze=False, **shared)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return drawing, grid


def maps(tables: Mapping[str, pd.DataFrame]):
    """A panel a table of shares, `[rows, columns]`: images, or a row of bars."""
    flat = all(len(table) == 1 for table in tables.values())
    count, high = len(tables), 2.2 if flat else 3.4
    drawing, grid = _grid(count, min(3, count), 4.2, high)
    for axes, (title, table) in zip(grid.flat, tables.items(), strict=False):
        axes.set_title(title)
        values = 100 * table.to_numpy()
        if flat:
            axes.bar(table.columns, values[0], color=COLOURS[0])
            axes.set(xlabel="input", ylabel="kept, %")
            continue
        image = axes.imshow(values, cmap="viridis", vmin=0)
        axes.set_axis_off()
        drawing.colorbar(image, ax=axes, label="kept, %", shrink=0.8)
    return drawing


def heat(table: pd.DataFrame, x: str, label: str):
    """A map of percentages by row and column, with their numbers where they fit."""
    from matplotlib import figure

    down, across = table.shape
    size = 2.6 + 0.75 * across, 1.2 + 0.32 * down
    drawing = figure.Figure(size, layout="constrained")
    axes = drawing.subplots()
    values = table.to_numpy(float)
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(across), table.columns)
    axes.set_yticks(range(down), table.index)
    axes.set_xlabel(x)
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if value < 60 else "black"
        text = f"{value:.1f}"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize="small")
    drawing.colorbar(image, ax=axes, label=label)
    return drawing


def of_masks(mask: Mask):
    """A panel a layer: inputs down and outputs across; the darker, the more is kept."""
    leaves = masks.named(mask)
    count = len(leaves)
    drawing, grid = _grid(count, min(3, count), 4.2, 4.0, edges=(0, 0))
    for axes, (name, leaf) in zip(grid.flat, leaves.items(), strict=False):
        bits = np.asarray(leaf).reshape(-1, leaf.shape[-1] if leaf.ndim else 1)
        inputs, outputs = bits.shape
        axes.imshow(
            _shares(bits),
            cmap="gray_r",
            vmin=0,
            aspect="auto",
            interpolation="nearest",
            extent=(0, outputs, inputs, 0),
        )
        axes.set_title(f"{name}, {bits.mean():.1%} kept", fontsize="small")
        axes.set_xlabel("outputs" if leaf.ndim > 1 else "entries")
        if leaf.ndim > 1:
            axes.set_ylabel("inputs" if leaf.ndim == 2 else "inputs of all positions")
        else:
            axes.set_yticks([])
    return drawing


def _shares(bits: np.ndarray) -> np.ndarray:
    """How much is kept of blocks that are no smaller than a dot of a panel."""
    for axis, size in enumerate(bits.shape):
        starts = np.arange(0, size, math.ceil(size / DOTS))
        many = np.diff([*starts, size]).reshape([-1, 1] if axis == 0 else [1, -1])
        bits = np.add.reduceat(bits.astype(float), starts, axis) / many
    return bits


def _bars(axes, places: pd.Series, line: pd.DataFrame, style: Mapping[str, str]):
    bars = line["mean"] - line["low"], line["high"] - line["mean"]
    shown = "-" if line["x"].nunique() > 1 else ""
    return axes.errorbar(places, line["mean"], bars, linestyle=shown, **BARS, **style)


def _curve(axes, line: pd.DataFrame, style: Mapping[str, str]):
    means, colour = line["mean"], style["color"]
    if len(line) == 1:  # it stands still
        return axes.axhline(means.iloc[0], color=colour, linestyle="--")
    axes.fill_between(line["x"], line["low"], line["high"], **BAND | {"color": colour})
    every = math.ceil(len(line) / MARKED)
    return axes.plot(line["x"], means, markersize=4, markevery=every, **style)[0]


def _styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Name -> colour and marker."""
    pairs = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    pairs = ({"color": colour, "marker": marker} for colour, marker in pairs)
    return {name: GREY if name in COMPARED else next(pairs) for name in names}


def heights(grid) -> np.ndarray:
    """The finite heights of all lines and of the ends of their bars."""
    lines = [line.get_ydata() for axes in grid.flat for line in axes.lines]
    values = np.concatenate([*lines, []]).astype(float)
    return values[np.isfinite(values)]


def by_density(points: pd.DataFrame, label: str, **options: Any):
    """`panels` over the weights kept, on a logarithmic axis."""
    drawing, grid = panels(points, KEPT, label, **options)
    density_axis(grid, *points["x"].agg(["min", "max"]))
    return drawing, grid


def density_axis(grid, sparsest: float, densest: float) -> None:
    """Log axis of density in percent, densest at the left as in the paper."""
    left = 112 if densest > 40 else 1.12 * densest
    grid[0, 0].set(xscale="log", xlim=(left, sparsest / 1.12))
    _round(grid[0, 0].xaxis, left / sparsest)


def log_axis(grid) -> None:
    """Log axis of heights."""
    values = heights(grid)
    if (values := values[values > 0]).size:  # it fails where every loss is NaN
        low, high = 0.7 * values.min(), 1.4 * values.max()  # bands may reach to 0
        grid[0, 0].set(yscale="log", ylim=(low, high))
        _round(grid[0, 0].yaxis, high / low)


def _round(axis, ratio: float) -> None:
    """Plain numbers, at 1, 2 and 5 or, where the ends are near or far, more or less."""
    from matplotlib import ticker

    digits = range(1, 10) if ratio < 3 else (1, 2, 5) if ratio < 1000 else (1,)
    axis.set_major_locator(ticker.LogLocator(subs=digits))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(ticker.NullLocator())


def accuracy_axis(grid, floor: float = -math.inf) -> None:
    """Ends panels at the floor and at 100%; wide ones are logarithmic in the error.

    So starts and ends both show. Below 0% are only bands, unless lines are there too.
    """
    axes, values = grid[0, 0], heights(grid)
    if not (values := values[values >= floor]).size:
        return
    floor = max(floor, min(0, values.min()))
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, floor), min(top, WHOLE))
    worst, best = 100 - values.min(), 100 - values.max()
    if worst > WIDE * max(best, 1):
        axes.set_yscale("function", functions=(_by_error, lambda y: 100 - 10**-y))
        low, high = max(0, 100 - 1.1 * worst), 100 - max(LEAST, 0.75 * best)
        axes.set_ylim(low, high)
        errors = [digit * scale for scale in (0.1, 1, 10) for digit in (1, 2, 5)]
        axes.set_yticks([100 - x for x in (*errors, 100) if low <= 100 - x <= high])
        axes.yaxis.set_major_formatter("{x:g}")


def _by_error(accuracy):
    return -np.log10(np.maximum(100 - accuracy, LEAST))


def mark_hidden(grid) -> None:
    """Hollow markers at the edges stand for points beyond them."""
    for axes in grid.flat:
        low, high = np.sort([axes.get_xlim(), axes.get_ylim()]).T
        for line, *_ in axes.containers:
            places = np.asarray(line.get_data(), float).T
            hidden = places[(places != places.clip(low, high)).any(1)].clip(low, high)
            style = (
                {"marker": line.get_marker(), "color": line.get_color()}
                | HOLLOW
                | OUTSIDE
            )
            axes.plot(*hidden.T, **style)


def level(drawing, height: float) -> None:
    """A dotted line across all panels, which the caption explains."""
    for axes in drawing.axes:
        axes.axhline(height, linestyle=":", linewidth=1, **GREY)


def png(drawing) -> bytes:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
