"""Small networks that are built from pruned ones: of `experiments.structured`."""

import pandas as pd

from experiments.reports import drawings, statistics, tables

FILE = "structured.csv"
ARMS = ("fine-tuned", "scratch-E", "scratch-B", "ticket")
COLUMNS = {
    **dict.fromkeys(("method", "setting", "arm"), str),
    **dict.fromkeys(("seed", "prunings", "steps", "weights", "large_weights"), int),
    **dict.fromkeys(
        (
            "density",
            "flops",
            "large_flops",
            "difference",
            "validation_accuracy",
            "test_accuracy",
        ),
        float,
    ),
}
TERMS = {
    "fine-tuned": "The small network from the trained values, a quarter of the steps "
    "at the last learning rate.",
    "scratch-E": "The small network from a new initialisation, as many steps as the "
    "large one.",
    "scratch-B": "The same, as much arithmetic as the large one.",
    "ticket": "The small network from the large one's initial values, as many steps.",
    "arithmetic": "Floating-point operations of one image.",
}


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """With `to_tuned`: what each exceeds fine-tuning of the same seed by."""
    keys = [*statistics.TICKET, "seed"]
    tuned = rows.loc[rows["arm"] == "fine-tuned", [*keys, "test_accuracy"]]
    tuned = tuned.rename(columns={"test_accuracy": "tuned"})
    rows = rows.merge(tuned, "left", on=keys)
    return rows.assign(
        to_tuned=rows["test_accuracy"] - rows["tuned"],
        weights_left=rows["weights"] / rows["large_weights"],
        flops_left=rows["flops"] / rows["large_flops"],
    )


def headlines(rows: pd.DataFrame) -> list[str]:
    """A sentence a setting: scratch-B against fine-tuning."""
    found = []
    for group in statistics.groups(compared(rows), [*statistics.TICKET, "arm"]):
        if group["arm"].iloc[0] == "scratch-B":
            found.append(
                f"{tables.word(group['method'])}, {tables.name(group)}: of "
                f"{tables.percent(group['weights_left'])}% of the weights, scratch-B "
                f"is {tables.points(group['to_tuned'])} points against fine-tuning."
            )
    return found


def sections(rows: pd.DataFrame) -> list[tables.Table]:
    """One table: a line an arm."""
    columns: tables.Columns = {
        **tables.METHOD,
        "ticket": (["setting", "prunings"], tables.name),
        "trained": ("arm", lambda arms: arms.iloc[0]),
        "weights\nleft, %": ("weights_left", tables.percent),
        "arithmetic\nleft, %": ("flops_left", tables.percent),
        "steps": ("steps", tables.number),
        "test\naccuracy, %": ("test_accuracy", tables.accuracy),
        "against fine-\ntuning, points": ("to_tuned", tables.points),
        "from the masked\nnetwork, at most": ("difference", _largest),
    }
    groups = statistics.groups(compared(rows), [*statistics.TICKET, "arm"])
    return [tables.table("Small networks, built and trained", columns, groups)]


def _largest(values: pd.Series) -> str:
    return f"{values.max():.0e}"


def drawn(rows: pd.DataFrame) -> drawings.Figures:
    """Test accuracy against the arithmetic that is left, a line an arm."""
    rows = compared(rows)
    rows = rows.assign(
        panel=rows["method"].map(tables.words),
        line=rows["arm"],
        x=100 * rows["flops_left"],
        y=100 * rows["test_accuracy"],
    )
    points = statistics.points(rows, "x", "y", by=[*statistics.TICKET, "arm"])
    drawing, _ = drawings.panels(
        points, "arithmetic left, %", drawings.ACCURACY, curves=True
    )
    caption = (
        "Test accuracy of small networks that are built from pruned ones, after "
        "training in four ways; bands are intervals over the seeds."
    )
    return {"structured": (drawing, caption)}
