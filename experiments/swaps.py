"""Swaps of a mask: what the gradient predicts of the loss, and what it does.

A search for a mask over weights that stay as they are, as `experiments.jackpots`, moves
by the gradient of each weight's place in the mask: of `q` swaps it predicts the change
of the loss `sum g w` over the weights that come in, less `sum g w` over those that go,
where `g` is the gradient at the masked weights. The dense network of each seed is
trained and pruned by magnitude to `--magnitude.density`; then the q swaps that promise
the most are made, q = 1, 2, 4, ... as long as more promise more: in one layer, and q in
every layer together. `swaps.csv` has the predicted and the actual change of the loss,
on the same images. Expected: their ratio is near 1 for few swaps and falls for many,
which is what the short restriction of jackpots is for. No number has been published.
Without flags: MNIST-1D at a width of 100, under two minutes on two cores.

    python -m experiments.swaps

LeNet-300-100 on MNIST:

    python -m experiments.swaps --dataset=mnist --model=lenet_300_100

The swaps are those that the gradient proposes at once; a search proposes those of the
scores that it has gathered, of which this is the first step. Outputs and resumption are
those of `experiments.ticket_search`.

Reference:
  Zhang et al., "Lottery Jackpots Exist in Pre-trained Models", 2023, whose rule this
  looks at.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np

from experiments import jackpots
from experiments.reports import loss_changes
from experiments.study import command, records, rules, settings, stages
from experiments.study.methods import Method
from experiments.study.settings import setting
from jaxticket import landscape, masks
from jaxticket.base import Scores, Ticket

METHODS = {
    "magnitude": Method(start=jackpots.LARGEST, preset={"density": (0.2, 0.1, 0.05)}),
    "random": Method(start=jackpots.RANDOM, base="magnitude"),
}
PRESETS = {
    pair: {k: x for k, x in preset.items() if k != "tune_epochs"}
    | {"methods": ("magnitude",)}
    for pair, preset in jackpots.Config.PRESETS.items()
}


@dataclasses.dataclass(frozen=True)
class Config(settings.Frozen):
    """All settings of the study. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = PRESETS

    images: int = setting(1000, "training images that the loss is of", rules.COUNT)
    output_dir: str = settings.written("runs/swaps")


def compare(study) -> None:
    """Writes `swaps.csv`, a row a number of swaps in one layer, or in all together."""
    rows, images = [], min(study.config.images, len(study.data.train.labels))
    train = jax.tree.map(lambda x: np.asarray(x)[:images], study.data.train)
    size = next(x for x in range(100, 0, -1) if images % x == 0)  # in whole batches
    loss = partial(_loss, partial(study.evidence, images=images, batch_size=size))
    gains, changes = jax.jit(partial(_gains, loss)), jax.jit(partial(_changes, loss))
    for lane in stages.found(study):
        ticket = study.shelf.anchor(lane)  # which has the pruned weights too
        gained = gains(ticket, train)
        places, counts = _counts(ticket, gained)
        found = changes(ticket, gained, train, counts)._asdict()
        whose = records.whose(lane, ticket.mask)
        for i, (layer, count) in enumerate(places):
            change = {name: float(x[i]) for name, x in found.items()}
            rows.append(whose | {"layer": layer, "swaps": count} | change)
    records.write_table(study.folder / loss_changes.FILE, loss_changes.COLUMNS, rows)


def _loss(evidence: Any, ticket: Ticket, train: Any) -> Any:
    """`weights -> loss`, on the training images."""
    return evidence(train)(ticket.model_state).loss


def _gains(loss: Any, ticket: Ticket, train: Any) -> Scores:
    """What the loss gains with every weight, `g w`."""
    weights = masks.apply(ticket.mask, ticket.weights)
    grads = jax.grad(loss(ticket, train))(weights)
    products = jax.tree.map(lambda w, g: w * g, ticket.weights, grads)
    return masks.prunable_like(products, ticket.mask)


def _changes(
    loss: Any, ticket: Ticket, gains: Scores, train: Any, counts: Any
) -> landscape.Change:
    """What swaps do to the loss, `[rows]`; their numbers are a mask tree, `[rows]`."""

    def of(count):
        other = landscape.exchanged(ticket.mask, gains, count)
        return landscape.change(loss(ticket, train), ticket.weights, ticket.mask, other)

    return jax.lax.map(of, counts)


def _counts(ticket: Ticket, gains: Scores) -> tuple[list[tuple[str, int]], Any]:
    """Where and how many swaps are made in each row; a mask tree of their numbers."""
    names, most = masks.names(ticket.mask), []
    leaves, tree = jax.tree.flatten(ticket.mask)
    for m, gain in zip(map(np.asarray, leaves), jax.tree.leaves(gains), strict=True):
        coming, going = np.sort(gain[~m]), np.sort(gain[m])[::-1]
        n = min(len(coming), len(going))
        most.append(int(np.sum(coming[:n] < going[:n])))  # those that promise something
    places, rows = [], []
    for i, name in [*enumerate(names), (slice(None), loss_changes.ALL)]:
        for q in 2 ** np.arange(int(np.min(most[i])).bit_length()):
            row = np.zeros(len(names), np.int32)
            row[i] = q
            places.append((name, int(row.sum())))
            rows.append(row)
    return places, tree.unflatten(np.stack(rows).T)


def experiment(config: Config) -> list[dict]:
    """Trains, prunes and swaps as the settings say; see `command.run`."""
    return command.run("Swaps of a mask", config, finish=compare)


if __name__ == "__main__":
    command.main(experiment, Config)
