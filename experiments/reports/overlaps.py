"""How far masks overlap with those of criteria: of `experiments.jackpots`."""

import pandas as pd

from experiments.reports import drawings, figures, tables
from jaxticket import analysis, supervised

FILE = "overlaps.csv"
COLUMNS = {
    **{"method": str, "seed": int, "setting": str, "density": float, "criterion": str},
    **dict.fromkeys(analysis.Overlap._fields, float),
    "images": int,
}
TERMS = {
    "overlap": "Percent of the weights that a mask keeps which a criterion's mask "
    "keeps too; that one keeps the highest scores of the trained dense network, as "
    "many of each layer. By chance: the same of a random mask, on average. Gradient "
    "and SNIP are |g| and |g w|, where g is the gradient of the mean loss on the first "
    f"{supervised.IMAGES} training images.",
}


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    """One table: of every method and density, the overlap with each criterion."""
    criteria = rows["criterion"].unique()
    keys = ["method", "setting", "seed", "density", "expected", "criterion"]
    wide = rows.set_index(keys)["observed"].unstack(sort=False).reset_index()
    columns: tables.Columns = {
        **tables.METHOD,
        **tables.KEPT,
        "by\nchance, %": ("expected", tables.percent),
        **{f"{criterion}, %": (criterion, tables.accuracy) for criterion in criteria},
    }
    title = "Overlap of the masks found with those of criteria"
    return [tables.table(title, columns, tables.densest_first(wide))]


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """By density, a panel a method; the mask of a criterion itself is no finding."""
    found = rows[~rows["method"].isin(rows["criterion"])]
    if found.empty:
        return {}
    chance = found.drop_duplicates(["method", "setting", "seed"])
    chance = chance.assign(criterion="by chance", observed=chance["expected"])
    both = pd.concat([found, chance], ignore_index=True)
    both = both.assign(line=both["criterion"], prunings=1, y=100 * both["observed"])
    drawing = figures.by_density(both, "overlap, % of the weights kept")
    drawing.axes[0].set_ylim(0, 104)
    caption = (
        "Overlap of the masks found with those of criteria of the trained dense "
        "network, of the same layer counts."
    )
    return {"overlaps": (drawing, caption)}
