"""Deleting trained weights: by Optimal Brain Damage, by magnitude, and by others.

The dense network of each seed is trained. Then weights are deleted at one stroke, all
layers together, and nothing is trained any more: those that are smallest by magnitude,
by Optimal Brain Damage (`obd`, the exact diagonal of the Gauss-Newton matrix, and
`obd_hutchinson`, an estimate of the Hessian's), by SNIP, and at random. The loss of the
training, validation and test images is measured before and after (`deletions.csv`); the
report says what each deletion adds, and in how many seeds it adds less than that by
magnitude. Without flags: MNIST-1D at a width of 100, a minute or two on two cores.

    python -m experiments.second_order

LeNet-300-100 on MNIST, as kept; half an hour beside other work on two cores, most of it
for `obd_hutchinson`, three minutes without:

    python -m experiments.second_order --dataset=mnist

Densities and shares of layers are those of `--magnitude.density` and
`--magnitude.select`. `--obd.iterations=10` deletes in ten parts, and takes the
curvature of what is left before each. With `--tune_epochs=2` the weights that are left
are trained afterwards, as published. `deviation` is the rule of Han et al.: a threshold
of `--deviation.quality` standard deviations in every layer, whose density is an
outcome. Outputs and resumption are those of `experiments.ticket_search`, as are most
flags.

Published, of a network for digits: the loss grows less where Optimal Brain Damage
deletes. Here, on MNIST, it does so at 5% of the weights, and not at 20 or 10%; with
`--normalization=unit`, under which the background is 0, at 10 and 5% in every seed.

Reference:
  LeCun, Denker and Solla, "Optimal Brain Damage", 1990; Han et al., "Learning both
  Weights and Connections for Efficient Neural Networks", 2015, for `deviation`.
"""

import dataclasses
from functools import partial
from typing import ClassVar

import jax

from experiments import ticket_search
from experiments.reports import deleted
from experiments.study import command, records, settings, stages
from experiments.study.methods import Method
from jaxticket import masks, starts

DELETED = partial(starts.pruned, of="trained", weights="trained", shuffle=False)
SCORES = ("magnitude", "obd", "obd_hutchinson", "snip", "random")
METHODS = {
    name: Method(
        start=partial(DELETED, score=name),
        preset={} if name != "magnitude" else {"density": (0.5, 0.2, 0.1, 0.05)},
        base="" if name == "magnitude" else "magnitude",
    )
    for name in SCORES
} | {
    "deviation": Method(
        start=partial(starts.deviating, weights="trained"),
        preset={"quality": (1.0, 1.5, 2.0)},
    )
}
ANY = ticket_search.DENSE | {"methods": SCORES, "epochs": 5, "tune_epochs": 0}


@dataclasses.dataclass(frozen=True)
class Config(settings.Tuned):
    """All settings of the study. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = {
        ("mnist1d", "mlp_1d"): ANY
        | ticket_search.SHORT
        | {"steps": 840, "hyper": {"model.width": 100}},
        ("digits", "lenet_300_100"): ANY | ticket_search.DIGITS,
        ("mnist", "lenet_300_100"): ANY | ticket_search.MNIST,
        None: ANY,
    }

    pretrained: str | None = settings.trained_elsewhere()
    output_dir: str = settings.written("runs/second_order")


def deletions(study) -> None:
    """Writes `deletions.csv`: a row for every network that has lost weights.

    It takes seconds, so a finished study may do it again.
    """
    splits = (study.data.train, *study.data.held_out)
    sets = dict(zip(deleted.SETS, splits, strict=True))
    measure = jax.jit(study.metrics)

    def measured(weights, model_state):
        return {
            f"{name}_{what}": float(x)
            for name, split in sets.items()
            for what, x in measure(weights, model_state, split)._asdict().items()
        }

    rows, before = [], {}
    for lane in stages.found(study):
        if lane.seed not in before:
            dense = study.shelf.anchor(records.dense(lane.seed))
            before[lane.seed] = measured(dense.weights, dense.model_state)
        ticket = study.shelf.ticket(lane)
        weights = masks.apply(ticket.mask, ticket.weights)
        after = measured(weights, ticket.model_state)
        dense = {f"dense_{name}": x for name, x in before[lane.seed].items()}
        rows.append(records.whose(lane, ticket.mask) | after | dense)
    path = study.folder / deleted.FILE
    records.write_table(path, deleted.COLUMNS, rows)


def experiment(config: Config) -> list[dict]:
    """Deletes as the settings say; see `command.run`."""
    return command.run("Second order", config, finish=deletions)


if __name__ == "__main__":
    command.main(experiment, Config)
