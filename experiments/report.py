"""Tables, figures and report.html of a study, made from the files it left.

Reads ``config.json`` and ``results.csv``, and ``metrics.jsonl`` and the other tables of
a run where they are. Of searches over frozen weights it writes ``search.csv`` too. To
make them again:

    python -m experiments.report --output_dir=runs/x

What a setting does is seen in two runs that differ in it, paired by seed:

    python -m experiments.report --output_dir=runs/x --against=runs/y
"""

import base64
import dataclasses
import functools
import itertools
import json
import math
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from experiments.reports import (
    against,
    distances,
    drawings,
    figures,
    findings,
    mask_searches,
    reading,
    statistics,
    tables,
    trainings,
)
from experiments.study import command, records, rules, settings
from experiments.study.settings import setting
from jaxticket import checks, files


class Report(NamedTuple):
    """What the files of a run say.

    Attributes:
      folder: of the run.
      run: what every run has.
      parts: what has something to say, in order -> of what: findings of their rows,
        see `findings`, and like them what is said of every run.
      headlines: their sentences.
      tables: their tables.
    """

    folder: Path
    run: reading.Run
    parts: Mapping[ModuleType, Any]
    headlines: list[str]
    tables: list[tables.Table]


def read(folder: str | Path, *, margin: float | None = None) -> Report:
    """Reads the files of a run, and says in words what they show.

    What was asked comes first, and what was found afterwards last.

    Raises:
      ValueError: a file of the run is damaged.
    """
    folder = Path(folder)
    run = reading.read(folder, margin=margin)
    searches = mask_searches.searches(run)
    parts = {
        **dict(findings.of(folder, findings.ASKED)),
        trainings: run,
        **({} if searches.empty else {mask_searches: searches}),
        figures: run,
        **dict(findings.of(folder, findings.AFTERWARDS)),
    }
    headlines, found = (
        [*itertools.chain(*_said(parts, what))] for what in ("headlines", "sections")
    )
    if (moved := parts.get(distances)) is not None:
        headlines += _of_fewer(run, moved)
    return Report(folder, run, parts, headlines, found)


def _of_fewer(run: reading.Run, moved: pd.DataFrame) -> list[str]:
    """What is said where `experiments.movement` has not seen all tickets of a run."""
    keys = [*statistics.TICKET, "seed"]
    ours = run.rows.loc[run.rows["treatment"] == "ticket", keys].drop_duplicates()
    seen = len(ours.merge(moved[keys].drop_duplicates()))
    if seen == len(ours):
        return []
    return [
        f"{distances.FILE}, and what was written with it, is of {seen} of the "
        f"{len(ours)} tickets: `experiments.movement` looks at all."
    ]


def _said(parts: Mapping[ModuleType, Any], what: str) -> Iterator[Any]:
    """What each has to say in `headlines`, `sections` or `drawn`, where it has it."""
    for part, rows in parts.items():
        if say := getattr(part, what, None):
            yield say(rows)


def show(report: Report) -> None:
    """Prints what the tickets of a run have shown, and the tables."""
    tables.show(*report.headlines, *report.tables)


def make(folder: str | Path, *, margin: float | None = None) -> None:
    """Writes the page of a run, prints its headlines and tables, and where it is.

    Raises:
      ValueError: a file of the run is damaged.
    """
    report = read(folder, margin=margin)
    write(report)
    show(report)
    print(f"report: {Path(folder) / 'report.html'}")


def write(report: Report) -> None:
    """Makes the figures and ``report.html`` of a run, and ``search.csv``.

    The page is one file, with the figures inside.
    """
    folder, shown = report.folder, []
    if (found := report.parts.get(mask_searches)) is not None:
        rows = found.to_dict("records")
        records.write_table(folder / mask_searches.FILE, [*found], rows)
    (folder / "figures").mkdir(exist_ok=True)
    drawn = functools.reduce(operator.or_, _said(report.parts, "drawn"), {})
    for name, (drawing, caption) in drawn.items():
        png = drawings.png(drawing)
        files.write(folder / "figures" / f"{name}.png", png)
        width, data = 96 * drawing.get_figwidth(), base64.b64encode(png).decode()
        shown.append({"caption": caption, "width": round(width), "data": data})
    files.write(folder / "report.html", _page(report, shown))


def _page(report: Report, shown: list[dict[str, Any]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["setting"] = _setting
    terms = (getattr(part, "TERMS", {}) for part in report.parts)
    return environment.get_template("page.html").render(
        run=report.run,
        headlines=report.headlines,
        figures=shown,
        tables=report.tables,
        worded=tables.WORDED,
        terms=functools.reduce(operator.or_, terms, {}),
    )


def _setting(x: Any) -> str:
    """A setting or a number as text; NaN as a dash."""
    if isinstance(x, float):
        return tables.DASH if math.isnan(x) else f"{x:.6g}"
    return x if isinstance(x, str) else json.dumps(x)


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run to report on."""

    output_dir: str = setting(
        "runs/ticket_search", "folder of the run", rules.FOLDER_THERE
    )
    against: str | None = setting(
        None,
        "folder of another run, with the same seeds: every training of both is "
        "compared",
        rules.FOLDER_THERE,
    )
    margin: float | None = setting(
        None,
        "points of accuracy that a ticket may fall short of the dense network and "
        "still match it; default: as the run was told",
        checks.positive,
    )


def experiment(config: Config) -> None:
    """Makes the report of a finished run again."""
    settings.check(config)
    folder = Path(config.output_dir).expanduser()
    if config.against is not None:
        runs = [reading.read(x) for x in (folder, Path(config.against).expanduser())]
        tables.show(*against.differences(*runs), against.table(*runs))
        return
    make(folder, margin=config.margin)


if __name__ == "__main__":
    command.main(experiment, Config)
