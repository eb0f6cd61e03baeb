"""Searches over frozen weights: how far they are after each epoch, and what that saves.

Such a search runs its ticket from the first step on, so its looks, which count the
entries of the mask that change, are a curve of the ticket's accuracy. Beside it are the
masks that are tested without a search.

Reference:
  Zhang et al., "Lottery Jackpots Exist in Pre-trained Models", 2023: from the mask of
  the largest magnitudes a search gets as far at a third of the cost, or less.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.reports import drawings, statistics, tables

FILE = "search.csv"
REFERENCE = "_from_random"  # how the name of a search from a random mask ends
EPOCH = "epochs of search"  # the column of it


def searched(looks: pd.DataFrame) -> list[str]:
    """The methods whose masks were searched."""
    return list(looks.loc[looks["changed"].notna(), "method"].unique())


def with_epochs(looks: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The looks at searches and at masks that were only tested, none without searches.

    Their column `EPOCH` says after how many passes over the data each was, from the
    longest search, of which the rounded number is the most exact.
    """
    trainings = looks.groupby(["method", "treatment"])
    moving = trainings["changed"].transform("count") > 0
    tickets = (looks["treatment"] == "ticket") & ~looks["method"].isin(searched(looks))
    still = tickets & (trainings["step"].transform("max") == 0)
    found = looks[moving | still] if moving.any() else looks[:0]
    longest = rows.sort_values("search_steps", na_position="first").iloc[-1]
    epoch = longest["search_epochs"] / (longest["search_steps"] or math.nan)
    steps = found["step"]
    epochs = (steps * epoch).round(3).where(steps > 0, 0.0)
    return found.assign(**{EPOCH: epochs})


def epochs_to(looks: pd.DataFrame, accuracy: float) -> float:
    """After how many epochs a search is first that accurate; NaN if it never is.

    At 0 its mask is so before the first step. The answer is exact to within a look.
    """
    reached = looks["test_accuracy"] >= accuracy - statistics.TIE
    return looks.loc[reached, EPOCH].min()


def table(looks: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """A row for every search and seed, as `search.csv` has them; none without searches.

    A search is compared with the one of its kind from a random mask, at the same seed
    and setting: how many epochs it takes to be as accurate as that one is at its end,
    and after how many that one first is.
    """
    names = searched(looks)
    keys = ["method", "setting", "seed"]
    tuned = rows[rows["treatment"] == "tuned"].set_index(keys)["test_accuracy"]
    curves = {
        key: curve.sort_values("step")
        for key, curve in with_epochs(looks, rows).groupby(keys, sort=False)
    }
    lines = []
    for (method, setting, seed), curve in curves.items():
        accuracies = curve["test_accuracy"].to_numpy()
        reference = _reference(method, names)
        target = reference_epochs = math.nan
        if (other := curves.get((reference, setting, seed))) is not None:
            target = other["test_accuracy"].iloc[-1]
            reference_epochs = epochs_to(other, target)
        lines.append(
            {
                "method": method,
                "seed": seed,
                "setting": setting,
                "density": curve["density"].iloc[-1],
                "search_epochs": curve[EPOCH].iloc[-1],
                "before_test_accuracy": accuracies[0],
                "final_test_accuracy": accuracies[-1],
                "best_test_accuracy": accuracies.max(),
                "best_epoch": epochs_to(curve, accuracies.max()),
                "tuned_test_accuracy": tuned.get((method, setting, seed), math.nan),
                "reference": reference,
                "target_test_accuracy": target,
                "reference_epochs": reference_epochs,
                "epochs_to_target": epochs_to(curve, target),
            }
        )
    return pd.DataFrame(lines)


def _reference(method: str, names: Sequence[str]) -> str:
    """The search from a random mask that a search is compared with, or nothing."""
    if method in names and not method.endswith(REFERENCE):
        for name in names:
            if name.endswith(REFERENCE) and method.startswith(name[: -len(REFERENCE)]):
                return name
    return ""


def sections(found: pd.DataFrame) -> list[tables.Table]:
    """The tables of the rows of `table`; those that have nothing to say are out."""
    if found.empty:
        return []
    groups = [group for _, group in tables.densest_first(found)]
    compared = [group for group in groups if group["reference"].iloc[0]]
    columns = ACCURACIES
    if found["tuned_test_accuracy"].isna().all():
        columns = {k: v for k, v in columns.items() if "tuned" not in k}
    both = (
        ("Before, at the end and at best", columns, groups),
        ("Epochs to the accuracy of a search from a random mask", COSTS, compared),
    )
    return [
        tables.Table(title, [*columns], tables.lines(columns, groups))
        for title, columns, groups in both
        if groups
    ]


def _searched(cell: Callable[[pd.DataFrame], str]) -> Callable[[pd.DataFrame], str]:
    """A dash for masks without a search."""
    return lambda group: cell(group) if group["search_epochs"].any() else tables.DASH


def _spent(group: pd.DataFrame) -> pd.Series:
    """Epochs to the target; of a seed that never gets there those of its search."""
    return group["epochs_to_target"].fillna(group["search_epochs"])


def _spread(values: pd.Series) -> str:
    mean, low, high = values.mean(skipna=False), values.min(), values.max()
    return tables.number(mean) + (f" ({low:g}–{high:g})" if high > low else "")


def _cheaper(group: pd.DataFrame) -> str:
    """How many times fewer epochs ours are, in words where a number would mislead."""
    theirs, ours = group["reference_epochs"], _spent(group)
    if not (theirs > 0).all():  # a search that gets nowhere, or not a number
        return tables.DASH
    begun, before = (
        ours > 0,
        f"{(ours == 0).sum()} of {len(group)} before the first step",
    )
    if not begun.any():
        return before
    ratio = statistics.ratio(theirs[begun], ours[begun])
    missed = group["epochs_to_target"].isna().any()
    text = f"< {ratio.mean:.2f}×" if missed else tables.times(ratio)
    return text if begun.all() else f"{text}; {before}"


METHOD: Mapping[str, Callable[[pd.DataFrame], str]] = {
    "method": lambda group: drawings.words(group["method"].iloc[0]),
    "weights\nkept, %": lambda group: tables.percent(group["density"].mean()),
}
ACCURACIES = METHOD | {
    "before\nsearch, %": lambda group: tables.points(group["before_test_accuracy"]),
    "last\nepoch, %": _searched(lambda x: tables.points(x["final_test_accuracy"])),
    "best\nepoch, %": _searched(lambda x: tables.points(x["best_test_accuracy"])),
    "at\nepoch": _searched(lambda x: tables.number(x["best_epoch"].mean())),
    "weights\ntuned, %": lambda group: tables.points(group["tuned_test_accuracy"]),
}
COSTS = METHOD | {
    "accuracy to\nreach, %": lambda group: tables.points(group["target_test_accuracy"]),
    "seeds that\nreach it": lambda x: f"{x['epochs_to_target'].count()}/{len(x)}",
    "epochs": lambda group: (
        "> " * bool(group["epochs_to_target"].isna().any()) + _spread(_spent(group))
    ),
    "epochs\nfrom random": lambda group: _spread(group["reference_epochs"]),
    "times\ncheaper": _cheaper,
}


def figures(looks: pd.DataFrame, rows: pd.DataFrame) -> dict[str, tuple[Any, str]]:
    """Name -> figure and caption; none where no mask was searched."""
    found = with_epochs(looks, rows)
    moving = found[found["method"].isin(searched(looks))]
    if moving.empty:
        return {}
    drawing, grid = drawings.curves(
        _some(found, moving["setting"].unique(), 9),
        {"test_accuracy": "test accuracy, %"},
        panel="panel",
        line="method",
        along="epochs of search",
        dense=rows[rows["treatment"] == "dense"],
    )
    drawings.accuracy_axis(grid)
    changes, panels = drawings.curves(
        _some(moving[moving["step"] > 0], moving["setting"].unique(), 4),
        {"changed": "mask entries changed in a step", "train_loss": "training loss"},
        panel="panel",
        line="method",
    )
    for row in panels:
        drawings.log_axis(row)
    return {
        "search_curves": (
            drawing,
            "Test accuracy of the mask at every look at a search over frozen weights; "
            "dashed: masks without a search.",
        ),
        "oscillation": (
            changes,
            "Entries of the mask that change in a step (a swap is two), on average "
            "since the last look, and the training loss over these steps.",
        ),
    }


def _some(looks: pd.DataFrame, settings: Sequence[str], most: int) -> pd.DataFrame:
    """Looks at all settings, or at as many as fit, evenly, with a title as `panel`."""
    chosen = np.linspace(0, len(settings) - 1, min(most, len(settings)))
    parts = []
    for setting in (settings[round(i)] for i in chosen):
        part = looks[looks["setting"] == setting]
        kept = f"{tables.percent(part['density'].mean())}% of the weights"
        title = kept if not setting or "density" in setting else f"{setting}: {kept}"
        parts.append(part.assign(panel=title))
    return pd.concat(parts)
