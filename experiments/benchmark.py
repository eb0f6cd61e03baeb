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
from experiments.benchmarks.bench import QUICK, Bench, Sizes
from experiments.study import command, rules, settings
from experiments.study.settings import setting
from jaxticket import checks

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
NUMBERS = checks.each(rules.MANY)


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a benchmark."""

    sections: list[str] = setting(
        tuple(SECTIONS), f"what to measure, with commas: of {', '.join(SECTIONS)}"
    )
    seeds: list[int] = setting(
        (1, 2, 4, 8, 16, 32, 64), "numbers of LeNet searches to compare", NUMBERS
    )
    devices: list[int] = setting((1, 2), "numbers of devices to compare", NUMBERS)
    lanes: list[int] = setting(
        (1, 2, 4), "numbers of lanes a device to compare", NUMBERS
    )
    batch_sizes: list[int] = setting((60, 128, 1024), "batch sizes to compare", NUMBERS)
    weights: list[int] = setting(
        (1_000_000, 10_000_000),
        "sizes of networks to select masks for, and to prune",
        checks.each(checks.whole(1)),
    )
    repeats: int = setting(
        5, "of every measurement; whole searches half as many", rules.MANY
    )
    limit: float = setting(
        20.0,
        "seconds after which no more repetitions of a comparison begin",
        checks.not_negative,
    )
    roofline: bool = setting(
        False, "in models, also the memory traffic against that of a copy"
    )
    data_dir: str | None = setting(
        None,
        "folder of prepared TFDS data, to search on MNIST instead of noise",
        rules.FOLDER_THERE,
    )
    open_lth: str | None = setting(
        None,
        "folder of a checkout of open_lth, to run beside this library in rivals",
        rules.FOLDER_THERE,
    )
    jaxpruner: str | None = setting(
        None,
        "folder of a checkout of jaxpruner, to train with beside this library",
        rules.FOLDER_THERE,
    )
    quick: bool = setting(False, "toy sizes: whether it runs, not how fast")
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
        open_lth=config.open_lth,
        jaxpruner=config.jaxpruner,
    )
    terminal = console.Console(width=None if sys.stdout.isatty() else 150)
    found, written = [], []
    for name in config.sections:
        begun = time.perf_counter()
        rows = []
        for row in SECTIONS[name](bench):
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
