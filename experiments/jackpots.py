"""Lottery jackpots: better masks over trained weights that stay as they are.

The dense network of each seed is trained. Then masks of several densities are searched
over its frozen weights, side by side in one program: from the mask of the largest
magnitudes (`jackpot`, the released code of 2021), the same by the code of 2023 with
short restriction and without (`jackpot_restricted`, `jackpot_unrestricted`), and from a
random mask of the same layer densities (`jackpot_from_random`), beside these two masks
without a search (`magnitude`, `random`) and the dense network itself, trained as much
longer on the same schedule (`dense_longer`). Accuracy is measured before the first step
and after every epoch of search; the report shows how fast each search gets where
(`search.csv`), how much of the mask changes in a step, and how far the masks of other
criteria overlap with those found (`overlaps.csv`). Without flags: MNIST-1D
at a width of 100, under two minutes on two cores.

    python -m experiments.jackpots

On MNIST, LeNet-300-100 and a small convolutional network:

    python -m experiments.jackpots --dataset=mnist
    python -m experiments.jackpots --dataset=mnist --model=lenet_5

The published tables: VGG-19 and the double-width ResNet-32 on CIFAR-10, 30 epochs of
search at batch 256; needs an accelerator. Their best test accuracies of any epoch are
93.88 and 93.70% at density 10%, 93.49 and 92.90% at 5% (released code):

    python -m experiments.jackpots --dataset=cifar10 --model=vgg_19 --dtype=bfloat16

ResNet-50 on ImageNet, of which nothing was run here, and which needs accelerators: of
published masks with 20 and 10% of the weights 75.19 and 72.43% after 30 epochs of
search, 76.66 and 74.62% with 10 more in which their weights are trained (released
code). The data are read while they are trained on:

    python -m experiments.jackpots --dataset=imagenet2012 --model=resnet_50 --stream \
        --pretrained=FILE.safetensors --dtype=bfloat16 --seeds=1

`--pretrained=FILE.safetensors` takes the weights of all seeds from a PyTorch-style
state dictionary instead of training them. With `--tune_epochs=10` the weights that a
mask keeps are trained afterwards ("S+T"). Densities and layer shares of all methods are
those of `--jackpot.density` and `--jackpot.select`. Outputs and resumption are those of
`experiments.ticket_search`, as are most flags.

Reference:
  Zhang et al., "Lottery Jackpots Exist in Pre-trained Models", 2023.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax

from experiments import ticket_search
from experiments.reports import overlaps as words
from experiments.study import (
    command,
    methods,
    optimizers,
    records,
    settings,
)
from experiments.study.methods import Method
from experiments.study.settings import setting
from jaxticket import analysis, checks, scores, searches, starts, supervised
from jaxticket.base import Ticket
from jaxticket.engine import keys

LARGEST = partial(
    starts.pruned, score="magnitude", of="trained", weights="trained", shuffle=False
)
RANDOM = partial(LARGEST, shuffle=True)
RELEASED_2023 = partial(searches.jackpot, absolute=False, pruned_score=0.99)
METHODS = methods.registry() | {
    "jackpot": Method(
        searches.jackpot,
        LARGEST,
        preset={"density": (0.2, 0.1, 0.05, 0.02)},
        reference="jackpot_from_random",
    ),
    "jackpot_restricted": Method(
        RELEASED_2023,
        LARGEST,
        preset={"restriction": "quartic"},
        base="jackpot",
        reference="jackpot_from_random",
    ),
    "jackpot_unrestricted": Method(
        partial(RELEASED_2023, restriction="none"),
        LARGEST,
        base="jackpot",
        reference="jackpot_from_random",
    ),
    "jackpot_from_random": Method(searches.jackpot, RANDOM, base="jackpot"),
    "magnitude": Method(start=LARGEST, base="jackpot"),
    "random": Method(start=RANDOM, base="jackpot"),
    "dense_longer": Method(
        searches.fixed, starts.trained, optimizer=optimizers.of_longer
    ),
}
ANY = ticket_search.DENSE | {
    "methods": (
        "jackpot",
        "jackpot_restricted",
        "jackpot_unrestricted",
        "jackpot_from_random",
        "magnitude",
        "random",
        "dense_longer",
    ),
    "prunable": "hidden",
    "batch_size": 128,
    "search_epochs": 10,
    "tune_epochs": 0,
}
PUBLISHED = ANY | {
    "optimizer": "nesterov",
    "learning_rate": 0.1,
    "learning_rate_drops": (0.5, 0.75),
    "weight_decay": 5e-4,
    "augment": True,
    "batch_size": 256,
    "epochs": 160,
    "search_epochs": 30,
}
# "30 (S) + 10 (T)". There is no recipe for the dense network: give `--pretrained`.
PUBLISHED_IMAGENET = PUBLISHED | {
    "methods": ("jackpot", "magnitude"),
    "crop": 224,
    "tune_epochs": 10,
    "hyper": {"jackpot.density": (0.2, 0.1), "jackpot.score_decay": 1e-4},
}


@dataclasses.dataclass(frozen=True)
class Config(settings.Tuned):
    """All settings of the study. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = {
        ("mnist1d", "mlp_1d"): ANY
        | ticket_search.SHORT
        | {
            "steps": 420,
            "search_epochs": 6,
            "eval_every": None,
            "hyper": {"model.width": 100},
        },
        ("digits", "lenet_300_100"): ANY | ticket_search.DIGITS | {"batch_size": 60},
        ("cifar10", "vgg_19"): PUBLISHED,
        ("cifar10", "resnet_32"): PUBLISHED,
        ("imagenet2012", "resnet_50"): PUBLISHED_IMAGENET,
        None: ANY,
    }

    stream: bool = settings.streaming()
    batch_statistics: str = setting(
        "free",
        "those of normalisations move in a search (free, as released) or not: frozen",
        checks.one_of(("free", "frozen")),
    )
    pretrained: str | None = settings.trained_elsewhere()
    output_dir: str = settings.written("runs/jackpots")


CRITERIA = {
    "magnitude": scores.magnitude,
    "gradient": scores.gradient,
    "SNIP": scores.snip,
    "random": scores.random,
}


def overlaps(study) -> None:
    """Writes `overlaps.csv`: a row for every mask found and every criterion.

    A mask is compared with the weights that a criterion ranks highest in the trained
    dense network, as many of each layer as it keeps. It takes seconds, so a finished
    study may do it again.
    """
    rows, overlap = [], jax.jit(analysis.overlap_with)
    for seed in study.trained_seeds:
        dense = study.shelf.anchor(records.dense(seed))
        key = keys.named(keys.of_seed(seed).controls, "overlaps")
        ranked = _ranked(study, dense, key)
        for planned in study.planned.values():
            if planned.promises.weights != "given":
                continue
            for each in planned.settings:
                lane = records.Lane(planned.name, "ticket", seed, 1, each.label)
                if study.records.lost(lane):
                    continue
                mask = study.shelf.ticket(lane).mask
                whose = records.whose(lane, mask) | {"images": supervised.IMAGES}
                for criterion, values in ranked.items():
                    found = overlap(values, mask)._asdict()
                    found = {name: float(x) for name, x in found.items()}
                    rows.append(whose | {"criterion": criterion} | found)
    records.write_table(study.folder / words.FILE, words.COLUMNS, rows)


def _ranked(study, dense: Ticket, key) -> dict[str, Any]:
    """Name of each criterion -> its scores of the trained weights."""

    @jax.jit
    def ranked(dense, key, train):
        evidence = study.evidence(train)(dense.model_state)
        evidence = evidence._replace(initial=dense.weights, key=key)
        return {name: f(dense.weights, evidence) for name, f in CRITERIA.items()}

    return ranked(dense, key, study.leading)


def experiment(config: Config) -> list[dict]:
    """Searches as the settings say; see `command.run`."""
    return command.run("Lottery jackpots", config, finish=overlaps)


if __name__ == "__main__":
    command.main(experiment, Config)
