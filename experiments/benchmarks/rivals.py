"""A whole search of tickets on MNIST, process against process: open_lth's beside ours.

Five rounds of two epochs of LeNet-300-100, batches of 60, Adam, a fifth pruned between
rounds, a test after every epoch. Ours finds the compiled programs of an earlier run.
open_lth is a checkout, given by `--open_lth`, run by the same Python. It trains on all
60,000 images, where ours holds out 5,000 and looks at them besides the test.
"""

import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.benchmarks import measure, search
from experiments.benchmarks.bench import Bench

OURS = ("-m", "experiments.ticket_search", "--dataset=mnist", "--model=lenet_300_100")
ROUNDS = ("--methods=imp", "--controls=", "--rounds=5", "--epochs=2")
THEIRS = (
    "open_lth.py",
    "lottery",
    "--default_hparams=mnist_lenet_300_100",
    "--levels=4",  # besides the dense network
    "--training_steps=2ep",
    "--batch_size=60",
    "--optimizer_name=adam",
    "--lr=0.0012",
)


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Seconds of a ticket, and how many times as fast as open_lth that is."""
    if bench.data_dir is None:
        print("rivals: no --data_dir with MNIST, left out", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        works, tickets = {}, {}
        if bench.open_lth is None:
            print("rivals: no --open_lth, this library alone", file=sys.stderr)
        else:
            works["open_lth"], tickets["open_lth"] = _theirs(bench, home), 1
        for seeds in bench.sizes.rival_seeds:
            name = f"jaxticket, seeds {seeds}"
            works[name], tickets[name] = _ours(bench, home, seeds), seeds
            measure.once(works[name])  # compiles, and keeps what it compiled
        times = bench.together(works, warm_up=False)
    for name, timing in times.items():
        also = {}
        if "open_lth" in times:
            faster = measure.ratio(times["open_lth"], timing) * tickets[name]
            also = {"times open_lth": faster}
        yield measure.cost(name, timing, "s a ticket", tickets[name], also)


def _ours(bench, home, seeds) -> measure.Work:
    data = f"--data_dir={Path(bench.data_dir).resolve()}"
    argv = (*OURS, *ROUNDS, data, f"--seeds={seeds}")
    runs = (f"--output_dir={home / f'{seeds}-{n}'}" for n in itertools.count())
    cache = {"JAXTICKET_CACHE": str(home / "programs")}
    return measure.process(argv, runs, cache, Path.cwd())


def _theirs(bench, home) -> measure.Work:
    """It looks for its data in the home folder, and keeps its results there."""
    raw = home / "open_lth_datasets" / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    everything = search.images(bench)
    for split, name in ((everything.train, "train"), (everything.held_out, "t10k")):
        images = np.asarray(split.images, np.uint8).reshape(-1, 28, 28)
        _write(raw / f"{name}-images-idx3-ubyte", 2051, images)
        _write(raw / f"{name}-labels-idx1-ubyte", 2049, np.uint8(split.labels))
    runs = (f"--replicate={n}" for n in itertools.count(1))
    return measure.process(THEIRS, runs, {"HOME": str(home)}, Path(bench.open_lth))


def _write(path: Path, kind: int, values: np.ndarray) -> None:
    """As the files of MNIST are: a number for their kind, the shape, the bytes."""
    path.write_bytes(np.array([kind, *values.shape], ">i4").tobytes() + bytes(values))
