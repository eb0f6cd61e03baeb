"""Searches over frozen weights: how far they are after each epoch, and what that saves.

Such a search runs its ticket from the first step on, so its looks, which count the
entries of the mask that change, are a curve of the ticket's accuracy. Beside it are the
masks that are tested without a search.

Reference:
  Zhang et al., "Lottery Jackpots Exist in Pre-trained Models", 2023: from the mask of
  the largest magnitudes a search gets as far at a third of the cost, or less.
"""

import math

import pandas as pd

from experiments.reports import statistics, tables
from experiments.reports.reading import Run
from jaxticket import analysis

EPOCH = "epochs of search"  # the column of it
KEYS = ["method", "setting", "seed"]
FILE = "search.csv"  # which the report writes
TERMS = {
    "before search, last epoch, weights tuned": "Test accuracy of the mask that the "
    "search starts from, of that at its end, and after the weights that this keeps "
    "were trained further.",
    "best epoch": "The highest test accuracy of any look at the search. Chosen by the "
    "test set, as published, so it is too high by the noise of the looks. Beside it "
    "the mean epoch.",
    "accuracy to reach, epochs, epochs from random": "The test accuracy that the "
    "search from a random mask, of the same seed and setting, has at its end; and the "
    "epochs of search until a look first shows it: mean over the seeds (least–most). "
    "0: the starting mask has it. A seed that never gets there counts with its whole "
    "search, so the mean is a lower bound (>). The search from a random mask may be "
    "there before its end.",
    "times cheaper": "Geometric mean of the seeds' ratios of these epochs; an upper "
    "bound (<) where a seed never gets there. A seed that is there before the first "
    "step has no ratio and is counted apart.",
}


def looks(run: Run) -> pd.DataFrame:
    """The looks at searches and at masks that were only tested, none without searches.

    Their column `searched` tells which; `EPOCH` after how many passes over the data a
    look was, from the longest search, of which the rounded number is the most exact.
    """
    trainings = run.looks.groupby(["method", "treatment"])
    moving = trainings["changed"].transform("count") > 0
    methods = run.looks.loc[moving, "method"].unique()
    still = run.looks["treatment"].eq("ticket") & ~run.looks["method"].isin(methods)
    still &= trainings["step"].transform("max") == 0
    found = run.looks[moving | still] if moving.any() else run.looks[:0]
    longest = run.rows.sort_values("search_steps", na_position="first").iloc[-1]
    epoch = longest["search_epochs"] / (longest["search_steps"] or math.nan)
    epochs = (found["step"] * epoch).round(3).where(found["step"] > 0, 0.0)
    return found.assign(searched=moving[found.index], **{EPOCH: epochs})


def epochs_to(looks: pd.DataFrame, accuracy: float) -> float:
    """After how many epochs a search is first that accurate; NaN if it never is.

    At 0 its mask is so before the first step. The answer is exact to within a look.
    """
    reached = looks["test_accuracy"] >= accuracy - analysis.TIE
    return looks.loc[reached, EPOCH].min()


def searches(run: Run) -> pd.DataFrame:
    """A row for every search and seed, as `FILE` has them; none without searches.

    A search is compared with its reference, such as the one from a random mask, at the
    same seed and setting: how many epochs it takes to be as accurate as that one is at
    its end, and after how many that one first is.
    """
    found = looks(run).sort_values("step", kind="stable")
    curves = dict(iter(found.groupby(KEYS, sort=False)))
    searched = found.loc[found["searched"], "method"].unique()
    tuned = run.rows[run.rows["treatment"] == "tuned"].set_index(KEYS)["test_accuracy"]
    lines = []
    for (method, setting, seed), curve in curves.items():
        accuracies = curve["test_accuracy"].to_numpy()
        reference = run.about["references"].get(method)
        reference = reference if {method, reference} <= {*searched} else ""
        target = reference_epochs = math.nan
        other = curves.get((reference, setting, seed))
        if other is not None and _as_dense(curve, other):
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


def _as_dense(curve: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two searches end at one density: of one setting, where there are two."""
    ends = (x["density"].iloc[-1] for x in (curve, other))
    return statistics.apart(*ends) <= statistics.SAME


def sections(found: pd.DataFrame) -> list[tables.Table]:
    """The tables of `searches`; those that have nothing to say are out."""
    found = found.assign(spent=found["epochs_to_target"].fillna(found["search_epochs"]))
    still = found["search_epochs"] == 0
    found.loc[still, ["final_test_accuracy", "best_test_accuracy", "best_epoch"]] = None
    accuracies = dict(ACCURACIES)
    if found["tuned_test_accuracy"].notna().any():
        accuracies["weights\ntuned, %"] = ("tuned_test_accuracy", tables.accuracy)
    title = "Before, at the end and at best"
    shown = [tables.table(title, accuracies, tables.densest_first(found))]
    if (compared := found["reference"] != "").any():
        title = "Epochs to the accuracy of a search from a random mask"
        groups = tables.densest_first(found[compared])
        shown.append(tables.table(title, COSTS, groups))
    return shown


def _spread(epochs: pd.Series) -> str:
    """The mean of the seeds, and the least and the most."""
    low, high = epochs.min(), epochs.max()
    return tables.number(epochs) + (f" ({low:g}–{high:g})" if high > low else "")


def _spent(search: pd.DataFrame) -> str:
    """Epochs to the target; a seed that never gets there counts with its search."""
    missed = search["epochs_to_target"].isna().any()
    return "> " * bool(missed) + _spread(search["spent"])


def _cheaper(search: pd.DataFrame) -> str:
    """How many times fewer epochs ours are, in words where a number would mislead."""
    theirs, ours = search["reference_epochs"], search["spent"]
    if not (theirs > 0).all():  # a search that gets nowhere, or not a number
        return tables.DASH
    begun = ours > 0
    before = f"{(ours == 0).sum()} of {len(ours)} before the first step"
    if not begun.any():
        return before
    ratio = analysis.ratio(theirs[begun], ours[begun])
    missed = search["epochs_to_target"].isna().any()
    text = f"< {ratio.mean:.2f}×" if missed else tables.times(ratio)
    return text if begun.all() else f"{text}; {before}"


ACCURACIES: tables.Columns = {
    **tables.METHOD,
    **tables.KEPT,
    "before\nsearch, %": ("before_test_accuracy", tables.accuracy),
    "last\nepoch, %": ("final_test_accuracy", tables.accuracy),
    "best\nepoch, %": ("best_test_accuracy", tables.accuracy),
    "at\nepoch": ("best_epoch", tables.number),
}
TO_TARGET = ["epochs_to_target", "spent", "reference_epochs"]
COSTS: tables.Columns = {
    **tables.METHOD,
    **tables.KEPT,
    "accuracy to\nreach, %": ("target_test_accuracy", tables.accuracy),
    "seeds that\nreach it": ("epochs_to_target", lambda x: f"{x.count()}/{len(x)}"),
    "epochs": (TO_TARGET, _spent),
    "epochs\nfrom random": ("reference_epochs", _spread),
    "times\ncheaper": (TO_TARGET, _cheaper),
}
