"""Pruning while training: Continuous Sparsification beside five other ways.

One round, binarised, fine-tuned, nothing rewound, against gradual magnitude pruning,
magnitude pruning in one shot, network slimming (for networks with batch normalisation),
soft thresholds (STR) and L0 regularisation. Every method gets the same number of
steps and one schedule of the learning rate for all of them: the search takes the share
`--search_share`, fine-tuning the rest. The dense network trains as long as both. Each
method is run at several values of its knob, side by side in one program, for a curve of
accuracy against density. Without flags: MNIST-1D at a width of 100, about two
minutes on two cores.

    python -m experiments.pruning

LeNet-300-100 on MNIST; VGG-16 or ResNet-20 on CIFAR-10, which need an accelerator:

    python -m experiments.pruning --dataset=mnist
    python -m experiments.pruning --dataset=cifar10 --model=vgg_16 --dtype=bfloat16

Gates can be held to densities, in place of a penalty that leads to some:

    python -m experiments.pruning --dataset=mnist --methods=l0 \\
        --l0.density=0.2,0.35,0.5,0.65,0.8 --l0.logit_learning_rate=1e-2

A density of network slimming is of channels. It prunes the kernels' weights; the shift
of the normalisation of a channel that is gone stays.

Outputs and resumption are those of `experiments.ticket_search`, as are most flags.

Reference:
  Savarese, Silva and Maire, "Winning the Lottery with Continuous Sparsification", 2020,
  for the comparison; its numbers are not known here. The methods: see the searches.
"""

import dataclasses
from functools import partial
from typing import ClassVar, Self

from experiments import ticket_search
from experiments.continuous_sparsification import PARALLEL
from experiments.study import command, methods, settings
from experiments.study.methods import Method
from experiments.study.settings import setting
from jaxticket import checks, searches

DENSITIES = {"density": (0.5, 0.2, 0.1, 0.05, 0.02)}
METHODS = methods.registry() | {
    "continuous_sparsification": Method(
        partial(searches.continuous_sparsification, weights="trained"), preset=PARALLEL
    ),
    "gradual": Method(
        partial(searches.gradual, select="equal"),
        preset={"final_density": DENSITIES["density"]},
    ),
    "one_shot": Method(
        partial(searches.one_shot, score="magnitude"),
        preset=DENSITIES,
    ),
    "slimming": Method(
        searches.slimming, preset={"density": (0.9, 0.7, 0.5, 0.3, 0.2)}
    ),
    "soft_threshold": Method(
        searches.soft_threshold,
        preset={
            "initial_logit": (-5.0, -4.0, -3.0, -2.0, -1.0),
            "decay_logits": True,
        },
    ),
    "l0": Method(
        partial(searches.l0, weights="trained"),
        preset={"penalty": (1e-6, 1e-5, 1e-4, 3e-4, 1e-3)},
    ),
}
PLAIN = (
    "continuous_sparsification",
    "gradual",
    "one_shot",
    "soft_threshold",
    "l0",
)
ANY = ticket_search.DENSE | {"methods": PLAIN, "learning_rate_drops": (0.75,)}
NORMALISED = ANY | {
    "methods": (*PLAIN, "slimming"),
    "optimizer": "nesterov",
    "learning_rate": 0.1,
    "learning_rate_drops": (0.5, 0.75),
    "weight_decay": 1e-4,
    "augment": True,
    "prunable": "convolutions",
    "batch_size": 128,
    "epochs": 170,
}


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """All settings of a comparison. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = {
        ("mnist1d", "mlp_1d"): ANY
        | ticket_search.SHORT
        | {
            "steps": 600,
            "hyper": {
                "model.width": 100,
                "continuous_sparsification.logit_learning_rate": 1e-2,
                # The initial weights are within sigmoid(-2.2) of 0.
                "soft_threshold.initial_logit": (-5.0, -4.0, -3.5, -3.0, -2.5),
            },
        },
        ("digits", "lenet_300_100"): ANY
        | ticket_search.DIGITS
        | {
            "epochs": 20,
            "hyper": {
                f"{name}.logit_learning_rate": 1e-2
                for name in ("continuous_sparsification", "soft_threshold", "l0")
            },
        },
        ("mnist", "lenet_300_100"): ANY | ticket_search.MNIST,
        ("cifar10", "resnet_20"): NORMALISED,
        ("cifar10", "vgg_16"): NORMALISED,
        None: ANY,
    }
    VERDICTS: ClassVar = False

    search_share: float = setting(
        0.75,
        "share of the steps that a search takes; fine-tuning takes the others",
        checks.between(0, 1),
    )
    output_dir: str = settings.written("runs/pruning")

    def in_steps(self, epoch_steps: int) -> Self:
        config = super().in_steps(epoch_steps)
        checks.whole(2)(**{"--steps": config.steps})
        first = min(max(1, round(config.search_share * config.steps)), config.steps - 1)
        return dataclasses.replace(config, search_steps=first)

    def trains(self, promises) -> bool:
        del promises
        return True  # fine-tuning is a part of every method

    def training(self, resumed: int) -> tuple[int, int]:
        del resumed
        return self.search_steps, self.steps


def experiment(config: Config) -> list[dict]:
    """Prunes as the settings say; see `command.run`."""
    return command.run("Pruning", config)


if __name__ == "__main__":
    command.main(experiment, Config)
