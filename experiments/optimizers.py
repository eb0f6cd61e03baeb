"""What trains weights, and weights with logits, as the settings say."""

import jax.numpy as jnp
import optax

from experiments.settings import Settings
from jaxticket import schedules, searches


def optimizer(
    config: Settings, learning_rate: float, weight_decay: float
) -> optax.GradientTransformation:
    """The chosen optimiser; its learning rate follows the step within the round."""

    def rate(step):
        drops = sum(jnp.asarray(step) >= drop for drop in config.learning_rate_drops)
        return learning_rate * 0.1**drops

    decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
    by_step = schedules.scale_by_step(rate)
    if config.optimizer == "adam":  # decay is decoupled, as in AdamW
        return optax.chain(optax.scale_by_adam(), *decay, by_step)
    if config.optimizer == "sgd":
        return optax.chain(*decay, by_step)
    momentum = optax.trace(0.9, nesterov=config.optimizer == "nesterov")
    return optax.chain(*decay, momentum, by_step)


def of_weights(config: Settings) -> optax.GradientTransformation:
    """What trains weights."""
    return optimizer(config, config.learning_rate, config.weight_decay)


def of_gated(
    config: Settings, logit_decay: float = 0.0
) -> optax.GradientTransformation:
    """What trains weights and logits together."""
    logits = optimizer(config, config.logit_learning_rate, logit_decay)
    return optax.partition(
        {"weights": of_weights(config), "logits": logits},
        searches.Gated("weights", "logits"),
    )
