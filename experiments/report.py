"""Table, figures and report.html of a ticket search, made from the files it left.

Reads ``config.json``, ``metrics.jsonl`` and ``results.csv``. To make them again:

    python -m experiments.report --output_dir=runs/x
"""

import base64
import functools
import io
import itertools
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from rich import console, text
from rich import table as rich_table

from experiments import statistics

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
HEADERS = (
    "method",
    "round",
    "density\n%",
    "test\naccuracy\n%",
    "less\ndense\npp",
    "less\nre-init\npp",
    "early\nstop\nstep",
    "over\ndense",
    "wins",
    "verdict",
)
TERMS = {
    "density": "Fraction of the prunable weights that the ticket keeps.",
    "test accuracy": "Measured at the early-stopping step, as in the Lottery Ticket "
    "paper. Mean ± half of the 95% interval over the seeds (Student's t).",
    "less dense": "Accuracy less that of the dense network of the same seed, which "
    "has the same initial weights and data order. In percentage points; positive is "
    "better.",
    "less re-init": "The same difference from the re-initialised control, which has "
    "the ticket's mask and newly drawn weights.",
    "early stop": "Step with the smallest validation loss. Training always runs to its "
    "end; this step is found afterwards.",
    "over dense": "Early-stopping step as a multiple of the dense network's: below 1 "
    "is sooner.",
    "winning": "On average over the seeds the ticket is at least as accurate as the "
    "dense network, stops no later, and has fewer weights.",
    "within noise": "The interval of the difference from the dense network includes 0: "
    "these seeds do not show which of the two is more accurate.",
    "wins": "Seeds whose own ticket wins, of all seeds.",
}


def cells(summary: statistics.Summary) -> list[str]:
    """One line of the summary table, in the order of `HEADERS`."""
    return [
        summary.method.replace("_", " "),
        str(summary.round),
        f"{100 * summary.density:.3g}",
        _plus_minus(summary.accuracy, "{:.2f}", 100),
        _plus_minus(summary.to_dense, "{:+.2f}", 100),
        _plus_minus(summary.to_reinitialised, "{:+.2f}", 100),
        _plus_minus(summary.early_stopping_step, "{:.0f}"),
        _ratio(summary),
        f"{summary.wins}/{summary.seeds}",
        _verdict(summary),
    ]


def _plus_minus(
    interval: statistics.Interval | None, form: str, scale: float = 1
) -> str:
    if interval is None or math.isnan(interval.mean):
        return "–"
    mean = form.format(scale * interval.mean)
    if math.isnan(interval.half_width):
        return mean
    return f"{mean} ±{form.replace('+', '').format(scale * interval.half_width)}"


def _ratio(summary: statistics.Summary) -> str:
    ratio = summary.step_ratio
    return "–" if ratio is None or math.isnan(ratio) else f"{ratio:.2f}×"


def _verdict(summary: statistics.Summary) -> str:
    """The verdict, and how sure it is where it hangs on the accuracy."""
    if summary.clear or summary.verdict not in ("winning", "no: lower accuracy"):
        return summary.verdict
    return summary.verdict + (", one seed" if summary.seeds == 1 else ", within noise")


def table(summaries: Sequence[statistics.Summary]) -> rich_table.Table:
    """The summary as a table for the terminal.

    The tickets of one method get its name as the title; those of several, a column.
    """
    methods = list(dict.fromkeys(summary.method for summary in summaries))
    first = 1 if len(methods) == 1 else 0
    result = rich_table.Table(
        title=methods[0].replace("_", " ") if first else None,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
    )
    for name in HEADERS[first:]:
        words = "no: lower accuracy," if name == "verdict" else name
        result.add_column(
            name,
            justify="left" if name in ("method", "verdict") else "right",
            # A narrow terminal breaks cells, but never inside a word.
            min_width=max(map(len, words.split())),
        )
    for summary in summaries:
        style = "green" if summary.verdict == "winning" else ""
        line = cells(summary)[first:]
        result.add_row(*(text.Text(cell, style=style) for cell in line))
    return result


def print_table(summaries: Sequence[statistics.Summary]) -> None:
    """Prints one table a method; a file or pipe gets whole lines, however long."""
    terminal = console.Console(width=None if sys.stdout.isatty() else 150)
    for method in dict.fromkeys(summary.method for summary in summaries):
        terminal.print(table([s for s in summaries if s.method == method]), "")
    terminal.print(
        "Test accuracy is that at the early-stopping step; ± is a 95% interval over "
        "the seeds; differences are paired by seed.",
        style="dim",
    )


def figures(output_dir: str | Path) -> list[Path]:
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
        _write(paths[-1], buffer.getvalue())
    return paths


def _captions(rows: Iterable[statistics.Row]) -> dict[str, str]:
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


STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin-top: 2rem; }
pre { background: #f4f4f4; padding: .6rem; overflow-x: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .35rem; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th { vertical-align: bottom; border-bottom: 2px solid #888; white-space: pre-line; }
.text td, .text th, td:first-child, th:first-child, .verdicts td:last-child,
  .verdicts th:last-child { text-align: left; }
.text td { white-space: normal; overflow-wrap: anywhere; }
.verdicts td:last-child { white-space: normal; min-width: 9rem; }
.verdicts td:last-child, .verdicts th:last-child { padding-left: 1rem; }
tr.winning { background: #e6f4ea; }
figure { margin: 1.5rem 0; overflow-x: auto; }
img { max-width: 100%; min-width: 34rem; height: auto; }
figcaption { color: #555; font-size: .9rem; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 1rem; }
summary { cursor: pointer; font-weight: 600; margin-top: 1.5rem; }
"""


def html(output_dir: str | Path) -> Path:
    """Writes ``report.html``: one file, with the figures that `figures` drew inside."""
    folder = Path(output_dir)
    rows = statistics.read_results(folder / "results.csv")
    settings = _read_config(folder / "config.json")
    config = settings["config"]
    summaries = statistics.summarise(rows)
    names = [config[name] for name in ("dataset", "model") if name in config]
    title = escape(
        "Ticket search: " + ", ".join(map(_value, names)) if names else "Ticket search"
    )
    images = [
        (folder / "figures" / f"{name}.png", caption)
        for name, caption in _captions(rows).items()
    ]
    marks = ["winning" if s.verdict == "winning" else "" for s in summaries]
    parts = [
        f"<h1>{title}</h1>",
        f"<pre>{escape(_value(settings.get('command', '')))}</pre>",
        *(f"<p>{escape(line)}</p>" for line in _headlines(summaries)),
        "<h2>Tickets against the dense network</h2>",
        _html_table(HEADERS, map(cells, summaries), kind="verdicts", marks=marks),
        "<h2>Figures</h2>",
        "<p>Bars and bands are 95% intervals over the seeds; one seed has none.</p>",
        *(_html_figure(*item) for item in images if item[0].exists()),
        "<h2>Terms</h2>",
        "<dl>",
        *(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in TERMS.items()),
        "</dl>",
        "<h2>Settings</h2>",
        _pairs(config),
        "<h2>Environment</h2>",
        _pairs(settings.get("environment", {})),
        f"<details><summary>All {len(rows)} runs</summary>",
        _html_table(
            [name.replace("_", " ") for name in statistics.COLUMNS],
            ([_value(row[name]) for name in statistics.COLUMNS] for row in rows),
        ),
        "</details>",
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    path = folder / "report.html"
    _write(path, page.encode())
    return path


def _headlines(summaries: Sequence[statistics.Summary]) -> list[str]:
    """One sentence a method: how many rounds win, and the sparsest that does."""
    lines = []
    for method in dict.fromkeys(summary.method for summary in summaries):
        rounds = [summary for summary in summaries if summary.method == method]
        winners = [summary for summary in rounds if summary.verdict == "winning"]
        line = f"{method}: winning tickets in {len(winners)} of {len(rounds)} rounds"
        if winners:
            best = min(winners, key=lambda summary: summary.density)
            gain = _plus_minus(best.to_dense, "{:+.2f}", 100)
            line += (
                f"; the sparsest keeps {100 * best.density:.3g}% of the weights: "
                f"{gain} pp test accuracy against the dense network, at {_ratio(best)} "
                f"its early-stopping step ({_verdict(best)})"
            )
        lines.append(line + ".")
    return lines


def _html_table(
    headers: Iterable[str],
    lines: Iterable[Iterable[str]],
    *,
    kind: str = "",
    marks: Sequence[str] = (),
) -> str:
    """A table that scrolls sideways on a narrow screen."""

    def line(tag: str, values: Iterable[str], mark: str = "") -> str:
        inner = "".join(f"<{tag}>{escape(value)}</{tag}>" for value in values)
        return f'<tr class="{mark}">{inner}</tr>'

    head = line("th", headers)
    body = itertools.starmap(
        functools.partial(line, "td"), itertools.zip_longest(lines, marks, fillvalue="")
    )
    return (
        f'<div class="wide"><table class="{kind}"><thead>{head}</thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _pairs(values: dict[str, Any]) -> str:
    """A table of names and values."""
    lines = [(name, _value(value)) for name, value in values.items()]
    return _html_table(("name", "value"), lines, kind="text")


def _value(value: Any) -> str:
    """A setting or a number as text; NaN as a dash."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def _html_figure(path: Path, caption: str) -> str:
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big") * 96 // DPI  # from the PNG header
    data = base64.b64encode(content).decode()
    caption = escape(caption)
    source = f"data:image/png;base64,{data}"
    return (
        f'<figure><img alt="{caption}" width="{width}" src="{source}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["config"].keys()
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not the config of a run: {error!r}") from error
    return settings


def _write(path: Path, content: bytes) -> None:
    """Writes a whole file or none of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write(output_dir: str | Path) -> None:
    """Makes the figures and ``report.html`` of a run."""
    figures(output_dir)
    html(output_dir)


def main(argv: Sequence[str]) -> int:
    del argv
    folder = flags.FLAGS.output_dir
    try:
        write(folder)
        print_table(
            statistics.summarise(statistics.read_results(f"{folder}/results.csv"))
        )
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {folder}/report.html")
    return 0


if __name__ == "__main__":  # the flag is defined here, as ticket_search has its own
    flags.DEFINE_string("output_dir", None, "Folder of the run.", required=True)
    app.run(main)
