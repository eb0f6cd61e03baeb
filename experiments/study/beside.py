"""Trainings beside those of a study: of networks that it makes of its tickets."""

from collections.abc import Callable

import jax.numpy as jnp

from experiments.study import optimizers
from experiments.study.settings import Settings
from experiments.study.study import Study
from jaxticket import searches, training
from jaxticket.models import Model


def trained(study: Study, config: Settings, model: Model) -> Callable:
    """A training of a network under any mask, for `jit`.

    Args:
      study: whose loss, evaluation and preparation of images it has.
      config: its settings, with other lengths perhaps.
      model: the study's, or a smaller one.

    Returns:
      `(key, ticket, data) -> (ticket, validation, test)`: what has been trained, and
      its accuracies after the last step; NaN where it has diverged.
    """
    search = searches.fixed(optimizers.of_weights(config))
    loss_fn, measure = (make(model) for make in (study.objective, study.evaluator))

    def train(key, ticket, data):
        result = training.run(
            search,
            loss_fn,
            key,
            ticket,
            data.train,
            rounds=1,
            steps=config.steps,
            batch_size=config.batch_size,
        )
        found, sound = result.ticket, result.diverged[0] < 0
        validation, test = (
            measure(found.weights, found.model_state, split).accuracy
            for split in data.held_out
        )
        return found, *(jnp.where(sound, x, jnp.nan) for x in (validation, test))

    return train
