"""From a command line to a run: flags, devices, and the door of every experiment."""

import dataclasses
import errno
import os
import signal
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from experiments.study import methods, own, processes, records, signals
from experiments.study.settings import Settings, fallen_back, idle, names, resolve
from jaxticket.engine import hosts, resumable
from jaxticket.hyperparameters import Hyper

DIVERGED = 3  # the exit code of a run in which seeds have diverged

_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
    list: flags.DEFINE_list,
}


def main(experiment: Callable[[Any], Any], config_class: type) -> None:
    """Defines flags, parses the command line, runs the experiment.

    Every field of the configuration is a flag, and every hyper-parameter of its
    methods, as "--imp.density"; what is no flag goes into the field that `ARGUMENTS`
    names, where there is one. A `ValueError`, a missing file or library, and a broken
    run become one line and an exit code of 1.
    """
    fields = {
        field.name: field
        for field in dataclasses.fields(config_class)
        if "help" in field.metadata
    }
    kinds = {name: _kind(field.type) for name, field in fields.items()}
    is_study = issubclass(config_class, Settings)
    hypers = methods.flags(config_class.METHODS) if is_study else {}
    for name, field in fields.items():
        default = field.default
        if isinstance(default, tuple):
            default = [str(x) for x in default]
        _define(kinds[name][0], name, default, field.metadata["help"])
    for name, hyper in hypers.items():
        _define(list if hyper.swept else hyper.kind, name, None, _about(hyper))
    options = _options(sys.argv[1:]) if is_study else []
    for name in options:
        _define(str, name, None, "an option of what the flag before the dot names")

    def run(argv):
        if not flags.FLAGS["verbosity"].present:  # absl has raised it to INFO by now
            logging.set_verbosity(logging.WARNING)  # at which orbax tells its life
        came: list[int] = []
        try:
            words = getattr(config_class, "ARGUMENTS", None)
            if len(argv) > 1 and words is None:
                raise ValueError(f"not a flag: {' '.join(argv[1:])}")
            values = {name: _parsed(name, *kind) for name, kind in kinds.items()}
            values |= {} if words is None else {words: tuple(argv[1:])}
            if is_study:
                values["hyper"] = {
                    name: _parsed(name, list if hyper.swept else hyper.kind, hyper.kind)
                    for name, hyper in hypers.items()
                    if flags.FLAGS[name].value is not None
                } | {name: flags.FLAGS[name].value for name in options}
            config = config_class(**values)
            with signals.handled() as came:
                experiment(config)
        except (ValueError, OSError, ImportError, ArithmeticError, AssertionError) as e:
            if flags.FLAGS.verbosity > 0:
                raise
            message = " ".join(str(e).split()) or type(e).__name__
            if getattr(e, "errno", None) == errno.ENOSPC:
                message += "; what was saved is kept: make room, and go on"
            message = processes.lost(e) or f"error: {processes.who()}{message}"
            print(message, file=sys.stderr)
            processes.leave(1)
        except jax.errors.JaxRuntimeError as e:
            if line := processes.lost(e):
                print(line, file=sys.stderr)
                processes.leave(1)
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            said = str(e).splitlines()[0]
            print(
                f"error: out of memory ({said}): give fewer --lanes and another "
                "--output_dir, since a seed's numbers depend on them, or a lower "
                "--batch_size",
                file=sys.stderr,
            )
            processes.leave(1)
        except (resumable.Stopped, signals.Signalled, KeyboardInterrupt) as e:
            print("stopped; the same command goes on from here", file=sys.stderr)
            together = isinstance(e, resumable.Stopped)  # all processes are
            end = sys.exit if together else processes.leave
            end(128 + (came or [signal.SIGINT])[0])  # by convention
        except Exception:
            if not hosts.several():
                raise
            traceback.print_exc()
            processes.leave(1)
        if is_study and (lost := records.diverged(Path(config.output_dir))):
            print(f"{lost} trainings or searches have diverged, see divergence.csv")
            sys.exit(DIVERGED)

    app.run(run, flags_parser=_read)


def _read(arguments: list[str]) -> list[str]:
    """Parses the command line; what cannot be read becomes one line too."""
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def _define(kind: type, name: str, default: Any, text: str) -> None:
    _DEFINE[kind](name, default, text)
    # --help shows the key flags of the program, which absl knows by this name.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _options(arguments: list[str]) -> list[str]:
    """The flags of a network's options: what it has is known only when it is named."""
    names = (argument.lstrip("-").partition("=")[0] for argument in arguments)
    return [*dict.fromkeys(name for name in names if name.startswith(methods.OPTIONS))]


def _about(hyper: Hyper) -> str:
    """The help of a hyper-parameter: its meaning, its default, whether it sweeps."""
    text = hyper.help.replace("`", "").rstrip(".")
    if hyper.choices:
        text += f"; one of {', '.join(hyper.choices)}"
    if hyper.swept:
        text += "; several, with commas, run side by side"
    if isinstance(hyper.default, bool | int | float | str):
        text += f"; default {hyper.default}"
    return text


def _parsed(name: str, kind: type, item: type | None) -> Any:
    value = flags.FLAGS[name].value
    if kind is not list or value is None:
        return value
    try:
        return tuple(item(x) for x in value)
    except ValueError:
        raise ValueError(f"--{name} takes {item.__name__}s, got {value}") from None


def _kind(annotation) -> tuple[type, type | None]:
    """`int | None` -> int, `list[str]` -> list of str."""
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in annotation.__args__ if a is not type(None))
    if typing.get_origin(annotation) is list:
        return list, annotation.__args__[0]
    return annotation, None


def use_devices(*, compilation_cache: bool, threads: int | None = None) -> None:
    """One virtual device per core on CPU, and compiled programs kept between runs.

    Must come before JAX touches a device; a second call, or a call after that, changes
    nothing about devices.

    Args:
      compilation_cache: whether to keep programs.
      threads: of XLA, on CPU, where an earlier call has recorded them: it divides sums
        among them, and so rounds by their number, see `outputs.threads`.
    """
    if compilation_cache and jax.config.jax_compilation_cache_dir is None:
        home = os.environ.get("JAXTICKET_CACHE", Path.home() / ".cache" / "jaxticket")
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if jax.config.jax_num_cpu_devices > 0:
        return
    try:
        cores = len(os.sched_getaffinity(0))
        jax.config.update("jax_num_cpu_devices", min(cores, threads or cores))
        if threads is not None:
            os.environ["PJRT_NPROC"] = str(threads)
    except (RuntimeError, AttributeError):
        # Devices exist already, or the system has no affinities: as good as it gets.
        return


def run(
    title: str,
    config: Settings,
    *,
    finish: Callable[[Any], None] = lambda study: None,
) -> list[dict]:
    """Runs an experiment as its settings say and writes its report.

    Args:
      title: what the report calls it.
      config: what to do; `resolve` fills in what is left open.
      finish: called with the finished `study.Study`, before its report is written.

    Returns:
      The rows of `results.csv`.

    Raises:
      ValueError: bad settings, before any training.
    """
    from experiments.study import outputs

    given, config = config, resolve(config)
    processes.check(config)
    threads = outputs.recorded_threads(Path(config.output_dir))
    use_devices(compilation_cache=config.compilation_cache, threads=threads)
    try:
        processes.join(config)
        jax.devices()
    except RuntimeError as error:  # of a platform that is not there
        raise ValueError(f"JAX has no device: {error}") from None
    with processes.quiet():
        for note in [*idle(given, config), *methods.idle(given, config)]:
            print(f"note: {note}", file=sys.stderr)
        return _reported(title, config, finish)


def _reported(title: str, config: Settings, finish: Callable[[Any], None]) -> list:
    """The run, with its report, which the first process alone writes."""
    from experiments import report
    from experiments.study import densities, outputs

    loss = own.loss(config.loss)  # and the network: refused before data are read
    own.training_loss(config)
    own.model(config.model, 1, config.options("model"))
    if config.accept:
        names("accept", config.accept, outputs.environment())
    with outputs.Folder(config.output_dir) as folder:
        dataset = own.dataset(config)
        facts = {
            "experiment": title,
            "verdicts": config.VERDICTS,
            "metric": getattr(loss, "metric", "accuracy"),
            "references": {
                name: config.METHODS[name].reference for name in config.methods
            },
            "data": dataset.checksum,
        }
        folder.check(config, **facts)
        work = _run(config, dataset, folder, facts)
        if not work.records.rows:
            raise FloatingPointError(
                f"every seed has diverged, see {folder.path / 'divergence.csv'}: lower "
                "the learning rate"
            )
        if hosts.first():
            densities.write(work)
            finish(work)
            report.make(folder.path)
        hosts.wait()
    return work.records.rows


def _run(config: Settings, dataset, folder, facts: Mapping[str, Any]) -> Any:
    """The study, run; where memory gives out, again with less at once.

    On fewer devices, which take turns, no number changes. Lanes that share a device do
    change numbers: there are fewer only where nobody has said how many.
    """
    from experiments.study import stages

    devices, lanes = jax.device_count(), config.lanes
    while True:
        work = _laid_out(config, dataset, folder, lanes, devices)
        layout = {"lanes": work.layout.per_device, "width": work.layout.width}
        work.shelf.claim = folder.claim(config, layout, **facts)
        print(
            f"{', '.join(config.methods) or 'dense'} on {dataset.name} with "
            f"{config.model}: {config.seeds} seeds, {work.layout.width} "
            f"{'searches' if config.methods else 'trainings'} at a time",
            file=sys.stderr,
        )
        for note in filter(None, (fallen_back(config), own.unseen(dataset))):
            print(f"note: {note}", file=sys.stderr)
        try:
            stages.run(work)
            return work
        except jax.errors.JaxRuntimeError as error:
            if hosts.several() or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if work.layout.mesh.size > 1:
                devices = work.layout.mesh.size // 2
                less = f"on {devices} devices, which changes no number"
            elif config.lanes is None and layout["lanes"] > 1 and folder.forget():
                lanes = str(layout["lanes"] // 2)
                less = f"with {lanes} lanes"
            else:
                raise
        del work  # and what it holds
        print(f"note: out of memory: again {less}", file=sys.stderr)


def _laid_out(
    config: Settings, dataset, folder, lanes: str | None, devices: int
) -> Any:
    """The study, compiled, on devices that have the memory."""
    from experiments.study import study
    from jaxticket.engine import layouts

    if config.batch_size > (size := len(dataset.train.labels)):
        raise ValueError(
            f"--batch_size {config.batch_size} is more than the {size} training images"
        )

    def make(layout):
        work = study.Study(config, dataset, layout)
        folder.check_room(work.least_bytes())
        return work

    return layouts.laid_out(
        lanes if lanes in (None, "auto") else int(lanes),
        study.searches_of(config),
        config.turns,
        folder.layout,
        make,
        devices=devices,
    )
