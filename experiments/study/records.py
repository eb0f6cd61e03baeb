"""What a study writes down: every evaluation as it comes, and a row a training."""

import csv
import io
import json
import math
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxticket import files, masks
from jaxticket.base import Mask
from jaxticket.engine import hosts, resumable


class Lane(NamedTuple):
    """One training, or search: what its rows and lines are called.

    Attributes:
      method: by which the ticket was found; "dense" for the dense network.
      treatment: "dense", "ticket", "tuned", the name of a control, as "shuffle" or, of
        its second draw, "shuffle 2"; or "search", for looks at a search that are not
        those of its ticket.
      seed: of all randomness.
      prunings: how often the ticket has been pruned.
      setting: what tells lanes of a method apart, as "density=0.2", or nothing.
    """

    method: str
    treatment: str
    seed: int
    prunings: int
    setting: str = ""

    @property
    def control(self) -> str:
        """The name of its control, of which there may be several draws."""
        return self.treatment.partition(" ")[0]

    def __str__(self):
        setting = f", {self.setting}" if self.setting else ""
        times = f", pruned {self.prunings} times" if self.prunings > 1 else ""
        return f"{self.method}, {self.treatment} of seed {self.seed}{setting}{times}"


def dense(seed: int) -> Lane:
    """The dense network of a seed."""
    return Lane("dense", "dense", seed, 0)


def whose(lane: Lane, mask: Mask) -> dict[str, Any]:
    """What the row of a finding begins with: `WHOSE` ticket it is of."""
    return lane._asdict() | {"density": float(masks.density(mask))}


def at_step(seed: int, step: int) -> Lane:
    """The dense network of a seed after a step of its training."""
    return Lane("dense", "dense", seed, 0, f"step={step}")


class Cost(NamedTuple):
    """What it took to find a ticket: steps of the search, and seconds of a lane."""

    steps: int = 0
    seconds: float = 0.0


# The columns of `results.csv`, and what kind of values they hold.
COLUMNS = Lane.__annotations__ | dict.fromkeys(
    (
        "density",
        "test_accuracy",
        "validation_accuracy",
        "early_stopping_step",
        "early_stopping_test_accuracy",
        "early_stopping_validation_accuracy",
        "best_test_accuracy",
        "train_loss",
        "steps",
        "search_steps",
        "search_epochs",
        "search_seconds",
        "seconds",
    ),
    float,
)

# Of the files of findings: whose a row is, a ticket's of a seed.
WHOSE = {"method": str, "setting": str, "seed": int, "prunings": int, "density": float}
# Of `layers.csv`, a row a layer of a ticket, and `inputs.csv`, a row an input.
LAYERS = {
    **{
        name: kind for name, kind in Lane.__annotations__.items() if name != "treatment"
    },
    "density": float,
    "layer": str,
    "weights": int,
    "layer_density": float,
    "effective_density": float,
}
# Of `divergence.csv`, a row a training, or search, that has diverged.
DIVERGENCE = {**Lane.__annotations__, "round": int, "step": int}
INPUTS = {"method": str, "density": float, "row": int, "column": int, "kept": float}


class Records:
    """`metrics.jsonl`, `results.csv`, `divergence.csv` of a study; a context manager.

    They are written anew by every call of the program: what an earlier one finished is
    replayed from its outcomes. A seed that has diverged has a row in `divergence.csv`
    where it did, and no other from there on.

    A row says what it cost to find its ticket, and its controls' ticket: the steps of
    the search up to there, as epochs too, and the seconds that its program took for
    them, divided by the lanes that shared it. The training of the ticket afterwards is
    not among them.

    Attributes:
      rows: one a finished training, as `results.csv` has them.

    Args:
      folder: where they are.
      epoch_steps: steps of a pass over the training data.
      stops: whether what diverges stops the run.
    """

    def __init__(self, folder: Path, epoch_steps: int, *, stops: bool = False):
        self.rows: list[dict] = []
        self._folder = folder
        self._epoch_steps = epoch_steps
        self._stops = stops
        self._costs: dict[Lane, Cost] = {}
        self._diverged: list[dict] = []
        self._lost: set[Lane] = set()

    def __enter__(self):
        log = Path(os.devnull)
        if hosts.first():
            (self._folder / "divergence.csv").unlink(missing_ok=True)
            log = self._folder / "metrics.jsonl"
        self._log = open(log, "w", encoding="utf-8")
        return self

    def __exit__(self, *_):
        self._log.close()

    def evaluated(self, lanes: Mapping[Lane, int], step: int, metrics: Mapping) -> None:
        """Logs one evaluation; `metrics` are `{name: [columns]}`, a lane has one."""
        for lane, i in lanes.items():
            values = {name: _number(values[i]) for name, values in metrics.items()}
            line = {**lane._asdict(), "step": step, **values}
            self._log.write(json.dumps(line, allow_nan=False) + "\n")
        self._log.flush()

    def left_out(self, lane: Lane, round_: int, step: int) -> None:
        """Adds a row, and says it: a lane was not finite any more before a step.

        Raises:
          FloatingPointError: where that is to stop the run.
        """
        said = f"{lane} has diverged in round {round_} before step {step}"
        if self._stops:
            raise FloatingPointError(
                f"{said}: lower the learning rate, change the seed, or give "
                "--on_divergence=mark; what was finished before is kept"
            )
        print(f"note: {said}: it is left out", file=sys.stderr)
        where = {"round": round_, "step": step}
        self._diverged.append({**lane._asdict(), **where})
        write_table(self._folder / "divergence.csv", DIVERGENCE, self._diverged)

    def lose(self, lane: Lane, prunings: Iterable[int]) -> None:
        """Remembers that a search leaves no tickets of these numbers of prunings."""
        for times in prunings:
            self._lost.add(lane._replace(treatment="ticket", prunings=times))

    def lost(self, lane: Lane) -> bool:
        """Whether there is no ticket of a lane, or of that of its control."""
        return lane._replace(treatment="ticket") in self._lost

    def found(self, lane: Lane, cost: Cost) -> None:
        """Remembers what the ticket of a lane has cost."""
        self._costs[lane._replace(treatment="ticket")] = cost

    def cost(self, lane: Lane) -> Cost:
        """What the ticket of a lane, or that of its control, has cost."""
        return self._costs.get(lane._replace(treatment="ticket"), Cost())

    def test_accuracy(self, lane: Lane) -> float:
        """After the last step of its training; NaN where it has diverged."""
        rows = (
            row
            for row in self.rows
            if all(row[k] == x for k, x in lane._asdict().items())
        )
        return next((row["test_accuracy"] for row in rows), math.nan)

    def trained(
        self,
        lanes: Mapping[Lane, int],
        plan: Sequence[resumable.Stretch],
        metrics: Mapping[str, np.ndarray],
        seconds: np.ndarray,
    ) -> None:
        """Adds a row for every lane of a finished round.

        Args:
          lanes: with the column of each in the metrics.
          plan: the stretches of the round.
          metrics: name -> `[stretches, columns]`.
          seconds: of a lane, `[stretches]`.
        """
        for lane, i in lanes.items():
            curves = {name: values[:, i] for name, values in metrics.items()}
            self.rows.append(self._row(lane, plan, curves, seconds))
        write_table(self._folder / "results.csv", COLUMNS, self.rows)

    def _row(self, lane, plan, curves, seconds) -> dict:
        best = int(np.argmin(curves["validation_loss"]))
        last, early = (
            {name: _number(curve[look]) for name, curve in curves.items()}
            for look in (-1, best)
        )
        cost = self.cost(lane)
        return {
            **lane._asdict(),
            "density": last["density"],
            "test_accuracy": last["test_accuracy"],
            "validation_accuracy": last["validation_accuracy"],
            "early_stopping_step": plan[best].last,
            "early_stopping_test_accuracy": early["test_accuracy"],
            "early_stopping_validation_accuracy": early["validation_accuracy"],
            "best_test_accuracy": _number(np.max(curves["test_accuracy"])),
            "train_loss": last["train_loss"],
            "steps": sum(stretch.last - stretch.first for stretch in plan),
            "search_steps": cost.steps,
            "search_epochs": round(cost.steps / self._epoch_steps, 3),
            "search_seconds": round(cost.seconds, 3),
            "seconds": round(float(seconds.sum()), 3),
        }


def diverged(folder: Path) -> int:
    """How many trainings and searches of a run have diverged."""
    try:
        return len((folder / "divergence.csv").read_text().splitlines()) - 1
    except FileNotFoundError:
        return 0


def write_table(path: Path, columns: Collection[str], rows: Sequence[Mapping]) -> None:
    """Writes these columns of rows as a CSV file, in one move.

    NaN, None and what a row does not have are empty cells. Of no rows there is no file:
    where all that it would say has diverged.
    """
    if not hosts.first():
        return
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: None if x != x else x for k, x in row.items()})
    files.write(path, text.getvalue())


def _number(value) -> float | None:
    """A JSON number; None for what is not finite."""
    value = float(value)
    return value if math.isfinite(value) else None
