"""Measures the library on this machine: one command, and ratios within one run.

    python -m experiments.benchmark
    python -m experiments.benchmark --sections=lenet,search --output=benchmark.json

Every figure is the median of several repetitions after one that warms up, with the
lowest and the highest. What is compared runs by turns, so that what else the machine
does falls on both; of the machine's speed, the measure is a matrix product by turns.
Compiled programs are not cached, so that compile times are real.
"""

import dataclasses
import sys
import time
from pathlib import Path

import jax
from rich import console

from experiments.benchmarks import (
    bench,
    ceiling,
    compiling,
    convolving,
    file_sizes,
    footprints,
    frozen_steps,
    inference,
    installing,
    jaxpruning,
    lenet,
    loading,
    many_weights,
    measure,
    parallel,
    plan,
    printing,
    program,
    pytorch,
    rivals,
    scaling,
    search,
    search_steps,
    selecting,
    starting,
    states,
    widths,
    zoo_steps,
)
from experiments.study import command, rules, settings
from experiments.study.settings import setting

SECTIONS = {
    "ceiling": ceiling.rows,
    "lenet": lenet.rows,
    "lanes": widths.rows,
    "parallel": parallel.rows,
    "jackpots": frozen_steps.rows,
    "program": program.rows,
    "search": search.rows,
    "searches": search_steps.rows,
    "scaling": scaling.rows,
    "selection": selecting.rows,
    "pruning": many_weights.rows,
    "convolution": convolving.rows,
    "models": zoo_steps.rows,
    "loading": loading.rows,
    "compile": compiling.rows,
    "starting": starting.rows,
    "default": starting.default,
    "memory": footprints.rows,
    "states": states.rows,
    "plan": plan.rows,
    "inference": inference.rows,
    "files": file_sizes.rows,
    "install": installing.rows,
    "pytorch": pytorch.rows,
    "rivals": rivals.rows,
    "jaxpruner": jaxpruning.rows,
}


@dataclasses.dataclass(frozen=True)
class Config(bench.Bench):
    """All settings of a benchmark: what sections are given, which, and the file."""

    sections: list[str] = setting(
        tuple(SECTIONS), f"what to measure, with commas: of {', '.join(SECTIONS)}"
    )
    output: str | None = setting(
        None, "JSON file for the rows and the environment", rules.IN_A_FOLDER
    )


def experiment(config: Config) -> list[measure.Row]:
    """Measures, prints a table a section, and writes the JSON file.

    Returns:
      All rows.

    Raises:
      ValueError: bad settings, before anything is measured.
    """
    settings.check(config)
    settings.names("sections", config.sections, SECTIONS)
    command.use_devices(compilation_cache=False)
    terminal = console.Console(width=None if sys.stdout.isatty() else 150)
    found, written = [], []
    for name in config.sections:
        begun = time.perf_counter()
        rows = []
        for row in SECTIONS[name](config):
            line = f"{name}: {row.name}: {printing.short(row.median)} {row.unit}"
            print(line, file=sys.stderr, flush=True)
            rows.append(row)
        found += rows
        written += [{"section": name, **row._asdict()} for row in rows]
        if rows:
            taken = time.perf_counter() - begun
            terminal.print(printing.rows(f"{name} ({taken:.0f} s)", rows), "")
        if config.output is not None:
            path = Path(config.output).expanduser()
            printing.write(path, dataclasses.asdict(config), written)
    return found


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    command.main(experiment, Config)
