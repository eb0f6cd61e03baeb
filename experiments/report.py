"""Tables, figures and report.html of a ticket search, made from the files it left.

Reads ``config.json``, ``metrics.jsonl`` and ``results.csv``, and ``overlaps.csv`` where
there is one. Of searches over frozen weights it writes ``search.csv`` too. To make them
again:

    python -m experiments.report --output_dir=runs/x
"""

import dataclasses
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments.reports import (
    figures,
    milestones,
    overlap_tables,
    pages,
    search_curves,
    search_tables,
    statistics,
    tables,
)
from experiments.study.study import common


def html(output_dir: str | Path) -> Path:
    """Writes ``report.html``: one file, with the figures that `figures` drew inside."""
    folder = Path(output_dir)
    rows = statistics.read_results(folder / "results.csv")
    settings = _read_config(folder / "config.json")
    config = settings["config"]
    summaries = statistics.summarise(rows)
    names = [config[name] for name in ("dataset", "model") if name in config]
    title = settings.get("experiment", "Tickets")
    title = escape(f"{title}: {', '.join(map(pages.value, names))}" if names else title)
    images = [
        (folder / "figures" / f"{name}.png", caption)
        for name, caption in figures.captions(rows).items()
    ]
    terms = tables.TERMS | milestones.TERMS
    if settings.get("verdicts", True):
        marks = ["winning" if s.verdict == "winning" else "" for s in summaries]
        headlines = _headlines(summaries)
        lines = map(tables.cells, summaries)
        results = pages.table(tables.HEADERS, lines, kind="verdicts", marks=marks)
    else:
        terms, headlines = milestones.TERMS, []
        results = pages.table(milestones.ALL, milestones.all_tickets(rows))
    sections = _sections(folder, rows)
    for section in sections:
        terms = terms | section.terms
    parts = [
        f"<h1>{title}</h1>",
        f"<pre>{escape(pages.value(settings.get('command', '')))}</pre>",
        *(f"<p>{escape(line)}</p>" for line in headlines),
        "<h2>Tickets against the dense network</h2>",
        results,
        "<h2>The sparsest that match, and the best</h2>",
        pages.table(milestones.HEADERS, milestones.lines(rows)),
        *(
            f"<h2>{escape(section.title)}</h2>"
            + pages.table(section.headers, section.lines)
            for section in sections
        ),
        "<h2>Figures</h2>",
        "<p>Bars and bands are 95% intervals over the seeds; one seed has none.</p>",
        *(pages.figure(*item) for item in images if item[0].exists()),
        "<h2>Terms</h2>",
        "<dl>",
        *(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in terms.items()),
        "</dl>",
        "<h2>Settings</h2>",
        pages.pairs(config),
        "<h2>Environment</h2>",
        pages.pairs(settings.get("environment", {})),
        f"<details><summary>All {len(rows)} runs</summary>",
        pages.table(
            [name.replace("_", " ") for name in statistics.COLUMNS],
            ([pages.value(row[name]) for name in statistics.COLUMNS] for row in rows),
        ),
        "</details>",
    ]
    path = folder / "report.html"
    common.write(path, pages.page(title, parts))
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


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["config"].keys()
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not the config of a run: {error!r}") from error
    return settings


def _sections(folder: Path, rows: Sequence[statistics.Row]) -> list[tables.Section]:
    """What only searches over frozen weights have."""
    records = statistics.read_metrics(folder / "metrics.jsonl")
    return [
        *search_tables.sections(search_curves.table(records, rows)),
        *overlap_tables.sections(overlap_tables.read(folder)),
    ]


def show(output_dir: str | Path, *, verdicts: bool = True) -> None:
    """Prints the tickets, a table a method if they can win, and the other tables."""
    folder = Path(output_dir)
    rows = statistics.read_results(folder / "results.csv")
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
    tables.show(
        tables.table(milestones.HEADERS, milestones.lines(rows)),
        *(
            tables.table(section.headers, section.lines, title=section.title)
            for section in _sections(folder, rows)
        ),
    )


def write(output_dir: str | Path) -> None:
    """Makes the figures and ``report.html`` of a run, and ``search.csv``."""
    folder = Path(output_dir)
    rows = statistics.read_results(folder / "results.csv")
    records = statistics.read_metrics(folder / "metrics.jsonl")
    if found := search_curves.table(records, rows):
        statistics.write_table(folder / "search.csv", search_curves.COLUMNS, found)
    figures.draw(folder)
    html(folder)


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
    show(folder, verdicts=settings.get("verdicts", True))
    print(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    common.main(experiment, Config)
