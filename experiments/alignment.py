"""A ticket's mask for another initialisation: its units are matched, and it goes along.

A mask over new weights is one of units that are not there: those of another training
have no order in common with it. So from each seed a second network is initialised and
trained, its units are matched with those of the first by what they do on training
images, and the mask is permuted to them. From the second initialisation are trained:

    aligned   under the permuted mask
    plain     under the mask as it is

and the ticket itself from its own. `alignment.csv` has their accuracies after the last
step; the report compares them, paired by seed. Published: a ticket is at least as good
as the aligned mask, which is better than the plain one. Without flags: MNIST-1D, two
hidden layers of 100 units, a minute on two cores.

    python -m experiments.alignment

LeNet-300-100 on MNIST:

    python -m experiments.alignment --dataset=mnist

Units of a residual stream stay where they are. The further networks are trained one
after another, on one device; a run that is killed goes on after the last of them.
Outputs are otherwise those of `experiments.ticket_search`.

Reference:
  "Sparse re-basin", 2025; see `jaxticket.matching`.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from experiments import ticket_search
from experiments.reports import permuted as words
from experiments.reports import reading
from experiments.study import beside, command, methods, records, settings, stages
from experiments.study.study import Study
from jaxticket import checks, masks, matching
from jaxticket.base import Ticket
from jaxticket.engine import keys

ANY = ticket_search.ANY | {"methods": ("imp",), "controls": (), "compare": "last"}
IMAGES = 1000  # of the training set, that units are matched on


@dataclasses.dataclass(frozen=True)
class Config(ticket_search.Config):
    """All settings of the study. `None`: what suits data set and model."""

    PRESETS: ClassVar = {
        ("mnist1d", "lenet_300_100"): ANY
        | ticket_search.SHORT
        | {
            "steps": 840,
            "rounds": 4,
            "hyper": {"model.hidden": (100, 100), "imp.density": 0.5},
        },
        ("mnist", "lenet_300_100"): ANY
        | ticket_search.MNIST
        | {"epochs": 5, "rounds": 5, "hyper": {"imp.density": 0.5}},
        None: ANY,
    }
    RECIPES: ClassVar = {}
    stream: ClassVar = False  # what it looks at is in memory

    model: str | None = settings.network("lenet_300_100")
    output_dir: str = settings.written("runs/alignment")

    def filled(self) -> Self:
        config = super().filled()
        if config.rewind_step or config.rewind_epoch:
            raise checks.Refused(
                "--rewind_step",
                f"must be 0 here, got {config.rewind_step or config.rewind_epoch}: the "
                "other network begins at its initialisation",
            )
        for name in {*config.methods} & {*config.METHODS}:
            if methods.plan(config, name).promises.weights == "trained":
                raise checks.Refused(
                    f"--methods={name}",
                    "has tickets of trained weights, which another initialisation has "
                    "no counterpart of: give one that rewinds them",
                )
        return config


def matched(study: Study) -> None:
    """Writes `alignment.csv`, a row a training."""
    path = study.folder / words.FILE
    names = ("method", "setting", "prunings", "seed")
    rows, done = reading.resumed(path, words.COLUMNS, names)
    train = jax.jit(beside.trained(study, study.config, study.model))
    for planned in study.planned.values():
        lanes = [x for x in stages.found(study, planned) if x.prunings]
        for seed in study.trained_seeds:
            ours = [x for x in lanes if x.seed == seed and _whose(x) not in done]
            for arms in _of_seed(study, seed, ours, train) if ours else ():
                rows += arms
                records.write_table(path, words.COLUMNS, rows)


def _whose(lane: records.Lane) -> tuple:
    return lane.method, lane.setting, lane.prunings, lane.seed


def _of_seed(
    study: Study, seed: int, lanes: list[records.Lane], train: Callable
) -> Iterator[list[dict]]:
    """Of some tickets of a seed the rows of all arms, as they come."""
    stream = keys.of_seed(seed)
    other = study.network(keys.named(stream.controls, "aligned"))
    order = keys.named(stream.data, "aligned")
    theirs, _, dense = train(order, other, study.data)
    if not np.isfinite(dense):
        whose = records.dense(seed)._replace(treatment="another network")
        study.records.left_out(whose, 0, study.config.steps)
        return
    print(f"another network of seed {seed}: {dense:.1%} test", file=sys.stderr)
    own = study.shelf.anchor(records.dense(seed))
    images = study.prepare(jnp.asarray(study.data.train.images[:IMAGES]))
    found = matching.matches(study.outputs, own, theirs, images)
    for lane in lanes:
        mask = study.shelf.ticket(lane).mask
        about = records.whose(lane, mask)
        moved = matching.permuted(mask, found)
        accuracies: dict[str, Any] = {"ticket": study.records.test_accuracy(lane)}
        for arm, m in (("aligned", moved), ("plain", mask)):
            begin = Ticket(other.weights, m, other.model_state)
            *_, accuracies[arm] = train(order, begin, study.data)
            if not np.isfinite(accuracies[arm]):
                whose = lane._replace(treatment=arm)
                study.records.left_out(whose, 0, study.config.steps)
                break
            print(f"{lane}, {arm}: {accuracies[arm]:.1%} test", file=sys.stderr)
        else:
            both = jax.tree.map(jnp.logical_and, moved, mask)
            about["overlap"] = float(masks.count(both) / masks.count(mask))
            yield [
                about | {"arm": arm, "test_accuracy": float(value)}
                for arm, value in accuracies.items()
            ]


def experiment(config: Config) -> list[dict]:
    """Searches, matches and trains as the settings say; see `command.run`."""
    return command.run("Alignment", config, finish=matched)


if __name__ == "__main__":
    command.main(experiment, Config)
