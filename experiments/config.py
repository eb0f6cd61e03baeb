"""The settings of a ticket search: meaning, checks, and the papers' defaults."""

import dataclasses
from typing import Any

from jaxticket import data, models

METHODS = (
    "imp",
    "imp_continued",
    "learning_rate_rewinding",
    "fine_tuning",
    "continuous_sparsification",
)
CONTROLS = ("reinitialise", "shuffle", "random")
SCOPES = ("global", "layer", "lottery", "uniform", "erk")
SCORES = ("magnitude", "magnitude_increase", "movement", "random")
OPTIMIZERS = ("adam", "sgd", "momentum", "nesterov")


def setting(default: Any, help: str) -> Any:
    """A field of a configuration, which becomes a flag with this help."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run. `None` means: what suits the data set and the model."""

    dataset: str = setting(
        "digits", "digits (embedded), or a TFDS image set: mnist, ..."
    )
    data_dir: str | None = setting(None, "folder of prepared TFDS data sets")
    cache_dir: str | None = setting(None, "where arrays read from TFDS are kept")
    validation: int | None = setting(None, "training images held out for validation")
    normalization: str = setting("standard", f"one of {data.NORMALIZATIONS}")
    augment: bool = setting(False, "random flips and 4-pixel crops in every step")
    model: str | None = setting(None, f"one of {models.NAMES}")
    methods: list[str] = setting(
        ("imp", "continuous_sparsification"), f"any of {METHODS}, with commas"
    )
    controls: list[str] = setting(
        ("reinitialise", "shuffle"), f"any of {CONTROLS}, with commas; may be empty"
    )
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
    rounds: int | None = setting(None, "trainings of a search; it prunes between them")
    epochs: int | None = setting(None, "passes over the training data in a round")
    steps: int | None = setting(None, "optimiser steps in a round, instead of epochs")
    eval_every: int | None = setting(
        None, "steps between evaluations; default an epoch"
    )
    batch_size: int | None = setting(None, "images per step")
    optimizer: str | None = setting(None, f"one of {OPTIMIZERS}")
    learning_rate: float | None = setting(None, "learning rate of the weights")
    learning_rate_drops: list[int] = setting(
        (), "steps of a round at which the learning rate falls to a tenth, with commas"
    )
    weight_decay: float = setting(
        0.0, "of the weights; never of Continuous S.'s logits"
    )
    density: float | None = setting(
        None, "fraction of the survivors a round keeps (IMP)"
    )
    final_density: float | None = setting(
        None, "density after the last pruning (IMP), instead of --density"
    )
    scope: str | None = setting(
        None,
        f"one of {SCOPES}; lottery is by layer, the output layer at half rate and "
        "convolutions at the rate of the Lottery Ticket paper",
    )
    score: str = setting("magnitude", f"what IMP prunes by: one of {SCORES}")
    rewind_step: int = setting(0, "step of the first round that tickets start from")
    resume_schedule: bool | None = setting(
        None,
        "rewound trainings begin at --rewind_step of the schedule, not at step 0; "
        "default: those of IMP do, those of Continuous Sparsification do not",
    )
    s0: float = setting(
        0.0, "initial logit of Continuous Sparsification; lower: sparser"
    )
    penalty: float = setting(1e-8, "weight of its L0 penalty")
    final_temperature: float = setting(200.0, "its last inverse temperature")
    temperature_every: str = setting("epoch", "it rises every epoch or every step")
    logit_learning_rate: float | None = setting(
        None, "learning rate of its logits; default that of the weights"
    )
    between_rounds: str = setting(
        "paper", "its rule between rounds: paper, or code as released"
    )
    scaling: bool = setting(True, "divide its gates by sigmoid(s0), as released")
    keep_momentum: bool = setting(True, "its optimiser's state outlives a round")
    output_dir: str = setting("runs/ticket_search", "where everything is written")
    save_seconds: float = setting(30.0, "seconds between checkpoints within a round")
    compilation_cache: bool = setting(True, "keep compiled programs for the next run")


# What a run needs to know and a flag does not say, by (data set, model). The last entry
# serves every other pair. LeNet and Conv-k: Frankle and Carbin 2019, Figure 2.
PRESETS = {
    ("digits", "lenet_300_100"): {
        "optimizer": "adam",
        "learning_rate": 4e-3,
        "batch_size": 60,
        "epochs": 15,
        "rounds": 6,
        "scope": "lottery",
        "density": 0.7,
        "logit_learning_rate": 1e-2,
    },
    ("mnist", "lenet_300_100"): {
        "optimizer": "adam",
        "learning_rate": 1.2e-3,
        "batch_size": 60,
        "steps": 50_000,
        "rounds": 16,
        "scope": "lottery",
        "density": 0.8,
    },
    **{
        ("cifar10", model): {
            "optimizer": "adam",
            "learning_rate": learning_rate,
            "batch_size": 60,
            "steps": steps,
            "rounds": 16,
            "scope": "lottery",
            "density": 0.8,
        }
        for model, learning_rate, steps in (
            ("conv_2", 2e-4, 20_000),
            ("conv_4", 3e-4, 25_000),
            ("conv_6", 3e-4, 30_000),
        )
    },
    None: {
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "batch_size": 60,
        "epochs": 10,
        "rounds": 8,
        "scope": "global",
        "density": 0.8,
    },
}
MODELS = {"cifar10": "conv_2", "cifar100": "conv_2"}

# How fast the lottery scope prunes convolutions, in units of what the dense layers
# lose: 10% against 20% in Conv-2 and Conv-4, 15% in Conv-6.
CONV_RATES = {"conv_2": 0.5, "conv_4": 0.5, "conv_6": 0.75}


def resolve(config: Config) -> Config:
    """Fills in what was left open and checks everything that needs no data.

    Raises:
      ValueError: one line that says what came and what would do.
    """
    _check_names("method", config.methods, METHODS, least=1)
    _check_names("control", config.controls, CONTROLS, least=0)
    model = config.model or MODELS.get(config.dataset, "lenet_300_100")
    _check_names("model", [model], models.NAMES, least=1)
    if config.final_density is not None and config.density is not None:
        raise ValueError("give --density or --final_density, not both")
    if config.steps is not None and config.epochs is not None:
        raise ValueError("give --steps or --epochs, not both")
    preset = dict(PRESETS.get((config.dataset, model), PRESETS[None]))
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if getattr(config, one) is not None:
            preset.pop(other, None)
    filled = {name: x for name, x in preset.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, model=model, **filled)
    if config.logit_learning_rate is None:
        config = dataclasses.replace(config, logit_learning_rate=config.learning_rate)
    if config.final_density is not None:
        _check_density("final_density", config.final_density)
        _check_least(config, rounds=2)
        density = config.final_density ** (1 / (config.rounds - 1))
        config = dataclasses.replace(config, density=density)
    if config.lanes not in (None, "auto"):
        config = dataclasses.replace(config, lanes=_number_of_lanes(config.lanes))
    _check(config)
    return config


def _check(config: Config) -> None:
    _check_density("density", config.density)
    _check_least(config, seeds=1, first_seed=0, rounds=1, batch_size=1, rewind_step=0)
    for name in ("turns", "epochs", "steps", "eval_every", "validation"):
        if getattr(config, name) is not None:
            _check_least(config, **{name: 1})
    for name in ("learning_rate", "logit_learning_rate", "final_temperature"):
        if not 0 < getattr(config, name) < float("inf"):
            raise ValueError(f"--{name} must be above 0, got {getattr(config, name)}")
    for name in ("weight_decay", "penalty", "save_seconds"):
        if not 0 <= getattr(config, name) < float("inf"):
            raise ValueError(
                f"--{name} must be at least 0, got {getattr(config, name)}"
            )
    if not abs(config.s0) < float("inf"):
        raise ValueError(f"--s0 must be finite, got {config.s0}")
    if any(drop < 1 for drop in config.learning_rate_drops):
        raise ValueError(
            f"--learning_rate_drops are steps from 1, got {config.learning_rate_drops}"
        )
    for name, allowed in (
        ("normalization", data.NORMALIZATIONS),
        ("optimizer", OPTIMIZERS),
        ("scope", SCOPES),
        ("score", SCORES),
        ("temperature_every", ("epoch", "step")),
        ("between_rounds", ("paper", "code")),
    ):
        _check_names(name, [getattr(config, name)], allowed, least=1)


def _check_names(what: str, names, allowed, *, least: int) -> None:
    if len(names) < least:
        raise ValueError(f"give at least {least} {what} of {', '.join(allowed)}")
    if len(set(names)) < len(names):
        raise ValueError(f"{what} given twice: {', '.join(names)}")
    for name in names:
        if name not in allowed:
            raise ValueError(f"unknown {what} {name!r}: choose of {', '.join(allowed)}")


def _number_of_lanes(lanes: str | int) -> int:
    if not str(lanes).isdecimal() or int(lanes) < 1:
        raise ValueError(f"--lanes is a number from 1, or auto; got {lanes!r}")
    return int(lanes)


def _check_density(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"--{name} is the fraction kept, in (0, 1]; got {value}")


def _check_least(config: Config, **least: int) -> None:
    for name, bound in least.items():
        if getattr(config, name) < bound:
            raise ValueError(
                f"--{name} must be at least {bound}, got {getattr(config, name)}"
            )
