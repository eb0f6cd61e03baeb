"""How everything is timed: warmed up, synchronised, side by side, with its spread."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

Work = Callable[[], Any]  # does it once, and returns the arrays to wait for


class Timing(NamedTuple):
    """The seconds of every repetition, in their order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Row(NamedTuple):
    """One line of the benchmark.

    Attributes:
      name: what was measured.
      unit: of the three numbers that follow.
      median: over the repetitions.
      low: the smallest.
      high: the largest.
      n: how many repetitions.
      also: what follows from the median: name -> number.
    """

    name: str
    unit: str
    median: float
    low: float
    high: float
    n: int
    also: dict[str, float]


def cost(name: str, timing: Timing, unit: str, per: float, also=None) -> Row:
    """A row of the seconds that each of `per` pieces takes, in the unit of these."""
    return _row(name, unit, [s / per for s in timing.seconds], also)


def rate(name: str, timing: Timing, unit: str, work: float, also=None) -> Row:
    """A row of `work` by the second."""
    return _row(name, unit, [work / s for s in timing.seconds], also)


def number(name: str, unit: str, value: float, also=None) -> Row:
    """A row of what is measured once, or counted."""
    return _row(name, unit, [value], also)


def _row(name, unit, values, also):
    median = statistics.median(values)
    return Row(name, unit, median, min(values), max(values), len(values), also or {})


def once(work: Work) -> float:
    """The seconds that `work` takes, its arrays computed."""
    begun = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - begun


def process(
    argv: Sequence[str], last: Iterator[str], env: Mapping[str, str], folder: Path
) -> Work:
    """A whole process of this Python, each time with another last argument.

    Raises:
      ChildProcessError: when it runs: it has failed, and what it has said.
    """

    ours = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}

    def work():
        line = [sys.executable, *argv, next(last)]
        ended = subprocess.run(
            line,
            env=ours | env,  # with the programs of no other process
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if ended.returncode:
            said = "\n".join(ended.stdout.splitlines()[-5:])
            raise ChildProcessError(f"{' '.join(line)} has failed:\n{said}")

    return work


def compilations(work: Work) -> int:
    """How many programs XLA compiles while `work` runs."""
    before = len(_compiled)
    once(work)
    return len(_compiled) - before


def _listen(event: str, _: float, **kwargs) -> None:
    del kwargs
    if event.endswith("backend_compile_duration"):
        _compiled.append(event)


_compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(_listen)


def together(
    works: Mapping[str, Work],
    *,
    repeats: int,
    limit: float,
    warm_up: bool = True,
    apart: bool = False,
) -> dict[str, Timing]:
    """Times several pieces of work by turns, so that their ratios share the weather.

    Args:
      works: name -> work.
      repeats: how many times all of them run.
      limit: seconds after which no further repetition begins.
      warm_up: whether each runs once beforehand, uncounted; it compiles then.
      apart: whether each runs once more at every turn, uncounted, before it is timed,
        and every other turn goes backwards: threads of another library, which has just
        worked, keep a core for a while.
    """
    for work in works.values() if warm_up else ():
        once(work)
    found = {name: [] for name in works}
    begun = time.perf_counter()
    for repeat in range(repeats):
        if repeat and time.perf_counter() - begun > limit:
            break
        turn = list(works.items())
        for name, work in reversed(turn) if apart and repeat % 2 else turn:
            if apart:
                once(work)
            found[name].append(once(work))
    return {name: Timing(tuple(taken)) for name, taken in found.items()}


def ratio(one: Timing, other: Timing) -> float:
    """How many times as long one takes as another timed with it: median over turns."""
    return statistics.median(
        a / b for a, b in zip(one.seconds, other.seconds, strict=True)
    )
