"""Sparse from the start: networks that learn their connections while they train.

RigL and SET move connections to where the gradient is largest and at random, SNFS to
where gradients agree, and `static` leaves a random mask as it is. Beside them, at the
same densities, what trains the whole network on the way: gradual magnitude pruning, and
AC/DC, which trains it by turns; and, if it is asked for (`--methods=dnw`), DNW, which
runs with the largest weights and trains all. Each trains as long as the dense network,
which they are compared with, densities side by side in one program.

What sparse training is to save is arithmetic. `flops.csv` has it for every ticket, in
floating-point operations of running it on one example and of its training, beside those
of the dense network; so has a table of the report. They count what software would do
that leaves out every pruned weight, see `jaxticket.flops`: nothing of it is saved here.
Without flags: MNIST-1D at a width of 100, a minute on two cores.

    python -m experiments.sparse_training

LeNet-300-100 on MNIST by the recipe of RigL's code: SGD with Nesterov momentum at 0.2,
divided by 3 twice, decay 1e-4, batches of 100, pixels in [0, 1]; 5 and 2% of the
weights; but for 20
epochs in place of its 200, with all places in proportion, and layers in the proportions
of Erdos-Renyi for all methods but AC/DC. `--epochs=200` is its length:

    python -m experiments.sparse_training --dataset=mnist --model=lenet_300_100

Outputs and resumption are those of `experiments.ticket_search`, as are most flags.

Reference:
  Evci et al., "Rigging the Lottery", 2020, and its code; the methods: see the searches.
"""

import dataclasses
from typing import ClassVar

from experiments import ticket_search
from experiments.reports import costs as words
from experiments.study import command, records, settings, stages
from experiments.study.methods import Method
from experiments.study.study import Study
from jaxticket import flops, searches
from jaxticket.base import Promises
from jaxticket.engine import keys

DENSE = Promises()  # what the training of the dense network promises
MOVING = ("rigl", "set", "snfs")
METHODS = {
    **{name: Method(getattr(searches, name)) for name in (*MOVING, "static", "ac_dc")},
    "dnw": Method(searches.dnw, preset={"select": "erk"}),
    "gradual": Method(searches.gradual, preset={"select": "erk"}),
}


def asked(*densities: float, **others) -> dict:
    """Hyper-parameters: the densities of all methods, and more."""
    found = {f"{name}.density": densities for name in METHODS if name != "gradual"}
    return {"gradual.final_density": densities} | found | others


def moving(**options) -> dict:
    """Hyper-parameters of those that move connections."""
    return {f"{name}.{k}": x for name in MOVING for k, x in options.items()}


ANY = ticket_search.DENSE | {
    "methods": (*MOVING, "static", "gradual", "ac_dc"),
    "hyper": asked(0.1, 0.05),
}
RIGL = ANY | {
    "optimizer": "nesterov",
    "learning_rate": 0.2,
    "normalization": "unit",
    "learning_rate_drops": (75 / 200, 95 / 200),
    "learning_rate_factor": 1 / 3,
    "weight_decay": 1e-4,
    "batch_size": 100,
    "epochs": 20,
    "hyper": asked(
        *(0.05, 0.02),
        **moving(drop=0.3, every=100, stop=50_000 / 110_000),
        **{
            "gradual.start": 2_000 / 110_000,
            "gradual.stop": 30_000 / 110_000,
            "gradual.every": 50,
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(settings.Frozen):
    """All settings of the study. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = {
        ("mnist1d", "mlp_1d"): ANY
        | ticket_search.SHORT
        | {
            "steps": 840,
            "hyper": asked(0.1, 0.05, **moving(every=20), **{"model.width": 100}),
        },
        ("digits", "lenet_300_100"): ANY | ticket_search.DIGITS,
        ("mnist", "lenet_300_100"): RIGL,
        None: ANY,
    }

    output_dir: str = settings.written("runs/sparse_training")


def counted(study: Study) -> None:
    """Writes `flops.csv`, a row a ticket."""
    whole = study.network(keys.of_seed(study.seeds[0]).init)
    found = flops.of(
        lambda weights, image: study.outputs((weights, whole.model_state), image),
        whole,
        study.image,
    )
    examples, steps = study.config.batch_size, study.config.search_steps
    dense = flops.training(found, whole.mask, whole.mask, DENSE, study.config.steps)
    rows, spent = [], {}
    for lane in sorted(stages.found(study), key=lambda lane: lane.prunings):
        mask, promises = study.shelf.ticket(lane).mask, study.promises(lane)
        # A further round goes on from the last one, and costs as much again.
        before, cost = spent.get(
            lane._replace(prunings=lane.prunings - 1), (whole.mask, 0)
        )
        before = before if promises.rounds else whole.mask
        cost += examples * flops.training(found, before, mask, promises, steps)
        spent[lane] = mask, cost
        row = {
            "inference": flops.inference(found, mask),
            "training": cost,
            "dense_inference": found.dense,
            "dense_training": examples * dense,
            "test_accuracy": study.records.test_accuracy(lane),
            "dense_test_accuracy": study.records.test_accuracy(
                records.dense(lane.seed)
            ),
        }
        rows.append(records.whose(lane, mask) | row)
    records.write_table(study.folder / words.FILE, words.COLUMNS, rows)


def experiment(config: Config) -> list[dict]:
    """Trains as the settings say; see `command.run`."""
    return command.run("Sparse training", config, finish=counted)


if __name__ == "__main__":
    command.main(experiment, Config)
