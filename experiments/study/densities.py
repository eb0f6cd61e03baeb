"""What is left of every layer and, in the first, of every input: two more files."""

import functools
import math
import sys
from typing import Any

import jax
import numpy as np

from experiments.study import records, stages
from experiments.study.study import Study
from jaxticket import Ticket, masks
from jaxticket.summaries import summary


def write(study: Study) -> None:
    """Writes `layers.csv`, a row a layer of every ticket, and `inputs.csv`.

    The latter says of the sparsest ticket of every method which share of the weights of
    each input is left, in the mean over seeds and channels; of networks whose first
    layer is dense.
    """
    rows, inputs = [], []
    for method, planned in study.planned.items():
        lanes = stages.found(study, planned)
        if not any(lane.prunings for lane in lanes):  # it prunes nothing
            continue
        alike: dict[Any, dict[Any, float]] = {}  # ticket -> lane of a seed -> density
        for lane in lanes:
            ticket = study.shelf.ticket(lane)
            density = float(masks.density(ticket.mask))
            alike.setdefault(lane._replace(seed=0), {})[lane] = density
            effective = _effective(study, ticket)
            rows += [
                {**lane._asdict(), "density": density, "layer": layer.name}
                | {"weights": layer.size, "layer_density": layer.density}
                | {"effective_density": effective.get(layer.name, math.nan)}
                for layer in summary(ticket).layers
            ]
        means = {x: float(np.mean([*seeds.values()])) for x, seeds in alike.items()}
        sparsest = min(means, key=means.__getitem__)
        lanes = alike[sparsest]
        kept = [_of_inputs(study, study.shelf.ticket(each).mask) for each in lanes]
        if kept[0] is not None:
            about = {"method": method, "density": means[sparsest]}
            inputs += [
                about | {"row": i, "column": j, "kept": x}
                for (i, j), x in np.ndenumerate(np.mean(kept, axis=0))
            ]
    records.write_table(study.folder / "layers.csv", records.LAYERS, rows)
    records.write_table(study.folder / "inputs.csv", records.INPUTS, inputs)


def _effective(study: Study, ticket: Ticket) -> dict[str, float]:
    """The effective density of every layer; nothing where the network hides it."""
    try:
        found = summary(ticket._replace(mask=study.effective(ticket)))
    except ValueError as error:
        _note(f"effective densities are not known: {error}")
        return {}
    return {layer.name: layer.density for layer in found.layers}


@functools.cache
def _note(words: str) -> None:
    """Says something once, and not of every ticket."""
    print(f"note: {words}", file=sys.stderr)


def _of_inputs(study: Study, mask) -> np.ndarray | None:
    """The share of every input's weights that is kept, `[rows, columns]`."""
    shape = study.image.shape[1:]
    count = math.prod(shape)
    for leaf in jax.tree.leaves(mask):
        if leaf.ndim == 2 and leaf.shape[0] == count:
            kept = np.mean(leaf, axis=1).reshape(shape)
            kept = kept.mean(-1) if kept.ndim == 3 else kept
            return np.atleast_2d(kept) if kept.ndim < 3 else None
    return None
