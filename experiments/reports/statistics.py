"""What the rows of a run say: intervals over seeds, paired differences, verdicts.

The seed is the unit of replication: it fixes initial weights and split for the dense
network, the ticket and its controls alike, so differences are taken within a seed. The
intervals are over seeds, for one test set. NaN is never dropped: a mean over a failed
run is NaN, its verdict "unknown".

Reference:
  Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, Section 1.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxticket import files
from jaxticket.analysis import TIE, Interval, interval, ratio, verdict

COLUMNS = (
    "method",
    "treatment",
    "seed",
    "prunings",
    "setting",
    "density",
    "test_accuracy",
    "validation_accuracy",
    "early_stopping_step",
    "early_stopping_test_accuracy",
    "early_stopping_validation_accuracy",
    "best_test_accuracy",
    "train_loss",
    "steps",
    "search_steps",
    "search_epochs",
    "search_seconds",
    "seconds",
)
LATER = (  # columns that files of earlier versions lack
    "setting",
    "early_stopping_validation_accuracy",
    "best_test_accuracy",
    "search_epochs",
    "search_seconds",
)
LOOK = ("seed", "prunings", "step", "method", "treatment", "setting")
MEASURED = (
    "density",
    "train_loss",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "changed",
)
TICKET = ["method", "setting", "prunings"]  # what tells the tickets of a seed apart
WORDS = ("method", "treatment", "setting", "criterion")
NAN = ["", "nan"]
WHOLE = ("seed", "prunings", "images")
NO_CONTROLS = ("dense", "ticket", "tuned", "search")  # among the treatments
ACCEPTED = ("better", "matches")  # verdicts


class Summary(NamedTuple):
    """What the seeds together say of one ticket.

    Attributes:
      method: name of the search.
      setting: what tells its lanes apart, as "density=0.2", or empty.
      prunings: how often the ticket has been pruned.
      seeds: number of tickets.
      density: mean fraction of the prunable weights kept.
      accuracy: what `summarise` was told to compare.
      to_dense: accuracy less the dense network's, paired.
      to_controls: name of a control -> accuracy less its, paired.
      step: early-stopping step, of the minimum validation loss.
      step_ratio: that over the dense network's, see `ratio`.
      without_ratio: seeds of which a step is 0 or missing, so that there is no ratio.
      wins: seeds whose ticket wins as the paper defines it: at least as accurate as the
        dense network, no later, with fewer weights.
      verdict: see `verdict`.
      search_epochs: mean passes over the data until the ticket was found.
      search_seconds: the time that they took.
    """

    method: str
    setting: str
    prunings: int
    seeds: int
    density: float
    accuracy: Interval
    to_dense: Interval
    to_controls: Mapping[str, Interval]
    step: Interval
    step_ratio: Interval
    without_ratio: int
    wins: int
    verdict: str
    search_epochs: float
    search_seconds: float


class Chosen(NamedTuple):
    """The tickets that speak for a method, chosen by validation accuracy.

    Attributes:
      among: of how many sparse tickets.
      unknown: how many of these have a failed seed, and so cannot be chosen.
      sparsest: of those that match the dense network, with its test accuracy, or None.
      best: the most accurate, or None.
    """

    among: int
    unknown: int
    sparsest: Summary | None
    best: Summary | None


def read_results(path: str | Path) -> pd.DataFrame:
    """Reads ``results.csv``: `COLUMNS`, a row a training.

    What earlier versions did not write is NaN, except the validation accuracy at the
    early-stopping step, for which that of the last step stands in.

    Raises:
      ValueError: the file is damaged, or lacks columns or rows.
    """
    rows = read_table(path, COLUMNS, optional=LATER)
    if (again := rows.duplicated([*TICKET, "treatment", "seed"])).any():
        raise ValueError(f"{path}, line {again.idxmax() + 2}: a training comes twice")
    if rows["early_stopping_validation_accuracy"].isna().all():
        rows["early_stopping_validation_accuracy"] = rows["validation_accuracy"]
    return rows


def read_table(
    path: str | Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> pd.DataFrame:
    """Reads the named columns of a CSV file; an empty cell is NaN, or an empty word.

    Raises:
      ValueError: it lacks a column that is not optional, a number, or any row.
    """
    types = dict.fromkeys(columns, float) | dict.fromkeys(WORDS, str)
    types |= dict.fromkeys((*WHOLE, "round"), int)
    try:
        rows = _with_prunings(
            pd.read_csv(path, dtype=types, keep_default_na=False, na_values=NAN)
        )
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error
    if missing := {*columns} - {*optional} - {*rows.columns}:
        raise ValueError(f"{path} lacks the columns {sorted(missing)}")
    if rows.empty:
        raise ValueError(f"{path} holds no rows")
    return _reindexed(rows, columns)


def write_table(
    path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Writes a CSV file that `read_table` reads; NaN and None are empty cells."""
    table = pd.DataFrame(list(rows), columns=list(columns))
    files.write(Path(path), table.to_csv(index=False, lineterminator="\n"))


def read_metrics(path: str | Path) -> pd.DataFrame:
    """Reads ``metrics.jsonl``: `LOOK` and `MEASURED`, a row an evaluation.

    Results are kept without the file where no curve is shown: it is as if it were
    empty. After a resume an evaluation may come twice: the later stands.

    Raises:
      ValueError: the file is damaged, except for a last line cut off by a kill.
    """
    lines, records = [], []
    if Path(path).exists():
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            records.append({**json.loads(line)})
        except (TypeError, json.JSONDecodeError) as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: {error}") from error
    looks = _with_prunings(pd.DataFrame(records, columns=None if records else LOOK))
    if missing := {*LOOK} - {"setting"} - {*looks.columns}:
        raise ValueError(f"{path} lacks {sorted(missing)}")
    types = dict.fromkeys(MEASURED, float) | dict.fromkeys(LOOK[:3], int)
    try:
        looks = _reindexed(looks, (*LOOK, *MEASURED)).astype(types)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return looks.drop_duplicates([*LOOK], keep="last", ignore_index=True)


def _with_prunings(rows: pd.DataFrame) -> pd.DataFrame:
    """Earlier versions have `round`, which numbers the settings where there are some.

    Of what is kept from them, tickets of a setting were pruned once.
    """
    if "prunings" in rows or "round" not in rows:
        return rows
    rounds = rows.pop("round")
    if "setting" in rows:
        rounds = rounds.where(rows["setting"].isin(("", np.nan)), 1)
    return rows.assign(prunings=rounds)


def _reindexed(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """These columns; what is not there is NaN, or an empty word."""
    rows = rows.reindex(columns=list(columns))
    words = rows.columns.intersection(list(WORDS))
    return rows.assign(**rows[words].astype(object).fillna(""))


def tickets(rows: pd.DataFrame):
    """Groups rows by `TICKET`: methods as they come, the densest settings first."""
    keys = {
        "_method": pd.factorize(rows["method"])[0],
        "_sparsity": -rows.groupby(["method", "setting"])["density"].transform("mean"),
    }
    ordered = rows.assign(**keys).sort_values([*keys, "prunings"], kind="stable")
    return ordered.groupby(TICKET, sort=False)


def summarise(
    rows: pd.DataFrame,
    *,
    margin: float,
    accuracy: str = "early_stopping_test_accuracy",
    dense_accuracy: str | None = None,
) -> list[Summary]:
    """Summarises every ticket over its seeds.

    Args:
      rows: of `read_results`.
      margin: see `verdict`.
      accuracy: the column to compare. The paper's definition, the default, is test
        accuracy at the step of minimum validation loss.
      dense_accuracy: that of the dense network, if it is another.
    """
    found = rows[rows["treatment"] == "ticket"]
    seeds, order = found["seed"].unique(), [key for key, _ in tickets(found)]

    def of(column: str, treatment: str = "ticket") -> np.ndarray:
        """`[tickets, seeds]`; what is not there is NaN, like what has failed."""
        table = rows[rows["treatment"] == treatment]
        table = table.pivot(index=TICKET, columns="seed", values=column)
        return table.reindex(index=order, columns=seeds).to_numpy(float)

    dense = rows[rows["treatment"] == "dense"].set_index("seed").reindex(seeds)
    dense_step = dense["early_stopping_step"].to_numpy(float)
    others = rows["treatment"].unique()
    controls = {x: of(accuracy, x) for x in others if x not in NO_CONTROLS}
    densities, accuracies = of("density"), of(accuracy)
    steps, epochs = of("early_stopping_step"), of("search_epochs")
    seconds = of("search_seconds")
    summaries = []
    for i, key in enumerate(order):
        density, step = densities[i], steps[i]
        difference = accuracies[i] - dense[dense_accuracy or accuracy]
        to_dense, both = interval(difference), (step > 0) & (dense_step > 0)
        wins = (density < 1) & (difference >= -TIE) & (step <= dense_step)
        summaries.append(
            Summary(
                *key,
                seeds=len(seeds),
                density=density.mean(),
                accuracy=interval(accuracies[i]),
                to_dense=to_dense,
                to_controls={
                    name: interval(accuracies[i] - control[i])
                    for name, control in controls.items()
                },
                step=interval(step),
                step_ratio=ratio(step, dense_step),
                without_ratio=len(seeds) - both.sum(),
                wins=wins.sum(),
                verdict=verdict(to_dense, margin=margin, density=density.mean()),
                search_epochs=epochs[i].mean(),
                search_seconds=seconds[i].mean(),
            )
        )
    return summaries


def choose(rows: pd.DataFrame, *, margin: float, at: str) -> dict[str, Chosen]:
    """Chooses tickets of every method on validation, and reports them on test.

    Args:
      rows: of `read_results`.
      margin: see `verdict`.
      at: "early_stopping_" or "", of the last step: of which accuracies.
    """
    seen = summarise(rows, margin=margin, accuracy=f"{at}validation_accuracy")
    told = summarise(rows, margin=margin, accuracy=f"{at}test_accuracy")
    pairs = [*zip(seen, told, strict=True)]
    chosen, nobody = {}, (None, None)
    for method in dict.fromkeys(summary.method for summary in seen):
        ours = [p for p in pairs if p[0].method == method and not p[0].density >= 1]
        sums = [by.accuracy.mean + on.accuracy.mean for by, on in ours]
        known = [p for p, x in zip(ours, sums, strict=True) if not math.isnan(x)]
        matching = [p for p in known if p[0].verdict in ACCEPTED]
        chosen[method] = Chosen(
            among=len(ours),
            unknown=len(ours) - len(known),
            sparsest=min(matching, key=lambda p: p[0].density, default=nobody)[1],
            best=max(known, key=lambda p: p[0].accuracy.mean, default=nobody)[1],
        )
    return chosen
