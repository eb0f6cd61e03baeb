"""Pruning while training: Continuous Sparsification beside five other ways.

One round, binarised, fine-tuned, nothing rewound, against gradual magnitude pruning,
magnitude pruning in one shot, network slimming (for networks with batch normalisation),
soft thresholds (STR) and L0 regularisation. Every method gets the same number of
steps and one schedule of the learning rate for all of them: the search takes the share
`--search_share`, fine-tuning the rest. The dense network trains as long as both. Each
method is run at several values of its knob, side by side in one program, for a curve of
accuracy against density. Without flags: the digits of scikit-learn, about two minutes
on two cores.

    python -m experiments.pruning

LeNet-300-100 on MNIST; VGG-16 or ResNet-20 on CIFAR-10, which need an accelerator:

    python -m experiments.pruning --dataset=mnist --data_dir=../shared/tfds
    python -m experiments.pruning --dataset=cifar10 --data_dir=../shared/tfds \\
        --model=vgg_16 --dtype=bfloat16

A density of network slimming is of channels. It prunes the kernels' weights; the shift
of the normalisation of a channel that is gone stays.

Outputs and resumption are those of `experiments.ticket_search`, as are most flags.

Reference:
  Savarese, Silva and Maire, "Winning the Lottery with Continuous Sparsification", 2020,
  for the comparison; its numbers are not known here. The methods: see the searches.
"""

import dataclasses
from typing import ClassVar

from experiments.study.settings import setting
from experiments.study.study import common, pruners, run, settings

METHODS = (
    "continuous_sparsification",
    "gradual",
    "magnitude",
    "network_slimming",
    "soft_threshold",
    "l0",
)
ANY = {
    "methods": tuple(name for name in METHODS if name != "network_slimming"),
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "learning_rate_drops": (0.75,),
    "weight_decay": 0.0,
    "augment": False,
    "prunable": "kernels",
    "batch_size": 60,
    "epochs": 10,
}
NORMALISED = ANY | {
    "methods": METHODS,
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
        ("digits", "lenet_300_100"): ANY
        | {"learning_rate": 4e-3, "logit_learning_rate": 1e-2, "epochs": 20},
        ("mnist", "lenet_300_100"): ANY | {"learning_rate": 1.2e-3},
        ("cifar10", "resnet_20"): NORMALISED,
        ("cifar10", "vgg_16"): NORMALISED,
        None: ANY,
    }
    VERDICTS: ClassVar = False
    controls: ClassVar = ()  # trained weights have none

    methods: list[str] | None = setting(None, f"any of {METHODS}, with commas")
    search_share: float = setting(
        0.75, "share of the steps that a search takes; fine-tuning takes the others"
    )
    densities: list[float] = setting(
        (0.5, 0.2, 0.1, 0.05, 0.02), "of gradual and magnitude pruning, with commas"
    )
    channel_densities: list[float] = setting(
        (0.9, 0.7, 0.5, 0.3, 0.2), "of network slimming, with commas"
    )
    slimming_penalty: float = setting(1e-4, "weight of its L1 penalty of the scales")
    thresholds: list[float] = setting(
        (-5.0, -4.0, -3.0, -2.0, -1.0), "first logits of soft_threshold, with commas"
    )
    l0_penalties: list[float] = setting(
        (1e-6, 1e-5, 1e-4, 3e-4, 1e-3), "weights of the penalty of l0, with commas"
    )
    l0_logit: float = setting(0.0, "mean of its first logits; 0: gates half open")
    output_dir: str = setting("runs/pruning", "where everything is written")

    def check(self) -> None:
        super().check()
        if not 0 < self.search_share < 1:
            raise ValueError(
                f"--search_share must be between 0 and 1, got {self.search_share}"
            )
        settings.each("densities", self.densities, settings.density)
        settings.each("channel_densities", self.channel_densities, settings.density)
        settings.each("thresholds", self.thresholds, settings.finite)
        settings.each("l0_penalties", self.l0_penalties, settings.not_negative)
        settings.not_negative("slimming_penalty", self.slimming_penalty)
        settings.finite("l0_logit", self.l0_logit)

    def searches(self) -> int:
        knobs = {
            "continuous_sparsification": self.s0_values,
            "network_slimming": self.channel_densities,
            "soft_threshold": self.thresholds,
            "l0": self.l0_penalties,
        }
        return self.seeds * max(len(knobs.get(m, self.densities)) for m in self.methods)

    def search_steps(self, steps: int) -> int:
        """Steps of the search, of all steps; both parts have at least one."""
        if steps < 2:
            raise ValueError(f"--steps must be at least 2, got {steps}")
        return min(max(1, round(self.search_share * steps)), steps - 1)


def experiment(config: Config) -> list[dict]:
    """Prunes as the settings say; see `run.run`."""
    return run.run("Pruning", config, pruners.method)


if __name__ == "__main__":
    common.main(experiment, Config)
