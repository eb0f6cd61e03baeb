"""The tables of searches over frozen weights: how accurate each is, and its cost."""

import math
from collections.abc import Iterable, Sequence

from experiments.reports import statistics, tables
from experiments.reports.statistics import Row

ACCURACIES = (
    "method",
    "density\n%",
    "before\nsearch\n%",
    "final\nepoch\n%",
    "best\nepoch\n%",
    "at\nepoch",
)
TUNED = "weights\ntuned\n%"
COSTS = (
    "method",
    "density\n%",
    "accuracy\nto reach\n%",
    "seeds that\nreach it",
    "epochs",
    "epochs\nfrom random",
    "times\ncheaper",
)
TERMS = {
    "before search": "Test accuracy of the mask that the search starts from, over "
    "trained weights. Here and beside it: mean ± half of the 95% interval over the "
    "seeds.",
    "final epoch": "That of the mask at the end of the search.",
    "best epoch": "The highest test accuracy of any look at the search, before its "
    "first step or after an epoch. Chosen by the test set, as published, so it is too "
    "high by the noise of the looks. Beside it the mean epoch.",
    "weights tuned": "Test accuracy after the weights that the mask keeps were "
    "trained further.",
    "accuracy to reach": "The test accuracy that the search from a random mask, of the "
    "same seed and layer densities, has at its end.",
    "epochs": "Of search, until a look first shows that accuracy: mean over the seeds "
    "(least–most). 0: the starting mask has it before the first step. A seed that "
    "never gets there counts with the epochs of its whole search, so the mean is a "
    "lower bound (>).",
    "epochs from random": "The same of the search from a random mask, which may be "
    "there before its end.",
    "times cheaper": "The second mean over the first, and that of the single seeds, "
    "least–most.",
}


def sections(found: Sequence[Row]) -> list[tables.Section]:
    """The tables of the rows of `search.csv`; those that have nothing to say are out.

    Args:
      found: from `search_curves.table`.
    """
    groups = sorted(_groups(found), key=lambda group: -group[0]["density"])
    compared = [group for group in groups if group[0]["reference"]]
    tuned = any(not math.isnan(row["tuned_test_accuracy"]) for row in found)
    lines = [_accuracies(group)[: None if tuned else -1] for group in groups]
    headers = (*ACCURACIES, TUNED)[: None if tuned else -1]
    terms = list(TERMS.items())
    first = {k: v for k, v in terms[:4] if tuned or k != "weights tuned"}
    both = [
        tables.Section("Before, at the end and at best", headers, lines, first),
        tables.Section(
            "Epochs to the accuracy of a search from a random mask",
            COSTS,
            [_costs(group) for group in compared],
            dict(terms[4:]),
        ),
    ]
    return [section for section in both if section.lines]


def _groups(found: Iterable[Row]) -> list[list[Row]]:
    """The seeds of every method and setting."""
    groups: dict[tuple, list[Row]] = {}
    for row in found:
        groups.setdefault((row["method"], row["setting"]), []).append(row)
    return list(groups.values())


def _accuracies(group: Sequence[Row]) -> list[str]:
    def of(column):
        values = statistics.interval(row[column] for row in group)
        return tables.plus_minus(values, "{:.2f}", 100)

    epoch = statistics.interval(row["best_epoch"] for row in group).mean
    still = not any(row["search_epochs"] for row in group)
    return [
        *_names(group),
        of("before_test_accuracy"),
        "–" if still else of("final_test_accuracy"),
        "–" if still else of("best_test_accuracy"),
        "–" if still else f"{epoch:.3g}",
        of("tuned_test_accuracy"),
    ]


def _costs(group: Sequence[Row]) -> list[str]:
    target = statistics.interval(row["target_test_accuracy"] for row in group)
    reached = [not math.isnan(row["epochs_to_target"]) for row in group]
    spent = [
        row["epochs_to_target"] if there else row["search_epochs"]
        for row, there in zip(group, reached, strict=True)
    ]
    theirs = [row["reference_epochs"] for row in group]
    return [
        *_names(group),
        tables.plus_minus(target, "{:.2f}", 100),
        f"{sum(reached)}/{len(group)}",
        ("" if all(reached) else "> ") + _spread(spent),
        _spread(theirs),
        _ratio(theirs, spent, all(reached)),
    ]


def _names(group: Sequence[Row]) -> list[str]:
    density = statistics.interval(row["density"] for row in group).mean
    return [group[0]["method"].replace("_", " "), f"{100 * density:.3g}"]


def _spread(values: Sequence[float]) -> str:
    mean, low, high = statistics.interval(values).mean, min(values), max(values)
    if math.isnan(mean):
        return "–"
    return f"{mean:.3g}" + (f" ({low:g}–{high:g})" if high > low else "")


def _ratio(theirs: Sequence[float], ours: Sequence[float], reached: bool) -> str:
    """How many times fewer epochs are ours, in words where a number would mislead."""
    if not sum(theirs) > 0:  # a search that gets nowhere, or not a number
        return "–"
    if not any(ours):
        return "before the first step"
    each = [t / o if o else math.inf for t, o in zip(theirs, ours, strict=True)]
    low, high = (("∞" if x == math.inf else f"{x:.3g}") for x in (min(each), max(each)))
    mean = ("" if reached else "< ") + f"{sum(theirs) / sum(ours):.3g}×"
    return mean + (f" ({low}–{high})" if low != high else "")
