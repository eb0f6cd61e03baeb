"""Tables, figures and report.html of a study, made from the files it left.

Reads ``config.json`` and ``results.csv``, and ``metrics.jsonl`` and ``overlaps.csv``
where they are. Of searches over frozen weights it writes ``search.csv`` too. To make
them again:

    python -m experiments.report --output_dir=runs/x
"""

import base64
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from experiments.reports import (
    drawings,
    figures,
    mask_searches,
    overlaps,
    statistics,
    tables,
)
from experiments.study import command
from jaxticket import files

MARGIN = 0.5


class Run(NamedTuple):
    """What the files of a run say.

    Attributes:
      about: its `config.json`.
      margin: points that a ticket may fall short of the dense network and match it.
      at: whose accuracies are compared, as the names of their columns begin: those at
        the early-stopping step of tickets that are trained, unless the run says
        otherwise, else after the last step.
      rows: its `results.csv`.
      looks: its `metrics.jsonl`, empty where it was not kept.
      searches: see `mask_searches.table`.
      overlapping: its `overlaps.csv`, empty where there is none.
    """

    about: dict[str, Any]
    margin: float
    at: str
    rows: pd.DataFrame
    looks: pd.DataFrame
    searches: pd.DataFrame
    overlapping: pd.DataFrame


def read(folder: str | Path, *, margin: float | None = None) -> Run:
    """Reads a run; a margin that is not given is that of its settings.

    Raises:
      ValueError: a file of it is damaged, or lacks columns or rows.
    """
    folder = Path(folder)
    path = folder / "config.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        margin = about["config"].get("margin", MARGIN) if margin is None else margin
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the config of a run: {error!r}") from error
    if not (isinstance(margin, int | float) and 0 < margin < math.inf):
        raise ValueError(f"--margin must be above 0 and finite, got {margin}")
    rows = statistics.read_results(folder / "results.csv")
    looks = statistics.read_metrics(folder / "metrics.jsonl")
    last = about["config"].get("compare") == "last" or not about.get("verdicts", True)
    return Run(
        about=about,
        margin=margin,
        at="" if last else "early_stopping_",
        rows=rows,
        looks=looks,
        searches=mask_searches.table(looks, rows),
        overlapping=overlaps.read(folder),
    )


def show(folder: str | Path, *, margin: float | None = None) -> None:
    """Prints what the tickets of a run have shown, and the tables."""
    headlines, found = _words(read(folder, margin=margin))
    tables.show(*headlines, *found)


def write(folder: str | Path, *, margin: float | None = None) -> None:
    """Makes the figures and ``report.html`` of a run, and ``search.csv``.

    The page is one file, with the figures inside.
    """
    folder = Path(folder)
    run = read(folder, margin=margin)
    if len(found := run.searches):
        path = folder / mask_searches.FILE
        statistics.write_table(path, [*found], found.to_dict("records"))
    (folder / "figures").mkdir(exist_ok=True)
    drawn = figures.drawn(run.rows, run.looks, run.overlapping, at=run.at)
    shown = []
    for name, (drawing, caption) in drawn.items():
        png = drawings.png(drawing)
        files.write(folder / "figures" / f"{name}.png", png)
        width, data = 96 * drawing.get_figwidth(), base64.b64encode(png).decode()
        shown.append({"caption": caption, "width": round(width), "data": data})
    files.write(folder / "report.html", _page(run, shown))


def _words(run: Run) -> tuple[list[str], list[tables.Table]]:
    """The headlines and the tables."""
    chosen = statistics.choose(run.rows, margin=run.margin, at=run.at)
    return (
        tables.headlines(chosen, margin=run.margin, at=run.at),
        [
            tables.milestones(chosen),
            tables.every_ticket(run.rows, margin=run.margin, at=run.at),
            *mask_searches.sections(run.searches),
            *overlaps.sections(run.overlapping),
        ],
    )


def _page(run: Run, shown: list[dict[str, Any]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["setting"] = _setting
    headlines, found = _words(run)
    config = run.about["config"]
    names = [_setting(config[name]) for name in ("dataset", "model") if name in config]
    cells = [map(_setting, line) for line in run.rows.itertuples(index=False)]
    return environment.get_template("page.html").render(
        run=run,
        title=": ".join(
            filter(None, (run.about.get("experiment", "Tickets"), ", ".join(names)))
        ),
        headlines=headlines,
        figures=shown,
        tables=found,
        worded=tables.WORDED,
        every=tables.Table("", [name.replace("_", " ") for name in run.rows], cells),
    )


def _setting(x: Any) -> str:
    """A setting or a number as text; NaN as a dash."""
    if isinstance(x, float):
        return tables.DASH if math.isnan(x) else f"{x:.6g}"
    return x if isinstance(x, str) else json.dumps(x)


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run to report on."""

    output_dir: str = dataclasses.field(
        default="runs/ticket_search", metadata={"help": "folder of the run"}
    )
    margin: float | None = dataclasses.field(
        default=None,
        metadata={
            "help": "points of accuracy that a ticket may fall short of the dense "
            "network and still match it; default: as the run was told"
        },
    )


def experiment(config: Config) -> None:
    """Makes the report of a finished run again."""
    write(config.output_dir, margin=config.margin)
    show(config.output_dir, margin=config.margin)
    print(f"report: {Path(config.output_dir) / 'report.html'}")


if __name__ == "__main__":
    command.main(experiment, Config)
