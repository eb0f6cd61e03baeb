"""How far a search over frozen weights is after each epoch, and what that saves.

Such a search runs its ticket from the first step on, so its looks are a curve of the
ticket's accuracy. Beside it are the masks that are tested without a search.

Reference:
  Zhang et al., "Lottery Jackpots Exist in Pre-trained Models", 2023: from the mask of
  the largest magnitudes a search gets as far at a third of the cost, or less.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.reports import statistics
from experiments.reports.statistics import TIE, Row

COLUMNS = (
    "method",
    "seed",
    "setting",
    "density",
    "search_epochs",
    "before_test_accuracy",
    "final_test_accuracy",
    "best_test_accuracy",
    "best_epoch",
    "tuned_test_accuracy",
    "reference",
    "target_test_accuracy",
    "reference_epochs",
    "epochs_to_target",
)
REFERENCE = "_from_random"  # how the name of a search from a random mask ends


class Curve(NamedTuple):
    """The looks of one search.

    Attributes:
      epochs: passes over the data before each, rising.
      accuracy: test accuracy at each.
      density: of the mask.
    """

    epochs: Sequence[float]
    accuracy: Sequence[float]
    density: float = math.nan


def searched(records: Sequence[Row]) -> list[str]:
    """The methods whose masks were searched: their looks count the entries changed."""
    return statistics.distinct((r for r in records if "changed" in r), "method")


def looks(records: Sequence[Row]) -> list[Row]:
    """Those of the searches, and of masks that were only tested; none without both."""
    methods = searched(records)
    tickets = statistics.select(records, treatment="ticket")
    moved = {record["method"] for record in tickets if record["step"]}
    still = [r for r in tickets if r["method"] not in moved.union(methods)]
    return [r for r in records if "changed" in r] + (still if methods else [])


def epochs_of_a_step(rows: Sequence[Row]) -> float:
    """From the longest search, of which the rounded number is the most exact."""
    longest = max(rows, key=lambda row: row["search_steps"])
    return longest["search_epochs"] / (longest["search_steps"] or math.nan)


def curves(
    records: Sequence[Row], rows: Sequence[Row]
) -> dict[tuple[str, str], dict[int, Curve]]:
    """`(method, setting)` -> seed -> curve, of the `looks`."""
    found: dict[tuple, dict[int, dict]] = {}
    for record in looks(records):  # after a resume a step may come twice: later stands
        key = record["method"], record["setting"]
        seeds = found.setdefault(key, {})
        seeds.setdefault(record["seed"], {})[record["step"]] = record
    epoch = epochs_of_a_step(rows)

    def curve(steps: Mapping[int, Row]) -> Curve:
        order = sorted(steps)
        return Curve(
            [round(step * epoch, 3) if step else 0.0 for step in order],
            [steps[step]["test_accuracy"] for step in order],
            steps[order[-1]]["density"],
        )

    return {
        key: {seed: curve(steps) for seed, steps in seeds.items()}
        for key, seeds in found.items()
    }


def epochs_to(curve: Curve, accuracy: float) -> float:
    """After how many epochs a search is first that accurate; NaN if it never is.

    At 0 its mask is so before the first step. The answer is exact to within a look.
    """
    pairs = zip(curve.epochs, curve.accuracy, strict=True)
    return next((e for e, reached in pairs if reached >= accuracy - TIE), math.nan)


def table(records: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """A row for every search and seed, in the order of `COLUMNS`: `search.csv`.

    A search is compared with the one of its kind from a random mask, at the same seed
    and density: how many epochs it takes to be as accurate as that one is at its end,
    and after how many that one first is.
    """
    found = curves(records, rows)
    names = searched(records)
    tuned = statistics.select(rows, treatment="tuned")
    lines = []
    for (method, setting), seeds in found.items():
        reference = _reference(method, names)
        others = found.get((reference, setting), {})
        ours = statistics.select(tuned, method=method, setting=setting)
        afterwards = statistics.by_seed(ours, "test_accuracy")
        for seed, curve in seeds.items():
            other = others.get(seed, Curve((), (math.nan,)))
            target = other.accuracy[-1]
            best = float(np.max(curve.accuracy))
            values = (
                method,
                seed,
                setting,
                curve.density,
                curve.epochs[-1],
                curve.accuracy[0],
                curve.accuracy[-1],
                best,
                epochs_to(curve, best),
                afterwards.get(seed, math.nan),
                reference,
                target,
                epochs_to(other, target) if other.epochs else math.nan,
                epochs_to(curve, target),
            )
            lines.append(dict(zip(COLUMNS, values, strict=True)))
    return lines


def _reference(method: str, names: Sequence[str]) -> str:
    """The search from a random mask that a search is compared with, or nothing."""
    if method in names and not method.endswith(REFERENCE):
        for name in names:
            if name.endswith(REFERENCE) and method.startswith(name[: -len(REFERENCE)]):
                return name
    return ""
