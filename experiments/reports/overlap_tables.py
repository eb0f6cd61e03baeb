"""Table and figure of `overlaps.csv`: what criteria have in common with masks found."""

from collections.abc import Sequence
from pathlib import Path

from experiments.reports import drawings, statistics, tables
from experiments.reports.statistics import Row

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
HEADERS = ("method", "density\n%", "by\nchance\n%")
CAPTION = (
    "Overlap of the masks found with those of criteria of the trained dense network, "
    "of the same layer counts: the share of the weights that one keeps which the other "
    "keeps too. Dashed: by chance."
)


def read(folder: Path) -> list[Row]:
    """The rows that a study has left, if any."""
    path = folder / FILE
    return statistics.read_table(path, COLUMNS) if path.exists() else []


def sections(found: Sequence[Row]) -> list[tables.Section]:
    """One table: of every method and density, the overlap with each criterion."""
    if not found:
        return []
    criteria = statistics.distinct(found, "criterion")
    settings = sorted(
        statistics.distinct(found, "setting"),
        key=lambda s: -_mean(statistics.select(found, setting=s), "density"),
    )
    lines = []
    for setting in settings:
        here = statistics.select(found, setting=setting)
        for method in statistics.distinct(here, "method"):
            ours = statistics.select(here, method=method)
            overlaps = (_observed(ours, name) for name in criteria)
            lines.append(
                [
                    method.replace("_", " "),
                    f"{100 * _mean(ours, 'density'):.3g}",
                    f"{100 * _mean(ours, 'expected'):.1f}",
                    *(tables.plus_minus(x, "{:.1f}", 100) for x in overlaps),
                ]
            )
    terms = {
        "overlap": "Percent of the weights that a mask keeps which a criterion's mask "
        "keeps too; that one keeps the highest scores of the trained dense network, "
        "as many of each layer. Mean ± half of the 95% interval over the seeds.",
        "by chance": "The same of a random mask, on average.",
        "gradient, SNIP": "|g| and |g w|, where g is the gradient of the mean loss on "
        f"the first {found[0]['images']:,} training images, as in a test.",
    }
    headers = (*HEADERS, *(f"{name}\n%" for name in criteria))
    title = "Overlap of the masks found with those of criteria"
    return [tables.Section(title, headers, lines, terms)]


def figure(found: Sequence[Row], names: Sequence[str]):
    """One panel a method of `names`: overlap by density, a line a criterion."""
    drawing, panels = drawings.panels(len(names))
    smallest = min(row["density"] for row in found)
    criteria = statistics.distinct(found, "criterion")
    handles = {}
    for axes, name in zip(panels, names, strict=True):
        ours = statistics.select(found, method=name)
        groups = [
            statistics.select(ours, setting=setting)
            for setting in statistics.distinct(ours, "setting")
        ]
        groups.sort(key=lambda group: -_mean(group, "density"))
        densities = [_mean(group, "density") for group in groups]
        for index, criterion in enumerate(criteria):
            points = [_observed(group, criterion) for group in groups]
            handles[criterion] = axes.errorbar(
                densities,
                [100 * point.mean for point in points],
                [100 * point.half_width for point in points],
                color=drawings.COLOURS[index % len(drawings.COLOURS)],
                marker="os^Dv"[index % 5],
                markersize=4,
                linewidth=1.4,
                elinewidth=0.8,
                capsize=2,
            )
        chance = [100 * _mean(group, "expected") for group in groups]
        (handles["by chance"],) = axes.plot(
            densities, chance, color=drawings.GREY, linestyle="--", linewidth=1.2
        )
        drawings.density_axis(axes, densities, smallest)
        axes.set_title(name.replace("_", " "))
        axes.set_ylim(0, 102)
    drawings.label_heights(panels, "overlap, % of the weights kept")
    drawings.legend(drawing, handles)
    return drawing


def _observed(rows: Sequence[Row], criterion: str) -> statistics.Interval:
    rows = statistics.select(rows, criterion=criterion)
    return statistics.interval(row["observed"] for row in rows)


def _mean(rows: Sequence[Row], column: str) -> float:
    return statistics.interval(row[column] for row in rows).mean
