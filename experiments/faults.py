"""Kills runs at chosen and at random moments, and compares what they end with.

Every experiment that trains runs at toy size, once in peace and then many times with a
fault: the process is killed in the middle of a checkpoint, of a file, of a line of the
log, of the report, while it takes its folder, or at any time; or a scheduler's signal
comes. The same command is given, and struck again, until it ends. Then nothing may be
lost, doubled or changed, against the run in peace: no row of a table, no look, no byte
of a ticket.

    python -m experiments.faults --kills=100 --output=faults.json

About 10 seconds a kill on two cores.
"""

import collections
import dataclasses
import importlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from absl import flags

from experiments import report
from experiments.reports import figures, findings
from experiments.study import command, lock, outputs, records, rules, settings
from experiments.study.settings import setting
from jaxticket import files
from jaxticket.engine import checkpoint

TOY = (
    "--dataset=digits",
    "--seeds=2",
    "--steps=20",
    "--eval_every=10",
    "--batch_size=32",
    "--learning_rate=0.01",
)
# Seconds between checkpoints: none, or more than a run takes. Then the host looks at a
# round that has closed while the devices are at the next.
PAUSES = (0, 30)
STREAMING = "ticket_search --stream"
PLAIN = ("--methods=imp,one_shot", "--rounds=3", "--one_shot.density=0.1")
DOORS = {
    "ticket_search": PLAIN,
    STREAMING: PLAIN,
    "continuous_sparsification": ("--methods=continuous_sparsification,imp",),
    "pruning": (
        "--methods=gradual,rigl",
        "--gradual.start=2",
        "--gradual.stop=14",
        "--gradual.every=4",
        "--rigl.every=4",
    ),
    "initial_pruning": (
        "--methods=snip,random",
        "--snip.density=0.1",
        "--random.density=0.1",
    ),
    "jackpots": (
        "--methods=jackpot,random",
        "--jackpot.density=0.1",
        "--search_steps=20",
    ),
    "supermasks": ("--methods=large_final,supermask", "--search_steps=20"),
    "second_order": ("--methods=magnitude,obd", "--magnitude.density=0.1"),
    "structured": ("--filters.density=0.5",),
    "alignment": ("--rounds=2",),
    "sparse_training": ("--methods=rigl", "--rigl.density=0.2"),
    "layers": ("--checkpoints=0.5",),
    "early_birds": ("--looks=6",),
    "instability": ("--rounds=2", "--points=3"),
    "swaps": ("--magnitude.density=0.1",),
}
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
TABLES = (
    "results.csv",
    "layers.csv",
    *(f.FILE for f in findings.FINDINGS),
)
CLOCKS = ("seconds", "search_seconds")
LATE = (  # what a run imports when it needs it
    "experiments.study.stages",
    "jaxticket.models.zoo",
    "orbax.checkpoint",
    "sklearn.datasets",
)
MOST = 20  # times that a command is given
AGAIN = 0.75  # how often a run that goes on is struck again


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, at: int, fault: Callable[..., None]) -> None:
    """Lets a fault happen in the `at`-th call of a function, before its work."""
    calls, real = itertools.count(1), getattr(owner, name)

    def called(*args, **kwargs):
        if next(calls) == at:
            fault(*args)
        return real(*args, **kwargs)

    setattr(owner, name, called)


def _in_a_checkpoint(at: int) -> None:
    real, calls = checkpoint.Folder.save, itertools.count(1)

    def save(*args):
        real(*args)  # which goes on in the background
        if next(calls) == at:
            kill()

    checkpoint.Folder.save = save


def _in_a_file(at: int) -> None:
    """After the half of it: what replaces a file is killed before it does."""

    def half(beside, path):
        size = os.path.getsize(beside)
        os.truncate(beside, size // 2)
        kill()

    before(files.os, "replace", at, half)


def _in_a_line(at: int) -> None:
    def half(log, *_):
        log._log.write('{"method": "half a')
        log._log.flush()
        kill()

    before(records.Records, "evaluated", at, half)


# What may happen, of a number that says when.
MOMENTS: dict[str, Callable[[int], None]] = {
    "checkpoint": _in_a_checkpoint,
    "file": _in_a_file,
    "log line": _in_a_line,
    "report": lambda at: before(files, "write", at, lambda *_: kill()),
    "lock": lambda at: before(lock, "_sign", 1, lambda *_: kill()),
    "claim": lambda at: before(outputs.Folder, "claim", 1, lambda *_: kill()),
}


def _at(seconds: float, number: int) -> None:
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), number))
    timer.daemon = True
    timer.start()


def plan(rng: random.Random, seconds: float) -> tuple[str, Callable[[], None]]:
    """A fault: what it is called, and what arms it."""
    kind = rng.choice([*MOMENTS, "any time", "any time", *SIGNALS])
    if kind in MOMENTS:
        at = rng.randint(1, 12)
        return kind, lambda: MOMENTS[kind](at)
    when, number = rng.uniform(0, 0.7 * seconds), signal.Signals.SIGKILL
    if kind in SIGNALS:
        number = signal.Signals[kind]
    return kind, lambda: _at(when, number)


def _module(door: str) -> str:
    return f"experiments.{door.split()[0]}"


def run(
    door: str, folder: Path, arm: Callable[[], None] = lambda: None, pause: int = 0
) -> int:
    """Gives a command in a child of this process; its exit code, or minus a signal."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    code = 1
    try:
        log = os.open(folder.parent / f"{folder.name}.log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        where = f"--output_dir={folder}", f"--save_seconds={pause}"
        sys.argv = [*door.split(), *TOY, *DOORS[door], *where]
        for name in [field.name for field in dataclasses.fields(Config)]:
            delattr(flags.FLAGS, name)  # those of this program
        module = importlib.import_module(_module(door))
        figures.drawn = lambda run: {}  # pictures take longer than the run
        arm()
        command.main(module.experiment, module.Config)
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def left(folder: Path) -> dict[str, dict]:
    """What a run has left that holds no clock: table -> row -> its numbers."""
    found: dict[str, dict] = {}
    for name in TABLES:
        if (folder / name).exists():
            rows = pd.read_csv(folder / name, dtype=str)
            rows = rows.drop(columns=[c for c in CLOCKS if c in rows])
            found[name] = collections.Counter(map(tuple, rows.to_numpy().tolist()))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found["metrics.jsonl"] = collections.Counter(lines)
    found["tickets"] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.glob("tickets/*/*")
    }
    found["others"] = collections.Counter(
        path.name
        for path in folder.rglob("*")
        if path.name == "lock" or path.suffix in (".tmp", ".damaged")
    )
    return found


def differences(ours: dict, theirs: dict) -> dict[str, int]:
    """What is lost, doubled and changed, in all tables."""
    counts = dict.fromkeys(("lost", "doubled", "changed"), 0)
    for name in {*ours, *theirs}:
        one, other = ours.get(name, {}), theirs.get(name, {})
        more = sum(1 for row in one if row not in other)
        less = sum(1 for row in other if row not in one)
        both = [row for row in one if row in other and one[row] != other[row]]
        counts["changed"] += min(more, less)
        counts["lost"] += max(0, less - more)
        counts["doubled"] += max(0, more - less)
        counts["changed" if name == "tickets" else "doubled"] += len(both)
    return counts


def trials(config: "Config") -> Iterator[dict[str, Any]]:
    """A row a run: the faults that struck it, the codes it ended with, what differs.

    A run that goes on is struck again three times out of four.
    """
    rng, struck = random.Random(config.seed), 0
    expected = {0, -signal.SIGKILL}
    for name in SIGNALS:  # the second is of before a program listens
        expected |= {128 + signal.Signals[name], -signal.Signals[name]}
    with tempfile.TemporaryDirectory() as folder:
        whole, seconds = {}, {}
        for name in [*LATE, *map(_module, config.doors)]:
            importlib.import_module(name)  # once, and not in every child
        for door in config.doors:
            begun = time.monotonic()
            if code := run(door, Path(folder) / door):
                said = (Path(folder) / f"{door}.log").read_text()
                raise ValueError(f"{door} ended with {code}: {said[-500:]}")
            seconds[door] = time.monotonic() - begun
            whole[door] = left(Path(folder) / door)
        for i in itertools.count():
            if struck >= config.kills:
                return
            door = config.doors[i % len(config.doors)]
            there, faults, codes = Path(folder) / f"{door}-{i}", [], []
            while not codes or codes[-1] != 0 and len(codes) < MOST:
                kind, arm = "", lambda: None
                if not codes or rng.random() < AGAIN:
                    kind, arm = plan(rng, seconds[door])
                pause = 0 if kind == "checkpoint" else rng.choice(PAUSES)
                codes.append(run(door, there, arm, pause))
                faults += [kind] if codes[-1] != 0 else []
            struck += len(faults)
            yield {
                "door": door,
                "faults": faults,
                "codes": codes,
                "odd": sum(code not in expected for code in codes),
                **differences(left(there), whole[door]),
            }


@dataclasses.dataclass(frozen=True)
class Config:
    """How many faults, and where the counts go."""

    kills: int = setting(100, "how many faults strike, at the least", rules.COUNT)
    seed: int = setting(0, "of the faults")
    doors: list[str] = setting(tuple(DOORS), f"of {', '.join(DOORS)}, with commas")
    output: str | None = setting(
        None, "JSON file for the counts and every fault", rules.IN_A_FOLDER
    )


def experiment(config: Config) -> Sequence[dict[str, Any]]:
    """Counts; see the head of the file.

    Raises:
      AssertionError: something was lost, doubled or changed.
    """
    settings.check(config)
    settings.names("doors", config.doors, DOORS)
    begun, rows = time.monotonic(), []
    for row in trials(config):
        rows.append(row)
        print(f"[{len(rows)}] {row}", file=sys.stderr, flush=True)
    wrong = ("lost", "doubled", "changed", "odd")
    counts = {name: sum(row[name] for row in rows) for name in wrong}
    faults = collections.Counter(fault for row in rows for fault in row["faults"])
    about = {
        "command": outputs.command(),
        "environment": outputs.environment(),
        "seconds": round(time.monotonic() - begun, 1),
        "struck": faults.total(),
        "faults": dict(faults),
        "runs": len(rows),
        **counts,
        "rows": rows,
    }
    if config.output is not None:
        files.write(config.output, json.dumps(about, indent=1) + "\n")
    print(f"{faults.total()} faults in {len(rows)} runs: {counts}")
    if any(counts[name] for name in wrong[:3]):  # an odd code has lost nothing
        raise AssertionError(f"faults left traces: {counts}")
    return rows


if __name__ == "__main__":
    _ = report  # what children need is imported once, here
    command.main(experiment, Config)
