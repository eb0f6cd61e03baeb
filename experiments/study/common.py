"""What every experiment does around its study: flags, devices, the output folder."""

import dataclasses
import json
import os
import shlex
import sys
import types
import typing
from pathlib import Path

import jax
from absl import app, flags, logging

import jaxticket

_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
    list: flags.DEFINE_list,
}


# Settings that say where and how, not what: they may change when a run is resumed.
HOW = ("output_dir", "save_seconds", "compilation_cache", "cache_dir", "turns")


def main(experiment, config_class) -> None:
    """Defines a flag for every field, parses the command line, runs the experiment.

    A `ValueError`, a missing file or library, and a broken run become one line and an
    exit code of 1.
    """
    kinds = {f.name: _kind(f.type) for f in dataclasses.fields(config_class)}
    for field in dataclasses.fields(config_class):
        default = field.default
        if isinstance(default, tuple):
            default = [str(x) for x in default]
        _DEFINE[kinds[field.name][0]](field.name, default, field.metadata["help"])
        # --help shows the key flags of the program, which absl knows by this name.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[field.name])

    def run(argv):
        if not flags.FLAGS["verbosity"].present:  # absl has raised it to INFO by now
            logging.set_verbosity(logging.WARNING)  # at which orbax tells its life
        try:
            if len(argv) > 1:
                raise ValueError(f"not a flag: {' '.join(argv[1:])}")
            experiment(config_class(**_parsed(kinds)))
        except (ValueError, OSError, ImportError, ArithmeticError, AssertionError) as e:
            if flags.FLAGS.verbosity > 0:
                raise
            message = " ".join(str(e).split()) or type(e).__name__
            print(f"error: {message}", file=sys.stderr)
            sys.exit(1)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            said = str(e).splitlines()[0]
            print(f"error: out of memory, lower --lanes ({said})", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            sys.exit(130)

    app.run(run)


def _parsed(kinds: dict) -> dict:
    values = {}
    for name, (kind, item) in kinds.items():
        value = flags.FLAGS[name].value
        if kind is list and value is not None:
            try:
                value = tuple(item(x) for x in value)
            except ValueError:
                raise ValueError(
                    f"--{name} takes {item.__name__}s, got {value}"
                ) from None
        values[name] = value
    return values


def _kind(annotation) -> tuple[type, type | None]:
    """`int | None` -> int, `list[str]` -> list of str."""
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in annotation.__args__ if a is not type(None))
    if typing.get_origin(annotation) is list:
        return list, annotation.__args__[0]
    return annotation, None


def use_devices(*, compilation_cache: bool) -> None:
    """One virtual device per core on CPU, and compiled programs kept between runs.

    Must come before JAX touches a device; a second call, or a call after that, changes
    nothing about devices.
    """
    if compilation_cache and jax.config.jax_compilation_cache_dir is None:
        home = os.environ.get("JAXTICKET_CACHE", Path.home() / ".cache" / "jaxticket")
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if jax.config.jax_num_cpu_devices > 0:
        return
    try:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    except (RuntimeError, AttributeError):
        # Devices exist already, or the system has no affinities: as good as it gets.
        return


def environment() -> dict[str, str | int]:
    """What a result depends on besides its settings."""
    return {
        "jaxticket": jaxticket.__version__,
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }


def open_output(config, folder: Path, **facts) -> None:
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
    write(path, json.dumps({**identity, **about}, indent=2) + "\n")


def recorded(folder: Path, fact: str):
    """A fact of the run that a folder holds; `None` where there is none."""
    try:
        return json.loads((folder / "config.json").read_text()).get(fact)
    except (OSError, json.JSONDecodeError):
        return None  # `open_output` says what is wrong


def _module() -> str:
    """`experiments.NAME` of the running program."""
    return "experiments." + Path(sys.argv[0]).stem


def _difference(theirs: dict, ours: dict) -> str:
    pairs = {**theirs["config"], **{k: v for k, v in theirs.items() if k != "config"}}
    mine = {**ours["config"], **{k: v for k, v in ours.items() if k != "config"}}
    keys = sorted(k for k in {*pairs, *mine} if pairs.get(k) != mine.get(k))
    return ", ".join(f"{k}: {pairs.get(k)} there, {mine.get(k)} here" for k in keys)


def write(path: Path, content: str | bytes) -> None:
    """Replaces a file in one move: never half-written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(beside, path)
