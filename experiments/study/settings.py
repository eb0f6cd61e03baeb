"""The settings that all experiments have: meaning, checks, and what fills them in."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

from jaxticket import data, models

OPTIMIZERS = ("adam", "sgd", "momentum", "nesterov")
PRUNABLE = ("kernels", "hidden", "convolutions")
DTYPES = ("float32", "bfloat16")
MODELS = {"cifar10": "conv_2", "cifar100": "conv_2"}


def setting(default: Any, help: str) -> Any:
    """A field of a configuration, which becomes a flag with this help."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every experiment can be told. `None`: what suits data set and model.

    Attributes:
      METHODS: names that `methods` may hold.
      PRESETS: (data set, model) -> values for what is left open; the entry of `None`
        serves every other pair.
      EXCLUSIVE: pairs of settings that say the same in two ways.
      VERDICTS: whether a ticket can win: it then trains as the dense network does.
      batch_statistics: whether those of normalisations are free in a search.
      pretrained: file of the dense network's weights, where it is not trained.
    """

    METHODS: ClassVar[tuple[str, ...]] = ()
    PRESETS: ClassVar[dict] = {}
    EXCLUSIVE: ClassVar[tuple] = (("steps", "epochs"),)
    VERDICTS: ClassVar[bool] = True
    batch_statistics: ClassVar[str] = "free"
    pretrained: ClassVar[str | None] = None

    dataset: str = setting(
        "digits", "digits (embedded), or a TFDS image set: mnist, ..."
    )
    data_dir: str | None = setting(None, "folder of prepared TFDS data sets")
    cache_dir: str | None = setting(None, "where arrays read from TFDS are kept")
    validation: int | None = setting(None, "training images held out for validation")
    normalization: str = setting("standard", f"one of {data.NORMALIZATIONS}")
    augment: bool | None = setting(None, "random flips and 4-pixel crops in every step")
    model: str | None = setting(None, f"one of {models.NAMES}")
    dtype: str = setting(
        "float32", f"what the network computes in, one of {DTYPES}; weights are float32"
    )
    prunable: str | None = setting(
        None,
        "kernels, hidden: those but the output layer's, or convolutions alone (without "
        "those of shortcuts)",
    )
    methods: list[str] | None = setting(None, "which methods, with commas")
    seeds: int = setting(5, "how many seeds")
    first_seed: int = setting(0, "the first of them")
    lanes: str | None = setting(
        None,
        "searches vmapped side by side on each device, part of a seed's identity; or "
        "auto: what is fastest in a short trial. Default: 1 on CPU, up to 16 elsewhere",
    )
    turns: int = setting(
        1, "sets of lanes that take turns in one program on a device; changes no number"
    )
    epochs: int | None = setting(None, "passes over the training data in a training")
    steps: int | None = setting(None, "optimiser steps of a training, not epochs")
    eval_every: int | None = setting(
        None, "steps between evaluations; default an epoch"
    )
    batch_size: int | None = setting(None, "images per step")
    optimizer: str | None = setting(None, f"one of {OPTIMIZERS}")
    learning_rate: float | None = setting(None, "learning rate of the weights")
    learning_rate_drops: list[float] | None = setting(
        None,
        "where the learning rate falls to a tenth, with commas: steps of a training, "
        "or, below 1, fractions of it",
    )
    weight_decay: float | None = setting(None, "of the weights; never of logits")
    penalty: float = setting(
        1e-8, "weight of the L0 penalty of Continuous Sparsification and ISS"
    )
    s0_values: list[float] = setting(
        (0.3, 0.2, 0.1, 0.05, 0.03, 0.0, -0.03, -0.05, -0.1, -0.2, -0.3),
        "initial logits of Continuous Sparsification, side by side, with commas",
    )
    final_temperature: float = setting(200.0, "its last inverse temperature")
    temperature_every: str = setting("epoch", "it rises every epoch or every step")
    logit_learning_rate: float | None = setting(
        None, "learning rate of all logits; default that of the weights"
    )
    scaling: bool = setting(True, "divide its gates by sigmoid(s0), as released")
    keep_multiplier: bool = setting(
        False,
        "train its tickets and their controls with the factor 1 / sigmoid(s0) beside "
        "the weights, as released",
    )
    output_dir: str = setting("runs", "where everything is written")
    save_seconds: float = setting(30.0, "seconds between checkpoints within a round")
    compilation_cache: bool = setting(True, "keep compiled programs for the next run")

    def filled(self) -> Self:
        """With everything that other settings decide; checks what these need."""
        config = self
        if config.logit_learning_rate is None:
            rate = config.learning_rate
            config = dataclasses.replace(config, logit_learning_rate=rate)
        if config.lanes not in (None, "auto"):
            lanes = _number_of_lanes(config.lanes)
            config = dataclasses.replace(config, lanes=lanes)
        return config

    def check(self) -> None:
        """Raises a `ValueError` for what cannot be."""
        least(self, seeds=1, first_seed=0, batch_size=1)
        for name in ("turns", "epochs", "steps", "eval_every", "validation"):
            if getattr(self, name) is not None:
                least(self, **{name: 1})
        for name in ("learning_rate", "logit_learning_rate", "final_temperature"):
            above_zero(name, getattr(self, name))
        for name in ("weight_decay", "penalty", "save_seconds"):
            not_negative(name, getattr(self, name))
        if wrong := [x for x in self.learning_rate_drops if not _is_drop(x)]:
            raise ValueError(
                "--learning_rate_drops are steps from 1, or fractions of a training "
                f"between 0 and 1; got {wrong[0]:g}"
            )
        each("s0_values", self.s0_values, finite)
        one_of("normalization", self.normalization, data.NORMALIZATIONS)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("temperature_every", self.temperature_every, ("epoch", "step"))
        one_of("prunable", self.prunable, PRUNABLE)
        one_of("dtype", self.dtype, DTYPES)
        if self.keep_multiplier and not self.scaling:
            raise ValueError("--keep_multiplier needs --scaling: there is no factor")

    def searches(self) -> int:
        """How many searches the largest of the methods has."""
        return self.seeds

    def in_steps(self, epoch_steps: int) -> Self:
        """With all lengths in steps, once it is known how many an epoch has."""
        steps = self.steps or self.epochs * epoch_steps
        return dataclasses.replace(
            self,
            steps=steps,
            eval_every=min(self.eval_every or epoch_steps, steps),
            learning_rate_drops=tuple(
                round(x * steps) if x < 1 else int(x) for x in self.learning_rate_drops
            ),
        )


def resolve(config: Settings) -> Settings:
    """Fills in what was left open and checks everything that needs no data.

    Raises:
      ValueError: one line that says what came and what would do.
    """
    model = config.model or MODELS.get(config.dataset, "lenet_300_100")
    one_of("model", model, models.NAMES)
    presets = type(config).PRESETS
    preset = dict(presets.get((config.dataset, model), presets[None]))
    for pair in config.EXCLUSIVE:
        given = [name for name in pair if getattr(config, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give {' or '.join(f'--{n}' for n in pair)}, not both")
        if given:
            preset = {name: x for name, x in preset.items() if name not in pair}
    opened = {name: x for name, x in preset.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, model=model, **opened)
    some_of("method", config.methods, config.METHODS, least=1)
    config = config.filled()
    config.check()
    return config


def some_of(what: str, names, allowed, *, least: int = 0) -> None:
    """Checks a list of names."""
    if len(names) < least:
        raise ValueError(f"give at least {least} {what} of {', '.join(allowed)}")
    distinct(what, names)
    for name in names:
        one_of(what, name, allowed)


def one_of(what: str, name: str, allowed) -> None:
    if name not in allowed:
        raise ValueError(f"unknown {what} {name!r}: choose of {', '.join(allowed)}")


def distinct(what: str, values) -> None:
    """Refuses a value that comes twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{what} given twice: {', '.join(map(str, values))}")


def each(name: str, values, check: Callable[[str, float], None]) -> None:
    """Checks the numbers that the lanes of a method differ by."""
    if not values:
        raise ValueError(f"--{name} needs at least one number")
    distinct(f"--{name}:", values)
    for value in values:
        check(name, value)


def least(config: Settings, **bounds: int) -> None:
    for name, bound in bounds.items():
        if getattr(config, name) < bound:
            raise ValueError(
                f"--{name} must be at least {bound}, got {getattr(config, name)}"
            )


def above_zero(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"--{name} must be above 0, got {value}")


def not_negative(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"--{name} must be at least 0, got {value}")


def finite(name: str, value: float) -> None:
    if not abs(value) < float("inf"):
        raise ValueError(f"--{name} must be finite, got {value}")


def density(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"--{name} is the fraction kept, in (0, 1]; got {value}")


def _is_drop(x: float) -> bool:
    return 0 < x < 1 or (1 <= x < float("inf") and x == int(x))


def _number_of_lanes(lanes: str | int) -> int:
    if not str(lanes).isdecimal() or int(lanes) < 1:
        raise ValueError(f"--lanes is a number from 1, or auto; got {lanes!r}")
    return int(lanes)
