"""Measures the library on this machine: one command, and ratios within one run.

    python -m experiments.benchmark
    python -m experiments.benchmark --sections=lenet,search --output=benchmark.json

Every figure is the median of several repetitions after one that warms up, with the
lowest and the highest. What is compared runs by turns, so that what else the machine
does falls on both; of the machine's speed, the measure is a matrix product by turns.
Compiled programs are not cached, so that compile times are real.
"""

import dataclasses
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from rich import console, table

from experiments.benchmarks import (
    ceiling,
    compiling,
    convolution,
    jackpots,
    lenet,
    measure,
    memory,
    parallel,
    program,
    pytorch,
    search,
    selection,
    widths,
    zoo,
)
from experiments.benchmarks.bench import QUICK, Bench, Sizes
from experiments.study import command, outputs
from experiments.study.config import setting
from jaxticket import files

SECTIONS = {
    "ceiling": ceiling.rows,
    "lenet": lenet.rows,
    "lanes": widths.rows,
    "parallel": parallel.rows,
    "jackpots": jackpots.rows,
    "program": program.rows,
    "search": search.rows,
    "selection": selection.rows,
    "convolution": convolution.rows,
    "models": zoo.rows,
    "compile": compiling.rows,
    "memory": memory.rows,
    "pytorch": pytorch.rows,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a benchmark."""

    sections: list[str] = setting(
        tuple(SECTIONS), f"what to measure, with commas: of {', '.join(SECTIONS)}"
    )
    seeds: list[int] = setting(
        (1, 2, 4, 8, 16, 32, 64), "numbers of LeNet searches to compare"
    )
    devices: list[int] = setting((1, 2), "numbers of devices to compare")
    lanes: list[int] = setting((1, 2, 4), "numbers of lanes a device to compare")
    batch_sizes: list[int] = setting((60, 128, 1024), "batch sizes to compare")
    weights: list[int] = setting(
        (1_000_000, 10_000_000), "sizes of networks to select masks for"
    )
    repeats: int = setting(5, "of every measurement; whole searches half as many")
    limit: float = setting(
        20.0, "seconds after which no more repetitions of a comparison begin"
    )
    roofline: bool = setting(
        False, "in models, also the memory traffic against that of a copy"
    )
    data_dir: str | None = setting(
        None, "folder of prepared TFDS data, to search on MNIST instead of noise"
    )
    quick: bool = setting(False, "toy sizes: whether it runs, not how fast")
    output: str | None = setting(None, "JSON file for the rows and the environment")


def experiment(config: Config) -> list[measure.Row]:
    """Measures, prints a table a section, and writes the JSON file.

    Args:
      config: what to measure.

    Returns:
      All rows.

    Raises:
      ValueError: bad settings, before anything is measured.
    """
    _check(config)
    command.use_devices(compilation_cache=False)
    bench = Bench(
        sizes=QUICK if config.quick else Sizes(),
        seeds=config.seeds,
        devices=config.devices,
        lanes=config.lanes,
        batch_sizes=config.batch_sizes,
        weights=config.weights,
        repeats=config.repeats,
        limit=config.limit,
        roofline=config.roofline,
        data_dir=config.data_dir,
    )
    terminal = console.Console(width=None if sys.stdout.isatty() else 150)
    found = []
    for name in config.sections:
        begun = time.perf_counter()
        rows = []
        for row in SECTIONS[name](bench):
            line = f"{name}: {row.name}: {_short(row.median)} {row.unit}"
            print(line, file=sys.stderr, flush=True)
            rows.append(row)
        found += rows
        if rows:
            taken = time.perf_counter() - begun
            terminal.print(_table(f"{name} ({taken:.0f} s)", rows), "")
        if config.output is not None:
            _write(Path(config.output), config, found)
    return found


def _check(config: Config) -> None:
    if not config.sections:
        raise ValueError(f"give at least one section of {', '.join(SECTIONS)}")
    for name in config.sections:
        if name not in SECTIONS:
            raise ValueError(
                f"unknown section {name!r}: choose of {', '.join(SECTIONS)}"
            )
    for name in ("seeds", "devices", "lanes", "batch_sizes", "weights"):
        values = getattr(config, name)
        if not values or min(values) < 1:
            raise ValueError(f"--{name} takes numbers from 1, got {values}")
    if config.repeats < 1 or not config.limit >= 0:
        raise ValueError(
            f"--repeats must be at least 1 and --limit at least 0, got "
            f"{config.repeats} and {config.limit}"
        )
    if config.output is not None and not Path(config.output).absolute().parent.is_dir():
        raise ValueError(f"--output {config.output}: there is no such folder")


def _table(title: str, rows: Sequence[measure.Row]) -> table.Table:
    result = table.Table(title=title, title_justify="left", title_style="bold")
    result.add_column("", overflow="fold")
    also = list(dict.fromkeys(key for row in rows for key in row.also))
    for column in ("median", "", "lowest", "highest", "n", *also):
        left = column == ""
        result.add_column(column, justify="left" if left else "right", no_wrap=left)
    for row in rows:
        more = [_short(row.also[key]) if key in row.also else "" for key in also]
        spread = ["", ""] if row.n == 1 else [_short(row.low), _short(row.high)]
        result.add_row(
            row.name, _short(row.median), row.unit, *spread, str(row.n), *more
        )
    return result


def _short(value: float) -> str:
    """Three figures, and no exponent for what people read without one."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _write(path: Path, config: Config, rows: Sequence[measure.Row]) -> None:
    about = {
        "command": shlex.join(["python", "-m", "experiments.benchmark", *sys.argv[1:]]),
        "environment": {
            **outputs.environment(),
            "backend": jax.default_backend(),
            "machine": platform.machine(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
        },
        "config": dataclasses.asdict(config),
        "rows": [row._asdict() for row in rows],
    }
    files.write(path, json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    command.main(experiment, Config)
