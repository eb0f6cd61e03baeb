"""Methods by name: a search, what it starts from, and their hyper-parameters as flags.

Whatever `jaxticket.searches` lists is a method; its hyper-parameters are read from the
signature of the factory, and their help from its docstring. A variant is a
`functools.partial`.
"""

import dataclasses
import difflib
import inspect
import itertools
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.study import optimizers
from experiments.study.rules import MANY
from experiments.study.settings import Settings
from jaxticket import base, checks, hyperparameters, masks, searches, starts
from jaxticket.base import Mask, Promises, Search
from jaxticket.hyperparameters import Hyper
from jaxticket.searches import constraint

OPTIONS = ("model.", "dataset.")  # what is told in the same way to what is no method
SOME_STEPS = 10**6  # a length for checks that come before the data


class Method(NamedTuple):
    """What a study runs under a name.

    Attributes:
      search: factory of the search; None: what it starts from is the ticket.
      start: factory of the start, see `jaxticket.starts`.
      preset: hyper-parameters that differ from the factories' defaults; `rounds` too.
      base: the method whose hyper-parameters it takes where it has none of its own.
      optimizer: factory of the optimiser; by default what the search asks for.
      reference: the method whose accuracy its search is to reach, in the report.
    """

    search: Callable[..., Search] | None = None
    start: Callable[..., starts.Start] = starts.initial
    preset: Mapping[str, Any] = {}
    base: str = ""
    optimizer: Callable | None = None
    reference: str = ""


def registry() -> dict[str, Method]:
    """Every search of the library under its name, from the initialised network."""
    return {name: Method(getattr(searches, name)) for name in searches.__all__}


def _factories(method: Method) -> Iterator[Callable]:
    """What takes the hyper-parameters of a method."""
    if method.search is not None:
        yield method.search
        yield _optimizer(method)
    yield method.start


def _optimizer(method: Method) -> Callable:
    """The factory of a method's optimiser: its own, or of what the search asks for."""
    if method.optimizer is not None:
        return method.optimizer
    factory = hyperparameters.unbound(method.search)
    handed = typing.get_type_hints(factory, include_extras=True)["optimizer"]
    return optimizers.KINDS[handed.__metadata__[0]]


def of_method(method: Method) -> list[Hyper]:
    """All hyper-parameters of a method; of one name there is one."""
    found: dict[str, Hyper] = {}
    for factory in _factories(method):
        found = hyperparameters.of(factory) | found
    if method.search is not None:
        text = (
            "trainings of a search; default: --rounds, or 1 where more change nothing"
        )
        found["rounds"] = Hyper("rounds", None, int, False, (), text)
    return list(found.values())


def flags(methods: Mapping[str, Method]) -> dict[str, Hyper]:
    """ "method.name" -> hyper-parameter, of all methods of an experiment."""
    return {
        f"{name}.{hyper.name}": hyper
        for name, method in methods.items()
        for hyper in of_method(method)
    }


class Setting(NamedTuple):
    """One combination of the values of a method.

    Attributes:
      label: what tells it apart, as "density=0.2"; empty where there is only one.
      swept: the numbers that lanes differ by, which a program traces.
      promises: those of its search.
    """

    label: str
    swept: dict[str, np.float32]
    promises: Promises


class Planned(NamedTuple):
    """A method whose hyper-parameters have values.

    Attributes:
      name: of the method.
      settings: one a lane of each seed.
      rounds: of the search, 0 without one.
      follows: whether `--rounds` says how many.
      search: numbers of a setting, traced or not -> the search.
      start: the same -> what it starts from.
      resumed: the step of the schedule that trainings of its tickets begin with.
    """

    name: str
    settings: tuple[Setting, ...]
    rounds: int
    follows: bool
    search: Callable[[Mapping[str, Any]], Search] | None
    start: Callable[[Mapping[str, Any]], starts.Start]
    resumed: int

    @property
    def promises(self) -> Promises:
        """Those of the first setting: but for numbers they are those of all."""
        return self.settings[0].promises

    @property
    def opens_given(self) -> bool:
        """Whether the first round trains what the search starts from."""
        return self.promises.opens_given

    def prunings(self, rounds: int | None = None) -> range:
        """How often the tickets that it finds have been pruned.

        Args:
          rounds: in so many rounds, where `--rounds` decides; default: in all.
        """
        if self.opens_given and not self.promises.rounds:
            return range(1)  # it trains what it is given, and there is no other ticket
        rounds = rounds if rounds and self.follows else self.rounds
        return range(1, max(rounds, 1) + (not self.opens_given))


# Of a ticket that no search has found: its training is all that there is.
STARTED = Promises(hard=False, weights="given")


def plan(config: Settings, name: str, epoch_steps: int = 1) -> Planned:
    """Gives a method the values that the settings hold for it.

    Args:
      config: resolved; lengths may still be missing where only values are checked.
      name: one of `config.METHODS`.
      epoch_steps: steps of an epoch.

    Raises:
      ValueError: a value that cannot be, or one that is missing.
    """
    if config.search_steps is None:
        config = dataclasses.replace(config, search_steps=SOME_STEPS)
    check_flags(config)
    method = config.METHODS[name]
    values = {h.name: _value(config, name, method, h) for h in of_method(method)}
    rounds = values.pop("rounds", None)
    several = {k: x for k, x in values.items() if isinstance(x, tuple)}
    given = {k: x for k, x in values.items() if k not in several} | {
        "steps": config.search_steps,
        "epoch_steps": epoch_steps if config.schedules_every == "epoch" else 1,
        "rewind_step": config.rewind_step or 0,
    }

    def start(swept):
        return _call(method.start, given | swept)

    def search(swept):
        optimizer = _call(_optimizer(method), given | swept, config)
        return _call(method.search, given | swept, optimizer)

    combinations = [
        dict(zip(several, combination, strict=True))
        for combination in itertools.product(*several.values())
    ]
    try:
        for each in combinations:  # numbers of Python, which are checked
            start(each)
            if method.search:
                search(each)
    except checks.Refused as error:
        if error.name not in values:
            raise ValueError(f"--{name}.*: {error}") from None
        raise checks.Refused(_flag(config, name, error.name), error.why) from None
    except ValueError as error:
        raise ValueError(f"--{name}.*: {error}") from None
    settings = []
    for each in combinations:
        swept = _numbers(each)  # of the program, which may round otherwise
        promises = search(swept).promises if method.search else STARTED
        settings.append(Setting(_label(each), swept, promises))
    if len({setting.label for setting in settings}) < len(settings):
        raise ValueError(
            f"--{name}.*: values that a sweep is made of must differ in their first "
            f"six digits; got {', '.join(setting.label for setting in settings)}"
        )
    first = settings[0].promises
    resumes = config.resume_schedule
    if resumes is None:
        resumes = first.opens_given
    follows = rounds is None and first.rounds
    if rounds is None:
        rounds = config.rounds if follows else 1
    else:
        MANY(**{_flag(config, name, "rounds"): rounds})
    for setting in settings:
        try:
            base.check_round(setting.promises, config.search_steps)
        except ValueError as error:
            raise ValueError(f"--{name}.* {setting.label}: {error}") from None
    return Planned(
        name,
        tuple(settings),
        rounds if method.search else 0,
        follows,
        search if method.search else None,
        start,
        first.rewind_step if resumes else 0,
    )


def check_kept(config: Settings, planned: Planned, mask: Mask) -> None:
    """Raises a `ValueError` where it is known that a ticket will keep nothing.

    Nothing in all, or of its largest layer: smaller ones are lost at extreme densities.

    Args:
      config: what the message is taken from.
      planned: the method.
      mask: of the dense network, or its shapes.
    """
    owners = (planned.name, config.METHODS[planned.name].base)
    given = {f: x for f, x in config.hyper.items() if f.partition(".")[0] in owners}
    where = ", ".join(f"--{flag}={x}" for flag, x in given.items())
    sizes = {name: np.size(leaf) for name, leaf in masks.named(mask).items()}
    largest = max(sizes, key=sizes.__getitem__)
    for setting in planned.settings:
        promises = setting.promises
        left = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), mask)
        times = len(planned.prunings()) if promises.rounds else not promises.opens_given
        laws = [planned.start(setting.swept).kept, *[promises.kept] * times]
        by_layer = True  # whether it is known what each layer keeps
        for law in filter(None, laws):
            try:
                counts = law(left)
            except ValueError as error:
                raise ValueError(f"{where or planned.name}: {error}") from None
            if isinstance(counts, dict):
                kept = counts[largest] if by_layer else sum(counts.values())
            else:
                kept, by_layer = counts, False
            if not kept:
                raise ValueError(
                    f"{where} {setting.label}".rstrip()
                    + f": a ticket would keep none of the {sizes[largest]} weights of "
                    f"{largest}; give a larger density, or fewer rounds"
                )
            left = _first(counts, left)


def _first(counts: dict[str, int] | int, mask: Mask) -> Mask:
    """A mask of as many weights, whichever."""
    leaves, tree = jax.tree.flatten(mask)
    if not isinstance(counts, dict):
        whole = np.concatenate([leaf.ravel() for leaf in leaves])
        whole[np.flatnonzero(whole)[counts:]] = False
        parts = np.split(whole, np.cumsum([leaf.size for leaf in leaves])[:-1])
    else:
        parts = [
            np.arange(leaf.size) < n
            for leaf, n in zip(leaves, counts.values(), strict=True)
        ]
    return tree.unflatten(
        part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
    )


def _said_otherwise(config: Settings, owners: Iterable[str], name: str) -> bool:
    """Whether a flag says in another way what a preset says by this name."""
    if name not in constraint.EXCLUSIVE:
        return False
    others = {*constraint.EXCLUSIVE} - {name}
    return any(f"{owner}.{x}" in config.hyper for owner in owners for x in others)


def check_flags(config: Settings) -> None:
    """Raises a `ValueError` for a hyper-parameter that no method has."""
    for flag in config.hyper:
        if not flag.startswith(OPTIONS):
            _known(config.METHODS, flag)


def serves(config: Settings, names: Iterable[str], flag: str) -> bool:
    """Whether an option, or a hyper-parameter, is of one of these methods.

    Those of a method that one of them is a variant of are of this one too.
    """
    owner = flag.partition(".")[0]
    bases = (config.METHODS[name].base for name in names if name in config.METHODS)
    return flag.startswith(OPTIONS) or owner in {*names, *bases}


def idle(given: Settings, config: Settings) -> list[str]:
    """Which flags are of methods that do not run, in words.

    Args:
      given: the settings as they came, without those of presets.
      config: the same, resolved.
    """
    running = config.methods
    found = [f"--{x}" for x in given.hyper if not serves(config, running, x)]
    if not found:
        return []
    verb = "change" if len(found) > 1 else "changes"
    return [f"{', '.join(found)} {verb} nothing with --methods={','.join(running)}"]


def _known(methods: Mapping[str, Method], flag: str) -> None:
    """Raises a `ValueError` for a flag that no method has."""
    owner, _, name = flag.partition(".")
    if owner in methods and name in {hyper.name for hyper in of_method(methods[owner])}:
        return
    near = difflib.get_close_matches(flag, flags(methods), n=1)
    hint = f"; did you mean --{near[0]}?" if near else ""
    raise ValueError(f"there is no --{flag}{hint}")


def _flag(config: Settings, name: str, value: str) -> str:
    """The flag that a value of a method is given by: its own, or of its base."""
    owners = [name, config.METHODS[name].base]
    given = [each for each in owners if f"{each}.{value}" in config.hyper]
    return f"--{(given or owners)[0]}.{value}"


def _call(factory: Callable, values: Mapping[str, Any], *args: Any) -> Any:
    """Calls a factory with those of the values that it takes and has not bound."""
    takes = hyperparameters.arguments(factory)
    return factory(*args, **{k: x for k, x in values.items() if k in takes})


def _label(swept: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in swept.items())


def _numbers(swept: Mapping[str, float]) -> dict[str, np.float32]:
    return {name: np.float32(value) for name, value in swept.items()}


def _value(config: Settings, name: str, method: Method, hyper: Hyper) -> Any:
    """Its value: what the method has, else its base; what is given, else the preset.

    Several values that a sweep is made of are a tuple; one alone is a number.
    """
    found = hyper.default
    for owner in filter(None, (method.base, name)):
        if not _said_otherwise(config, (method.base, name), hyper.name):
            found = config.METHODS[owner].preset.get(hyper.name, found)
        found = config.hyper.get(f"{owner}.{hyper.name}", found)
    flag = _flag(config, name, hyper.name)
    if found is inspect.Parameter.empty:
        raise ValueError(f"give {flag}: {hyper.help}")
    if isinstance(found, list | tuple):
        if not hyper.swept and len(found) != 1:
            raise checks.Refused(flag, f"takes one value; got {found}")
        if len(set(found)) < len(found) or not found:
            raise checks.Refused(flag, f"needs different values; got {found}")
        found = found[0] if len(found) == 1 else tuple(found)
    for value in found if isinstance(found, tuple) else (found,):
        if hyper.kind is float and value is not None:
            checks.finite(**{flag: value})
        if hyper.choices:
            checks.one_of(hyper.choices)(**{flag: value})
    return found
