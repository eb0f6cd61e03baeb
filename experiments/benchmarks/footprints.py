"""Peak memory of a search, against what its compiled program predicts.

Each search runs in a process of its own, whose peak the system knows: what it holds
beyond what it held when everything was compiled and nothing had been allocated.
"""

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax

from experiments.benchmarks import measure, search, tasks
from experiments.benchmarks.bench import Bench, layout, place
from experiments.study import command
from jaxticket.engine import lanes, programs, resumable

STATUS = Path("/proc/self/status")  # where Linux tells what a process holds


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Megabytes at the peak, and their ratio to the prediction; on CPU under Linux."""
    if not measurable():
        print("memory: only measured on CPU under Linux, left out", file=sys.stderr)
        return
    sizes = bench.sizes
    for model, images in sizes.memory:
        for seeds in (1, sizes.many):
            yield row("imp", model, seeds, images, sizes.batch_size)


def measurable() -> bool:
    """Whether the system tells what a process holds, and that is all there is."""
    return jax.default_backend() == "cpu" and STATUS.exists()


def row(
    method: str, model: str, seeds: int, images: int, batch_size: int
) -> measure.Row:
    """The peak of one search, in a process of its own."""
    numbers = map(str, (seeds, images, batch_size))
    line = [sys.executable, "-m", __name__, method, model, *numbers]
    said = subprocess.run(line, check=True, capture_output=True, text=True)
    peak, predicted = json.loads(said.stdout.splitlines()[-1])
    return measure.number(
        f"{model}, seeds {seeds}: peak of a search",
        "MB",
        peak / 1e6,
        {"predicted MB": predicted / 1e6, "of predicted": peak / predicted},
    )


def _search(method: str, model: str, seeds: int, images: int, batch_size: int):
    """Peak and predicted bytes of two rounds of a few steps, with all their tests."""
    command.use_devices(compilation_cache=False)
    dataset = tasks.dataset_of(model)
    what = tasks.on_noise(model, images, batch_size)
    where = layout(*place(seeds))
    held_out = tasks.random_images(dataset, images, seed=1)
    both = programs.Data(what.train, held_out)
    # All seeds in one program: what its turns keep counts too.
    where = where._replace(turns=-(-seeds // where.width))
    run = search.Search(what, both, seeds, where, method)
    size = where.mesh.size * run.compile_stretch()
    run.compile(rounds=2)
    run.data = None
    before = _held("VmRSS")
    run.data = lanes.everywhere(where, both)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    steps = min(4, images // batch_size)
    run.run(resumable.stretches(rounds=2, steps=steps, every=steps))
    return _held("VmHWM") - before, size


def _held(what: str) -> int:
    """Bytes, after what is free has gone back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    line = next(x for x in STATUS.read_text().splitlines() if x.startswith(what + ":"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(_search(*sys.argv[1:3], *map(int, sys.argv[3:]))))
