"""What a study writes down: every evaluation as it comes, and a row a training."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.reports import statistics
from jaxticket.engine import resumable


class Lane(NamedTuple):
    """One training: a treatment of one method's ticket of one seed and round.

    The tickets of a parallel method are of one round, but of as many settings: `round`
    numbers these from 1, and `setting` says what each is, as "s0=-0.1".
    """

    method: str
    treatment: str
    seed: int
    round: int
    setting: str = ""

    def __str__(self):
        which = f"round {self.round}" + (f", {self.setting}" if self.setting else "")
        return f"{self.method}, {self.treatment} of seed {self.seed}, {which}"


class Records:
    """`metrics.jsonl` and `results.csv` of a study; a context manager.

    Both are written anew by every call of the program: what an earlier one finished is
    replayed from its outcomes.

    A row says what it cost to find its ticket, and its controls' ticket: the steps of
    the search up to there, as epochs too, and the seconds that its program took for
    them, divided by the lanes that shared it. The training of the ticket afterwards is
    not among them. A parallel search, whose settings run side by side, costs each of
    its tickets the steps of one lane.

    Attributes:
      rows: one a finished training, as `results.csv` has them.
    """

    def __init__(self, folder: Path, epoch_steps: int):
        self.rows: list[dict] = []
        self._folder = folder
        self._epoch_steps = epoch_steps
        self._costs: dict[tuple, tuple[int, float]] = {}

    def __enter__(self):
        self._log = open(self._folder / "metrics.jsonl", "w")
        return self

    def __exit__(self, *_):
        self._log.close()

    def evaluated(self, lanes: Sequence[Lane], step: int, metrics: dict) -> None:
        """Logs one evaluation of every lane; `metrics` are `{name: [lanes]}`."""
        for i, lane in enumerate(lanes):
            values = {name: _number(values[i]) for name, values in metrics.items()}
            line = {**lane._asdict(), "step": step, **values}
            self._log.write(json.dumps(line, allow_nan=False) + "\n")
        self._log.flush()

    def found(
        self,
        rounds: dict[Lane, int],
        plan: Sequence[resumable.Stretch],
        seconds: np.ndarray,
    ) -> None:
        """Remembers what the tickets of a search have cost.

        Args:
          rounds: every lane's ticket -> rounds of the search that it took.
          plan: the stretches of the search.
          seconds: `[stretches]`.
        """
        sharing = len({(lane.seed, lane.setting) for lane in rounds})
        for lane, spent in rounds.items():
            taken = [i for i, stretch in enumerate(plan) if stretch.round < spent]
            self._costs[_ticket(lane)] = (
                sum(plan[i].last - plan[i].first for i in taken),
                float(seconds[taken].sum()) / sharing,
            )

    def trained(
        self,
        lanes: Sequence[Lane],
        plan: Sequence[resumable.Stretch],
        metrics: dict[str, np.ndarray],
        seconds: np.ndarray,
    ) -> None:
        """Adds a row for every lane of a finished round, unless it has one.

        Every relative of IMP trains the same dense network first: one row is enough.

        Args:
          lanes: one a column of the metrics; later columns are padding.
          plan: the stretches of the round.
          metrics: name -> `[stretches, lanes]`.
          seconds: `[stretches]`.
        """
        there = {tuple(row[name] for name in Lane._fields) for row in self.rows}
        for i, lane in enumerate(lanes):
            if tuple(lane) not in there:
                curves = {name: values[:, i] for name, values in metrics.items()}
                self.rows.append(self._row(lane, plan, curves, seconds, len(lanes)))
        path = self._folder / "results.csv"
        statistics.write_table(path, statistics.COLUMNS, self.rows)

    def _row(self, lane, plan, curves, seconds, lanes) -> dict:
        best = int(np.argmin(curves["validation_loss"]))
        final = {name: _number(curve[-1]) for name, curve in curves.items()}
        steps, searching = self._costs.get(_ticket(lane), (0, 0.0))
        return {
            **lane._asdict(),
            "density": final["density"],
            "test_accuracy": final["test_accuracy"],
            "validation_accuracy": final["validation_accuracy"],
            "early_stopping_step": plan[best].last,
            "early_stopping_test_accuracy": _number(curves["test_accuracy"][best]),
            "best_test_accuracy": _number(np.max(curves["test_accuracy"])),
            "train_loss": final["train_loss"],
            "steps": sum(stretch.last - stretch.first for stretch in plan),
            "search_steps": steps,
            "search_epochs": round(steps / self._epoch_steps, 3),
            "search_seconds": round(searching, 3),
            "seconds": round(float(seconds.sum()) / lanes, 3),
        }


def _ticket(lane: Lane) -> tuple:
    return lane.method, lane.seed, lane.round


def _number(value) -> float | None:
    """A JSON number; None for what is not finite."""
    value = float(value)
    return value if math.isfinite(value) else None
