"""What a layer from elsewhere costs: of `experiments.layers`."""

import pandas as pd

from experiments.reports import drawings, tables

FILE = "layers_reset.csv"
FRESH, RESET = "drawn anew", "put back"
COLUMNS = {
    **{"seed": int, "layer": str, "kind": str, "step": int},
    **dict.fromkeys(
        ("test_loss", "test_accuracy", "trained_test_loss", "trained_test_accuracy"),
        float,
    ),
}
TERMS = {
    "put back, step": "The layer has the values that it had after this step of the "
    "training, 0 being its initial ones; all other layers are as they are trained. "
    "Against the trained network of the same seed, in points of test accuracy.",
    "drawn anew": "The layer has values of another draw of the initialisation.",
}


def _costs(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a layer and seed, a column a source: what is lost or won there."""
    names = rows["kind"].where(
        rows["kind"] == FRESH, rows["kind"] + ",\nstep " + rows["step"].astype(str)
    )
    cost = rows["test_accuracy"] - rows["trained_test_accuracy"]
    rows = rows.assign(source=names, cost=cost)
    wide = rows.set_index(["layer", "seed", "source"])["cost"].unstack(sort=False)
    return wide.reset_index()


def _by_layer(costs: pd.DataFrame) -> list[pd.DataFrame]:
    return [group for _, group in costs.groupby("layer", sort=False)]


def headlines(rows: pd.DataFrame) -> list[str]:
    """What the initial values of a layer cost, and those of another draw."""
    groups, found = _by_layer(_costs(rows)), []
    for source, words in (
        (f"{RESET},\nstep 0", "Put back to its initial values"),
        (FRESH, "Drawn anew"),
    ):
        ordered = sorted(groups, key=lambda group: group[source].mean())
        most, least = (
            f"{group['layer'].iloc[0]} ({tables.points(group[source])} points)"
            for group in (ordered[0], ordered[-1])
        )
        found.append(f"{words} the layer {most} costs most, and {least} least.")
    return found


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    """One table: a line a layer."""
    costs = _costs(rows)
    columns = tables.LAYER | {
        f"{source},\npoints": (source, tables.points)
        for source in costs.columns.drop(["layer", "seed"])
    }
    title = "A layer from elsewhere, against the trained network"
    return [tables.table(title, columns, _by_layer(costs))]


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """A map of layers and sources: the test accuracy."""
    percent = rows.assign(
        source=rows["kind"].where(rows["kind"] == FRESH, rows["step"].astype(str)),
        accuracy=100 * rows["test_accuracy"],
    )
    means = percent.groupby(["layer", "source"], sort=False)["accuracy"].mean()
    table, place = means.unstack(sort=False), "step put back to"
    drawing = drawings.heat(table, place, drawings.ACCURACY)
    caption = (
        "Test accuracy of the trained network with one layer put back to a step of its "
        "training, 0 being the initial values, or drawn anew; the mean over seeds."
    )
    return {"layers_reset": (drawing, caption)}
