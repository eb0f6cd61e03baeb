"""What deleting weights adds to the loss: of `experiments.second_order`."""

import functools

import pandas as pd

from experiments.reports import drawings, statistics, tables

FILE = "deletions.csv"
SETS = ("train", "validation", "test")
MEASURED = [f"{name}_{what}" for what in ("loss", "accuracy") for name in SETS]
COLUMNS = {
    **{"method": str, "seed": int, "setting": str, "density": float},
    **dict.fromkeys(MEASURED, float),
    **{f"dense_{name}": float for name in MEASURED},
}
REFERENCE = "magnitude"  # which others are held against
TERMS = {
    "added to the loss": "Mean loss after the deletion less that of the trained dense "
    "network of the same seed, of all training, validation or test images.",
    "seeds that add less": "In how many seeds the deletion adds less than that by "
    "magnitude at the same density: on training, validation, test images.",
}

added = functools.partial(tables.plus_minus, form="{:+.3f}")


def _less(seeds: pd.DataFrame) -> str:
    """In how many seeds each loss is below that by magnitude, of those that both have.

    A dash of magnitude itself.
    """
    ours, theirs = (
        seeds[[f"{whose}{name}_added" for name in SETS]].to_numpy()
        for whose in ("", "reference_")
    )
    both = seeds["reference_train_added"].notna()
    if not both.any() or (seeds["method"] == REFERENCE).all():
        return tables.DASH
    counts = (ours < theirs)[both].sum(0)
    return ", ".join(f"{count}/{both.sum()}" for count in counts)


ADDED = [f"{whose}{name}_added" for whose in ("", "reference_") for name in SETS]
SAID: tables.Columns = {
    **tables.METHOD,
    **tables.KEPT,
    "added to the\ntraining loss": ("train_added", added),
    "validation\nloss": ("validation_added", added),
    "test\nloss": ("test_added", added),
    "test accuracy\nafterwards, %": ("test_accuracy", tables.accuracy),
    "against dense,\npoints": ("to_dense", tables.points),
    "seeds that add\nless than magnitude": (["method", *ADDED], _less),
}


def _differences(rows: pd.DataFrame) -> pd.DataFrame:
    """With what each adds, beside that by magnitude of the same seed and density."""
    for name in SETS:
        gain = rows[f"{name}_loss"] - rows[f"dense_{name}_loss"]
        rows = rows.assign(**{f"{name}_added": gain})
    rows = rows.assign(to_dense=rows["test_accuracy"] - rows["dense_test_accuracy"])
    names = ["density", *(f"{name}_added" for name in SETS)]
    theirs = rows.loc[rows["method"] == REFERENCE, ["seed", *names]]
    theirs = theirs.rename(columns={name: f"reference_{name}" for name in names})
    pairs = rows.reset_index().merge(theirs, on="seed")
    apart = statistics.apart(pairs["density"], pairs["reference_density"])
    pairs = pairs.assign(apart=apart)[apart <= statistics.SAME].sort_values("apart")
    nearest = pairs.drop_duplicates("index").set_index("index")
    return rows.join(nearest[[*theirs.columns[1:]]])


def headlines(rows: pd.DataFrame) -> list[str]:
    """A sentence a setting: what OBD adds, and what magnitude does."""
    rows = _differences(rows)
    found = []
    for group in tables.densest_first(rows[rows["method"] == "obd"]):
        if group["reference_train_added"].isna().all():
            continue
        found.append(
            f"Optimal Brain Damage, {tables.percent(group['density'])}% of the weights "
            f"kept, adds {added(group['train_added'])} to the training loss and "
            f"magnitude {added(group['reference_train_added'])}; less in "
            f"{_less(group)} seeds on training, validation and test images."
        )
    return found


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    """One table: a line a method and density."""
    groups = tables.densest_first(_differences(rows))
    return [tables.table("What the deletion of weights adds", SAID, groups)]


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """The gain of the training and of the test loss by density."""
    rows = _differences(rows).assign(
        line=rows["method"].map(tables.words), prunings=1, x=100 * rows["density"]
    )
    shown = {"training": "train_added", "test": "test_added"}
    both = [rows.assign(panel=f"{x} loss", y=rows[n]) for x, n in shown.items()]
    points = statistics.points(pd.concat(both), "x", "y")
    drawing, grid = drawings.by_density(points, "added to the loss")
    drawings.log_axis(grid)
    caption = (
        "What deleting trained weights adds to the loss, without training afterwards. "
        "Where it adds nothing, or takes away, a logarithmic axis has no place."
    )
    return {"deletions": (drawing, caption)}
