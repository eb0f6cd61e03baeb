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
layers of 100 units, a minute on two cores.

    python -m experiments.structured

Instead of norms, gates can choose that are learned with the weights, one for all that
read an input, so that a unit goes with all that reads it; the density of the weights is
held to by a constraint:

    python -m experiments.structured --methods=filters,continuous_sparsification,l0

LeNet-5 on MNIST; VGG-16 on CIFAR-10 to VGG-16-A, which needs an accelerator:

    python -m experiments.structured --dataset=mnist --model=lenet_5
    python -m experiments.structured --dataset=cifar10 --model=vgg_16 \\
        --optimizer=momentum --learning_rate=0.1 --learning_rate_drops=0.5,0.75 \\
        --weight_decay=1e-4 --augment --batch_size=64 --epochs=160 \\
        --filters.density=0.5 \\
        --filters.layers="conv_0 conv_7 conv_8 conv_9 conv_10 conv_11 conv_12"

Filters by norm keep all channels of a residual stream, which several layers share. The
small networks are trained one after another, on one device. A run that is killed goes
on after the last of them. Outputs are otherwise those of `experiments.ticket_search`.

Reference:
  Liu et al., "Rethinking the Value of Network Pruning", 2019; Li et al., "Pruning
  Filters for Efficient ConvNets", 2017, for the norm; Louizos et al., "Learning Sparse
  Neural Networks through L0 Regularization", 2018, for gates on units.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments import ticket_search
from experiments.reports import reading, small_networks
from experiments.study import beside, command, records, settings, stages
from experiments.study.methods import Method
from experiments.study.settings import setting
from experiments.study.study import Study
from jaxticket import checks, masks, searches, starts
from jaxticket.base import Ticket
from jaxticket.compaction import Compacted, compact
from jaxticket.engine import keys
from jaxticket.models import convolution

METHODS = {
    "filters": Method(
        start=partial(starts.filters, weights="trained"),
        preset={"density": (0.75, 0.5, 0.25)},
    ),
    **{
        name: Method(
            partial(getattr(searches, name), groups="inputs", weights="trained"),
            preset={"density": (0.5, 0.25, 0.1)},
        )
        for name in ("continuous_sparsification", "l0")
    },
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
        ("digits", "lenet_300_100"): ANY | ticket_search.DIGITS,
        ("mnist", "lenet_300_100"): ANY | ticket_search.MNIST,
        None: ANY,
    }

    model: str | None = settings.network("lenet_300_100")
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
    output_dir: str = settings.written("runs/structured")


def rebuilt(study: Study) -> None:
    """Writes `structured.csv`, a row a seed and training of a small network."""
    path = study.folder / small_networks.FILE
    names = ("method", "setting", "seed", "arm")
    rows, done = reading.resumed(path, small_networks.COLUMNS, names)
    programs: dict[tuple, Callable] = {}
    for lane in stages.found(study):
        whose = (lane.method, lane.setting, lane.seed)
        rest = [arm for arm in small_networks.ARMS if (*whose, arm) not in done]
        for row in _arms(study, lane, rest, programs) if rest else ():
            rows.append(row)
            print(
                f"small network, {lane.setting}, {row['arm']} of seed {lane.seed}, "
                f"{row['steps']} steps: {row['test_accuracy']:.1%} test",
                file=sys.stderr,
            )
            records.write_table(path, small_networks.COLUMNS, rows)


def _arms(
    study: Study,
    lane: records.Lane,
    arms: Sequence[str],
    programs: dict[tuple, Callable],
) -> Iterator[dict]:
    """Of each arm the row of a seed, as it comes; seeds share compiled programs."""
    ticket = study.shelf.ticket(lane)
    image = study.prepare(jnp.asarray(study.data.held_out[1].images[:COMPARED]))
    small = compact(study.model, ticket, image)
    about = records.whose(lane, ticket.mask) | {
        "weights": _size(small.ticket) - _pruned(small.ticket),
        "large_weights": _size(ticket),
        "flops": _cost(small.model.apply, small.ticket, study.image),
        "large_flops": _cost(study.model.apply, ticket, study.image),
        "difference": _difference(study, ticket, small, image),
    }
    for arm in arms:
        config = _course(study.config, arm, about["large_flops"] / about["flops"])
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(small.ticket.weights))
        program = programs.setdefault(
            (arm, config.steps, shapes),
            jax.jit(beside.trained(study, config, small.model)),
        )
        stream = keys.named(keys.of_seed(lane.seed).data, f"{arm} {lane.setting}")
        begin = _begins(study, arm, lane, small)
        _, validation, test = program(stream, begin, study.data)
        if not np.isfinite(test):
            whose = lane._replace(treatment=f"small network, {arm}")
            study.records.left_out(whose, 0, config.steps)
            continue
        yield about | {
            "arm": arm,
            "steps": config.steps,
            "validation_accuracy": float(validation),
            "test_accuracy": float(test),
        }


def _begins(study: Study, arm: str, lane: records.Lane, small: Compacted) -> Ticket:
    """What an arm trains: the small network from other values, under its own mask.

    Which is full where whole units are pruned, and is not where inputs are, as by gates
    on the rows of a kernel: data stay as wide as they are.
    """
    if arm == "fine-tuned":
        return small.ticket
    if arm == "ticket":
        initial = study.network(keys.of_seed(lane.seed).init)
        return small.taken(initial)._replace(mask=small.ticket.mask)
    key = keys.named(keys.of_seed(lane.seed).controls, f"rebuilt {lane.setting}")
    weights, model_state = small.model.init(key, study.image)
    return Ticket(weights, small.ticket.mask, model_state)


def _course(config: Config, arm: str, ratio: float) -> Config:
    """The settings of the training of an arm: its steps, and its learning rate."""
    if arm == "fine-tuned":
        last = config.learning_rate_factor ** len(config.learning_rate_drops)
        return dataclasses.replace(
            config,
            steps=max(1, round(config.tune_share * config.steps)),
            learning_rate=config.learning_rate * last,
            learning_rate_drops=(),
            warmup_steps=0,
        )
    longer = min(ratio, config.longest or ratio) if arm == "scratch-B" else 1.0
    return dataclasses.replace(
        config,
        steps=int(config.steps * longer),
        learning_rate_drops=tuple(int(d * longer) for d in config.learning_rate_drops),
    )


def _cost(apply: Callable, ticket: Ticket, image: jax.Array) -> float:
    """Floating-point operations of one image, by definition of the layers."""

    def network(weights, model_state, image):  # of its own: none is traced before
        return apply(weights, model_state, image)

    with convolution.by_definition():
        lowered = jax.jit(network).lower(ticket.weights, ticket.model_state, image)
    return float(lowered.cost_analysis()["flops"])


def _size(ticket: Ticket) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(ticket.weights))


def _pruned(ticket: Ticket) -> int:
    return masks.size(ticket.mask) - sum(masks.layer_counts(ticket.mask).values())


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
