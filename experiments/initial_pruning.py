"""Pruning at initialisation: tickets without a dense training, and what they rest on.

The initial network is pruned at one stroke, by SNIP, GraSP, SynFlow (in a hundred
strokes), by magnitude and at random, and what is left is trained, each density beside
the others in one program. Beside each are its controls: the mask with new weights, and
the mask shuffled within its layers. Published: neither costs anything, so that it is
how many weights a layer keeps that matters, and not which. As rivals, at the same
densities, `one_shot`: pruned by magnitude after a dense training and put back to the
initial weights. Without flags: MNIST-1D at a width of 100, a minute on two cores.

    python -m experiments.initial_pruning

LeNet-300-100 on MNIST, as kept:

    python -m experiments.initial_pruning --dataset=mnist --model=lenet_300_100

The sanity checks of the papers are methods: `snip_inverted`, `grasp_inverted` and
`synflow_inverted` keep the lowest scores, `snip_random_labels`, `snip_random_pixels`
and those of GraSP score by data that have been corrupted. `iterated_snip` prunes in a
hundred strokes. `random_erk`, `random_uniform` and `random_smart` draw masks of
Erdos-Renyi-Kernel's densities, of equal ones, and of those that fall from layer to
layer by Su et al.'s smart ratios; `magnitude_smart` keeps the largest initial weights
at these. They take the densities of the method that they vary:

    python -m experiments.initial_pruning --snip.density=0.05 \\
        --methods=snip,snip_inverted,snip_random_labels,snip_random_pixels,iterated_snip

Outputs and resumption are those of `experiments.ticket_search`, as are most flags; the
report has the effective density beside every other.

Reference:
  Lee et al., "SNIP", 2019; Wang et al., "Picking Winning Tickets Before Training by
  Preserving Gradient Flow", 2020; Tanaka et al., "Pruning Neural Networks without Any
  Data by Iteratively Conserving Synaptic Flow", 2020. The checks: Su et al.,
  "Sanity-Checking Pruning Methods", 2020; Frankle et al., "Pruning Neural Networks at
  Initialization: Why Are We Missing the Mark?", 2021.
"""

import dataclasses
from functools import partial
from typing import ClassVar

from experiments import ticket_search
from experiments.study import command, settings
from experiments.study.methods import Method

AT_START = ticket_search.AT_INITIALISATION
DENSITIES = (0.1, 0.05, 0.02, 0.01, 0.005)
ARMS = ("snip", "grasp", "synflow", "magnitude", "random", "one_shot")
CHECKS = {
    "inverted": {"inverted": True},
    "random_labels": {"corrupted": "labels"},
    "random_pixels": {"corrupted": "pixels"},
}
METHODS = (
    ticket_search.METHODS
    | {
        name: ticket_search.METHODS[name]._replace(
            preset=ticket_search.METHODS[name].preset | {"density": DENSITIES}
        )
        for name in ARMS
    }
    | {
        f"{name}_{check}": Method(
            start=partial(AT_START, score=name, **options), base=name
        )
        for check, options in CHECKS.items()
        for name in ("snip", "grasp", "synflow")
        if check == "inverted" or name != "synflow"  # which looks at no data
    }
    | {
        "iterated_snip": Method(
            start=partial(AT_START, score="snip"),
            preset={"iterations": 100},
            base="snip",
        ),
    }
    | {
        f"{name}_{select}": Method(
            start=partial(AT_START, score=name, select=select), base=name
        )
        for name, select in (
            *(("random", select) for select in ("erk", "uniform", "smart")),
            ("magnitude", "smart"),
        )
    }
)
ANY = ticket_search.ANY | {"methods": ARMS, "compare": "last"}


@dataclasses.dataclass(frozen=True)
class Config(ticket_search.Config):
    """All settings of the study. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = {
        ("mnist1d", "mlp_1d"): ANY
        | ticket_search.SHORT
        | {
            "steps": 840,
            "hyper": {
                "model.width": 100,
                **{f"{name}.density": (0.2, 0.05) for name in ARMS},
            },
        },
        ("mnist", "lenet_300_100"): ANY | ticket_search.MNIST | {"epochs": 5},
        None: ANY,
    }
    RECIPES: ClassVar = {}

    output_dir: str = settings.written("runs/initial_pruning")


def experiment(config: Config) -> list[dict]:
    """Prunes and trains as the settings say; see `command.run`."""
    return command.run("Pruning at initialisation", config)


if __name__ == "__main__":
    command.main(experiment, Config)
