"""Published targets against the kept runs: a table, made from their files alone.

    python -m experiments.scoreboard

prints it, and writes it between its marks in the README of the results. A target is met
where every part of it lies in its band, in the mean over seeds, by a run of the length
that it is stated for; what a shorter run shows is said, and is not counted. The targets
are in `experiments/reports/targets.py`.
"""

import dataclasses
import math
from pathlib import Path

from experiments.reports import reading
from experiments.reports.targets import TARGETS, Part, Target
from experiments.study import command, rules, settings
from experiments.study.settings import setting
from jaxticket import files

RESULTS = Path(__file__).parent / "results"
MARKS = "<!-- scoreboard -->", "<!-- end of the scoreboard -->"
HEADER = f"| id | claim | band | ours | state | run | minutes |\n{7 * '|---'}|"


def line(target: Target) -> str:
    """A row of the table."""
    if target.measure is None:
        return f"| {target.id} | {target.claim} | – | – | {target.state} | – | – |"
    parts = target.measure(RESULTS / target.run)
    judged = [part for part in parts if part.judged]
    missed = [part for part in judged if not part.met]
    state = f"{len(judged) - len(missed)} of {len(judged)} parts in their bands"
    if len(judged) == 1:
        state = "outside the band" if missed else "in the band"
    if target.short:
        state = f"not run at its length ({target.short}); {state}"
    else:
        state = f"**missed**: {state}" if missed else "**met**"
    return (
        f"| {target.id} | {target.claim} | {'; '.join(map(_band, parts))} | "
        f"{'; '.join(map(_ours, parts))} | {state} | [{target.run}]({target.run}) | "
        f"{minutes(RESULTS / target.run):.0f} |"
    )


def minutes(folder: Path) -> float:
    """Of all trainings of a run."""
    return float(reading.results(folder / "results.csv")["seconds"].sum() / 60)


def _band(part: Part) -> str:
    if math.isinf(part.low):
        return "any" if math.isinf(part.high) else f"at most {part.high:g}"
    return (
        f"at least {part.low:.3g}"
        if math.isinf(part.high)
        else f"{part.low:g} to {part.high:g}"
    )


def _ours(part: Part) -> str:
    mean, low, high = part.ours
    if math.isnan(mean):
        return f"not seen: {part.what}"
    between = "" if math.isnan(low) else f" ({low:.2f} to {high:.2f})"
    seeds = {0: "", 1: ", one seed"}.get(part.seeds, f", {part.seeds} seeds")
    return f"{mean:.2f}{between} {part.what}{seeds}"


def table() -> str:
    """The whole table, in Markdown."""
    return "\n".join([HEADER, *map(line, TARGETS)])


def placed(text: str, board: str) -> str:
    """A text with the board between its marks.

    Raises:
      ValueError: the marks are not there.
    """
    first, last = (text.find(mark) for mark in MARKS)
    if not 0 <= first < last:
        raise ValueError(f"the text must have the lines {MARKS[0]} and {MARKS[1]}")
    return f"{text[:first]}{MARKS[0]}\n\n{board}\n\n{text[last:]}"


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the table goes."""

    output: str = setting(
        str(RESULTS / "README.md"),
        "a text with the marks of the table, which is written anew",
        rules.IN_A_FOLDER,
    )


def experiment(config: Config) -> str:
    """Prints the table, and writes it."""
    settings.check(config)
    path, board = Path(config.output), table()
    files.write(path, placed(path.read_text("utf-8"), board))
    print(board)
    return board


if __name__ == "__main__":
    command.main(experiment, Config)
