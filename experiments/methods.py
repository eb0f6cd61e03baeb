"""From settings to searches: what each method is, and what may be expected of it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.config import CONV_RATES, Config
from jaxticket import masks, schedules, scores, searches, selection
from jaxticket.base import Params, Search

# Retraining rule of each relative of IMP.
IMP = {
    "imp": "rewind",
    "imp_continued": "continue",
    "learning_rate_rewinding": "learning_rate",
    "fine_tuning": "finetune",
}


class Method(NamedTuple):
    """A search, and the promises that its audit holds it to.

    Attributes:
      search: the search.
      trains_ticket: whether a round trains the ticket itself, so that its results are
        the ticket's. Otherwise tickets are trained afterwards.
      found_after: prunings that a ticket read in round 0 has seen.
      rewinds: whether a round begins from the ticket's weights.
      kept_weights: whether tickets carry trained weights instead of early ones.
      resumes: whether trainings of tickets begin at the rewinding step.
      rates: the fraction of the survivors that a pruning keeps, of all or by leaf; None
        where the method does not promise it.
      scale: weights -> weights of the ticket, for freshly drawn ones.
    """

    search: Search
    trains_ticket: bool
    found_after: int
    rewinds: bool
    kept_weights: bool
    resumes: bool
    rates: dict[str, float] | float | None
    scale: Callable[[Params], Params]


def optimizer(
    config: Config, learning_rate: float, weight_decay: float
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


def fixed(config: Config) -> Search:
    """What trains tickets, controls and the dense network."""
    return searches.fixed(optimizer(config, config.learning_rate, config.weight_decay))


def method(
    name: str, config: Config, params: Params, *, steps: int, epoch_steps: int
) -> Method:
    """Builds a method for parameters of the structure of `params`."""
    weights = optimizer(config, config.learning_rate, config.weight_decay)
    if name in IMP:
        select, rates = _scope(config, params)
        retrain = IMP[name]
        return Method(
            searches.imp(
                weights,
                density=config.density,
                score=getattr(scores, config.score),
                select=select,
                rewind_step=config.rewind_step,
                retrain=retrain,
            ),
            trains_ticket=retrain != "continue",
            found_after=0,
            rewinds=retrain == "rewind",
            kept_weights=retrain in ("learning_rate", "finetune"),
            resumes=config.resume_schedule is not False,
            rates=rates,
            scale=lambda weights: weights,
        )
    every = epoch_steps if config.temperature_every == "epoch" else 1
    logits = optimizer(config, config.logit_learning_rate, 0.0)
    factor = 1 / float(jax.nn.sigmoid(config.s0)) if config.scaling else 1.0
    prunable = masks.full(params)
    return Method(
        searches.continuous_sparsification(
            optax.partition(
                {"weights": weights, "logits": logits},
                searches.Gated("weights", "logits"),
            ),
            temperature=schedules.temperature(
                config.final_temperature, steps, epoch_steps=every
            ),
            penalty=config.penalty,
            initial_logit=config.s0,
            rewind_step=config.rewind_step,
            between=config.between_rounds,
            scaling=config.scaling,
            keep_momentum=config.keep_momentum,
        ),
        trains_ticket=False,
        found_after=1,
        rewinds=False,
        kept_weights=False,
        resumes=config.resume_schedule is True,
        rates=None,
        scale=lambda weights: jax.tree.map(
            lambda w, m: w if m is None else w * jnp.asarray(factor, w.dtype),
            weights,
            prunable,
        ),
    )


def _scope(config: Config, params: Params):
    """The selection, and the fractions it keeps where they are known beforehand."""
    prunable = masks.full(params)
    names = masks.names(prunable)
    shapes = [leaf.shape for leaf in jax.tree.leaves(prunable)]
    if config.scope == "global":
        return selection.global_top, config.density
    if config.scope == "lottery":
        conv = CONV_RATES.get(config.model, 1.0)
        rates = {n: conv for n, s in zip(names, shapes, strict=True) if len(s) > 2}
        rates[_output(names, shapes)] = 0.5
        rates = {n: rates.get(n, 1.0) for n in names}
        kept = {n: 1 - rate * (1 - config.density) for n, rate in rates.items()}
        return selection.per_layer(selection.at_rates(rates)), kept
    if config.scope == "layer":
        kept = dict.fromkeys(names, config.density)
        return selection.per_layer(selection.equal), kept
    return selection.per_layer(getattr(selection, config.scope)), None


def _output(names: list[str], shapes: list[tuple]) -> str:
    """The output layer: the dense kernel with the fewest columns."""
    dense = [(s[-1], n) for n, s in zip(names, shapes, strict=True) if len(s) == 2]
    return min(dense)[1]
