"""Early birds: how soon in a training is the mask drawn that stays?

The dense network of each seed is trained, and its weights are kept at `--looks` even
steps. At each of them the largest magnitudes are a mask, of every density side by side;
two masks are as far apart as the share of the weights in which they differ. The early
bird is the first look whose mask is at most 0.1 from all of the last five (You et al.):
a ticket that could be drawn there, without the rest of the training.

    python -m experiments.early_birds

LeNet-300-100 on MNIST, some minutes on two cores:

    python -m experiments.early_birds --dataset=mnist --model=lenet_300_100

Masks of density d are never further apart than 2 d, and chance has them at 2 d (1 - d):
below 5% every look is an early bird by that threshold. So the report says too what the
bird has in common with the mask of the trained network, and what chance would.

Outputs and resumption are those of `experiments.ticket_search`, as are most flags;
besides, `early_birds.csv` has a row for every two looks.

Reference:
  You et al., "Drawing Early-Bird Tickets", 2020, section 3.2.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar, Self

import jax

from experiments import ticket_search
from experiments.reports import mask_distances
from experiments.study import command, records, settings
from experiments.study.settings import setting
from jaxticket import analysis, checks, masks, pruners, selection

ANY = ticket_search.DENSE


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """All settings of the study. `None`: what suits data set and model."""

    PRESETS: ClassVar = {
        ("mnist1d", "mlp_1d"): ANY
        | ticket_search.SHORT
        | {"steps": 800, "hyper": {"model.width": 400}},
        ("digits", "lenet_300_100"): ANY | ticket_search.DIGITS,
        ("mnist", "lenet_300_100"): ANY | ticket_search.MNIST,
        None: ANY,
    }
    VERDICTS: ClassVar = False
    methods: ClassVar[Sequence[str]] = ()  # nothing is searched

    looks: int = setting(
        20,
        f"at the weights, evenly over a training; a bird has {analysis.PAST} before it",
        checks.whole(analysis.PAST + 1, 1000),
    )
    densities: list[float] = setting(
        (0.5, 0.2, 0.1), "of the masks, with commas", checks.each(checks.fraction)
    )
    select: str = setting(
        "global_top",
        f"how the layers share a density: one of {[*selection.NAMES]}",
        checks.one_of(selection.NAMES),
    )
    keep_steps: Sequence[int] = ()
    output_dir: str = settings.written("runs/early_birds")

    def in_steps(self, epoch_steps: int) -> Self:
        config = super().in_steps(epoch_steps)
        if self.looks > config.steps:
            raise checks.Refused(
                "--looks",
                f"must be at most one a step, {config.steps}; got {self.looks}",
            )
        steps = [round(i * config.steps / self.looks) for i in range(1, self.looks)]
        return dataclasses.replace(config, keep_steps=tuple(steps))


def distances(study) -> None:
    """Writes `early_birds.csv`: how far apart the masks of every two looks are.

    It takes seconds, so a finished study may do it again.
    """
    config, rows = study.config, []
    steps = (*config.keep_steps, config.steps)
    select = selection.named(config.select)

    @jax.jit
    def drawn(ticket, density):
        return pruners.prune(ticket, "magnitude", density, select=select).mask

    apart, kept = jax.jit(analysis.distance), jax.jit(masks.density)
    for seed in study.trained_seeds:
        then = [records.at_step(seed, step) for step in config.keep_steps]
        looks = [study.shelf.anchor(x) for x in (*then, records.dense(seed))]
        for density in config.densities:
            found = [drawn(look, density) for look in looks]
            left = float(kept(found[-1]))  # which layers may make more, or less
            for i, j in itertools.combinations(range(len(found)), 2):
                far = float(apart(found[i], found[j]))
                row = (seed, left, steps[i], steps[j], far)
                rows.append(dict(zip(mask_distances.COLUMNS, row, strict=True)))
    records.write_table(
        study.folder / mask_distances.FILE, mask_distances.COLUMNS, rows
    )


def experiment(config: Config) -> list[dict]:
    """Trains and looks as the settings say; see `command.run`."""
    return command.run("Early birds", config, finish=distances)


if __name__ == "__main__":
    command.main(experiment, Config)
