"""Continuous Sparsification against magnitude pruning, as searches for tickets.

Sequential and parallel Continuous Sparsification, IMP with rewinding, IMP without
(IMP-C) and ISS, all with as many rounds of as many epochs. A table at the end, also in
the report, says of each method which of its tickets is the sparsest that matches the
dense network and which the most accurate, and after how many rounds and epochs of
search. Without flags: the digits of scikit-learn, five seeds, about two minutes on two
cores.

    python -m experiments.continuous_sparsification

LeNet-300-100 on MNIST, about 20 minutes on two cores (estimated from one seed):

    python -m experiments.continuous_sparsification --dataset=mnist \\
        --data_dir=../shared/tfds

ResNet-20 on CIFAR-10 by the released recipe: batches of 128, SGD with Nesterov momentum
at 0.1 for weights and logits, decay 1e-4 of the weights, drops at epochs 56 and 71 of
85, augmentation, s0 = 0, beta up to 200 by the epoch; three rounds, tickets from epoch
2 trained for the full schedule. Needs an accelerator; `vgg_16` takes the same recipe:

    python -m experiments.continuous_sparsification --dataset=cifar10 \\
        --data_dir=../shared/tfds --model=resnet_20 --dtype=bfloat16

The release differs from the paper between rounds and in how it trains a ticket, which
keeps the factor 1 / sigmoid(s0) beside its weights: `--between_rounds=code
--keep_multiplier`. Its README reports 91.5-92.0% test accuracy for a ticket of 20-30%
of the weights, and 90-91% for the dense network.

Flags, outputs and resumption are those of `experiments.ticket_search`.

Reference:
  Savarese, Silva and Maire, "Winning the Lottery with Continuous Sparsification", 2020.
"""

import dataclasses
from typing import ClassVar

from experiments.study.settings import setting
from experiments.study.study import common, config, run, ticket_methods

METHODS = (
    "continuous_sparsification",
    "continuous_sparsification_parallel",
    "imp",
    "imp_continued",
    "iss",
)
ANY = config.ANY | {"methods": METHODS, "controls": (), "density": 0.5, "rounds": 5}
RELEASED = ANY | {
    "optimizer": "nesterov",
    "learning_rate": 0.1,
    "learning_rate_drops": (56 / 85, 71 / 85),
    "weight_decay": 1e-4,
    "augment": True,
    "prunable": "convolutions",
    "batch_size": 128,
    "epochs": 85,
    "rounds": 3,
    "rewind_step": None,
    "rewind_epoch": 2,
}


@dataclasses.dataclass(frozen=True)
class Config(config.Config):
    """The settings of a ticket search, with the defaults of this experiment."""

    PRESETS: ClassVar = {
        ("digits", "lenet_300_100"): ANY
        | {"learning_rate": 4e-3, "logit_learning_rate": 1e-2, "epochs": 15},
        ("mnist", "lenet_300_100"): ANY
        | {"learning_rate": 1.2e-3, "epochs": 4, "rounds": 6},
        ("cifar10", "resnet_20"): RELEASED,
        ("cifar10", "vgg_16"): RELEASED,
        None: ANY,
    }

    output_dir: str = setting(
        "runs/continuous_sparsification", "where everything is written"
    )


def experiment(config: Config) -> list[dict]:
    """Runs the searches as their settings say; see `run.run`."""
    return run.run("Continuous Sparsification", config, ticket_methods.method)


if __name__ == "__main__":
    common.main(experiment, Config)
