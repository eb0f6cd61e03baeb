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
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pandas as pd

from experiments.reports import (
    against,
    drawings,
    figures,
    findings,
    mask_searches,
    reading,
    statistics,
    tables,
)
from experiments.study import command, records, rules, settings
from experiments.study.settings import setting
from jaxticket import checks, files

Besides = list[tuple[ModuleType, pd.DataFrame]]  # see `findings`


def show(folder: str | Path, *, margin: float | None = None) -> None:
    """Prints what the tickets of a run have shown, and the tables.

    Raises:
      ValueError: a file of the run is damaged.
    """
    folder = Path(folder)
    run = reading.read(folder, margin=margin)
    headlines, found = _words(run, [*findings.of(folder)])
    tables.show(*headlines, *found)


def make(folder: str | Path, *, margin: float | None = None) -> None:
    """Writes the page of a run, prints its headlines and tables, and where it is."""
    write(folder, margin=margin)
    show(folder, margin=margin)
    print(f"report: {Path(folder) / 'report.html'}")


def write(folder: str | Path, *, margin: float | None = None) -> None:
    """Makes the figures and ``report.html`` of a run, and ``search.csv``.

    The page is one file, with the figures inside.

    Raises:
      ValueError: a file of the run is damaged.
    """
    folder, shown = Path(folder), []
    run = reading.read(folder, margin=margin)
    if len(found := mask_searches.searches(run)):
        rows = found.to_dict("records")
        records.write_table(folder / "search.csv", [*found], rows)
    (folder / "figures").mkdir(exist_ok=True)
    besides = [*findings.of(folder)]
    first, last = _parted(besides, lambda finding, rows: finding.drawn(rows))
    for name, (drawing, caption) in functools.reduce(
        operator.or_, [*first, figures.drawn(run), *last]
    ).items():
        png = drawings.png(drawing)
        files.write(folder / "figures" / f"{name}.png", png)
        width, data = 96 * drawing.get_figwidth(), base64.b64encode(png).decode()
        shown.append({"caption": caption, "width": round(width), "data": data})
    files.write(folder / "report.html", _page(run, shown, besides))


def _words(run: reading.Run, besides: Besides) -> tuple[list[str], list[tables.Table]]:
    """The headlines and the tables: what was asked comes first."""
    tickets = statistics.tickets(run)
    chosen = statistics.choose(tickets)
    of_tickets = [tables.milestones(chosen), tables.every_ticket(run, tickets)]
    first, last = _parted(
        besides, lambda finding, rows: (finding.headlines(rows), finding.sections(rows))
    )
    of_run = [
        *(of_tickets if tickets else ()),
        *mask_searches.sections(mask_searches.searches(run)),
        *tables.overlaps(run.overlaps),
    ]
    every = [*first, (tables.headlines(run, chosen), of_run), *last]
    said, shown = zip(*every, strict=True)
    return [*itertools.chain(*said)], [*itertools.chain(*shown)]


def _parted(
    besides: Besides, say: Callable[[ModuleType, pd.DataFrame], Any]
) -> tuple[list[Any], list[Any]]:
    """What findings say: those of the run's own question, and those made afterwards."""
    said = [(x in findings.AFTERWARDS, say(x, rows)) for x, rows in besides]
    return [x for late, x in said if not late], [x for late, x in said if late]


def _page(run: reading.Run, shown: list[dict[str, Any]], besides: Besides) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["setting"] = _setting
    headlines, found = _words(run, besides)
    terms = {term: x for finding, _ in besides for term, x in finding.TERMS.items()}
    return environment.get_template("page.html").render(
        run=run,
        headlines=headlines,
        figures=shown,
        tables=found,
        worded=tables.WORDED,
        terms=terms,
        searched=mask_searches.looks(run).size > 0,
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
