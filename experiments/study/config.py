"""The settings of a ticket search: meaning, checks, and the papers' defaults."""

import dataclasses
from typing import ClassVar, Self

from experiments.study.settings import setting
from experiments.study.study import settings

METHODS = (
    "imp",
    "imp_continued",
    "learning_rate_rewinding",
    "fine_tuning",
    "continuous_sparsification",
    "continuous_sparsification_parallel",
    "iss",
)
CONTROLS = ("reinitialise", "shuffle", "random")
SCOPES = ("global", "layer", "lottery", "uniform", "erk")
SCORES = ("magnitude", "magnitude_increase", "movement", "random")

# What a run needs to know and a flag does not say. LeNet and Conv-k: Frankle and Carbin
# 2019, Figure 2.
ANY = {
    "methods": ("imp", "continuous_sparsification"),
    "controls": ("reinitialise", "shuffle"),
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "learning_rate_drops": (),
    "weight_decay": 0.0,
    "augment": False,
    "prunable": "kernels",
    "batch_size": 60,
    "epochs": 10,
    "rounds": 8,
    "scope": "global",
    "density": 0.8,
    "rewind_step": 0,
}


PRESETS = {
    ("digits", "lenet_300_100"): ANY
    | {
        "learning_rate": 4e-3,
        "epochs": 15,
        "rounds": 6,
        "scope": "lottery",
        "density": 0.7,
        "logit_learning_rate": 1e-2,
    },
    ("mnist", "lenet_300_100"): ANY
    | {
        "learning_rate": 1.2e-3,
        "steps": 50_000,
        "epochs": None,
        "rounds": 16,
        "scope": "lottery",
    },
    **{
        ("cifar10", model): ANY
        | {
            "learning_rate": learning_rate,
            "steps": steps,
            "epochs": None,
            "rounds": 16,
            "scope": "lottery",
        }
        for model, learning_rate, steps in (
            ("conv_2", 2e-4, 20_000),
            ("conv_4", 3e-4, 25_000),
            ("conv_6", 3e-4, 30_000),
        )
    },
    None: ANY,
}

# How fast the lottery scope prunes convolutions, in units of what the dense layers
# lose: 10% against 20% in Conv-2 and Conv-4, 15% in Conv-6.
CONV_RATES = {"conv_2": 0.5, "conv_4": 0.5, "conv_6": 0.75}


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """All settings of a ticket search. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = PRESETS
    EXCLUSIVE: ClassVar = (
        *settings.Settings.EXCLUSIVE,
        ("density", "final_density"),
        ("rewind_step", "rewind_epoch"),
    )

    methods: list[str] | None = setting(None, f"any of {METHODS}, with commas")
    controls: list[str] | None = setting(
        None, f"any of {CONTROLS}, with commas; may be empty"
    )
    rounds: int | None = setting(None, "trainings of a search; it prunes between them")
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
    rewind_step: int | None = setting(
        None, "step of the first round that tickets start from"
    )
    rewind_epoch: int | None = setting(None, "the same, in epochs")
    resume_schedule: bool | None = setting(
        None,
        "rewound trainings begin at --rewind_step of the schedule, not at step 0; "
        "default: those of IMP do, those of Continuous Sparsification do not",
    )
    s0: float = setting(
        0.0, "initial logit of sequential searches with gates; lower: sparser"
    )
    parallel_rounds: int = setting(
        1, "rounds of the parallel Continuous Sparsification, of every s0"
    )
    between_rounds: str = setting(
        "paper", "its rule between rounds: paper, or code as released"
    )
    keep_momentum: bool = setting(True, "its optimiser's state outlives a round")
    output_dir: str = setting("runs/ticket_search", "where everything is written")

    def filled(self) -> Self:
        config = super().filled()
        if config.final_density is not None:
            settings.density("final_density", config.final_density)
            settings.least(config, rounds=2)
            density = config.final_density ** (1 / (config.rounds - 1))
            config = dataclasses.replace(config, density=density)
        return config

    def check(self) -> None:
        super().check()
        settings.some_of("control", self.controls, CONTROLS)
        settings.density("density", self.density)
        settings.least(self, rounds=1, parallel_rounds=1)
        for name in ("rewind_step", "rewind_epoch"):
            if getattr(self, name) is not None:
                settings.least(self, **{name: 0})
        settings.finite("s0", self.s0)
        settings.one_of("scope", self.scope, SCOPES)
        settings.one_of("score", self.score, SCORES)
        settings.one_of("between_rounds", self.between_rounds, ("paper", "code"))

    def searches(self) -> int:
        parallel = "continuous_sparsification_parallel" in self.methods
        return self.seeds * (len(self.s0_values) if parallel else 1)

    def in_steps(self, epoch_steps: int) -> Self:
        config = super().in_steps(epoch_steps)
        if config.rewind_step is None:
            rewind_step = config.rewind_epoch * epoch_steps
            config = dataclasses.replace(config, rewind_step=rewind_step)
        if config.rewind_step >= config.steps:
            name = "step" if self.rewind_epoch is None else "epoch"
            raise ValueError(
                f"--rewind_{name} {getattr(self, f'rewind_{name}')} must lie before "
                f"the end of a round, at {config.steps} steps"
            )
        return config
