"""What an experiment takes besides training: whole processes, of twenty steps each.

Each has its programs to compile in the first of them, and finds them in the others.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from experiments import faults
from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Seconds of a process that compiles nothing; how much longer, when it does."""
    for door, flags in faults.DOORS.items():
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            argv = ["-m", *f"experiments.{door}".split(), *faults.TOY, *flags]
            runs = (f"--output_dir={home / str(n)}" for n in itertools.count())
            cache = {"JAXTICKET_CACHE": str(home / "programs")}
            work = measure.process(argv, runs, cache, Path.cwd())
            first = measure.once(work)
            timing = bench.together({door: work}, warm_up=False)[door]
            found = [*(home / "programs").rglob("*-cache")]
        also = {"compiling s": first - timing.median, "programs": len(found)}
        yield measure.cost(door, timing, "s", 1, also)
