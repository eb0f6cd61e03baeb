"""The folder of a run: whose it is, and what its numbers depend on."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import jax

import jaxticket
from jaxticket import files

# Settings that say where and how, not what: they may change when a run is resumed.
HOW = (
    "output_dir",
    "data_dir",
    "save_seconds",
    "compilation_cache",
    "cache_dir",
    "turns",
)


def environment() -> dict[str, str | int]:
    """What a result depends on besides its settings."""
    return {
        "jaxticket": jaxticket.__version__,
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }


def open_folder(config, folder: Path, **facts) -> None:
    """Writes `config.json`, or checks that the folder holds a run of these settings.

    Raises:
      ValueError: the folder holds another run, and which settings differ.
    """
    path = folder / "config.json"
    # As JSON gives them back, so that they can be compared.
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    for name in HOW:
        settings.pop(name, None)
    identity = {"config": settings, **facts}
    if path.exists():
        try:
            there = json.loads(path.read_text())
            theirs = {name: there[name] for name in identity}
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(
                f"{path} cannot be read ({error!r}): move it away"
            ) from None
        if theirs != identity:
            raise ValueError(
                f"{folder} holds another run ({_difference(theirs, identity)}): "
                "give another --output_dir"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "environment": environment(),
        "command": shlex.join(["python", "-m", _module(), *sys.argv[1:]]),
    }
    files.write(path, json.dumps({**identity, **about}, indent=2) + "\n")


def recorded(folder: Path, fact: str):
    """A fact of the run that a folder holds; `None` where there is none."""
    try:
        return json.loads((folder / "config.json").read_text()).get(fact)
    except (OSError, json.JSONDecodeError):
        return None  # `open_folder` says what is wrong


def _module() -> str:
    """`experiments.NAME` of the running program."""
    return "experiments." + Path(sys.argv[0]).stem


def _difference(theirs: dict, ours: dict) -> str:
    pairs, mine = _flat(theirs), _flat(ours)
    keys = sorted(k for k in {*pairs, *mine} if pairs.get(k) != mine.get(k))
    return ", ".join(f"{k}: {pairs.get(k)} there, {mine.get(k)} here" for k in keys)


def _flat(identity: dict) -> dict:
    config = identity["config"]
    rest = {k: v for k, v in identity.items() if k != "config"}
    return {**rest, **config, **config.get("hyper", {})} | {"hyper": None}
