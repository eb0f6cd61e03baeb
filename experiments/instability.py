"""Instability: do trainings that differ in the order of the data alone stay connected?

From the same weights and under the same mask several copies are trained, which differ
in the order of the data and in the noise: the ticket, and `--draws` of its control
`reorder`. Between every two of them lie the networks `alpha W1 + (1 - alpha) W2`; the
barrier is what the worst of them errs more than the two do, and the ticket is stable
where that is below 2 points. It is asked of the whole network (`unpruned`, a ticket
that keeps everything) and of the tickets of any search that prunes, all of which start
at `--rewind_step`, the paper's k: one k a run.

Beside it `multiplicity.csv`: every copy is pruned by magnitude to `--mask_densities` of
what it has, of every layer alike, and the masks of two copies overlap as much as they
do; by chance the number of weights in both is hypergeometric. Without flags: MNIST-1D,
four seeds, some five minutes on two cores (an estimate).

    python -m experiments.instability

The paper's LeNet on MNIST, at k = 0. Published: the barrier is below 1 point, of the
whole network and of tickets:

    python -m experiments.instability --dataset=mnist --model=lenet_300_100

Its ResNet-20 on CIFAR-10, which needs an accelerator. Published: at k = 0 the networks
between two copies guess, at k = 2000 the barrier is below 2 points:

    python -m experiments.instability --dataset=cifar10 --model=resnet_20 \\
        --rewind_step=2000

The model state, as batch statistics, is interpolated with the weights, and not
estimated anew. Errors are those of the test images, and of the first `--images` to
train on. Outputs and resumption are those of `experiments.ticket_search`, as are most
flags; besides, `instability.csv` has a row a pair of copies and alpha.

Reference:
  Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", 2020;
  Grosse and Backes, "How Many Winning Tickets Are There in One DNN?", 2021.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import jax
import numpy as np
from jax.typing import ArrayLike

from experiments import ticket_search
from experiments.reports import barriers, multiplicity
from experiments.study import command, records, rules, settings, stages
from experiments.study.methods import Method
from experiments.study.settings import setting
from jaxticket import analysis, checks, landscape, pruners, searches
from jaxticket.base import Mask, Ticket
from jaxticket.engine import resumable
from jaxticket.supervised import Metrics

METHODS = {
    "unpruned": Method(partial(searches.imp, density=1.0), preset={"rounds": 2}),
    **ticket_search.METHODS,
}
COPIES = {"methods": ("unpruned", "imp"), "controls": ("reorder",)}
PRESETS = {pair: x | COPIES for pair, x in ticket_search.PRESETS.items()} | {
    ("mnist", "lenet_300_100"): ticket_search.lottery(
        "lottery", **ticket_search.MNIST, steps=24_000, seeds=3, compare="last"
    )
    | COPIES,
    ("cifar10", "resnet_20"): ticket_search.ANY
    | COPIES
    | {
        "seeds": 3,
        "optimizer": "momentum",
        "learning_rate": 0.1,
        "learning_rate_drops": (32_000, 48_000),
        "weight_decay": 1e-4,
        "augment": True,
        "batch_size": 128,
        "epochs": None,
        "steps": 63_000,
        "compare": "last",
        "rounds": 9,  # down to 16.8%
    },
}


@dataclasses.dataclass(frozen=True)
class Config(ticket_search.Config):
    """All settings of an instability analysis. `None`: what suits data and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = PRESETS
    RECIPES: ClassVar = {}
    preset: ClassVar = None
    keep_trained: ClassVar = True
    stream: ClassVar = False  # what it looks at is in memory

    draws: int = setting(2, "copies of each ticket besides itself", rules.MANY)
    points: int = setting(
        30, "networks from one copy to another, these among them", checks.whole(2, 1000)
    )
    images: int = setting(10_000, "training images that errors are of", rules.COUNT)
    mask_densities: list[float] = setting(
        (0.5, 0.2, 0.1),
        "what copies are pruned to, to compare their masks",
        checks.each(checks.fraction),
    )
    output_dir: str = settings.written("runs/instability")

    def filled(self) -> Self:
        config = super().filled()
        if "reorder" not in config.controls:
            raise checks.Refused("--controls", "needs reorder, which the copies are")
        return config


Copies = dict[str, Ticket]  # what trained them, "ticket" or "reorder" -> weights


def compare(study) -> None:
    """Writes `instability.csv` and `multiplicity.csv`: of all pairs of copies."""
    config, paths, overlaps = study.config, [], []
    train = jax.tree.map(lambda x: x[: config.images], study.data.train)
    # On one device: replicated data would have every one compute the same.
    splits = jax.tree.map(np.asarray, (train, study.data.held_out[1]))
    alphas = np.linspace(0, 1, config.points, dtype=np.float32)
    along = jax.jit(partial(_along, study.metrics))
    drawn = jax.jit(_drawn)
    for lane, ticket, trained in copies(study):
        known = records.whose(lane, ticket.mask)
        places = [*itertools.combinations(range(len(trained)), 2)]
        pairs = [{"one": [*trained][i], "other": [*trained][j]} for i, j in places]
        networks = resumable.together(
            [(x.weights, x.model_state) for x in trained.values()]
        )
        found = along(alphas, networks, np.array(places), splits)
        for i, pair in enumerate(pairs):
            for k, alpha in enumerate(alphas):
                row = known | pair | {"alpha": alpha}
                for name, (loss, accuracy) in zip(
                    ("train", "test"), found, strict=True
                ):
                    row |= {f"{name}_error": 1 - float(accuracy[i, k])}
                    row |= {f"{name}_loss": float(loss[i, k])}
                paths.append(row)
        for density in config.mask_densities:
            masks_ = [drawn(copy, density) for copy in trained.values()]
            found = _overlaps(masks_, ticket.mask)
            for pair, overlap in zip(pairs, found, strict=True):
                overlaps.append(known | pair | {"kept": density, **overlap._asdict()})
    for finding, rows in ((barriers, paths), (multiplicity, overlaps)):
        records.write_table(study.folder / finding.FILE, finding.COLUMNS, rows)


def copies(study) -> Iterator[tuple[records.Lane, Ticket, Copies]]:
    """The lane of every ticket, the ticket, and what each order has made of it.

    Copies that have diverged are not there, nor are tickets with less than two.
    """
    orders = [x for x in stages.draws(study.config) if x.startswith("reorder")]
    for lane in stages.found(study):
        trained = {}
        for treatment in ("ticket", *orders):
            copy = lane._replace(treatment=treatment)
            if study.shelf.intact(copy, kinds=["trained"]):
                trained[treatment] = study.shelf.trained(copy)
        if len(trained) > 1:
            yield lane, study.shelf.ticket(lane), trained


def _along(
    metrics: Callable[..., Metrics],
    alphas: ArrayLike,
    networks: Any,
    pairs: ArrayLike,
    splits: Sequence[Any],
) -> list[Metrics]:
    """What the networks between copies do on each split, `[pairs, alphas]`.

    Those of one pair run side by side, the pairs one after another: the memory is that
    of as many networks as there are alphas.

    Args:
      metrics: `(params, model_state, split) -> Metrics`.
      alphas: `[alphas]`.
      networks: parameters and model states, `[copies, ...]`.
      pairs: the places of two copies, `[pairs, 2]`.
      splits: what to test on.
    """

    def at(alpha, one, other):
        params, model_state = landscape.interpolated(alpha, one, other)
        return [metrics(params, model_state, split) for split in splits]

    def of_pair(pair):
        one, other = (jax.tree.map(lambda x, i=i: x[i], networks) for i in pair)
        return jax.vmap(at, (0, None, None))(alphas, one, other)

    return jax.lax.map(of_pair, pairs)


def _drawn(copy: Ticket, density: ArrayLike) -> Mask:
    """The mask that magnitude makes of a copy, of every layer alike."""
    return pruners.prune(copy, "magnitude", density, select="equal").mask


def _overlaps(drawn: Sequence[Mask], among: Mask) -> list[analysis.Overlap]:
    """How far the masks of two copies overlap within their ticket's, of every pair."""
    return [
        analysis.Overlap(*map(float, analysis.overlap(one, other, among=among)))
        for one, other in itertools.combinations(drawn, 2)
    ]


def experiment(config: Config) -> list[dict]:
    """Trains copies and compares them as the settings say; see `command.run`."""
    return command.run("Instability", config, finish=compare)


if __name__ == "__main__":
    command.main(experiment, Config)
