"""Table, figures and report.html of a ticket search, made from the files it left.

Reads ``config.json``, ``metrics.jsonl`` and ``results.csv``. To make them again:

    python -m experiments.report --output_dir=runs/x
"""

import base64
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments import common, drawings, figures, milestones, statistics, tables

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
    title = settings.get("experiment", "Tickets")
    title = escape(f"{title}: {', '.join(map(_value, names))}" if names else title)
    images = [
        (folder / "figures" / f"{name}.png", caption)
        for name, caption in figures.captions(rows).items()
    ]
    terms = tables.TERMS | milestones.TERMS
    if settings.get("verdicts", True):
        marks = ["winning" if s.verdict == "winning" else "" for s in summaries]
        headlines = _headlines(summaries)
        lines = map(tables.cells, summaries)
        results = _html_table(tables.HEADERS, lines, kind="verdicts", marks=marks)
    else:
        terms, headlines = milestones.TERMS, []
        results = _html_table(milestones.ALL, milestones.all_tickets(rows))
    parts = [
        f"<h1>{title}</h1>",
        f"<pre>{escape(_value(settings.get('command', '')))}</pre>",
        *(f"<p>{escape(line)}</p>" for line in headlines),
        "<h2>Tickets against the dense network</h2>",
        results,
        "<h2>The sparsest that match, and the best</h2>",
        _html_table(milestones.HEADERS, milestones.lines(rows)),
        "<h2>Figures</h2>",
        "<p>Bars and bands are 95% intervals over the seeds; one seed has none.</p>",
        *(_html_figure(*item) for item in images if item[0].exists()),
        "<h2>Terms</h2>",
        "<dl>",
        *(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in terms.items()),
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
    common.write(path, page.encode())
    return path


def _headlines(summaries: Sequence[statistics.Summary]) -> list[str]:
    """One sentence a method: how many tickets win, and the sparsest that does."""
    lines = []
    for method in dict.fromkeys(summary.method for summary in summaries):
        rounds = [summary for summary in summaries if summary.method == method]
        winners = [summary for summary in rounds if summary.verdict == "winning"]
        line = f"{method}: {len(winners)} of {len(rounds)} tickets win"
        if winners:
            best = min(winners, key=lambda summary: summary.density)
            gain = tables.plus_minus(best.to_dense, "{:+.2f}", 100)
            line += (
                f"; the sparsest keeps {100 * best.density:.3g}% of the weights: "
                f"{gain} pp test accuracy against the dense network, at "
                f"{tables.ratio(best)} its early-stopping step "
                f"({tables.verdict(best)})"
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
    width = (
        int.from_bytes(content[16:20], "big") * 96 // drawings.DPI
    )  # from the PNG header
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


def show(rows: Sequence[statistics.Row], *, verdicts: bool = True) -> None:
    """Prints the tickets, a table a method if they can win, and the milestones."""
    if verdicts:
        summaries = statistics.summarise(rows)
        methods = dict.fromkeys(summary.method for summary in summaries)
        tables.show(
            *(
                tables.of_tickets([s for s in summaries if s.method == method])
                for method in methods
            ),
            "Test accuracy is that at the early-stopping step; ± is a 95% interval "
            "over the seeds; differences are paired by seed.\n",
        )
    else:
        tables.show(tables.table(milestones.ALL, milestones.all_tickets(rows)))
    tables.show(tables.table(milestones.HEADERS, milestones.lines(rows)))


def write(output_dir: str | Path) -> None:
    """Makes the figures and ``report.html`` of a run."""
    figures.draw(output_dir)
    html(output_dir)


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run to report on."""

    output_dir: str = dataclasses.field(
        default="runs/ticket_search", metadata={"help": "folder of the run"}
    )


def experiment(config: Config) -> None:
    """Makes the report of a finished run again."""
    write(config.output_dir)
    folder = Path(config.output_dir)
    settings = _read_config(folder / "config.json")
    rows = statistics.read_results(folder / "results.csv")
    show(rows, verdicts=settings.get("verdicts", True))
    print(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    common.main(experiment, Config)
