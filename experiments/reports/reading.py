"""Reads the files of a run: those of today, and those of earlier versions."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments.study import records
from experiments.study.records import Lane
from jaxticket import checks

MARGIN = 0.5
LATER = (  # columns that files of earlier versions lack
    "setting",
    "early_stopping_validation_accuracy",
    "best_test_accuracy",
    "search_epochs",
    "search_seconds",
)
MEASURED = (
    "density",
    "train_loss",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "changed",
)
EFFECTIVE = ("effective_density",)  # of `layers.csv`, likewise
LOOKS = Lane.__annotations__ | {"step": int} | dict.fromkeys(MEASURED, float)
# The searches that those of earlier versions are compared with, see `Method.reference`.
REFERENCES = dict.fromkeys(
    ("jackpot", "jackpot_restricted", "jackpot_unrestricted"), "jackpot_from_random"
)


class Run(NamedTuple):
    """What the files of a run say.

    Attributes:
      about: its `config.json`.
      margin: points that a ticket may fall short of the dense network and match it.
      at: whose accuracies are compared, as the names of their columns begin: those at
        the early-stopping step of tickets that are trained, unless the run says
        otherwise, else after the last step.
      rows: its `results.csv`, a row a training.
      looks: its `metrics.jsonl`, a row an evaluation; empty where it was not kept.
      layers: its `layers.csv`, empty where there is none.
      inputs: its `inputs.csv`, likewise.
      divergence: its `divergence.csv`, likewise.
    """

    about: Mapping[str, Any]
    margin: float
    at: str
    rows: pd.DataFrame
    looks: pd.DataFrame
    layers: pd.DataFrame
    inputs: pd.DataFrame
    divergence: pd.DataFrame


def read(folder: str | Path, *, margin: float | None = None) -> Run:
    """Reads a run; a margin that is not given is that of its settings.

    Raises:
      ValueError: a file of it is damaged, or lacks columns or rows.
    """
    folder = Path(folder)
    path = folder / "config.json"
    try:
        about = {"references": REFERENCES} | json.loads(path.read_text("utf-8"))
        margin = about["config"].get("margin", MARGIN) if margin is None else margin
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no run: it has no config.json") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the config of a run: {error!r}") from error
    checks.positive(**{"--margin": margin})
    last = about["config"].get("compare") == "last" or not about.get("verdicts", True)
    return Run(
        about=about,
        margin=margin,
        at="" if last else "early_stopping_",
        rows=_over_draws(results(folder / "results.csv"), Lane._fields),
        looks=_over_draws(looks(folder / "metrics.jsonl"), (*Lane._fields, "step")),
        layers=_beside(folder / "layers.csv", records.LAYERS, optional=EFFECTIVE),
        inputs=_beside(folder / "inputs.csv", records.INPUTS),
        divergence=_beside(folder / "divergence.csv", records.DIVERGENCE),
    )


def _over_draws(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Several draws of a control as one: their mean, so that a seed has one number."""
    treatment = rows["treatment"].str.replace(r" \d+$", "", regex=True)
    if treatment.equals(rows["treatment"]):
        return rows
    together = rows.assign(treatment=treatment).groupby([*keys], sort=False)
    return together.mean().reset_index()[[*rows]]


def _beside(
    path: Path, columns: Mapping[str, type], *, optional: Collection[str] = ()
) -> pd.DataFrame:
    """Reads a file that not every run has."""
    if path.exists():
        return table(path, columns, optional=optional)
    return pd.DataFrame(columns=[*columns])


def results(path: Path) -> pd.DataFrame:
    """Reads ``results.csv``: `records.COLUMNS`.

    What earlier versions did not write is NaN, except the validation accuracy at the
    early-stopping step, for which that of the last step stands in.
    """
    try:
        rows = table(path, records.COLUMNS, optional=LATER)
    except FileNotFoundError:
        raise ValueError(
            f"{path.parent} has no results.csv: no training there has finished"
        ) from None
    if (again := rows.duplicated([*Lane._fields])).any():
        raise ValueError(f"{path}, line {again.idxmax() + 2}: a training comes twice")
    if rows["early_stopping_validation_accuracy"].isna().all():
        rows["early_stopping_validation_accuracy"] = rows["validation_accuracy"]
    return rows


def table(
    path: Path, columns: Mapping[str, type], *, optional: Collection[str] = ()
) -> pd.DataFrame:
    """Reads these columns of a CSV file; an empty cell is NaN, or an empty word."""
    kinds, nan = {**columns, "round": int}, ["", "nan"]
    try:
        rows = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=nan)
        rows = _typed(rows, columns, optional)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error
    if rows.empty:
        raise ValueError(f"{path} holds no rows")
    return rows


def resumed(
    path: Path, columns: Mapping[str, type], names: Sequence[str]
) -> tuple[list[dict[str, Any]], set[tuple]]:
    """The rows of a table that a run goes on with, and what is done: these columns."""
    rows = table(path, columns).to_dict("records") if path.exists() else []
    return rows, {tuple(row[name] for name in names) for row in rows}


def looks(path: Path) -> pd.DataFrame:
    """Reads ``metrics.jsonl``: `LOOKS`; a last line cut off by a kill is left out.

    After a resume an evaluation may come twice: the later stands.
    """
    text = path.read_text("utf-8", errors="replace") if path.exists() else ""
    found = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            found.append({**json.loads(line)})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    try:
        rows = pd.DataFrame(found, columns=None if found else [*LOOKS])
        rows = _typed(rows, LOOKS, ("setting", *MEASURED))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return rows.drop_duplicates([*Lane._fields, "step"], keep="last", ignore_index=True)


def _typed(
    rows: pd.DataFrame, columns: Mapping[str, type], optional: Collection[str]
) -> pd.DataFrame:
    """These columns; what need not be there is NaN, or an empty word.

    Earlier versions have `round` for `prunings`. Where there are settings it numbers
    them: of what is kept, tickets of a setting were pruned once.
    """
    if "round" in rows and "prunings" not in rows:
        rows = rows.rename(columns={"round": "prunings"})
        if "setting" in rows:
            unset = rows["setting"].isna() | (rows["setting"] == "")
            rows["prunings"] = rows["prunings"].where(unset, 1)
    if missing := {*columns} - {*optional} - {*rows}:
        raise ValueError(f"it lacks the columns {sorted(missing)}")
    rows = rows.reindex(columns=[*columns])
    words = [name for name, kind in columns.items() if kind is str]
    rows[words] = rows[words].astype(object).fillna("")
    return rows.astype(dict(columns))
