"""What a run's results say: intervals over seeds, paired differences, verdicts.

The seed is the unit of replication: it fixes initial weights, data order and split for
the dense network, the ticket and the controls alike, so differences are taken within a
seed. NaN is never dropped: a mean over a failed run is NaN, and its verdict "unknown".

Reference:
  Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, Section 1.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import special

from experiments.study.study import common

Row = dict[str, Any]

COLUMNS = (
    "method",
    "treatment",
    "seed",
    "round",
    "setting",
    "density",
    "test_accuracy",
    "validation_accuracy",
    "early_stopping_step",
    "early_stopping_test_accuracy",
    "best_test_accuracy",
    "train_loss",
    "steps",
    "search_steps",
    "search_epochs",
    "search_seconds",
    "seconds",
)
LATER = ("best_test_accuracy",)  # columns that files of earlier versions lack
WORDS = ("method", "treatment", "setting", "criterion")
WHOLE = ("seed", "round", "images")
TIE = 1e-6  # accuracies are float32: less than this is rounding, not an image


class Interval(NamedTuple):
    """A mean and the half width of its 95% interval, NaN for a single value."""

    mean: float
    half_width: float


class Summary(NamedTuple):
    """What the seeds together say of one method's tickets at one round.

    Attributes:
      method: name of the search.
      round: round of the search, from 1; of a parallel one, number of the setting.
      setting: what that setting is, as "s0=-0.1", or empty.
      seeds: number of tickets.
      density: mean fraction of the prunable weights kept.
      accuracy: test accuracy, at the early-stopping step unless `summarise` was told
        otherwise.
      early_stopping_step: step of the minimum validation loss.
      to_dense: accuracy less the dense network's, paired; None without a dense run.
      to_reinitialised: accuracy less the re-initialised control's, paired, or None.
      step_ratio: mean early-stopping step over the dense network's, or None.
      wins: number of seeds whose own ticket wins.
      verdict: "winning", "no: ..." or "unknown".
      clear: whether the interval of ``to_dense`` excludes 0.
      search_epochs: passes over the data that the search took to find a ticket.
    """

    method: str
    round: int
    setting: str
    seeds: int
    density: float
    accuracy: Interval
    early_stopping_step: Interval
    to_dense: Interval | None
    to_reinitialised: Interval | None
    step_ratio: float | None
    wins: int
    verdict: str
    clear: bool
    search_epochs: float


def read_results(path: str | Path) -> list[Row]:
    """Reads ``results.csv``; an empty cell is NaN, and so is a column of `LATER`."""
    return read_table(path, COLUMNS, optional=LATER)


def read_table(
    path: str | Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> list[Row]:
    """Reads the named columns of a CSV file; what is not there is NaN.

    Raises:
      ValueError: it lacks a column that is not optional, a number, or any row.
    """

    def parse(row: Mapping[str, str]) -> Row:
        def value(name: str) -> Any:
            if name in optional and name not in row:
                return math.nan
            if name in WORDS:
                return row[name]
            return int(row[name]) if name in WHOLE else float(row[name] or "nan")

        return {name: value(name) for name in columns}

    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := {*columns} - {*optional} - set(reader.fieldnames or ()):
            raise ValueError(f"{path} lacks the columns {sorted(missing)}")
        try:
            rows = [parse(row) for row in reader]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows


def write_table(
    path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Writes a CSV file that `read_table` reads; NaN and None are empty cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: None if v != v else v for k, v in row.items()})
    common.write(Path(path), text.getvalue())


def read_metrics(path: str | Path) -> list[Row]:
    """Reads ``metrics.jsonl``; null is NaN."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # a run killed in the middle of a write
                break
            raise ValueError(f"{path}, line {number}: {error}") from error
        records.append({k: math.nan if v is None else v for k, v in record.items()})
    return records


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows that have every wanted value."""
    return [row for row in rows if all(row[k] == v for k, v in wanted.items())]


def distinct(rows: Iterable[Row], column: str) -> list[Any]:
    """The values of a column, each once, in order of appearance."""
    return list(dict.fromkeys(row[column] for row in rows))


def by_seed(rows: Iterable[Row], column: str) -> dict[int, float]:
    """A column's value of each seed."""
    return {row["seed"]: row[column] for row in rows}


def interval(values: Iterable[float]) -> Interval:
    """Mean and half width of its 95% interval by Student's t."""
    values = list(values)
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    t = float(special.stdtrit(n - 1, 0.975))
    return Interval(mean, t * math.sqrt(variance / n))


def paired_differences(
    first: Mapping[int, float], second: Mapping[int, float]
) -> list[float]:
    """``first - second`` of every seed that both have."""
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def verdict(density: float, difference: float, step: float, dense_step: float) -> str:
    """Whether a ticket wins: at least as accurate, no later, with fewer weights.

    Args:
      density: fraction of the weights kept.
      difference: test accuracy at the early-stopping step less the dense network's.
      step: early-stopping step.
      dense_step: early-stopping step of the dense network.

    Returns:
      "winning", "no: lower accuracy", "no: later", "no: both" or "no: not sparser";
      "unknown" where a number is NaN.
    """
    if any(map(math.isnan, (density, difference, step, dense_step))):
        return "unknown"
    if density >= 1:
        return "no: not sparser"
    lower, later = difference < -TIE, step > dense_step
    if lower and later:
        return "no: both"
    return "no: lower accuracy" if lower else "no: later" if later else "winning"


def summarise(
    rows: Sequence[Row], *, accuracy: str = "early_stopping_test_accuracy"
) -> list[Summary]:
    """Summarises the tickets of each method and round, over the seeds.

    Args:
      rows: rows of ``results.csv``.
      accuracy: the column to compare. The paper's definition, the default, is test
        accuracy at the step of minimum validation loss.
    """
    tickets = select(rows, treatment="ticket")
    return [
        _summary(rows, method, round_, accuracy)
        for method in distinct(tickets, "method")
        for round_ in sorted(distinct(select(tickets, method=method), "round"))
    ]


def _summary(rows: Sequence[Row], method: str, round_: int, accuracy: str) -> Summary:
    here = select(rows, method=method, round=round_)
    ticket = {row["seed"]: row for row in select(here, treatment="ticket")}
    dense = {row["seed"]: row for row in select(rows, treatment="dense")}
    control = by_seed(select(here, treatment="reinitialise"), accuracy)
    accuracies = by_seed(ticket.values(), accuracy)
    steps = by_seed(ticket.values(), "early_stopping_step")
    density = interval(row["density"] for row in ticket.values()).mean

    pairs = sorted(ticket.keys() & dense.keys())
    to_dense = interval(
        paired_differences(accuracies, by_seed(dense.values(), accuracy))
    )
    step = interval(steps[seed] for seed in pairs).mean
    dense_step = interval(dense[seed]["early_stopping_step"] for seed in pairs).mean
    verdicts = [
        verdict(
            ticket[seed]["density"],
            accuracies[seed] - dense[seed][accuracy],
            steps[seed],
            dense[seed]["early_stopping_step"],
        )
        for seed in pairs
    ]
    shared = paired_differences(accuracies, control)
    return Summary(
        method=method,
        round=round_,
        setting=here[0]["setting"],
        seeds=len(ticket),
        density=density,
        accuracy=interval(accuracies.values()),
        early_stopping_step=interval(steps.values()),
        to_dense=to_dense if pairs else None,
        to_reinitialised=interval(shared) if shared else None,
        step_ratio=step / dense_step if pairs and dense_step else None,
        wins=verdicts.count("winning"),
        verdict=verdict(density, to_dense.mean, step, dense_step),
        clear=abs(to_dense.mean) > to_dense.half_width + TIE,
        search_epochs=interval(row["search_epochs"] for row in ticket.values()).mean,
    )
