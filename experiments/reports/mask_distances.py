"""How soon the mask of a training is drawn: of `experiments.early_birds`."""

import numpy as np
import pandas as pd

from experiments.reports import drawings, statistics, tables
from jaxticket import analysis

FILE = "early_birds.csv"
COLUMNS = {"seed": int, "density": float, "step": int, "later": int, "distance": float}
TERMS = {
    "early bird": "The first look at a training whose mask is at most "
    f"{analysis.BIRD:g} from those of the last {analysis.PAST} looks; they are as far "
    "apart as the share of the weights in which they differ.",
    "overlap": "What the mask of the early bird has in common with that of the trained "
    "network, of the weights that they keep; by chance, of weights drawn from all "
    "layers alike, the density.",
}


def matrix(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The steps of the looks, and how far apart their masks are, `[looks, looks]`."""
    steps = np.unique(rows[["step", "later"]])
    found = np.zeros((len(steps), len(steps)))
    places = (np.searchsorted(steps, rows[name]) for name in ("step", "later"))
    for i, j, far in zip(*places, rows["distance"], strict=True):
        found[i, j] = found[j, i] = far
    return steps, found


def birds(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a density and seed: the step of the bird, NaN without one, its overlap."""
    found = []
    for (density, seed), ours in rows.groupby(["density", "seed"], sort=False):
        steps, far = matrix(ours)
        at = analysis.early_bird(far)
        values = (np.nan, np.nan, np.nan)
        if at is not None:
            overlap = 1 - far[at, -1] / (2 * density)
            values = (steps[at], steps[at] / steps[-1], overlap)
        found.append((density, seed, *values))
    return pd.DataFrame(found, columns=["density", "seed", "step", "share", "overlap"])


def _by_density(rows: pd.DataFrame) -> list[pd.DataFrame]:
    return [x for _, x in birds(rows).groupby("density", sort=False)]


def headlines(rows: pd.DataFrame) -> list[str]:
    """A sentence a density."""
    said = []
    for x in _by_density(rows):
        kept, seen = tables.percent(x["density"]), x.dropna()
        if seen.empty:
            said.append(f"At {kept}% of the weights no seed has an early bird.")
            continue
        said.append(
            f"At {kept}% of the weights the early bird comes after "
            f"{tables.percent(seen['share'])}% of the training ({len(seen)} of "
            f"{len(x)} seeds), and has {tables.percent(seen['overlap'])}% of the mask "
            "of its end."
        )
    return said


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    """One table: a line a density."""
    columns: tables.Columns = {
        **tables.KEPT,
        "early bird\nat step": ("step", tables.steps),
        "of the\ntraining, %": ("share", tables.accuracy),
        "overlap with\nthe end, %": ("overlap", tables.accuracy),
        "by\nchance, %": ("density", tables.percent),
    }
    return [tables.table("Early birds", columns, _by_density(rows))]


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """The largest distance to the masks of the last looks, by the step."""
    found = []
    for (density, seed), ours in rows.groupby(["density", "seed"], sort=False):
        steps, far = matrix(ours)
        line = f"{100 * density:g}% of the weights"
        found += [
            {"panel": "", "line": line, "seed": seed, "step": step, "far": value}
            for step, value in zip(steps[1:], analysis.unrest(far)[1:], strict=True)
        ]
    points = statistics.points(pd.DataFrame(found), "step", "far", by=["step"])
    label = f"largest distance to the last {analysis.PAST} masks"
    drawing, grid = drawings.panels(points, "step", label, curves=True)
    drawings.level(drawing, analysis.BIRD)
    grid[0, 0].set_ylim(bottom=0)
    caption = (
        "How far the mask of a look is from those of the looks before it, at most. "
        f"Dotted: {analysis.BIRD:g}, at which the early bird is drawn."
    )
    return {"early_birds": (drawing, caption)}
