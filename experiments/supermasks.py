"""Supermasks: networks that work because of which random weights they keep.

No weight is trained. Masks are learned by drawing them (Zhou et al.: `learned`, with
dynamic rescaling `rescaled`), by edge-popup (from signed Kaiming constants, or normal
values: `edge_popup_normal`) and by Continuous Sparsification, or taken from a training
of the network by one of Zhou et al.'s criteria in one shot (`large_final_same_sign`,
...), and laid over the initial weights. The variants `..._constant` have `sign(w)`
times the standard deviation of the layer in place of these. The dense network is
trained too, for the criteria and to compare. Without flags: MNIST-1D at a width of 100,
about two minutes on two cores.

    python -m experiments.supermasks

Zhou et al.'s LeNet on MNIST, 220 steps an epoch; theirs are 2000 epochs, 95.3% test
accuracy for `learned`, and 86% for `large_final_same_sign_constant`, which needs no
learning of the mask:

    python -m experiments.supermasks --dataset=mnist --normalization=unit \\
        --search_epochs=2000

Edge-popup of Conv-4 on CIFAR-10, 100 epochs at density 50%; needs an accelerator:

    python -m experiments.supermasks --dataset=cifar10 --model=conv_4 \\
        --methods=edge_popup,edge_popup_normal

Densities and layer shares of all criteria are those of `--large_final.density` and
`--large_final.select`. Outputs and resumption are those of `experiments.ticket_search`,
as are most flags.

Reference:
  Zhou et al., "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask", 2019;
  Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?", 2020.
"""

import dataclasses
from functools import partial
from typing import ClassVar

from experiments import ticket_search
from experiments.continuous_sparsification import PARALLEL
from experiments.study import command, methods, optimizers, settings
from experiments.study.methods import Method
from jaxticket import searches, starts

# Zhou et al.'s scores look at the weights before and after training, or, the last two,
# at the gradient before it.
AFTER = (
    "large_final",
    "small_final",
    "large_init",
    "small_init",
    "large_init_large_final",
    "small_init_small_final",
    "magnitude_increase",
    "movement",
    "large_final_same_sign",
    "large_final_diff_sign",
    "magnitude_increase_same_sign",
    "magnitude_increase_diff_sign",
    "random",
)
BEFORE = ("snip", "gradient")
DRAWN = {"score_learning_rate": 100.0, "score_decay": 0.0, "score_schedule": "constant"}
POPPED = {"density": 0.5, "score_decay": 1e-4}
GATES = partial(optimizers.of_gates, freeze_weights=True)


def criterion(score: str, of: str, constants: bool) -> Method:
    """A mask in one shot over the initial weights; chance decides between ties."""
    start = partial(
        starts.pruned,
        score=score,
        of=of,
        weights="initial",
        constants=constants,
        ties="random",
        shuffle=False,
        iterations=1,
    )
    preset = {"density": (0.8, 0.5, 0.2, 0.1), "select": "lottery_one_shot"}
    first = score == "large_final" and not constants
    return Method(
        start=start, **({"preset": preset} if first else {"base": "large_final"})
    )


def learned(start=starts.initial, **options) -> Method:
    """A mask that is learned by drawing it."""
    return Method(partial(searches.supermask, **options), start, preset=DRAWN)


def annealed(start=starts.initial) -> Method:
    """A mask by Continuous Sparsification."""
    search = searches.continuous_sparsification
    return Method(search, start, preset=PARALLEL, optimizer=GATES)


METHODS = {
    **methods.registry(),
    "learned": learned(),
    "learned_constant": learned(starts.signed_constant),
    "rescaled": learned(rescale=True),
    "rescaled_constant": learned(starts.signed_constant, rescale=True),
    "rescaled_by_constant_factor": learned(rescale=True, constant_factor=True),
    "edge_popup": Method(searches.edge_popup, starts.kaiming_constant, preset=POPPED),
    "edge_popup_normal": Method(
        searches.edge_popup, starts.kaiming_normal, preset=POPPED
    ),
    "continuous_sparsification": annealed(),
    "continuous_sparsification_constant": annealed(starts.signed_constant),
    **{
        score + end: criterion(score, of, constants)
        for names, of in ((AFTER, "trained"), (BEFORE, "initial"))
        for score in names
        for end, constants in (("", False), ("_constant", True))
    },
}
ANY = ticket_search.DENSE | {
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
    "learning_rate": 1.2e-3,
    "batch_size": 250,
    "epochs": 20,
    "search_epochs": 50,
}


@dataclasses.dataclass(frozen=True)
class Config(settings.Frozen):
    """All settings of the study. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = {
        ("mnist1d", "mlp_1d"): ANY
        | ticket_search.SHORT
        | {
            "steps": 400,
            "search_epochs": None,
            "search_steps": 600,
            "hyper": {"model.width": 100},
        },
        ("digits", "lenet_300_100"): ANY
        | ticket_search.DIGITS
        | {"batch_size": 60, "search_epochs": 40},
        **{
            ("cifar10", model): ANY
            | {
                "learning_rate": rate,
                "augment": True,
                "batch_size": 128,
                "epochs": 34,
                "search_epochs": 100,
                "hyper": {"large_final.select": select},
            }
            for model, rate, select in (
                ("conv_2", 2e-4, "lottery_conv_2_one_shot"),
                ("conv_4", 3e-4, "lottery_conv_2_one_shot"),
                ("conv_6", 3e-4, "lottery_conv_6_one_shot"),
            )
        },
        None: ANY,
    }

    output_dir: str = settings.written("runs/supermasks")


def experiment(config: Config) -> list[dict]:
    """Searches as the settings say; see `command.run`."""
    return command.run("Supermasks", config)


if __name__ == "__main__":
    command.main(experiment, Config)
