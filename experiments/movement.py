"""What the weights of a finished run do: where tickets are, and how they are wired.

Reads a run of any experiment that trains tickets, `--output_dir`, which need not be of
this version: the dense network of every seed before and after its training, and the
mask of every ticket. It trains nothing, and takes half a minute.

    python -m experiments.movement --output_dir=runs/ticket_search

Writes into the folder `movement.csv`, a row a ticket and layer, and one of all layers:
how far the weights in the ticket have moved in the dense network's training, against
the others; which share of both has grown in magnitude; how full the middle of the
distribution of the initial values is (below 1 it is bimodal, of a normal distribution
it is 1.28); how unevenly the units are wired, against shuffled masks. `values.csv` has
the distributions, over all seeds. Of dense first layers over signals of one dimension,
`adjacency.csv` says how often a unit keeps two neighbouring inputs. Then it makes the
report of the run again.

Published, of LeNet on MNIST with Adam: weights in the ticket move more and are more
likely to grow; initial values that survive are unimodal in the first layer and bimodal
in the others; inputs are spread evenly over units, outputs are not. Of MNIST-1D:
neighbouring inputs are kept together.

Reference:
  Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, Appendix F; Greydanus and
  Kobak, "Scaling Down Deep Learning with MNIST-1D", 2024.
"""

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments import report
from experiments.reports import adjacency, distances, reading, values
from experiments.study import command, kept, own, records, rules, settings, study
from experiments.study.records import Lane
from experiments.study.settings import setting
from jaxticket import masks, structure
from jaxticket.base import Mask, Params
from jaxticket.engine import keys, lanes

VALUES = np.linspace(-6, 6, 49)  # bounds of bins, in deviations of the initial values
WIRES = np.linspace(0, 4, 33)  # the same, in means of the kept weights of a unit


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run to look at, and where its data are."""

    output_dir: str = setting(
        "runs/ticket_search", "folder of the run, with its work/", rules.FOLDER_THERE
    )
    data_dir: str | None = setting(
        None, "folder of prepared TFDS data sets", rules.FOLDER_THERE
    )
    cache_dir: str | None = setting(
        None, "where arrays that take long to read or make are kept", rules.FOLDER
    )


def opened(folder: Path, **where: Any) -> study.Study:
    """The study of a finished run, without its methods: its network, seeds, files.

    Args:
      folder: of the run; nothing in it is claimed.
      **where: `data_dir` and `cache_dir`.

    Raises:
      ValueError: there is no such run, or it is of other data.
    """
    about = reading.read(folder).about
    if about["config"].get("pretrained"):
        raise ValueError(
            f"{folder} has not trained its dense network: see --pretrained"
        )
    config = kept.told(about["config"], methods=(), output_dir=str(folder), **where)
    dataset = own.dataset(config)
    if about.get("data", dataset.checksum) != dataset.checksum:
        raise ValueError(
            f"{folder} is a run on other data of the name {config.dataset}"
        )
    return study.Study(config, dataset, lanes.layout(devices=jax.devices()[:1]))


Layers = dict[str, jax.Array]  # name -> leaf; and all of them in a row


def tickets(work: study.Study) -> Iterator[tuple[Lane, Mask, Params, Params]]:
    """Every ticket's lane and mask, with the dense network's first and last weights.

    Raises:
      ValueError: there are none that prune anything, or a file is not there.
    """
    rows = reading.results(work.folder / "results.csv")
    rows = rows[(rows["treatment"] == "ticket") & (rows["density"] < 1)]
    if rows.empty:
        raise ValueError(f"{work.folder} has no tickets that prune anything")
    try:
        for seed, ours in rows.groupby("seed"):
            initial = work.network(keys.of_seed(seed).init).weights
            trained = work.shelf.anchor(records.dense(seed)).weights
            for row in ours[[*Lane._fields]].itertuples(index=False):
                lane = Lane(*row)
                yield lane, work.shelf.ticket(lane).mask, initial, trained
    except FileNotFoundError as error:
        raise ValueError(
            f"{error.filename} is not there: a run is looked at with its folders "
            "tickets/ and work/"
        ) from None


def look(work: study.Study) -> dict[str, list[dict]]:
    """The rows of each file, by its name."""
    moved, near, pooled = [], [], collections.defaultdict(list)
    for lane, mask, initial, trained in tickets(work):
        known = records.whose(lane, mask)
        kept, before, after = (_layers(x, mask) for x in (mask, initial, trained))
        moved += [known | row for row in _moved(kept, before, after)]
        for layer in masks.names(mask):
            leaves = (np.asarray(x[layer]) for x in (kept, before, after))
            for (what, of), (bounds, share) in _spread(*leaves).items():
                about = lane._replace(seed=-1), layer, what, of
                pooled[about].append((known["density"], bounds, share))
        if (first := _over_a_signal(work, mask)) is not None:
            near.append(known | _floats(structure.adjacency(first)))
    spread = []
    for (lane, layer, what, of), found in pooled.items():
        known = lane._asdict() | {"layer": layer, "what": what, "of": of}
        known["density"] = np.mean([density for density, *_ in found])
        bounds, share = found[0][1], np.mean([x for *_, x in found], axis=0)
        for value, x in zip((bounds[:-1] + bounds[1:]) / 2, share, strict=True):
            if x > 0:
                spread.append(known | {"value": value, "share": round(float(x), 6)})
    return {distances.FILE: moved, values.FILE: spread, adjacency.FILE: near}


def _layers(tree: Any, mask: Mask) -> Layers:
    leaves = jax.tree.leaves(masks.prunable_like(tree, mask))
    together = jnp.concatenate([jnp.ravel(x) for x in leaves])
    return {
        distances.ALL: together,
        **dict(zip(masks.names(mask), leaves, strict=True)),
    }


def _moved(kept: Layers, before: Layers, after: Layers) -> Iterator[dict]:
    """A row a layer, and one of all."""
    gone, whole = (
        {k: f(m) for k, m in kept.items()} for f in (jnp.invert, jnp.ones_like)
    )
    inside, outside = (structure.movement(before, after, m) for m in (kept, gone))
    ours, all_of = (structure.valley(before, m) for m in (kept, whole))
    wires = {"incoming": structure.incoming(kept), "outgoing": structure.outgoing(kept)}
    for name, m in kept.items():
        row = {"layer": name, "weights": m.size, "kept": int(m.sum())}
        row |= _floats(inside[name], "_in") | _floats(outside[name], "_out")
        if name != distances.ALL:  # whose deviations differ
            row |= {"valley": float(ours[name]), "layer_valley": float(all_of[name])}
        for way, layers in wires.items():
            if layers[name] is not None:
                row[way] = float(layers[name].variation)
                row[f"{way}_shuffled"] = float(layers[name].expected)
        yield row


def _floats(found: Any, ending: str = "") -> dict[str, float]:
    return {f"{name}{ending}": float(x) for name, x in found._asdict().items()}


def _spread(m: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict:
    """What is spread, and of what -> bounds of bins, and the share in each."""
    unit, found = np.sqrt(np.mean(before**2)), {}
    for what, weights in (("initial", before), ("final", after)):
        for of, chosen in (("ticket", weights[m]), ("layer", weights.ravel())):
            count, _ = np.histogram(chosen / unit, VALUES)
            found[what, of] = VALUES, count / max(chosen.size, 1)
    wires = {
        "incoming": structure.incoming([m])[0],
        "outgoing": structure.outgoing([m])[0],
    }
    for what, units in wires.items():
        if units is None or not m.any():
            continue
        kept, each = np.asarray(units.kept), m.size // len(units.kept)
        count, _ = np.histogram(kept / kept.mean(), WIRES)
        found[what, "ticket"] = WIRES, count / len(kept)
        could = np.arange(each + 1)
        chance = stats.hypergeom(m.size, m.sum(), each).pmf(could)
        count, _ = np.histogram(could / kept.mean(), WIRES, weights=chance)
        found[what, "shuffled"] = WIRES, count
    return found


def _over_a_signal(work: study.Study, mask: Mask) -> jax.Array | None:
    """The mask of a dense first layer, where the inputs are a row of numbers."""
    inputs = [n for n in work.data.train.images.shape[1:] if n > 1]
    if len(inputs) != 1:
        return None
    return next((m for m in jax.tree.leaves(mask) if m.shape[:1] == (*inputs,)), None)


def experiment(config: Config) -> None:
    """Looks at a finished run, and makes its report again."""
    settings.check(config)
    folder = Path(config.output_dir).expanduser()
    work = opened(folder, data_dir=config.data_dir, cache_dir=config.cache_dir)
    found = look(work)
    for finding in (distances, values, adjacency):
        rows = found[finding.FILE]
        records.write_table(folder / finding.FILE, finding.COLUMNS, rows)
    report.make(folder)


if __name__ == "__main__":
    command.main(experiment, Config)
