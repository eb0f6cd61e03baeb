"""Joins runs that differ in their seeds alone, as if one had made them all.

A scheduler runs jobs apart, each with seeds of its own:

    python -m experiments.ticket_search --seeds=2 --first_seed=0 --output_dir=runs/a
    python -m experiments.ticket_search --seeds=2 --first_seed=2 --output_dir=runs/b
    python -m experiments.merge runs/a runs/b --output_dir=runs/all

and this makes one folder of theirs, with its report: their rows, looks, tickets and
anchors. A seed depends on nothing beside it, so they are those of a single run of all
seeds. What does not belong together is refused, by name: other settings, data,
versions, devices, or numbers of lanes; seeds that come twice, or that lack rows which
others have. The folder is one to read: no run goes on in it.

Runs of several machines or versions are joined with `--accept_differences`, where all
settings that both have are the same: each seed then has numbers of its own run, of the
same kind and not to the same last bit, which `config.json` says.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from experiments import report
from experiments.study import command, outputs, rules, settings
from experiments.study.settings import setting
from jaxticket import files

KEYS = ["method", "treatment", "prunings", "setting"]  # of a row, besides its seed
KEPT = ("tickets", "work/anchors", "work/trained")  # files that name their seed
SEEDS = ("seeds", "first_seed")
CALL = ("identity", "environment", "command")  # what is kept of every run


@dataclasses.dataclass(frozen=True)
class Config:
    """Which runs to join."""

    ARGUMENTS: ClassVar = "runs"

    runs: Sequence[str] = ()
    output_dir: str = setting("runs/merged", "where the joined run goes", rules.FOLDER)
    accept_differences: bool = setting(
        False,
        "join runs of other machines, versions, layouts, or versions with other "
        "settings, too; what differs is said, and recorded",
    )


def experiment(config: Config) -> None:
    """Joins the runs, makes the report, and prints it.

    Raises:
      ValueError: they do not belong together, or the folder is not empty.
    """
    settings.check(config)
    folders = [Path(run).expanduser() for run in config.runs]
    to = Path(config.output_dir).expanduser()
    if len(folders) < 2:
        raise ValueError(f"give two runs or more to join; got {len(folders)}")
    if to.exists() and any(to.iterdir()):
        raise ValueError(f"{to} is not empty: give another --output_dir")
    runs = sorted(map(_read, folders), key=lambda run: min(run[1]))
    _check(runs, config.accept_differences)
    seeds = [seed for _, theirs, _ in runs for seed in theirs]
    tables = _tables([folder for folder, *_ in runs], seeds)
    to.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        files.write(to / name, rows.to_csv(index=False))
    looks = [folder / "metrics.jsonl" for folder, *_ in runs]
    if all(path.exists() for path in looks):
        files.write(to / "metrics.jsonl", b"".join(x.read_bytes() for x in looks))
    for folder, *_ in runs:
        for kind in KEPT:
            if (folder / kind).is_dir():
                shutil.copytree(folder / kind, to / kind, dirs_exist_ok=True)
    about = _about([about for *_, about in runs], seeds)
    files.write(to / "config.json", json.dumps(about, indent=2) + "\n")
    report.make(to)


def _read(folder: Path) -> tuple[Path, list[int], dict[str, Any]]:
    """A run, its seeds, and its `config.json`."""
    try:
        about = json.loads((folder / "config.json").read_bytes())
        begin, count = about["config"]["first_seed"], about["config"]["seeds"]
        if missing := [name for name in CALL if name not in about]:
            raise ValueError(f"no {missing[0]}, as a run of an earlier version")
        return folder, [*range(begin, begin + count)], about
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} holds no run: it has no config.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}/config.json is not a run's: {error!r}") from error


def _check(runs, accept: bool) -> None:
    """Raises a `ValueError` where a run does not belong to the first one."""
    first, _, expected = runs[0]
    seen: dict[int, Path] = {}
    for folder, seeds, about in runs:
        theirs, ours = map(_numbers, (about, expected))
        if theirs != ours:
            differs = outputs.difference(theirs, ours)
            if not accept:
                raise ValueError(
                    f"{first} (here) does not belong to {folder} (there): {differs}; "
                    "--accept_differences joins runs of other machines and versions"
                )
            theirs, ours = _shared(theirs, ours)
            if theirs != ours:
                raise ValueError(
                    f"{first} (here) has other settings than {folder} (there): "
                    f"{outputs.difference(theirs, ours)}"
                )
            print(f"accepted, {first} here and {folder} there: {differs}")
        for seed in seeds:
            if seed in seen:
                raise ValueError(f"seed {seed} is in {seen[seed]} and in {folder}")
            seen[seed] = folder
    for seed in range(min(seen), max(seen)):
        if seed not in seen:
            raise ValueError(f"seed {seed} is in none of the runs: run it, or fewer")


def _numbers(about: dict[str, Any]) -> dict[str, Any]:
    """All that the numbers of a run depend on, but for its seeds."""
    config, environment = about["config"], about.get("environment", {})
    lanes = about.get("layout", {})
    return {
        "experiment": about.get("experiment"),
        "config": {k: x for k, x in config.items() if k not in SEEDS},
        "data": about.get("data"),
        "layout": {k: lanes.get(k) for k in ("lanes", "width")},
        **{k: x for k, x in environment.items() if k not in outputs.VARIES},
    }


def _shared(theirs, ours) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two runs must share whatever is accepted: the settings that both have."""
    both = theirs["config"].keys() & ours["config"].keys()

    def needed(numbers):
        config = {key: numbers["config"][key] for key in both}
        return {key: numbers[key] for key in ("experiment", "data")} | {
            "config": config
        }

    return needed(theirs), needed(ours)


def _tables(folders: Sequence[Path], seeds: Sequence[int]) -> dict[str, pd.DataFrame]:
    """The CSV files of all, joined; rows in the order of the first run, and by seed."""
    found = {}
    names = dict.fromkeys(
        path.name for folder in folders for path in sorted(folder.glob("*.csv"))
    )
    for name in names:
        read = functools.partial(pd.read_csv, dtype=str, keep_default_na=False)
        each = [read(x / name) for x in folders if (x / name).exists()]
        if any([*rows] != [*each[0]] for rows in each):
            raise ValueError(f"{name} has other columns in {folders[0]} than in others")
        rows = pd.concat(each, ignore_index=True)
        if "seed" not in rows:  # means over the seeds of a run
            continue
        found[name] = rows
    if "results.csv" not in found:
        raise ValueError(f"{folders[0]} has no results.csv: it has not finished")
    diverged = found.get("divergence.csv")
    found["results.csv"] = _whole(found["results.csv"], diverged, seeds)
    return found


def _whole(
    rows: pd.DataFrame, diverged: pd.DataFrame | None, seeds: Sequence[int]
) -> pd.DataFrame:
    """The rows of all trainings, by seed; of each all seeds, but those that are lost.

    Raises:
      ValueError: one is missing.
    """
    rows = rows.assign(seed=rows["seed"].astype(int))
    lost = set() if diverged is None else set(diverged["seed"].astype(int))
    together = rows.groupby(KEYS, sort=False)
    for key, found in together["seed"]:
        if missing := sorted({*seeds} - lost - {*found}):
            raise ValueError(
                f"seed {missing[0]} has no row of {', '.join(filter(None, key))}, as "
                f"seed {min(found)} has: it has not finished, or has fewer --rounds"
            )
    ordered = rows.assign(place=together.ngroup()).sort_values(["place", "seed"])
    return ordered.drop(columns="place")


def _about(runs, seeds) -> dict[str, Any]:
    """The `config.json` of the whole: without parts, so that no run goes on there."""
    about = {k: x for k, x in runs[0].items() if k != "parts"}
    about["config"] = about["config"] | {"first_seed": seeds[0], "seeds": len(seeds)}
    calls = [{name: run[name] for name in CALL} for run in runs]
    about["accepted"] = [
        *calls[1:],
        *(call for run in runs for call in run.get("accepted", ())),
    ]
    about["command"] = "; ".join(run["command"] for run in runs)
    return about


if __name__ == "__main__":
    command.main(experiment, Config)
