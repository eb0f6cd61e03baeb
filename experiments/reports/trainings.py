"""What every run says, in words: of each ticket, and which speak for a method."""

from collections.abc import Mapping, Sequence

import pandas as pd

from experiments.reports import statistics, tables
from experiments.reports.reading import Run
from experiments.reports.statistics import Chosen
from experiments.study.records import Lane

LAST = "after the last\nstep, against\ndense, points"
STOPPED = "against dense\nat its stop,\npoints"
SHOWN = 5  # sentences of what has diverged, and of what is cut


def step_ratio(steps: pd.DataFrame) -> str:
    """The first column over the second, of steps, which a seed may not have."""
    if without := (~(steps > 0).all(axis=1)).sum():
        return f"{without} of {len(steps)} seeds without a step"
    return tables.ratio(steps)


TICKET: tables.Columns = {
    **tables.NAMED,
    "effective,\n%": ("effective", tables.percent),
    "test\naccuracy, %": ("accuracy", tables.accuracy),
    "against\ndense, points": ("to_dense", tables.points),
    "verdict": ("verdict", tables.word),
}
COST: tables.Columns = {
    "search\nepochs": ("search_epochs", tables.number),
    "search\nseconds": ("search_seconds", tables.number),
}
STEPS: tables.Columns = {
    "stops\nat step": ("early_stopping_step", tables.steps),
    "steps, times\ndense's": (["early_stopping_step", "dense_step"], step_ratio),
    "seeds that\nwin": ("wins", lambda wins: f"{wins.sum()}/{len(wins)}"),
}


def headlines(run: Run) -> list[str]:
    """A sentence a method whose ticket matches, and one of those that have none."""
    found, without = diverged(run.divergence), []
    for method, tickets in statistics.choose(statistics.tickets(run)).items():
        among = f"{tickets.among}"
        if tickets.unknown:
            among += f", {tickets.unknown} unknown because a seed failed"
        if (ticket := tickets.sparsest) is not None:
            line = (
                f"{tables.words(method)}: {tables.percent(ticket['density'])}% of the "
                f"weights match on validation (the sparsest, selected among {among}); "
                f"on test {_on_test(ticket, 'points against dense')}"
            )
            if run.at:
                ratio = step_ratio(ticket[["early_stopping_step", "dense_step"]])
                line += f"; steps to the early stop, times dense's: {ratio}"
            found.append(f"{line}.")
            continue
        if (ticket := tickets.best) is not None:
            among += f": {_on_test(ticket, 'points')}"
        of = f"of {among}" if tickets.among else "none is sparse"
        without.append(f"{tables.words(method)} ({of})")
    if without:
        found.append(
            "No ticket is shown to match the dense network within "
            f"{run.margin:g} points: {', '.join(without)}. In brackets the most "
            "accurate on validation, as the test set has it."
        )
    return found + cut(run)


def _on_test(ticket: pd.DataFrame, what: str) -> str:
    """By how much it exceeds the dense network there, and the verdict of that."""
    return (
        f"{tables.points(ticket['to_dense'])} {what}, {tables.word(ticket['verdict'])}"
    )


def cut(run: Run) -> list[str]:
    """A sentence for each of the first tickets with a layer of which nothing is left.

    That is where none of its weights lies on a path from an input to an output.
    """
    dead = run.layers[run.layers["effective_density"] == 0]
    found = []
    for ticket in statistics.groups(dead):
        layers, seeds = ticket["layer"].unique(), ticket["seed"].nunique()
        found.append(
            f"{tables.word(ticket['method'])}, {tables.name(ticket)}: no path leads "
            f"through {layers[0]}{' and others' if len(layers) > 1 else ''} (of "
            f"{seeds} {'seed' if seeds == 1 else 'seeds'})."
        )
    return _first(found, "tickets are cut")


def diverged(rows: pd.DataFrame) -> list[str]:
    """A sentence for each of the first that have diverged, and how many more have."""
    lanes = [Lane(*row) for row in rows[[*Lane._fields]].itertuples(index=False)]
    found = [
        f"{lane} has diverged in round {round_} before step {step}: it is left out."
        for lane, round_, step in zip(lanes, rows["round"], rows["step"], strict=True)
    ]
    return _first(found, "have diverged")


def _first(found: list[str], what: str) -> list[str]:
    """As many sentences as are read, and how many more there are."""
    more = len(found) - SHOWN
    return found[:SHOWN] + ([f"{more} more {what}."] if more > 0 else [])


def sections(run: Run) -> list[tables.Table]:
    """Two tables, where there are tickets."""
    tickets = statistics.tickets(run)
    if not tickets:
        return []
    return [milestones(statistics.choose(tickets)), every_ticket(run, tickets)]


def every_ticket(run: Run, tickets: Sequence[pd.DataFrame]) -> tables.Table:
    """A line a ticket, against the dense network and its controls."""
    columns = tables.METHOD | TICKET
    for control in statistics.controls(run.rows):
        header = f"against\n{tables.words(control)},\npoints"
        columns[header] = (f"to_{control}", tables.points)
    columns[LAST if run.at else STOPPED] = ("last_to_dense", tables.points)
    columns |= STEPS if run.at else COST
    return tables.table("Every ticket against the dense network", columns, tickets)


def milestones(chosen: Mapping[str, Chosen]) -> tables.Table:
    """The sparsest ticket of each method that matches, and its most accurate."""
    found = [
        ticket.assign(chosen=f"{what}, of {tickets.among}")
        for tickets in chosen.values()
        for what, ticket in (
            ("sparsest that matches", tickets.sparsest),
            ("most accurate", tickets.best),
        )
        if ticket is not None
    ]
    which: tables.Columns = {"chosen on\nvalidation": ("chosen", tables.word)}
    columns = tables.METHOD | which | TICKET | COST
    title = "The sparsest that match, and the most accurate"
    return tables.table(title, columns, found)
