"""The figures of a run: which are drawn, of what, and what they say."""

import math

import pandas as pd

from experiments.reports import drawings, mask_searches, statistics, tables
from experiments.reports.mask_searches import EPOCH
from experiments.reports.reading import Run
from jaxticket import analysis

PERCENT = (  # columns that are fractions in the files
    "density",
    "test_accuracy",
    "early_stopping_test_accuracy",
)
DEPTH = 15  # percentage points below the dense network at which panels end
EDGES = (
    f"What lies more than {DEPTH} points below the dense network, where most tickets "
    "do not, is a hollow marker at the edge."
)


def drawn(run: Run) -> drawings.Figures:
    """All of them; the first says most. Nothing without content."""
    rows, looks = (
        table.assign(**100 * table[table.columns.intersection(PERCENT)])
        for table in (run.rows, run.looks)
    )
    run = run._replace(rows=rows, looks=looks)
    return {
        **_of_tickets(run),
        **_of_searches(mask_searches.looks(run), _dense(rows)["test_accuracy"]),
        **_of_layers(run.layers, run.inputs),
        **_of_courses(looks),
        **_of_trainings(looks),
    }


def by_density(rows: pd.DataFrame, label: str):
    """The drawing of a column `y` over the weights kept, a panel a method.

    Args:
      rows: of tickets, by method, setting, prunings and seed; `line` says on which.
      label: of the heights.
    """
    panel, density = rows["method"].map(tables.words), 100 * rows["density"]
    rows = rows.assign(panel=panel, density=density)
    drawing, _ = drawings.by_density(statistics.points(rows, "density", "y"), label)
    return drawing


def _ends(rows: pd.DataFrame, accuracy: str) -> tuple[float, float, float]:
    """Where panels end, so that a collapsed ticket does not stretch them.

    They do `DEPTH` below the dense network, if most tickets lie above, and at these.

    Returns:
      The lowest accuracy, or minus infinity; the smallest density, and the largest.
    """
    floor = _dense(rows)[accuracy].mean(skipna=False) - DEPTH
    tickets = rows[rows["treatment"] == "ticket"].assign(panel="", line="")
    points = statistics.points(tickets, "density", accuracy)
    above = points[points["mean"] >= floor]
    if 2 * len(above) <= len(points):
        floor, above = -math.inf, points
    places = above.loc[above["x"] > 0, "x"]
    return floor, places.min(), places.max()


def _of_tickets(run: Run) -> drawings.Figures:
    """Tickets and their controls by density, and what tickets cost."""
    found = _with_lines(run.rows[run.rows["treatment"] != "dense"])
    together = found[found["treatment"] == "ticket"].assign(panel="")
    alone = found.assign(panel=found["line"], line=found["treatment"].map(tables.words))
    if together.empty:
        return {}
    accuracy, figures = f"{run.at}test_accuracy", {}
    where = "at the early-stopping step" if run.at else "after the last step"
    floor, *densities = _ends(run.rows, accuracy)

    def add(name, caption, rows, column=accuracy, y=drawings.ACCURACY, x="density"):
        points = statistics.points(rows, x, column)
        dense = analysis.interval(_dense(run.rows)[column])
        place = {"density": drawings.KEPT}.get(x, EPOCH)
        if x == "density":  # an empty network has no place on a log axis
            points = points[points["x"] > 0]
        drawing, grid = drawings.panels(points, place, y, dense=dense)
        if x == "density":
            drawings.density_axis(grid, *densities)
        if y == drawings.ACCURACY:
            drawings.accuracy_axis(grid, floor)
        drawings.mark_hidden(grid)
        figures[name] = drawing, caption

    if found["line"].nunique() > 1 or len(together) == len(found):
        caption = f"Tickets of all methods: test accuracy {where}. {EDGES}"
        add("comparison", caption, together)
    if len(together) < len(found):
        caption = f"Tickets and their controls: test accuracy {where}. {EDGES}"
        add("accuracy", caption, alone)
    if together.loc[together["search_epochs"] > 0, "search_epochs"].nunique() > 1:
        caption = (
            "What it cost to find the tickets. Settings that run side by side cost "
            "each of their tickets one lane's epochs."
        )
        add("cost", caption, together, x="search_epochs")
    if run.at:
        caption = "Test accuracy after the last step."
        add("final_accuracy", caption, alone, "test_accuracy")
        step, label = "early_stopping_step", "early-stopping step"
        caption = "Step with the smallest validation loss: lower is sooner."
        add(step, caption, alone, step, label)
    return figures


def _of_searches(looks: pd.DataFrame, dense: pd.Series) -> drawings.Figures:
    """Curves of the `looks` of `mask_searches`."""
    if looks.empty:
        return {}
    looks = looks.assign(line=looks["method"].map(tables.words))
    moving = looks[looks["searched"]]
    beside = _some(looks[looks["setting"].isin(moving["setting"])], 9)
    points = statistics.points(beside, EPOCH, "test_accuracy", by=[EPOCH])
    dense = analysis.interval(dense)
    drawing, grid = drawings.panels(
        points, EPOCH, drawings.ACCURACY, dense=dense, curves=True
    )
    drawings.accuracy_axis(grid)
    moving = _some(moving[moving["step"] > 0], 4)
    return {
        "search_curves": (
            drawing,
            "Test accuracy of the mask at every look at a search over frozen weights; "
            "dashed: masks without a search.",
        ),
        "oscillation": (
            _curves(moving, "changed", "mask entries changed in a step"),
            "Entries of the mask that change in a step (a swap is two), on average "
            "since the last look.",
        ),
        "training_loss": (
            _curves(moving, "train_loss", "training loss"),
            "Training loss of the searches, on average since the last look.",
        ),
    }


def _of_layers(layers: pd.DataFrame, inputs: pd.DataFrame) -> drawings.Figures:
    """Densities of the layers, a panel a method, and what is left of every input."""
    figures = {}
    if layers.groupby("method")["density"].nunique().gt(1).any():
        found = layers.assign(
            panel=layers["method"].map(tables.words),
            line=layers["layer"],
            x=100 * layers["density"],
            y=100 * layers["layer_density"],
        )
        points = statistics.points(found, "x", "y")
        points = points[(points[["x", "mean"]] > 0).all(axis=1)]
        drawing, grid = drawings.by_density(points, "of the layer, %", curves=True)
        drawings.log_axis(grid)
        caption = "What tickets keep of each layer, against what they keep of all."
        figures["layers"] = drawing, caption
    if len(inputs):
        maps = {
            f"{tables.words(method)}: {tables.percent(ours['density'])}%": ours.pivot(
                index="row", columns="column", values="kept"
            )
            for method, ours in inputs.groupby("method", sort=False)
        }
        caption = (
            "The share of every input's weights in the first layer that the sparsest "
            "tickets of a method keep, in the mean over seeds."
        )
        figures["inputs"] = drawings.maps(maps), caption
    return figures


def _of_courses(looks: pd.DataFrame) -> drawings.Figures:
    """Density by the step of searches whose masks change while they train."""
    keys = ["method", "setting", "seed"]
    ours = looks[looks["treatment"].isin(("search", "ticket"))]
    moves = ours.groupby([*keys, "prunings", "treatment"])["density"].transform(
        "nunique"
    )
    ours = ours[moves > 1]
    if ours.empty:
        return {}
    searches = ours["treatment"].eq("search").groupby(ours["method"]).transform("any")
    ours = ours[~searches | (ours["treatment"] == "search")]
    # The rounds of a search lie one after another.
    rounds = ours.groupby([*keys, "prunings"])["step"].max().groupby(keys)
    before = (rounds.cumsum() - rounds.obj).rename("before").reset_index()
    ours = ours.merge(before)
    names, settings = ours["method"].map(tables.words), ours["setting"]
    ours = ours.assign(panel=names, line=settings.where(settings != "", "one setting"))
    ours["course"] = ours["before"] + ours["step"]
    points = statistics.points(ours, "course", "density", by=["course"])
    points = points[points["mean"] > 0]
    drawing, grid = drawings.panels(
        points, "step of the search", drawings.KEPT, curves=True
    )
    drawings.log_axis(grid)
    caption = "What the masks of searches keep while they train, round after round."
    return {"density_by_step": (drawing, caption)}


def _of_trainings(looks: pd.DataFrame) -> drawings.Figures:
    """Accuracy and loss of dense, ticket and controls by the step, of every method."""
    figures = {}
    dense = looks[looks["treatment"] == "dense"]
    trained = looks[~looks["treatment"].isin(("dense", "search", "tuned"))]
    for method, ours in trained.groupby("method", sort=False):
        if not (ours["step"] > 0).any():
            continue
        ours = _some(ours, 3)
        shown = [dense.assign(panel=panel) for panel in ours["panel"].unique()]
        shown = pd.concat([*shown, ours])
        shown = shown.assign(line=shown["treatment"].map(tables.words))
        which = (
            f"of {tables.words(method)}, by the step: its densest ticket, one in the "
            "middle, and its sparsest."
        )
        accuracy = _curves(shown, "test_accuracy", drawings.ACCURACY)
        loss = _curves(shown, "validation_loss", "validation loss")
        figures[f"learning_curves_{method}"] = accuracy, f"Test accuracy {which}"
        figures[f"validation_loss_{method}"] = loss, f"Validation loss {which}"
    return figures


def _dense(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["treatment"] == "dense"]


def _with_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds the column `line`: its ticket lies on which line of a figure.

    A method is a line. Where its settings were pruned several times each, a setting is.
    """
    names = rows["method"].map(tables.words)
    prunings = rows.groupby(["method", "setting"])["prunings"].transform("nunique")
    several = (rows["setting"] != "") & (prunings > 1)
    return rows.assign(line=names.where(~several, names + ", " + rows["setting"]))


def _some(looks: pd.DataFrame, most: int) -> pd.DataFrame:
    """Looks at all tickets, or at as many as fit, evenly, with a title as `panel`."""
    groups = statistics.ordered(looks).groupby(["setting", "prunings"], sort=False)
    found = []
    for ticket in statistics.some((ticket for _, ticket in groups), most):
        kept = f"{tables.number(ticket['density'])}% of the weights"
        found.append(ticket.assign(panel=f"{tables.name(ticket)}: {kept}"))
    return pd.concat(found)


def _curves(looks: pd.DataFrame, column: str, label: str):
    """The drawing of a column by the step."""
    points = statistics.points(looks, "step", column, by=["step"])
    drawing, grid = drawings.panels(points, "step", label, curves=True)
    (drawings.accuracy_axis if label == drawings.ACCURACY else drawings.log_axis)(grid)
    return drawing
