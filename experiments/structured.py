"""Structured pruning: whole filters go, and the small network is built and trained.

The dense network of each seed is trained, and loses in every layer the filters of the
smallest L1 norm, all but the fraction `--filters.density`; with them go their channels
in the next layers. The small network is built as one of its own (`jaxticket.compact`),
which is shown to compute the same, and trained four times:

    fine-tuned   from the trained values, for a quarter of the steps, at the learning
                 rate that the training ends with
    scratch-E    from a new initialisation of the small network, for as many steps
    scratch-B    the same, for as much arithmetic as the large network took
    ticket       from the large network's initial values, for as many steps

`structured.csv` has their accuracies, weights and arithmetic; the report compares them.
Published: of structured pruning, scratch-B is at least as good as fine-tuning, so that
it is the architecture that matters, not the values. Without flags: MNIST-1D, two hidden
layers of 100 units, under two minutes on two cores.

    python -m experiments.structured

LeNet-5 on MNIST; VGG-16 on CIFAR-10 to VGG-16-A, which needs an accelerator:

    python -m experiments.structured --dataset=mnist --model=lenet_5
    python -m experiments.structured --dataset=cifar10 --model=vgg_16 \\
        --optimizer=momentum --learning_rate=0.1 --learning_rate_drops=0.5,0.75 \\
        --weight_decay=1e-4 --augment --batch_size=64 --epochs=160 \\
        --filters.density=0.5 \\
        --filters.layers="conv_0 conv_7 conv_8 conv_9 conv_10 conv_11 conv_12"

Layers that share a residual stream keep all channels of it. The small networks of all
seeds are trained side by side, on one device. A run that is killed goes on after the
last of them. Outputs are otherwise those of `experiments.ticket_search`.

Reference:
  Liu et al., "Rethinking the Value of Network Pruning", 2019; Li et al., "Pruning
  Filters for Efficient ConvNets", 2017, for the norm.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments import ticket_search
from experiments.reports import reading, structured
from experiments.study import command, optimizers, records, rules, settings, stages
from experiments.study.methods import Method
from experiments.study.settings import setting
from experiments.study.study import Study
from jaxticket import checks, masks, models, searches, starts, training
from jaxticket.base import Ticket
from jaxticket.compaction import Compacted, compact
from jaxticket.engine import keys
from jaxticket.models import convolution

METHODS = {
    "filters": Method(
        start=partial(starts.filters, weights="trained"),
        preset={"density": (0.75, 0.5, 0.25)},
    )
}
ANY = ticket_search.DENSE | {"methods": ("filters",), "epochs": 5}
COMPARED = 200  # test images that both networks are run on


@dataclasses.dataclass(frozen=True)
class Config(settings.Frozen):
    """All settings of the study. `None`: what suits data set and model."""

    METHODS: ClassVar = METHODS
    PRESETS: ClassVar = {
        ("mnist1d", "lenet_300_100"): ANY
        | ticket_search.SHORT
        | {"steps": 840, "hyper": {"model.hidden": (100, 100)}},
        ("digits", "lenet_300_100"): ANY | {"learning_rate": 4e-3, "epochs": 15},
        ("mnist", "lenet_300_100"): ANY | {"learning_rate": 1.2e-3},
        None: ANY,
    }

    model: str | None = setting(
        "lenet_300_100",
        f"one of {models.NAMES}, or package.module:function; its options are flags, as "
        "--model.dropout=0.1",
    )
    tune_share: float = setting(
        0.25,
        "steps of the fine-tuning, as a share of those of the training",
        checks.between(0, 1),
    )
    longest: float | None = setting(
        None,
        "times the steps of the large network that scratch-B takes at the most",
        checks.positive,
    )
    output_dir: str = setting("runs/structured", settings.WRITTEN, rules.FOLDER)


def rebuilt(study: Study) -> None:
    """Writes `structured.csv`, a row a seed and training of a small network."""
    path = study.folder / structured.FILE
    table = reading.table(path, structured.COLUMNS) if path.exists() else None
    rows = [] if table is None else table.to_dict("records")
    done = {(row["setting"], row["arm"]) for row in rows}
    for planned in study.planned.values():
        lanes = stages.found(study, planned)
        for label, group in itertools.groupby(
            sorted(lanes, key=lambda lane: lane.setting), lambda lane: lane.setting
        ):
            rest = [arm for arm in structured.ARMS if (label, arm) not in done]
            for found in _arms(study, list(group), rest):
                rows += found
                _say(found)
                records.write_table(path, structured.COLUMNS, rows)


def _say(rows: Sequence[dict]) -> None:
    accuracy = np.mean([row["test_accuracy"] for row in rows])
    print(
        f"small networks, {rows[0]['setting']}, {rows[0]['arm']}, "
        f"{rows[0]['steps']} steps: {accuracy:.1%} test",
        file=sys.stderr,
    )


def _arms(
    study: Study, lanes: Sequence[records.Lane], arms: Sequence[str]
) -> Iterator[list[dict]]:
    """Of each arm the rows of all seeds of a setting, as they come."""
    if not arms:
        return
    tickets = [study.shelf.ticket(lane) for lane in lanes]
    image = study.prepare(jnp.asarray(study.data.held_out[1].images[:COMPARED]))
    small = [compact(study.model, ticket, image) for ticket in tickets]
    large = [_cost(study.model.apply, ticket, study.image) for ticket in tickets]
    costs = [_cost(x.model.apply, x.ticket, study.image) for x in small]
    for arm in arms:
        begin = [_begins(study, arm, *pair) for pair in zip(lanes, small, strict=True)]
        ratio = max(a / b for a, b in zip(large, costs, strict=True))
        config = _course(study.config, arm, ratio)
        accuracies = _trained(study, config, small[0], arm, lanes, begin)
        rows = []
        for i, lane in enumerate(lanes):
            row = lane._asdict() | {
                "arm": arm,
                "density": float(masks.density(tickets[i].mask)),
                "steps": config.steps,
                "weights": _size(small[i].ticket),
                "large_weights": _size(tickets[i]),
                "flops": costs[i],
                "large_flops": large[i],
                "difference": _difference(study, tickets[i], small[i], image),
                "validation_accuracy": float(accuracies[0][i]),
                "test_accuracy": float(accuracies[1][i]),
            }
            rows.append({name: row[name] for name in structured.COLUMNS})
        yield rows


def _begins(study: Study, arm: str, lane: records.Lane, small: Compacted) -> Ticket:
    """What an arm trains: the small network from other values."""
    if arm == "fine-tuned":
        return small.ticket
    if arm == "ticket":
        initial = study.network(keys.of_seed(lane.seed).init)
        return small.taken(initial)
    key = keys.named(keys.of_seed(lane.seed).controls, f"rebuilt {lane.setting}")
    weights, model_state = small.model.init(key, study.image)
    return Ticket(weights, masks.full(weights), model_state)


def _course(config: Config, arm: str, ratio: float) -> Config:
    """The settings of the training of an arm: its steps, and its learning rate."""
    if arm == "fine-tuned":
        drops = len(config.learning_rate_drops)
        return dataclasses.replace(
            config,
            steps=max(1, round(config.tune_share * config.steps)),
            learning_rate=config.learning_rate * 0.1**drops,
            learning_rate_drops=(),
            warmup_steps=0,
        )
    longer = min(ratio, config.longest or ratio) if arm == "scratch-B" else 1.0
    return dataclasses.replace(
        config,
        steps=int(config.steps * longer),
        learning_rate_drops=tuple(int(d * longer) for d in config.learning_rate_drops),
    )


def _trained(
    study: Study,
    config: Config,
    small: Compacted,
    arm: str,
    lanes: Sequence[records.Lane],
    begin: Sequence[Ticket],
) -> list[Any]:
    """Accuracies after the training, on validation and test, `[seeds]` each."""
    search = searches.fixed(optimizers.of_weights(config))
    loss_fn, measure = (f(small.model) for f in (study.objective, study.evaluator))

    def one(key, ticket, data):
        found = training.run(
            search,
            loss_fn,
            key,
            ticket,
            data.train,
            rounds=1,
            steps=config.steps,
            batch_size=config.batch_size,
        ).ticket
        return [
            measure(found.weights, found.model_state, split).accuracy
            for split in data.held_out
        ]

    def stream(lane):
        return keys.named(keys.of_seed(lane.seed).data, f"{arm} {lane.setting}")

    streams = jnp.stack([stream(lane) for lane in lanes])
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *begin)
    return jax.jit(jax.vmap(one, (0, 0, None)))(streams, together, study.data)


def _cost(apply: Callable, ticket: Ticket, image: jax.Array) -> float:
    """Floating-point operations of one image, by definition of the layers."""

    def network(weights, model_state, image):  # of its own: none is traced before
        return apply(weights, model_state, image)

    with convolution.by_definition():
        lowered = jax.jit(network).lower(ticket.weights, ticket.model_state, image)
    return float(lowered.cost_analysis()["flops"])


def _size(ticket: Ticket) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(ticket.weights))


def _difference(study: Study, ticket: Ticket, small: Compacted, image: Any) -> float:
    """The largest between an output of the small network and of the masked one."""
    weights = masks.apply(ticket.mask, ticket.weights)
    theirs = jax.jit(study.outputs)((weights, ticket.model_state), image)
    ours, _ = jax.jit(small.model.apply)(
        small.ticket.weights, small.ticket.model_state, image
    )
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


def experiment(config: Config) -> list[dict]:
    """Trains, prunes and rebuilds as the settings say; see `command.run`."""
    return command.run("Structured pruning", config, finish=rebuilt)


if __name__ == "__main__":
    command.main(experiment, Config)
