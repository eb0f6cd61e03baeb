"""What experiments take as whole processes: their starts, and the default run.

Each has its programs to compile in the first process, and finds them in the others.
"""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments import faults
from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench


def default(bench: Bench) -> Iterator[measure.Row]:
    """Seconds of what the README's first command runs; how much longer to compile."""
    yield _row(bench, "ticket_search", ())


def rows(bench: Bench) -> Iterator[measure.Row]:
    """The same of every experiment, in twenty steps: what it takes besides training."""
    for door, flags in faults.DOORS.items():
        yield _row(bench, door, (*faults.TOY, *flags))


def _row(bench: Bench, door: str, flags: Sequence[str]) -> measure.Row:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        argv = ["-m", *f"experiments.{door}".split(), *flags]
        runs = (f"--output_dir={home / str(n)}" for n in itertools.count())
        cache = {"JAXTICKET_CACHE": str(home / "programs")}
        work = measure.process(argv, runs, cache, Path.cwd())
        first = measure.once(work)
        timing = bench.together({door: work}, warm_up=False)[door]
        found = [*(home / "programs").rglob("*-cache")]
    also = {"compiling s": first - timing.median, "programs": len(found)}
    return measure.cost(door, timing, "s", 1, also)
