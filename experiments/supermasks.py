"""Supermasks: networks that work because of which random weights they keep.

No weight is trained. Masks are learned by drawing them (Zhou et al.: `learned`, with
dynamic rescaling `rescaled`), by edge-popup (from signed Kaiming constants, or normal
values: `edge_popup_normal`) and by Continuous Sparsification, or taken from a training
of the network by one of Zhou et al.'s criteria in one shot (`large_final_same_sign`,
...), and laid over the initial weights. A method whose name ends in `_constant` has
`sign(w)` times the standard deviation of the layer in place of these. The dense network
is trained too, for the criteria and to compare. Without flags: the digits of
scikit-learn, about two minutes on two cores.

    python -m experiments.supermasks

Zhou et al.'s LeNet on MNIST, 220 steps an epoch; theirs are 2000 epochs, 95.3% test
accuracy for `learned`, and 86% for `large_final_same_sign_constant`, which needs no
learning of the mask:

    python -m experiments.supermasks --dataset=mnist --data_dir=../shared/tfds \\
        --normalization=unit --search_epochs=2000

Edge-popup of Conv-4 on CIFAR-10, 100 epochs at density 50%; needs an accelerator:

    python -m experiments.supermasks --dataset=cifar10 --data_dir=../shared/tfds \\
        --model=conv_4 --methods=edge_popup,edge_popup_normal

Outputs and resumption are those of `experiments.ticket_search`, as are most flags.

Reference:
  Zhou et al., "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask", 2019;
  Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?", 2020.
"""

import dataclasses
from typing import ClassVar

from experiments.study.settings import setting
from experiments.study.study import (
    common,
    mask_search,
    run,
    settings,
    supermask_methods,
)

METHODS = supermask_methods.METHODS
FANS = ("none", "density", "code")
ANY = {
    "methods": (
        "learned",
        "learned_constant",
        "rescaled",
        "rescaled_constant",
        "edge_popup",
        "edge_popup_normal",
        "continuous_sparsification",
        "large_final",
        "large_final_constant",
        "large_final_same_sign",
        "large_final_same_sign_constant",
        "random",
    ),
    "optimizer": "adam",
    "learning_rate": 1.2e-3,
    "learning_rate_drops": (),
    "weight_decay": 0.0,
    "augment": False,
    "prunable": "kernels",
    "batch_size": 250,
    "epochs": 20,
    "search_epochs": 50,
}


@dataclasses.dataclass(frozen=True)
class Config(mask_search.Config):
    """All settings of the study. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = {
        ("digits", "lenet_300_100"): ANY
        | {"learning_rate": 4e-3, "epochs": 15, "batch_size": 60, "search_epochs": 40},
        **{
            ("cifar10", model): ANY
            | {
                "learning_rate": rate,
                "augment": True,
                "batch_size": 128,
                "epochs": 34,
                "search_epochs": 100,
            }
            for model, rate in (("conv_2", 2e-4), ("conv_4", 3e-4), ("conv_6", 3e-4))
        },
        None: ANY,
    }

    methods: list[str] | None = setting(None, f"any of {METHODS}, with commas")
    densities: list[float] = setting(
        (0.8, 0.5, 0.2, 0.1), "of the criteria's masks, with commas"
    )
    popup_densities: list[float] = setting((0.5,), "of edge-popup, with commas")
    score_weight_decay: float = setting(1e-4, "of the scores of edge-popup")
    mask_learning_rate: float = setting(
        100.0, "of the logits of learned masks, by SGD with momentum 0.9"
    )
    mask_schedule: str = setting("constant", "its course: constant or cosine")
    s0: float = setting(0.0, "their first logit; at 0 half of the weights are kept")
    read: str = setting(
        "sample", "test learned masks as drawn (sample), or by their threshold"
    )
    scale_fan: str = setting(
        "none",
        "multiply the fan of edge-popup's values by 1 (none), by the density, or, as "
        "the released code, by one minus it (code)",
    )
    output_dir: str = setting("runs/supermasks", "where everything is written")

    def check(self) -> None:
        super().check()
        settings.each("popup_densities", self.popup_densities, settings.density)
        settings.above_zero("mask_learning_rate", self.mask_learning_rate)
        settings.one_of("mask_schedule", self.mask_schedule, ("constant", "cosine"))
        settings.one_of("read", self.read, ("sample", "threshold"))
        settings.one_of("scale_fan", self.scale_fan, FANS)
        if self.scale_fan == "code" and max(self.popup_densities) == 1:
            raise ValueError(
                "--scale_fan=code divides by one minus the density: give "
                f"--popup_densities below 1, not {self.popup_densities}"
            )
        settings.finite("s0", self.s0)

    def searches(self) -> int:
        settings = (self.densities, self.popup_densities, self.s0_values)
        return self.seeds * max(map(len, settings))


def experiment(config: Config) -> list[dict]:
    """Searches as the settings say; see `run.run`."""
    return run.run("Supermasks", config, supermask_methods.method)


if __name__ == "__main__":
    common.main(experiment, Config)
