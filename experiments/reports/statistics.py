"""What the rows of a run say: intervals over seeds, paired differences, verdicts.

The seed is the unit of replication: it fixes initial weights and split for the dense
network, the ticket and its controls alike, so differences are taken within a seed. The
intervals are over seeds, for one test set. A seed that has failed is left out of means,
which say of how many they are, and makes a verdict "unknown": those that are left may
be those that did well.

Reference:
  Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, Section 1.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from experiments.reports.reading import Run
from jaxticket import analysis

TICKET = ["method", "setting", "prunings"]  # what tells the tickets of a seed apart
NO_CONTROLS = ("dense", "ticket", "tuned", "search")  # among the treatments
ACCEPTED = ("better", "matches")  # verdicts
SAME = 0.01  # densities that are less apart are compared, see `apart`


def apart(density: ArrayLike, other: ArrayLike) -> ArrayLike:
    """How far two densities are apart, as a share of the second."""
    return abs(density - other) / other


def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Sorts by `TICKET`: methods as they come, the densest settings first."""
    keys = {
        "_method": pd.factorize(rows["method"])[0],
        "_sparsity": -rows.groupby(["method", "setting"])["density"].transform("mean"),
    }
    found = rows.assign(**keys).sort_values([*keys, "prunings"], kind="stable")
    return found.drop(columns=[*keys])


def groups(rows: pd.DataFrame, by: Sequence[str] = TICKET) -> list[pd.DataFrame]:
    """The rows of every ticket, in the order of `ordered`."""
    return [group for _, group in ordered(rows).groupby([*by], sort=False)]


def some(items: Iterable, most: int) -> list:
    """As many of the items as fit, evenly, the first and the last among them."""
    items = [*items]
    chosen = np.linspace(0, len(items) - 1, min(most, len(items))).round()
    return [items[int(i)] for i in chosen]


def controls(rows: pd.DataFrame) -> list[str]:
    """The treatments that tickets are compared with."""
    return [name for name in rows["treatment"].unique() if name not in NO_CONTROLS]


def of_method(found: Iterable[pd.DataFrame], method: str) -> list[pd.DataFrame]:
    """Of the `tickets` those of one method."""
    return [ticket for ticket in found if ticket["method"].iloc[0] == method]


def tickets(run: Run) -> list[pd.DataFrame]:
    """A table of every ticket: a row a seed; what is missing or has failed is NaN.

    Beside the columns of `results.csv` are the `effective` density; `accuracy` and
    `validation`, on the test and the validation set; what they exceed the dense network
    by, `to_dense` and `validation_to_dense`, and the verdicts of these, `verdict` and
    `validation_verdict`; `to_NAME` for every control; `last_to_dense`, of the accuracy
    after the last step, by that of the dense network, or that at its early-stopping
    step if tickets have none; `dense_step`, this step; and whether the ticket of the
    seed `wins` as the paper defines it: at least as accurate as the dense network, no
    later, with fewer weights.
    """
    rows, at = run.rows, run.at
    found = rows[rows["treatment"] == "ticket"]
    seeds = pd.concat([rows["seed"], run.divergence["seed"]]).astype(int)
    seeds = seeds.drop_duplicates().sort_values()
    found = found[TICKET].drop_duplicates().merge(seeds, "cross").merge(found, "left")

    def beside(treatment: str, column: str, by: Sequence[str] = ("seed",)) -> pd.Series:
        """What the same seed has of another training."""
        others = rows.loc[rows["treatment"] == treatment, [*by, column]]
        return found[[*by]].merge(others, "left")[column]

    test, validation = f"{at}test_accuracy", f"{at}validation_accuracy"
    last = "test_accuracy" if at else "early_stopping_test_accuracy"
    found["accuracy"], found["validation"] = found[test], found[validation]
    found["to_dense"] = found[test] - beside("dense", test)
    found["validation_to_dense"] = found[validation] - beside("dense", validation)
    found["last_to_dense"] = found["test_accuracy"] - beside("dense", last)
    for name in controls(rows):
        found[f"to_{name}"] = found[test] - beside(name, test, (*TICKET, "seed"))
    found["effective"] = found[[*TICKET, "seed"]].merge(effective(run), "left")["share"]
    found["dense_step"] = beside("dense", "early_stopping_step")
    found["wins"] = (
        (found["density"] < 1)
        & (found["to_dense"] >= -analysis.TIE)
        & (found["early_stopping_step"] <= found["dense_step"])
    )

    tables = []
    for ticket in groups(found):
        density = ticket["density"].mean()
        test, validation = (
            analysis.verdict(difference, margin=run.margin, density=density)
            for difference in (
                analysis.interval(ticket["to_dense"]),
                analysis.interval(ticket["validation_to_dense"]),
            )
        )
        tables.append(ticket.assign(verdict=test, validation_verdict=validation))
    return tables


def effective(run: Run) -> pd.DataFrame:
    """The effective density of every ticket of a seed, as `share`."""
    layers = run.layers.assign(
        left=run.layers["weights"] * run.layers["effective_density"]
    )
    sums = layers.groupby([*TICKET, "seed"], sort=False)[["left", "weights"]].sum(
        min_count=1
    )
    return (sums["left"] / sums["weights"]).rename("share").reset_index()


class Chosen(NamedTuple):
    """The tickets that speak for a method, chosen by validation accuracy.

    Attributes:
      among: of how many sparse tickets.
      unknown: how many of these have a failed seed, and so cannot be chosen.
      sparsest: of those that match the dense network there, or None.
      best: the most accurate there, or None.
    """

    among: int
    unknown: int
    sparsest: pd.DataFrame | None
    best: pd.DataFrame | None


def choose(found: Sequence[pd.DataFrame]) -> dict[str, Chosen]:
    """Chooses of the `tickets` of every method on validation, to be told on test."""
    chosen = {}
    for method in dict.fromkeys(ticket["method"].iloc[0] for ticket in found):
        ours = [x for x in of_method(found, method) if not x["density"].mean() >= 1]
        known = [x for x in ours if (x["accuracy"] + x["validation"]).notna().all()]
        match = [x for x in known if x["validation_verdict"].iloc[0] in ACCEPTED]
        chosen[method] = Chosen(
            among=len(ours),
            unknown=len(ours) - len(known),
            sparsest=min(match, key=lambda x: x["density"].mean(), default=None),
            best=max(known, key=lambda x: x["validation"].mean(), default=None),
        )
    return chosen


def points(
    rows: pd.DataFrame, x: str, y: str, *, by: Sequence[str] = TICKET
) -> pd.DataFrame:
    """A row a point of a figure: `panel`, `line`, `x`, and `mean`, `low`, `high` of y.

    Args:
      rows: of all seeds; `panel` and `line` say where they are to be drawn.
      x: the column whose mean is the place.
      y: the column whose mean and interval are the heights.
      by: what tells the points of a line apart.
    """
    found = []
    for (panel, line), ours in rows.groupby(["panel", "line"], sort=False):
        places, heights = (
            ours.pivot(index=[*by], columns="seed", values=name).to_numpy(float)
            for name in (x, y)
        )
        values = {"x": places.mean(1), **analysis.interval(heights)._asdict()}
        there = np.isfinite(places) & np.isfinite(heights)
        for i in np.flatnonzero(~there.all(1) & there.any(1)):  # a seed has failed
            left = analysis.interval(heights[i, there[i]])._asdict()
            left["x"] = places[i, there[i]].mean()
            for name, value in left.items():
                values[name][i] = value
        found.append(pd.DataFrame({"panel": panel, "line": line, **values}))
    return pd.concat(found, ignore_index=True)
