"""Two runs that differ in a setting or two, paired by seed."""

import json
from collections.abc import Mapping
from typing import Any

from experiments.reports import statistics, tables
from experiments.reports.reading import Run
from experiments.study.records import Lane


def differences(run: Run, other: Run) -> list[str]:
    """What two runs were told in two ways: a sentence a setting."""
    ours, theirs = (_flat(one.about["config"]) for one in (run, other))
    return [
        f"{name} is {json.dumps(ours.get(name))} here, {json.dumps(theirs.get(name))} "
        "there."
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name) and name not in ("output_dir", "hyper")
    ]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, **config.get("hyper", {})}


def table(run: Run, other: Run) -> tables.Table:
    """A line a training that both runs have: what ours exceeds the other's by.

    Both are read as the first is: at their early stops, or after their last steps.

    Raises:
      ValueError: they have no training of a seed in common.
    """
    column = f"{run.at}test_accuracy"
    theirs = other.rows[[*Lane._fields, column]].rename(columns={column: "there"})
    both = run.rows.merge(theirs, on=[*Lane._fields])
    if both.empty:
        raise ValueError(
            "the two runs have no training in common: no method, setting, treatment "
            "and seed are in both"
        )
    both = both.assign(here=both[column], more=both[column] - both["there"])
    columns: tables.Columns = {
        **tables.METHOD,
        "treatment": ("treatment", tables.word),
        **tables.NAMED,
        "here, %": ("here", tables.accuracy),
        "there, %": ("there", tables.accuracy),
        "here against\nthere, points": ("more", tables.points),
    }
    groups = statistics.groups(both, [*statistics.TICKET, "treatment"])
    return tables.table("Against the other run, paired by seed", columns, groups)
