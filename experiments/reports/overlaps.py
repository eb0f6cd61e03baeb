"""Table and figure of `overlaps.csv`: what criteria have in common with masks found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.reports import drawings, statistics, tables

FILE = "overlaps.csv"
COLUMNS = (
    "method",
    "seed",
    "setting",
    "density",
    "criterion",
    "observed",
    "expected",
    "deviation",
    "images",
)


def read(folder: Path) -> pd.DataFrame:
    """The rows that a study has left, if any."""
    path = folder / FILE
    if path.exists():
        return statistics.read_table(path, COLUMNS)
    return pd.DataFrame(columns=list(COLUMNS))


def sections(found: pd.DataFrame) -> list[tables.Table]:
    """One table: of every method and density, the overlap with each criterion."""
    if found.empty:
        return []
    criteria = list(found["criterion"].unique())
    lines = [
        [
            drawings.words(method),
            tables.percent(ours["density"].mean()),
            f"{100 * ours['expected'].mean():.1f}",
            *(
                tables.points(ours.loc[ours["criterion"] == name, "observed"])
                for name in criteria
            ),
        ]
        for (method, _), ours in tables.densest_first(found)
    ]
    headers = ["method", "weights\nkept, %", "by\nchance, %"]
    headers += [f"{name}, %" for name in criteria]
    title = "Overlap of the masks found with those of criteria"
    return [tables.Table(title, headers, lines)]


def figures(found: pd.DataFrame, searched: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """One panel a method: overlap by density, a line a criterion.

    Of searched methods, if there are: a criterion's own mask is no finding.
    """
    if found.empty:
        return {}
    if searched:
        found = found[found["method"].isin(searched)]
    chance = found.drop_duplicates(["method", "setting", "seed"])
    chance = chance.assign(criterion="by chance", observed=chance["expected"])
    both = pd.concat([found, chance], ignore_index=True)
    drawing = drawings.against(
        both.assign(observed=100 * both["observed"], prunings=1),
        "observed",
        panel="method",
        line="criterion",
        label="overlap, % of the weights kept",
        frame=drawings.Frame(None, *found["density"].agg(["min", "max"])),
        accuracy=False,
    )
    drawing.axes[0].set_ylim(0, 104)
    caption = (
        "Overlap of the masks found with those of criteria of the trained dense "
        "network, of the same layer counts."
    )
    return {"overlaps": (drawing, caption)}
