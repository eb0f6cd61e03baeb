"""The figures of a run: which are drawn, of what, and what they say."""

from typing import Any

import numpy as np
import pandas as pd

from experiments.reports import drawings, mask_searches, overlaps, statistics

EDGES = (
    f"What lies more than {drawings.DEPTH} points below the dense network, where most "
    "tickets do not, is a hollow triangle at the edge."
)


def drawn(
    rows: pd.DataFrame,
    looks: pd.DataFrame,
    overlapping: pd.DataFrame,
    *,
    at: str,
) -> dict[str, tuple[Any, str]]:
    """Name -> figure and caption; the first says most. Nothing without content.

    Args:
      rows: of `statistics.read_results`.
      looks: of `statistics.read_metrics`.
      overlapping: of `overlaps.read`.
      at: "early_stopping_" or "", of the last step: whose accuracies are compared.
    """
    found = _with_lines(rows[rows["treatment"] != "dense"])
    if found.empty:
        return {}
    tickets = found[found["treatment"] == "ticket"].assign(panel="")
    accuracy, where = f"{at}test_accuracy", "at the early-stopping step"
    if not at:
        where = "after the last step"
    shared = {
        "label": "test accuracy, %",
        "frame": drawings.frame(rows, accuracy),
        "dense": rows[rows["treatment"] == "dense"],
    }
    alone = {"panel": "line", "line": "treatment"} | shared
    together = {"panel": "panel", "line": "line"} | shared
    figures = {}
    several = found["line"].nunique() > 1
    if several or len(tickets) == len(found):
        figures["comparison"] = (
            drawings.against(tickets, accuracy, **together),
            f"Tickets of all methods: test accuracy {where}. {EDGES}",
        )
    if len(tickets) < len(found):
        figures["accuracy"] = (
            drawings.against(found, accuracy, **alone),
            f"Tickets and their controls: test accuracy {where}. {EDGES}",
        )
    costs = tickets["search_epochs"]
    if costs[costs > 0].nunique() > 1:
        figures["cost"] = (
            drawings.against(tickets, accuracy, **together, place="search_epochs"),
            "What it cost to find the tickets. Settings that run side by side cost "
            "each of their tickets one lane's epochs.",
        )
    if at:
        figures["final_accuracy"] = (
            drawings.against(found, "test_accuracy", **alone),
            "Test accuracy after the last step.",
        )
        steps = {"label": "early-stopping step", "accuracy": False}
        figures["early_stopping_step"] = (
            drawings.against(found, "early_stopping_step", **alone | steps),
            "Step with the smallest validation loss: lower is sooner.",
        )
    figures |= mask_searches.figures(looks, rows)
    figures |= overlaps.figures(overlapping, mask_searches.searched(looks))
    for method, ours in looks.groupby("method", sort=False):
        if (ours.loc[ours["treatment"] == "ticket", "step"] > 0).any():
            figures[f"learning_curves_{method}"] = (
                _learning_curves(looks[looks["treatment"] == "dense"], ours),
                f"Learning curves of {drawings.words(method)}: the ticket in the "
                "middle and the last. The lowest fifth of the accuracies, the steep "
                "start, lies below the axis.",
            )
    return figures


def _with_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds the column `line`: its ticket lies on which line of a figure.

    A method is a line. Where its settings were pruned several times each, a setting is.
    """
    names = rows["method"].map(drawings.words)
    prunings = rows.groupby(["method", "setting"])["prunings"].transform("nunique")
    several = (rows["setting"] != "") & (prunings > 1)
    return rows.assign(line=names.where(~several, names + ", " + rows["setting"]))


def _learning_curves(dense: pd.DataFrame, looks: pd.DataFrame):
    """Validation loss and test accuracy of dense, ticket and controls, by the step."""
    tickets = [
        ours[~ours["treatment"].isin(("search", "tuned"))]
        for _, ours in statistics.tickets(looks)
        if "ticket" in ours["treatment"].values
    ]
    shown = []
    for i in sorted({(len(tickets) - 1) // 2, len(tickets) - 1}):
        ticket = tickets[i][tickets[i]["treatment"] == "ticket"]
        _, setting, prunings = ticket[statistics.TICKET].iloc[0]
        kept = f"{100 * ticket['density'].mean(skipna=False):.3g}% of the weights"
        title = f"{setting or f'pruned {prunings} times'}: {kept}"
        shown += [dense.assign(panel=title), tickets[i].assign(panel=title)]
    drawing, (loss, accuracy) = drawings.curves(
        pd.concat(shown),
        {"validation_loss": "validation loss", "test_accuracy": "test accuracy, %"},
        panel="panel",
        line="treatment",
    )
    drawings.log_axis(loss)
    values = drawings.heights(accuracy)
    if values.size:  # crop the steep start, so that the ends can be told apart
        low, high = np.quantile(values, 0.2), values.max()
        margin = 0.1 * (high - low) + 0.1
        accuracy[0].set_ylim(low - margin, high + margin)
    return drawing
