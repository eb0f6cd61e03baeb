"""Finds winning tickets with many seeds, trains them beside their controls, reports.

Without flags: MNIST-1D, four seeds, iterative magnitude pruning and Continuous
Sparsification, each ticket against the dense network, against its mask with new weights
and against its mask shuffled; under two minutes on two cores. Expected test accuracies
after the last step: dense 59 to 60%, a ticket of IMP with 16% of the weights and one of
Continuous Sparsification with 12% 66%. Trainings this short gain from fewer weights as
such: masks with new weights are as good, shuffled ones down to 16%.

    python -m experiments.ticket_search

Any search of the library by name, several values of a hyper-parameter side by side, and
tickets pruned at initialisation or from one dense training:

    python -m experiments.ticket_search --methods=imp,one_shot,snip \\
        --one_shot.density=0.2,0.1,0.05 --snip.density=0.1 --imp.select=lottery

A ticket of another run, from its file, with controls; on other data it is transferred:

    python -m experiments.ticket_search --methods=given --controls=signed_permute \\
        --given.file='runs/ticket_search/tickets/imp/seed-{seed}-prunings-2.npz'

The Lottery Ticket paper's LeNet on MNIST (Frankle and Carbin 2019, Figures 3 and 4), at
eight epochs a round instead of its 50,000 steps:

    python -m experiments.ticket_search --dataset=mnist --model=lenet_300_100 \\
        --seeds=5 --methods=imp --rounds=8 --epochs=8

Its other networks, optimisers and learning rates are recipes by name, among them
lth_lenet_sgd, lth_conv_4_dropout, lth_resnet_20 and lth_vgg_19_low:

    python -m experiments.ticket_search --preset=lth_conv_2

ResNet-50 on ImageNet, pruned once to 30% and taken back to epoch 5 (Frankle et al.
2020), by a published training of 100 epochs; nothing of it was run here, and it needs
accelerators:

    python -m experiments.ticket_search --dataset=imagenet2012 --model=resnet_50 \\
        --stream --dtype=bfloat16 --seeds=1

The published search on MNIST-1D (Greydanus and Kobak 2024): 100 rounds, each of which
prunes a hundredth of every layer, the lowest of kernel and bias together, and returns
to the initial weights; beside it the same at random. Published accuracies after the
last step, of two trials: 65 and 66% dense, 74% at a tenth of the weights, at random 61
and 66% there. It differs from the published one in that masks are nested, 200 signals
are held out, and batches are shuffled:

    python -m experiments.ticket_search --preset=mnist1d_paper

Run the same command again after a kill: it goes on where it was, to the same numbers.
Writes into `--output_dir`: config.json, metrics.jsonl, results.csv, figures/,
report.html, tickets/. A resumed run needs the folder work/; delete it when all is done.
"""

import dataclasses
from functools import partial
from typing import ClassVar, Self

from experiments.study import command, methods, rules, settings
from experiments.study.methods import Method
from experiments.study.settings import setting
from jaxticket import checks, controls, searches, starts

AT_INITIALISATION = partial(starts.pruned, of="initial", weights="initial")
METHODS = {
    **methods.registry(),
    **{
        name: Method(partial(searches.imp, retrain=retrain), base="imp")
        for name, retrain in (
            ("imp_continued", "continue"),
            ("learning_rate_rewinding", "learning_rate"),
            ("fine_tuning", "finetune"),
        )
    },
    "imp_random": Method(partial(searches.imp, score="random"), base="imp"),
    # Of another run, which may be on other data: transfer.
    "given": Method(start=starts.given),
    # Every ticket of one dense training, or of the network before it.
    "one_shot": Method(
        start=partial(starts.pruned, of="trained", weights="initial"),
        preset={"density": (0.5, 0.2, 0.1, 0.05, 0.02)},
    ),
    **{
        name: Method(
            start=partial(AT_INITIALISATION, score=name),
            preset={"density": 0.1, **preset},
        )
        for name, preset in (
            ("snip", {}),
            # At 1 GraSP keeps what makes the loss of a new network large.
            ("grasp", {"temperature": 200.0}),
            ("synflow", {"iterations": 100}),
            ("magnitude", {}),
            ("random", {}),
        )
    },
}

# What a run needs to know and a flag does not say. LeNet and Conv-k: Frankle and Carbin
# 2019, Figure 2.
DENSE = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "learning_rate_drops": (),
    "weight_decay": 0.0,
    "augment": False,
    "prunable": "kernels",
    "batch_size": 60,
    "epochs": 10,
}
ANY = DENSE | {
    "methods": ("imp", "continuous_sparsification"),
    "controls": ("reinitialise", "shuffle"),
    "rounds": 8,
    "rewind_step": 0,
    "compare": "early_stopping",
}


def lottery(select: str, **settings) -> dict:
    """A preset of the Lottery Ticket paper: by layer, the output layer more slowly."""
    found = {"rounds": 16, "epochs": None, "hyper": {"imp.select": select}}
    return ANY | found | settings


# Short trainings of MNIST-1D, at the learning rate of its paper. The validation loss is
# lowest while the accuracy still rises, and jumps there from look to look.
SHORT = {
    "learning_rate": 2e-2,
    "batch_size": 50,
    "epochs": None,
    "eval_every": 200,
}
# LeNet-300-100 on the others, whatever is done with it.
DIGITS = {"learning_rate": 4e-3, "epochs": 15}
MNIST = {"learning_rate": 1.2e-3}
PRESETS = {
    ("mnist1d", "mlp_1d"): ANY
    | SHORT
    | {
        "seeds": 4,
        "steps": 800,
        "compare": "last",
        "rounds": 4,
        "hyper": {
            "model.width": 400,
            "imp.select": "equal",
            "imp.density": 0.4,
            "continuous_sparsification.rounds": 1,
            "continuous_sparsification.initial_logit": 0.05,
            "continuous_sparsification.logit_learning_rate": 1e-2,
        },
    },
    ("digits", "lenet_300_100"): ANY
    | DIGITS
    | {
        "rounds": 6,
        "hyper": {
            "imp.select": "lottery",
            "imp.density": 0.7,
            "continuous_sparsification.logit_learning_rate": 1e-2,
            "iss.logit_learning_rate": 1e-2,
        },
    },
    ("mnist", "lenet_300_100"): lottery("lottery", **MNIST, steps=50_000),
    ("cifar10", "conv_2"): lottery("lottery_conv_2", learning_rate=2e-4, steps=20_000),
    ("cifar10", "conv_4"): lottery("lottery_conv_2", learning_rate=3e-4, steps=25_000),
    ("cifar10", "conv_6"): lottery("lottery_conv_6", learning_rate=3e-4, steps=30_000),
    None: ANY,
}


def lth(model: str, select: str, **settings) -> dict:
    """A recipe of the Lottery Ticket paper, Figure 2, for a small network."""
    dataset = "mnist" if model == "lenet_300_100" else "cifar10"
    found = PRESETS[dataset, model] | {"dataset": dataset, "model": model}
    found |= {"methods": ("imp",), **settings}
    return found | {"hyper": {"imp.select": select, **settings.get("hyper", {})}}


def deep(model: str, rate: float, warmup: int, select: str = "global_top") -> dict:
    """The same for ResNet-20, its "ResNet-18", and VGG-19: convolutions, globally."""
    length = {
        "resnet_20": {
            "steps": 30_000,
            "learning_rate_drops": (2 / 3, 5 / 6),
            "batch_size": 128,
        },
        "vgg_19": {
            "steps": 112_480,
            "learning_rate_drops": (0.5, 0.75),  # epochs 80 and 120 of 160
            "batch_size": 64,
        },
    }[model]
    return ANY | {
        "dataset": "cifar10",
        "model": model,
        "methods": ("imp",),
        "optimizer": "momentum",
        "learning_rate": rate,
        "warmup_steps": warmup,
        "weight_decay": 1e-4,
        "augment": True,
        "prunable": "convolutions",
        "epochs": None,
        "rounds": 16,
        "hyper": {"imp.select": select},
        **length,
    }


# Where no flag names a recipe: those whose rate rises, which find tickets.
PRESETS |= {
    ("cifar10", "resnet_20"): deep("resnet_20", 0.03, 20_000),
    ("cifar10", "vgg_19"): deep("vgg_19", 0.1, 10_000),
}
# ResNet-50 on ImageNet. Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted
# Neural Network?", released code; what is known of Kusupati et al. 2020 (STR), whose
# dense network has 77.01%, is the same: rate, momentum, smoothing, warm-up, epochs.
IMAGENET = ANY | {
    "optimizer": "momentum",
    "momentum": 0.875,
    "learning_rate": 0.256,
    "learning_rate_cosine": True,
    "warmup_steps": None,
    "warmup_epochs": 5,
    "weight_decay": 3.05e-5,
    "label_smoothing": 0.1,
    "augment": True,
    "crop": 224,
    "batch_size": 256,
    "epochs": 100,
}
# Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
# prune once, to 30%, and return to epoch 5, where sub-networks have become stable. Of
# their training this is all that is known here: 90 epochs, and 24% error.
PRESETS["imagenet2012", "resnet_50"] = IMAGENET | {
    "methods": ("imp",),
    "rounds": 2,
    "rewind_step": None,
    "rewind_epoch": 5,
    "hyper": {"imp.density": 0.3, "imp.select": "global_top"},
}
# Recipes by name, with data set and model. MNIST-1D: Greydanus and Kobak 2024.
RECIPES = {
    "lth_lenet": lth("lenet_300_100", "lottery"),
    "lth_lenet_sgd": lth(
        "lenet_300_100", "lottery", optimizer="sgd", learning_rate=0.8
    ),
    "lth_lenet_momentum": lth(
        "lenet_300_100", "lottery", optimizer="momentum", learning_rate=0.1
    ),
    "lth_lenet_global": lth("lenet_300_100", "global_top"),
    "lth_conv_2": lth("conv_2", "lottery_conv_2"),
    "lth_conv_4": lth("conv_4", "lottery_conv_2"),
    "lth_conv_6": lth("conv_6", "lottery_conv_6"),
    # With dropout three times the iterations, at rates of their own.
    **{
        f"lth_{model}_dropout": lth(
            model,
            select,
            learning_rate=rate,
            steps=steps,
            hyper={"model.dropout": 0.5},
        )
        for model, select, rate, steps in (
            ("conv_2", "lottery_conv_2", 3e-4, 60_000),
            ("conv_4", "lottery_conv_2", 2e-4, 75_000),
            ("conv_6", "lottery_conv_6", 2e-4, 90_000),
        )
    },  # fmt: skip
    # As published 0.1 finds no tickets, 0.01 does, and so does a rate that rises.
    "lth_resnet_20": deep("resnet_20", 0.03, 20_000),
    "lth_resnet_20_high": deep("resnet_20", 0.1, 0),
    "lth_resnet_20_low": deep("resnet_20", 0.01, 0),
    "lth_vgg_19": deep("vgg_19", 0.1, 10_000),
    "lth_vgg_19_high": deep("vgg_19", 0.1, 0),
    "lth_vgg_19_low": deep("vgg_19", 0.01, 0),
    "lth_vgg_19_by_layer": deep("vgg_19", 0.1, 10_000, "equal"),
    "mnist1d_paper": ANY
    | {
        "dataset": "mnist1d",
        "model": "mlp_1d",
        "seeds": 4,
        "validation": 200,
        "methods": ("imp", "imp_random"),
        "controls": (),
        "prunable": "all",
        "learning_rate": 2e-2,
        "batch_size": 100,
        "epochs": None,
        "steps": 1501,
        "eval_every": 1501,
        "compare": "last",
        "rounds": 100,
        "hyper": {"imp.select": "linear", "imp.density": 0.99},
    },
}


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """All settings of a ticket search. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = PRESETS
    RECIPES: ClassVar = RECIPES
    EXCLUSIVE: ClassVar = (
        *settings.Settings.EXCLUSIVE,
        ("rewind_step", "rewind_epoch"),
        ("warmup_steps", "warmup_epochs"),
        ("learning_rate_drops", "learning_rate_cosine"),
    )

    preset: str | None = setting(
        None,
        f"a recipe for all that no flag says, data set and model too: {[*RECIPES]}",
    )
    controls: list[str] | None = setting(
        None, f"any of {tuple(controls.__all__)}, with commas; may be empty"
    )
    draws: int = setting(1, "of each control, how many a ticket", rules.MANY)
    stream: bool = settings.streaming()
    momentum: float | None = setting(
        None, "of momentum and nesterov; default: 0.9", checks.share
    )
    learning_rate_cosine: bool | None = setting(
        None,
        "the learning rate falls on half a cosine to 0 at the end of a training, once "
        "it has risen, in place of --learning_rate_drops",
    )
    warmup_epochs: int | None = setting(
        None, "--warmup_steps in epochs", checks.whole(0)
    )
    label_smoothing: float | None = setting(
        None,
        "share of every label that lies evenly on all classes, in training",
        checks.share,
    )
    rounds: int | None = setting(
        None, "trainings of a search; it prunes between them", rules.MANY
    )
    rewind_step: int | None = setting(
        None, "step of the first round that tickets start from", checks.whole(0)
    )
    rewind_epoch: int | None = setting(None, "the same, in epochs", checks.whole(0))
    resume_schedule: bool | None = setting(
        None,
        "rewound trainings begin at --rewind_step of the schedule, not at step 0; "
        "default: those of IMP do, the others do not",
    )
    keep_multiplier: bool = setting(
        False,
        "train tickets of Continuous Sparsification and their controls with the factor "
        "1 / sigmoid(s0) beside the weights, as released",
    )
    compare: str | None = setting(
        None,
        "accuracies at the step of the lowest validation loss (early_stopping), or "
        "after the last step (last): what the report compares",
        checks.one_of(("early_stopping", "last")),
    )
    final_density: float | None = setting(
        None,
        "density after the last pruning of IMP, whatever --imp.density says",
        checks.fraction,
    )
    output_dir: str = settings.written("runs/ticket_search")

    def filled(self) -> Self:
        if self.controls:
            settings.names("controls", self.controls, controls.__all__)
        hyper = dict(self.hyper)
        if self.final_density is not None:
            hyper["imp.density"] = self._density()
        return dataclasses.replace(
            self,
            hyper=hyper,
            # Of two ways to fall the one that was not chosen is left open.
            learning_rate_cosine=bool(self.learning_rate_cosine),
            learning_rate_drops=self.learning_rate_drops or (),
        )

    def _density(self) -> float:
        """That of a pruning of IMP, of the density after the last."""
        rounds = self.hyper.get("imp.rounds", self.rounds)
        if rounds < 2:
            raise ValueError("--final_density needs --rounds from 2: it prunes between")
        if self.hyper.get("imp.select") == "linear":
            return 1 - (1 - self.final_density) / (rounds - 1)
        return self.final_density ** (1 / (rounds - 1))

    def in_steps(self, epoch_steps: int) -> Self:
        config = super().in_steps(epoch_steps)
        if config.rewind_step is None:
            rewind_step = config.rewind_epoch * epoch_steps
            config = dataclasses.replace(config, rewind_step=rewind_step)
        if config.rewind_step >= config.search_steps:
            name = "step" if self.rewind_epoch is None else "epoch"
            raise ValueError(
                f"--rewind_{name} {getattr(self, f'rewind_{name}')} must lie before "
                f"the end of a round, at {config.search_steps} steps"
            )
        return config


def experiment(config: Config) -> list[dict]:
    """Runs a ticket search as its settings say; see `command.run`."""
    return command.run("Ticket search", config)


if __name__ == "__main__":
    command.main(experiment, Config)
