"""The tickets that a search is judged by: the sparsest that match, and the best.

A ticket matches if its mean accuracy is at least the dense network's; within noise, if
the 95% interval of the paired difference reaches it. Accuracies are those after the
last step.

Reference:
  Savarese et al., "Winning the Lottery with Continuous Sparsification", 2020, which
  compares searches by these and by the rounds that each took.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from experiments.reports import statistics, tables
from experiments.reports.statistics import TIE, Row, Summary

HEADERS = (
    "method",
    "ticket",
    "density\n%",
    "final test\naccuracy\n%",
    "less\ndense\npp",
    "round or\nsetting",
    "search\nepochs",
)
ALL = (HEADERS[0], *HEADERS[2:])
TERMS = {
    "sparsest matching": "Of the tickets whose mean accuracy after the last step is at "
    "least that of the dense network, the one with the fewest weights.",
    "sparsest within noise": "The same, where the 95% interval of the difference has "
    "to reach the dense network; with one seed there is none.",
    "most accurate": "The ticket with the highest mean accuracy after the last step.",
    "search epochs": "Passes over the training data until the ticket was found; the "
    "training of the ticket comes on top. A parallel search takes them once for every "
    "setting, side by side.",
}


def milestones(rows: Sequence[Row]) -> dict[str, dict[str, Summary | None]]:
    """Method -> name of a milestone -> the ticket that reaches it, if one does."""
    summaries = statistics.summarise(rows, accuracy="test_accuracy")
    sparse = [summary for summary in summaries if summary.density < 1]
    return {
        method: {
            "sparsest matching": _sparsest(sparse, method, _matches),
            "sparsest within noise": _sparsest(sparse, method, _within_noise),
            "most accurate": max(
                (
                    s
                    for s in sparse
                    if s.method == method and not math.isnan(s.accuracy.mean)
                ),
                key=lambda summary: summary.accuracy.mean,
                default=None,
            ),
        }
        for method in statistics.distinct(
            [summary._asdict() for summary in summaries], "method"
        )
    }


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """The table, in the order of `HEADERS`."""
    return [
        [method.replace("_", " "), name, *_cells(ticket)]
        for method, found in milestones(rows).items()
        for name, ticket in found.items()
    ]


def all_tickets(rows: Sequence[Row]) -> list[list[str]]:
    """A line a ticket, in the order of `ALL`."""
    summaries = statistics.summarise(rows, accuracy="test_accuracy")
    return [[s.method.replace("_", " "), *_cells(s)] for s in summaries]


def _sparsest(
    summaries: Iterable[Summary], method: str, accept: Callable[[Summary], bool]
) -> Summary | None:
    found = (s for s in summaries if s.method == method and s.to_dense and accept(s))
    return min(found, key=lambda summary: summary.density, default=None)


def _matches(summary: Summary) -> bool:
    return summary.to_dense.mean >= -TIE


def _within_noise(summary: Summary) -> bool:
    mean, half_width = summary.to_dense
    return mean + (0 if math.isnan(half_width) else half_width) >= -TIE


def _cells(ticket: Summary | None) -> list[str]:
    if ticket is None:
        return ["–"] * (len(HEADERS) - 2)
    return [
        f"{100 * ticket.density:.3g}",
        tables.plus_minus(ticket.accuracy, "{:.2f}", 100),
        tables.plus_minus(ticket.to_dense, "{:+.2f}", 100),
        tables.name(ticket),
        f"{ticket.search_epochs:.4g}",
    ]
