"""What a study writes down: every evaluation as it comes, and a row a training."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import common, statistics
from jaxticket import resumable


class Lane(NamedTuple):
    """One training: a treatment of one method's ticket of one seed and round."""

    method: str
    treatment: str
    seed: int
    round: int

    def __str__(self):
        return (
            f"{self.method}, {self.treatment} of seed {self.seed}, round {self.round}"
        )


class Records:
    """`metrics.jsonl` and `results.csv` of a study; a context manager.

    Both are written anew by every call of the program: what an earlier one finished is
    replayed from its outcomes.

    Attributes:
      rows: one a finished training, as `results.csv` has them.
    """

    def __init__(self, folder: Path, round_steps: int):
        self.rows: list[dict] = []
        self._folder = folder
        self._round_steps = round_steps

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
        text = io.StringIO()
        writer = csv.DictWriter(text, statistics.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        common.write(self._folder / "results.csv", text.getvalue())

    def _row(self, lane, plan, curves, seconds, lanes) -> dict:
        best = int(np.argmin(curves["validation_loss"]))
        final = {name: _number(curve[-1]) for name, curve in curves.items()}
        return {
            **lane._asdict(),
            "density": final["density"],
            "test_accuracy": final["test_accuracy"],
            "validation_accuracy": final["validation_accuracy"],
            "early_stopping_step": plan[best].last,
            "early_stopping_test_accuracy": _number(curves["test_accuracy"][best]),
            "train_loss": final["train_loss"],
            "steps": sum(stretch.last - stretch.first for stretch in plan),
            "search_steps": lane.round * self._round_steps,
            "seconds": round(float(seconds.sum()) / lanes, 3),
        }


def _number(value) -> float | None:
    """A JSON number; None for what is not finite."""
    value = float(value)
    return value if math.isfinite(value) else None
