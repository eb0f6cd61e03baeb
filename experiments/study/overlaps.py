"""How far the masks that were found overlap with those that criteria would choose.

Every mask is compared with the weights that a criterion ranks highest in the trained
dense network, as many of each layer as the mask keeps; `overlaps.csv` holds a row for
every mask and criterion. The gradient is that of the mean loss on the first training
images, see `gradients`, without augmentation, the network in evaluation mode.

Reference:
  Zhang et al., "Lottery Jackpots Exist in Pre-trained Models", 2023: of such masks, the
  one of the largest magnitudes overlaps most with a jackpot's.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from experiments.reports import overlap_tables, statistics
from experiments.reports.statistics import Row
from experiments.study.config import CONTROLS
from experiments.study.records import Lane
from experiments.study.study import Study, gradients
from jaxticket import analysis, masks, scores, selection
from jaxticket.base import Mask, Params, Scores
from jaxticket.engine import keys


def write(study: Study) -> None:
    """Compares all tickets of a study that began from the trained dense network.

    It takes seconds, so a finished study may do it again.
    """
    path = study.folder / overlap_tables.FILE
    statistics.write_table(path, overlap_tables.COLUMNS, rows(study))


def rows(study: Study) -> Iterator[Row]:
    """One for every ticket and criterion, with `analysis.Overlap` as columns."""
    jobs = study.jobs
    images = gradients.first(study.data.train).labels.size
    for seed in jobs.seeds:
        network = jobs.shelf.anchor(Lane("dense", "dense", seed, 0))
        grads = study.gradient(*network)
        key = jax.random.fold_in(keys.of_seed(seed).controls, len(CONTROLS) + 1)
        ranked = criteria(network[0], grads, key)
        for name, method in jobs.methods.items():
            for number, (setting, _) in method.tickets().items():
                lane = Lane(name, "ticket", seed, number, setting.label)
                mask = jobs.shelf.ticket(lane).mask
                for criterion, values in ranked.items():
                    found = jax.tree.map(float, compare(values, mask)._asdict())
                    density = float(masks.density(mask))
                    yield {
                        "method": name,
                        "seed": seed,
                        "setting": setting.label,
                        "density": density,
                        "criterion": criterion,
                        **found,
                        "images": images,
                    }


def criteria(weights: Params, grads: Params, key) -> dict[str, Scores]:
    """Name of each -> its scores of the weights; those of `random` are of the seed."""
    named = {
        "magnitude": scores.magnitude,
        "gradient": scores.gradient(lambda _: grads),
        "SNIP": scores.snip(lambda _: grads),
        "random": scores.random,
    }
    return {name: score(weights, key=key) for name, score in named.items()}


@jax.jit
def compare(values: Scores, mask: Mask) -> analysis.Overlap:
    """The overlap of a mask with as many of the highest scores of each layer."""
    full = jax.tree.map(jnp.ones_like, mask)
    return analysis.overlap(mask, selection.like(mask)(values, full, None))
