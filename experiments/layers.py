"""Are all layers created equal? A trained network with one layer put back, or redrawn.

The dense network of each seed is trained, and its weights at some steps are kept. Then
one layer at a time - kernel, bias, and the normalisation of its number - is put back to
what it was at each of these steps and at initialisation, or drawn anew as a network is
initialised, while all others stay as they are trained; the network is tested without
training (`layers_reset.csv`). Batch statistics stay those of the trained network.
Without flags: MNIST-1D at a width of 100, under a minute on two cores.

    python -m experiments.layers

Three hidden layers of 256 on MNIST, as kept; eight minutes beside other work on two
cores:

    python -m experiments.layers --dataset=mnist --model=mlp

Published of this network: put back to its initial values the first layer costs much and
any other next to nothing; drawn anew any layer leaves about chance. There the learning
rate falls to a fifth at 30, 60 and 90 of 100 epochs, here to a tenth at these shares of
a shorter training. In ten epochs at its rate of 0.1 the second layer costs six points
too, in a hundred forty-eight, and in ten at 0.03 less than two. Neither decays weights
nor augments images. Outputs and resumption are those of `experiments.ticket_search`, as
are most flags.

Reference:
  Zhang, Bengio and Singer, "Are All Layers Created Equal?", JMLR 2022.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Self

import jax

from experiments import ticket_search
from experiments.reports import reset_layers
from experiments.study import command, records, settings
from experiments.study.settings import setting
from jaxticket import checks, interventions
from jaxticket.engine import keys, resumable

ANY = ticket_search.DENSE | {
    "optimizer": "momentum",
    "learning_rate": 0.1,
    "learning_rate_drops": (0.3, 0.6, 0.9),
    "batch_size": 128,
}
FCN = {"hyper": {"model.hidden": (256, 256, 256)}}


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """All settings of the study. `None`: what suits data set and model."""

    PRESETS: ClassVar = {
        ("mnist1d", "mlp_1d"): ANY
        | ticket_search.SHORT
        | {"steps": 840, "optimizer": "adam", "hyper": {"model.width": 100}},
        ("mnist", "mlp"): ANY | FCN,
        ("digits", "mlp"): ANY | FCN | {"epochs": 20, "batch_size": 60},
        None: ANY,
    }
    VERDICTS: ClassVar = False
    methods: ClassVar[Sequence[str]] = ()  # nothing is searched

    checkpoints: list[float] = setting(
        (0.05, 0.1, 0.3, 0.6),
        "when the weights are kept that a layer is put back to, beside the initial "
        "ones: epochs, or, below 1, fractions of a training",
        checks.each(checks.positive),
    )
    keep_steps: Sequence[int] = ()
    output_dir: str = settings.written("runs/layers")

    def in_steps(self, epoch_steps: int) -> Self:
        config = super().in_steps(epoch_steps)
        steps = [
            round(x * (config.steps if x < 1 else epoch_steps))
            for x in config.checkpoints
        ]
        for given, step in zip(config.checkpoints, steps, strict=True):
            if not 0 < step < config.steps:
                raise checks.Refused(
                    "--checkpoints",
                    f"must lie within a training, of {config.steps} steps; got "
                    f"{given}, which is step {step}",
                )
        return dataclasses.replace(config, keep_steps=tuple(sorted({*steps})))


def resets(study) -> None:
    """Writes `layers_reset.csv`: a row for every layer, from everywhere, of every seed.

    One compiled program tests a layer's networks side by side. It takes seconds, so a
    finished study may do it again.
    """
    _, test = study.data.held_out
    measure = jax.jit(jax.vmap(study.metrics, in_axes=(0, None, None)))
    rows = []
    for seed in study.trained_seeds:
        trained, sources = _of_seed(study, seed)
        for layer in interventions.layers(trained.weights):
            changed = [
                interventions.with_layer(trained.weights, other, layer)
                for other in sources.values()
            ]
            together = resumable.together([trained.weights, *changed])
            found = measure(together, trained.model_state, test)
            before, *after = zip(*map(list, found), strict=True)
            for (kind, step), (loss, accuracy) in zip(sources, after, strict=True):
                row = (seed, layer, kind, step, loss, accuracy, *before)
                rows.append(dict(zip(reset_layers.COLUMNS, row, strict=True)))
    records.write_table(study.folder / reset_layers.FILE, reset_layers.COLUMNS, rows)


def _of_seed(study, seed: int):
    """The trained network, and (kind, step) -> the weights that a layer may have."""
    stream = keys.of_seed(seed)
    fresh = keys.named(stream.controls, "layers")
    sources = {
        (reset_layers.FRESH, 0): study.network(fresh).weights,
        (reset_layers.RESET, 0): study.network(stream.init).weights,
    }
    for step in study.config.keep_steps:
        then = study.shelf.anchor(records.at_step(seed, step))
        sources[reset_layers.RESET, step] = then.weights
    return study.shelf.anchor(records.dense(seed)), sources


def experiment(config: Config) -> list[dict]:
    """Trains, and intervenes, as the settings say; see `command.run`."""
    return command.run("Layers", config, finish=resets)


if __name__ == "__main__":
    command.main(experiment, Config)
