"""Damages files of tickets in all ways that it knows, and reads them.

    python -m experiments.fuzz --mutants=20000 --output_dir=experiments/results/fuzz

A mutant is refused by a `ValueError` that names the file, or its damage is harmless and
it loads bit for bit. Only where all digests were made right for other contents it may
load as another ticket, which fits the network. Anything else is a failure, and so is a
second or 50 MB to read it: then the command exits with 1.
"""

import collections
import dataclasses
import json
import tempfile
from pathlib import Path

from experiments.fuzzing import trials
from experiments.study import command, outputs, rules, settings
from experiments.study.settings import setting
from jaxticket import files


@dataclasses.dataclass(frozen=True)
class Config:
    """How many files to damage, and where to say what became of them."""

    mutants: int = setting(2000, "how many files to damage", rules.COUNT)
    seed: int = setting(0, "decides how each is damaged")
    output_dir: str = setting("runs/fuzz", "folder for fuzz.json, the counts")


def experiment(config: Config) -> dict:
    """Tries all mutants, prints a line, and writes `fuzz.json`.

    Returns:
      What is written.

    Raises:
      ValueError: bad settings.
      AssertionError: a mutant failed; the first is named, `fuzz.json` has twenty.
    """
    settings.check(config)
    with tempfile.TemporaryDirectory() as folder:
        tried = [*trials.run(config.mutants, config.seed, Path(folder))]
    found = _table(tried)
    path = Path(config.output_dir) / "fuzz.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "command": outputs.command(),
        "environment": outputs.environment(),
        "mutants": config.mutants,
        "seed": config.seed,
    }
    files.write(path, json.dumps(about | found, indent=1) + "\n")
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in found["outcomes"].items())
    print(f"{config.mutants} mutants: {outcomes}; {found['failed']} failed; see {path}")
    if found["failed"]:
        raise AssertionError(
            f"a damaged file was taken wrongly: {found['failures'][0]}"
        )
    return found


def _table(tried: list[trials.Trial]) -> dict:
    """Counts of kinds and outcomes, failures, and the two worst."""
    kinds: dict[str, dict] = {}
    for trial in tried:
        by_version = kinds.setdefault(trial.kind, {})
        outcomes = by_version.setdefault(f"version {trial.version}", {})
        shown = "failed" if trial.fails else trial.outcome
        outcomes[shown] = outcomes.get(shown, 0) + 1
    failures = [trial._asdict() for trial in tried if trial.fails]
    good = collections.Counter(t.outcome for t in tried if not t.fails)
    return {
        "outcomes": dict(good.most_common()),
        "failed": len(failures),
        "slowest": max(tried, key=lambda trial: trial.seconds)._asdict(),
        "largest": max(tried, key=lambda trial: trial.bytes)._asdict(),
        "kinds": kinds,
        "failures": failures[:20],
    }


if __name__ == "__main__":
    command.main(experiment, Config)
