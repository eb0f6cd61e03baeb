"""From a command line to a run: flags, devices, and the door of every experiment."""

import dataclasses
import os
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from experiments.study import methods, outputs, own
from experiments.study.settings import Settings, resolve
from jaxticket.hyperparameters import Hyper

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
    methods, as "--imp.density". A `ValueError`, a missing file or library, and a broken
    run become one line and an exit code of 1.
    """
    fields = {
        field.name: field
        for field in dataclasses.fields(config_class)
        if "help" in field.metadata
    }
    kinds = {name: _kind(field.type) for name, field in fields.items()}
    hypers = methods.flags(getattr(config_class, "METHODS", {}))
    for name, field in fields.items():
        default = field.default
        if isinstance(default, tuple):
            default = [str(x) for x in default]
        _define(kinds[name][0], name, default, field.metadata["help"])
    for name, hyper in hypers.items():
        _define(list if hyper.swept else hyper.kind, name, None, _about(hyper))
    options = _options(sys.argv[1:]) if hypers else []
    for name in options:
        _define(str, name, None, "an option of what the flag before the dot names")

    def run(argv):
        if not flags.FLAGS["verbosity"].present:  # absl has raised it to INFO by now
            logging.set_verbosity(logging.WARNING)  # at which orbax tells its life
        try:
            if len(argv) > 1:
                raise ValueError(f"not a flag: {' '.join(argv[1:])}")
            values = {name: _parsed(name, *kind) for name, kind in kinds.items()}
            if hypers:
                values["hyper"] = {
                    name: _parsed(name, list if hyper.swept else hyper.kind, hyper.kind)
                    for name, hyper in hypers.items()
                    if flags.FLAGS[name].value is not None
                } | {name: flags.FLAGS[name].value for name in options}
            experiment(config_class(**values))
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
    config = resolve(config)
    use_devices(compilation_cache=config.compilation_cache)
    try:
        jax.devices()
    except RuntimeError as error:  # of a platform that is not there
        raise ValueError(f"JAX has no device: {error}") from None

    from experiments import report
    from experiments.study import densities, stages, study
    from jaxticket.engine import layouts

    searches = study.searches_of(config)
    loss = own.loss(config.loss)  # and the network: refused before data are read
    own.model(config.model, 1, config.options("model"))
    dataset = own.dataset(config)
    if config.batch_size > (size := len(dataset.train.labels)):
        raise ValueError(
            f"--batch_size {config.batch_size} is more than the {size} training images"
        )
    folder = Path(config.output_dir)
    work = layouts.laid_out(
        config.lanes if config.lanes in (None, "auto") else int(config.lanes),
        searches,
        config.turns,
        outputs.recorded(folder, "layout"),
        lambda layout: study.Study(config, dataset, layout),
    )
    outputs.open_folder(
        config,
        folder,
        experiment=title,
        verdicts=config.VERDICTS,
        metric=getattr(loss, "metric", "accuracy"),
        references={name: config.METHODS[name].reference for name in config.methods},
        data=dataset.checksum,
        layout={"lanes": work.layout.per_device, "width": work.layout.width},
    )
    print(
        f"{', '.join(config.methods)} on {dataset.name} with {config.model}: "
        f"{config.seeds} seeds, {work.layout.width} searches at a time",
        file=sys.stderr,
    )
    stages.run(work)
    densities.write(work)
    finish(work)
    report.write(folder)
    report.show(folder)
    print(f"report: {folder / 'report.html'}")
    return work.records.rows
