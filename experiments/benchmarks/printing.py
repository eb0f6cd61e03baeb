"""Rows of the benchmark as a table in the terminal, and as a JSON file."""

import contextlib
import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import jax
from rich import table

from experiments.benchmarks import measure
from experiments.study import outputs
from jaxticket import files

FOLDERS = {  # of a machine: flag -> what is written in place of it
    "data_dir": "$TFDS_DATA_DIR",
    "open_lth": "$OPEN_LTH",
    "jaxpruner": "$JAXPRUNER",
}


def rows(title: str, rows: Sequence[measure.Row]) -> table.Table:
    """The rows of a section."""
    result = table.Table(title=title, title_justify="left", title_style="bold")
    result.add_column("", overflow="fold")
    also = list(dict.fromkeys(key for row in rows for key in row.also))
    for column in ("median", "", "lowest", "highest", "n", *also):
        left = column == ""
        result.add_column(column, justify="left" if left else "right", no_wrap=left)
    for row in rows:
        more = [short(row.also[key]) if key in row.also else "" for key in also]
        spread = ["", ""] if row.n == 1 else [short(row.low), short(row.high)]
        result.add_row(
            row.name, short(row.median), row.unit, *spread, str(row.n), *more
        )
    return result


def short(value: float) -> str:
    """Three figures, and no exponent for what people read without one."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def write(path: Path, config: dict, rows: Sequence[dict]) -> None:
    """Writes the rows, with the settings and the machine that they are of.

    The folders of that machine are not written, but what they are called in its place.
    """
    named = {key: FOLDERS[key] for key in FOLDERS if config.get(key) is not None}
    command = outputs.command()
    for key, name in named.items():
        command = command.replace(str(config[key]), name)
    about = {
        "command": command,
        "environment": {
            **outputs.environment(),
            **_others(),
            "backend": jax.default_backend(),
            "machine": platform.machine(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
        },
        "config": config | named,
        "rows": rows,
    }
    files.write(path, json.dumps(about, indent=2) + "\n")


def _others() -> dict[str, str]:
    """Versions of what is measured beside the library, where it is installed."""
    found = {}
    for name in ("scipy", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
