"""What trains weights, and weights with logits, as the settings say."""

import jax.numpy as jnp
import optax

from experiments.study.settings import Settings
from jaxticket import schedules, searches
from jaxticket.base import Schedule


def optimizer(
    name: str, rate: Schedule, weight_decay: float
) -> optax.GradientTransformation:
    """An optimiser whose learning rate follows the step within the round."""
    decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
    by_step = schedules.scale_by_step(rate)
    if name == "adam":  # decay is decoupled, as in AdamW
        return optax.chain(optax.scale_by_adam(), *decay, by_step)
    if name == "sgd":
        return optax.chain(*decay, by_step)
    momentum = optax.trace(0.9, nesterov=name == "nesterov")
    return optax.chain(*decay, momentum, by_step)


def dropping(config: Settings, learning_rate: float) -> Schedule:
    """A learning rate that falls where the settings say."""

    def rate(step):
        drops = sum(jnp.asarray(step) >= drop for drop in config.learning_rate_drops)
        return learning_rate * 0.1**drops

    return rate


def of_weights(config: Settings) -> optax.GradientTransformation:
    """What trains weights."""
    rate = dropping(config, config.learning_rate)
    return optimizer(config.optimizer, rate, config.weight_decay)


def of_gated(
    config: Settings, logit_decay: float = 0.0
) -> optax.GradientTransformation:
    """What trains weights and logits together."""
    rate = dropping(config, config.logit_learning_rate)
    logits = optimizer(config.optimizer, rate, logit_decay)
    return gated(of_weights(config), logits)


def of_gates(config: Settings) -> optax.GradientTransformation:
    """What trains logits, and leaves the weights as they are."""
    rate = dropping(config, config.logit_learning_rate)
    return gated(optax.set_to_zero(), optimizer(config.optimizer, rate, 0.0))


def gated(
    weights: optax.GradientTransformation, logits: optax.GradientTransformation
) -> optax.GradientTransformation:
    """One optimiser for the weights, another for the logits."""
    return optax.partition(
        {"weights": weights, "logits": logits}, searches.Gated("weights", "logits")
    )


def of_scores(config: Settings, steps: int, every: int) -> optax.GradientTransformation:
    """What trains the scores of a mask: momentum on a cosine over `steps` steps.

    Decay goes through the momentum, as in PyTorch: then it shrinks scores ten times as
    much.
    """
    course = schedules.cosine(steps, epoch_steps=every)
    return optimizer(
        "momentum",
        lambda step: config.score_learning_rate * course(step),
        config.score_weight_decay,
    )


def of_logits(config: Settings, steps: int, every: int) -> optax.GradientTransformation:
    """What trains the logits of a mask that is drawn: momentum, never decayed."""
    course = schedules.cosine(steps, epoch_steps=every)
    if config.mask_schedule == "constant":
        course = jnp.ones_like
    return optimizer(
        "momentum", lambda step: config.mask_learning_rate * course(step), 0.0
    )


def of_tuning(config: Settings) -> optax.GradientTransformation:
    """What trains the weights of a mask that was searched, without decay."""
    return optimizer("momentum", lambda _: config.tune_learning_rate, 0.0)
