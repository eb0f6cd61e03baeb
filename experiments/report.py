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
from experiments.study import common

MARGIN = 0.5


class Run(NamedTuple):
    """What the files of a run say.

    Attributes:
      about: its `config.json`.
      rows: its `results.csv`.
      looks: its `metrics.jsonl`, empty where it was not kept.
      searches: rows of `search.csv`: made from the looks, or kept without them.
      overlapping: its `overlaps.csv`, empty where there is none.
      margin: points that a ticket may fall short of the dense network and match it.
      trained: whether tickets are trained as the dense network is.
      at: whose accuracies are compared, the start of the names of their columns: at the
        early-stopping step of what is trained, else after the last step.
      notes: where accuracies are taken, and what is missing.
    """

    about: dict[str, Any]
    rows: pd.DataFrame
    looks: pd.DataFrame
    searches: pd.DataFrame
    overlapping: pd.DataFrame
    margin: float
    trained: bool
    at: str
    notes: list[str]


def read(folder: str | Path, *, margin: float | None = None) -> Run:
    """Reads a run; a margin that is not given is that of its settings.

    Raises:
      ValueError: a file of it is damaged, or lacks columns or rows.
    """
    folder = Path(folder)
    about = _read_config(folder / "config.json")
    rows = statistics.read_results(folder / "results.csv")
    if margin is None:
        margin = about["config"].get("margin", MARGIN)
    if not (isinstance(margin, int | float) and 0 < margin < math.inf):
        raise ValueError(f"--margin must be above 0 and finite, got {margin}")
    trained = about.get("verdicts", True)
    where = "at the early-stopping step" if trained else "after the last step"
    notes = [f"Accuracies are those {where}, where nothing else is said."]
    if (folder / "metrics.jsonl").exists():
        looks = statistics.read_metrics(folder / "metrics.jsonl")
        searches = mask_searches.table(looks, rows)
    else:
        looks = pd.DataFrame(columns=[*statistics.LOOK, *statistics.MEASURED])
        searches = mask_searches.read(folder)
        notes.append("There is no metrics.jsonl, so there are no curves.")
    return Run(
        about=about,
        rows=rows,
        looks=looks,
        searches=searches,
        overlapping=overlaps.read(folder),
        margin=margin,
        trained=trained,
        at="early_stopping_" if trained else "",
        notes=notes,
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        about["config"].keys()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the config of a run: {error!r}") from error
    return about


def headlines_and_tables(run: Run) -> tuple[list[str], list[tables.Table]]:
    """What the page and the terminal show."""
    chosen = statistics.choose(run.rows, margin=run.margin, at=run.at)
    return (
        tables.headlines(chosen, margin=run.margin, at=run.at),
        [
            tables.milestones(chosen),
            tables.every_ticket(
                run.rows, margin=run.margin, at=run.at, trained=run.trained
            ),
            *(mask_searches.sections(run.searches) if len(run.searches) else []),
            *overlaps.sections(run.overlapping),
        ],
    )


def show(folder: str | Path, *, margin: float | None = None) -> None:
    """Prints what the tickets of a run have shown, and the tables."""
    run = read(folder, margin=margin)
    headlines, found = headlines_and_tables(run)
    tables.show(*headlines, *found)


def write(folder: str | Path, *, margin: float | None = None) -> None:
    """Makes the figures and ``report.html`` of a run, and ``search.csv``.

    The page is one file, with the figures inside.
    """
    folder = Path(folder)
    run = read(folder, margin=margin)
    if not run.searches.empty:
        statistics.write_table(
            folder / mask_searches.FILE,
            mask_searches.COLUMNS,
            run.searches.to_dict("records"),
        )
    (folder / "figures").mkdir(exist_ok=True)
    shown = []
    for name, (drawing, caption) in figures.drawn(
        run.rows, run.looks, run.overlapping, at=run.at, trained=run.trained
    ).items():
        png = drawings.png(drawing)
        common.write(folder / "figures" / f"{name}.png", png)
        shown.append(
            {
                "caption": caption,
                "width": round(96 * drawing.get_figwidth()),
                "data": base64.b64encode(png).decode(),
            }
        )
    common.write(folder / "report.html", _page(run, shown))


def _page(run: Run, shown: list[dict[str, Any]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["setting"] = _setting
    config = run.about["config"]
    names = [_setting(config[name]) for name in ("dataset", "model") if name in config]
    headlines, found = headlines_and_tables(run)
    experiment = run.about.get("experiment", "Tickets")
    return environment.get_template("page.html").render(
        title=f"{experiment}: {', '.join(names)}" if names else experiment,
        headlines=headlines,
        notes=run.notes,
        figures=shown,
        tables=found,
        worded=tables.WORDED,
        command=_setting(run.about.get("command", "")),
        config=config,
        environment=run.about.get("environment", {}),
        runs=tables.Table(
            "",
            [name.replace("_", " ") for name in run.rows],
            [map(_setting, line) for line in run.rows.itertuples(index=False)],
            {},
        ),
    )


def _setting(x: Any) -> str:
    """A setting or a number as text; NaN as a dash."""
    if isinstance(x, float):
        return "–" if math.isnan(x) else f"{x:.6g}"
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
    common.main(experiment, Config)
