"""What an installation brings along, and what an import takes beside jax's own."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench

EXTRAS = ("", "experiments")


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Megabytes and packages that are installed here; seconds of a fresh process."""
    for extra in EXTRAS:
        found = needed("jaxticket", extra)
        size = sum(map(_bytes, found.values()))
        name = f"jaxticket with {extra}" if extra else "jaxticket"
        also = {"packages": len(found)}
        yield measure.number(name, "MB", size / 1e6, also)
    first, *_ = bench.sizes.imports
    programs = {
        name: [sys.executable, "-c", f"import {name}"] for name in bench.sizes.imports
    }
    times = bench.together(
        {
            name: partial(subprocess.run, program, check=True)
            for name, program in programs.items()
        }
    )
    for name, timing in times.items():
        also = {f"{first}'s": measure.ratio(timing, times[first])}
        yield measure.cost(f"import {name}", timing, "s", 1, also)


def needed(package: str, extra: str = "") -> dict[str, metadata.Distribution]:
    """The packages that one needs, and those that these need, as they are installed."""
    found: dict[str, metadata.Distribution] = {}
    left = [(package, extra)]
    seen = set(left)
    while left:
        name, extra = left.pop()
        for line in metadata.distribution(name).requires or ():
            ours = Requirement(line)
            if ours.marker and not ours.marker.evaluate({"extra": extra}):
                continue
            key = canonicalize_name(ours.name)
            found[key] = metadata.distribution(key)
            new = {(key, x) for x in ("", *ours.extras)} - seen
            left += new
            seen |= new
    found.pop(canonicalize_name(package), None)  # by an extra of its own
    return found


def _bytes(distribution: metadata.Distribution) -> int:
    paths = (Path(str(file.locate())) for file in distribution.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())
