"""What the studies of masks over frozen weights share: settings, and their methods."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from experiments.study.methods import Method, Opening, Setting
from experiments.study.settings import setting
from experiments.study.study import settings
from jaxticket.base import Search


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """The settings of such a study; see the experiments."""

    EXCLUSIVE: ClassVar = (
        *settings.Settings.EXCLUSIVE,
        ("search_steps", "search_epochs"),
    )
    VERDICTS: ClassVar = False
    controls: ClassVar = ()  # a mask over frozen weights is no ticket to train

    search_epochs: int | None = setting(None, "passes over the data in a search")
    search_steps: int | None = setting(None, "optimiser steps of a search, not epochs")
    densities: list[float] = setting((0.2, 0.1, 0.05, 0.02), "of masks, with commas")
    score_learning_rate: float = setting(
        0.1, "of the scores of weights, by SGD with momentum 0.9 on a cosine schedule"
    )
    score_weight_decay: float = setting(5e-4, "of these scores")
    schedules_every: str = setting(
        "epoch", "what follows a schedule changes every epoch or every step"
    )

    def check(self) -> None:
        super().check()
        for name in ("search_epochs", "search_steps"):
            if getattr(self, name) is not None:
                settings.least(self, **{name: 1})
        settings.each("densities", self.densities, settings.density)
        settings.above_zero("score_learning_rate", self.score_learning_rate)
        settings.not_negative("score_weight_decay", self.score_weight_decay)
        settings.one_of("schedules_every", self.schedules_every, ("epoch", "step"))

    def searches(self) -> int:
        return self.seeds * len(self.densities)

    def in_steps(self, epoch_steps: int) -> Self:
        config = super().in_steps(epoch_steps)
        steps = config.search_steps or config.search_epochs * epoch_steps
        return dataclasses.replace(config, search_steps=steps)


def every(config: Config, epoch_steps: int) -> int:
    """Steps that share one value of a schedule."""
    return epoch_steps if config.schedules_every == "epoch" else 1


def method(
    search: Callable[[Any], Search],
    *,
    steps: int,
    opens: Opening,
    settings: Sequence[Setting],
    **options: Any,
) -> Method:
    """A search over frozen weights as a method of a study.

    Args:
      search: values of a setting -> search.
      steps: of the search; with none its first mask is the mask found.
      opens: what it starts from.
      settings: the lanes.
      **options: fields of the `Method`.
    """
    return Method(
        search,
        rounds=1,
        steps=steps,
        settings=tuple(settings),
        opens=opens,
        looks=True,
        ticket_model="trained",
        **(
            {
                "trains_ticket": True,
                "hard": True,
                "measures": {"changed": changed} if steps else {},
            }
            | options
        ),
    )


def changed(before, after) -> jax.Array:
    """Entries of the mask that change in a step, on average over a stretch."""
    steps = after.count - before.count
    return (after.changed - before.changed) / jnp.maximum(steps, 1)
