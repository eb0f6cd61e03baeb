"""What trains the weights, gates and scores of searches, as the settings say.

`KINDS` is by what the optimiser of a search is handed, see `jaxticket.base.OfWeights`;
keyword-only arguments are hyper-parameters of the method, and become its flags.
"""

from typing import Literal

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from experiments.study.settings import Settings
from jaxticket import checks, mirror, schedules
from jaxticket.base import Schedule
from jaxticket.searches import gates


def optimizer(
    name: str, rate: Schedule, weight_decay: ArrayLike, momentum: float = 0.9
) -> optax.GradientTransformation:
    """An optimiser whose learning rate follows the step within the round.

    Decay is decoupled under adam, as in AdamW, and goes through the momentum of the
    others, as in PyTorch.
    """
    traced = not isinstance(weight_decay, float | int)
    decays = traced or weight_decay > 0
    decay = [optax.add_decayed_weights(weight_decay)] if decays else []
    by_step = schedules.scale_by_step(rate)
    if name == "adam":
        return optax.chain(optax.scale_by_adam(), *decay, by_step)
    if name == "sgd":
        return optax.chain(*decay, by_step)
    passed_on = optax.trace(momentum, nesterov=name == "nesterov")
    return optax.chain(*decay, passed_on, by_step)


def dropping(config: Settings, learning_rate: ArrayLike) -> Schedule:
    """A learning rate that rises from 0 at first, and falls where the settings say.

    Or on half a cosine, from where it has risen to 0 at the end of a training.
    """
    rising = config.warmup_steps

    def rate(step):
        drops = sum(jnp.asarray(step) >= drop for drop in config.learning_rate_drops)
        risen = jnp.minimum(step / rising, 1.0) if rising else 1.0
        if config.learning_rate_cosine:
            begun = rising or 0
            course = schedules.cosine(config.steps - begun)
            risen *= course(jnp.maximum(step - begun, 0))
        return risen * learning_rate * config.learning_rate_factor**drops

    return rate


def _of_weights(config: Settings, rate: Schedule) -> optax.GradientTransformation:
    """What the settings say, at this learning rate."""
    plain = optimizer(
        config.optimizer, rate, config.weight_decay, momentum=config.momentum
    )
    return mirror.ham(plain, rate, alpha=config.ham) if config.ham else plain


def of_weights(config: Settings) -> optax.GradientTransformation:
    """What trains weights."""
    return _of_weights(config, dropping(config, config.learning_rate))


def of_longer(
    config: Settings, *, epoch_steps: int = 1
) -> optax.GradientTransformation:
    """What trains weights further, on the cosine that scores are searched on."""
    course = schedules.cosine(config.search_steps, epoch_steps=epoch_steps)
    return _of_weights(config, lambda step: config.learning_rate * course(step))


def of_gates(
    config: Settings,
    *,
    logit_learning_rate: ArrayLike | None = None,
    decay_logits: bool = False,
    freeze_weights: bool = False,
) -> optax.GradientTransformation:
    """What trains weights and logits together.

    Args:
      config: the settings.
      logit_learning_rate: learning rate of the logits; by default that of the weights.
      decay_logits: decay the logits as the weights are.
      freeze_weights: train the logits alone.
    """
    if logit_learning_rate is None:
        logit_learning_rate = config.learning_rate
    else:
        checks.positive(logit_learning_rate=logit_learning_rate)
    rate = dropping(config, logit_learning_rate)
    decay = config.weight_decay if decay_logits else 0.0
    return gates.optimizer(
        optax.set_to_zero() if freeze_weights else of_weights(config),
        optimizer(config.optimizer, rate, decay, momentum=config.momentum),
    )


def of_scores(
    config: Settings,
    *,
    epoch_steps: int = 1,
    score_learning_rate: ArrayLike = 0.1,
    score_decay: ArrayLike = 5e-4,
    score_schedule: Literal["cosine", "constant"] = "cosine",
) -> optax.GradientTransformation:
    """What trains the scores of weights that are frozen: SGD with momentum 0.9.

    Args:
      config: the settings.
      epoch_steps: steps that share one value of a schedule.
      score_learning_rate: learning rate of the scores.
      score_decay: weight decay of the scores, through the momentum, as in PyTorch: then
        it shrinks scores ten times as much.
      score_schedule: course of the learning rate over the search: cosine or constant.
    """
    checks.positive(score_learning_rate=score_learning_rate)
    checks.not_negative(score_decay=score_decay)
    course = schedules.cosine(config.search_steps, epoch_steps=epoch_steps)
    if score_schedule == "constant":
        course = jnp.ones_like
    return optimizer(
        "momentum", lambda step: score_learning_rate * course(step), score_decay
    )


KINDS = {
    "weights": of_weights,
    "factors": of_weights,
    "gates": of_gates,
    "scores": of_scores,
}
