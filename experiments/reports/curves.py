"""Learning curves of a method: loss and accuracy of dense, ticket and control."""

import numpy as np

from experiments.reports import drawings, statistics


def learning_curves(dense, records, rows, colour: str):
    """Validation loss and test accuracy of dense, ticket and control, by the step."""
    from matplotlib import figure

    rounds = sorted(statistics.distinct(rows, "round"))
    chosen = sorted({rounds[(len(rounds) - 1) // 2], rounds[-1]})
    size = (1.2 + 4.4 * len(chosen), 6.2)
    drawing = figure.Figure(figsize=size, layout="constrained")
    panels = drawing.subplots(2, len(chosen), sharex=True, sharey="row", squeeze=False)
    handles = {}
    for (loss, accuracy), round_ in zip(panels.T, chosen, strict=True):
        here = statistics.select(records, round=round_)
        curves = {"dense": (dense, drawings.GREY, "-")}
        for treatment in ("ticket", "reinitialise"):
            name, line, *_ = drawings.TREATMENTS[treatment]
            found = statistics.select(here, treatment=treatment)
            curves[name] = (found, colour, line)
        for name, (found, hue, line) in curves.items():
            if found:
                handles[name] = curve(loss, found, "validation_loss", 1, hue, line)
                curve(accuracy, found, "test_accuracy", 100, hue, line)
        tickets = statistics.select(rows, treatment="ticket", round=round_)
        density = statistics.interval(row["density"] for row in tickets).mean
        name = statistics.select(rows, round=round_)[0]["setting"] or f"round {round_}"
        loss.set_title(f"{name}: {100 * density:.3g}% of the weights")
        loss.grid(alpha=0.25)
        accuracy.grid(alpha=0.25)
        accuracy.set_xlabel("optimiser step")
    loss, accuracy = panels[:, 0]
    loss.set_ylabel("validation loss")
    drawings.log_axis(loss, panels[0])
    accuracy.set_ylabel("test accuracy, %")
    values = drawings.heights(panels[1])
    if values.size:  # crop the steep start, so that the ends can be told apart
        low, high = np.quantile(values, 0.2), values.max()
        margin = 0.1 * (high - low) + 0.1
        accuracy.set_ylim(low - margin, high + margin)
    drawings.legend(drawing, handles)
    return drawing


def curve(
    axes, records, column: str, scale: float, colour: str, line: str, unit: float = 1
):
    """Draws the mean over seeds, and its interval as a band; returns the line.

    Args:
      axes: where.
      records: of the seeds.
      column: what to draw.
      scale: factor of its values.
      colour: of line and band.
      line: its style.
      unit: factor of the steps.
    """
    values: dict[int, dict[int, float]] = {}
    for record in records:  # after a resume a step may come twice: the later stands
        values.setdefault(record["step"], {})[record["seed"]] = scale * record[column]
    steps = sorted(values)
    means, widths = np.transpose(
        [statistics.interval(values[step].values()) for step in steps]
    )
    places = [unit * step for step in steps]
    axes.fill_between(
        places, means - widths, means + widths, color=colour, alpha=0.12, linewidth=0
    )
    return axes.plot(places, means, color=colour, linestyle=line, linewidth=1.6)[0]
