"""From settings to searches for tickets: relatives of IMP, gates that are learned."""

import jax
import numpy as np
import optax

from experiments.study.config import CONV_RATES, Config
from experiments.study.settings import Settings
from experiments.study.study import methods, optimizers
from jaxticket import masks, schedules, scores, searches, selection
from jaxticket.base import Params, Search

# Retraining rule of each relative of IMP.
IMP = {
    "imp": "rewind",
    "imp_continued": "continue",
    "learning_rate_rewinding": "learning_rate",
    "fine_tuning": "finetune",
}


def method(
    name: str, config: Config, params: Params, *, steps: int, epoch_steps: int
) -> methods.Method:
    """Builds a method for parameters of the structure of `params`.

    Args:
      name: one of `config.METHODS`.
      config: the settings, all lengths in steps.
      params: their shapes and dtypes do.
      steps: of a round.
      epoch_steps: of an epoch.
    """
    begin = config.rewind_step
    common = {"rounds": config.rounds, "steps": steps, "rewind_step": begin}
    if name in IMP:
        select, rates = _scope(config, params)
        retrain = IMP[name]
        search = searches.imp(
            optimizers.of_weights(config),
            density=config.density,
            score=getattr(scores, config.score),
            select=select,
            rewind_step=begin,
            retrain=retrain,
        )
        return methods.Method(
            lambda _: search,
            **common,
            resumes_at=0 if config.resume_schedule is False else begin,
            trains_from=0 if config.resume_schedule is False else begin,
            trains_ticket=retrain != "continue",
            found_after=0,
            hard=True,
            nested=True,
            rewinds=retrain == "rewind",
            kept_weights=retrain in ("learning_rate", "finetune"),
            rates=rates,
        )
    common["trains_from"] = begin if config.resume_schedule else 0
    if name == "iss":
        search = searches.iss(
            optimizers.of_gated(config),
            penalty=config.penalty,
            initial_logit=config.s0,
            rewind_step=begin,
            keep_momentum=config.keep_momentum,
        )
        return methods.Method(lambda _: search, **common, nested=True)

    def continuous(values):
        return continuous_sparsification(
            config,
            dict(values).get("s0", config.s0),
            steps,
            epoch_steps,
            rewind_step=begin,
            between=config.between_rounds,
            keep_momentum=config.keep_momentum,
        )

    if name == "continuous_sparsification_parallel":
        common |= {"rounds": config.parallel_rounds, "settings": s0_settings(config)}
    else:
        common["settings"] = (methods.Setting(factor=factor(config, config.s0)),)
    return methods.Method(continuous, **common)


def continuous_sparsification(
    config: Settings,
    s0,
    steps: int,
    epoch_steps: int,
    *,
    optimizer: optax.GradientTransformation | None = None,
    **options,
) -> Search:
    """The search with what all experiments can be told of it."""
    every = epoch_steps if config.temperature_every == "epoch" else 1
    return searches.continuous_sparsification(
        optimizers.of_gated(config) if optimizer is None else optimizer,
        temperature=schedules.temperature(
            config.final_temperature, steps, epoch_steps=every
        ),
        penalty=config.penalty,
        initial_logit=s0,
        scaling=config.scaling,
        **options,
    )


def factor(config: Settings, s0: float) -> float:
    """What Continuous Sparsification multiplies the weights of its tickets by."""
    return 1 / float(jax.nn.sigmoid(np.float32(s0))) if config.scaling else 1.0


def s0_settings(config: Settings) -> tuple[methods.Setting, ...]:
    """Lanes of Continuous Sparsification: a larger s0 is denser."""
    return tuple(
        setting._replace(factor=factor(config, s0))
        for s0 in sorted(config.s0_values, reverse=True)
        for setting in methods.settings("s0", [s0])
    )


def _scope(config: Config, params: Params):
    """The selection, and the fractions it keeps where they are known beforehand."""
    prunable = methods.full(config, params)
    names = masks.names(prunable)
    if config.scope == "global":
        return selection.global_top, config.density
    if config.scope == "lottery":
        rates = lottery_rates(config, params)
        kept = {n: 1 - rate * (1 - config.density) for n, rate in rates.items()}
        return selection.per_layer(selection.at_rates(rates)), kept
    if config.scope == "layer":
        kept = dict.fromkeys(names, config.density)
        return selection.per_layer(selection.equal), kept
    return selection.per_layer(getattr(selection, config.scope)), None


def lottery_rates(config: Settings, params: Params) -> dict[str, float]:
    """How fast the Lottery Ticket paper prunes each layer, in units of the dense ones.

    The output layer at half the rate, and convolutions at that of `CONV_RATES`.
    """
    prunable = methods.full(config, params)
    names = masks.names(prunable)
    shapes = [leaf.shape for leaf in jax.tree.leaves(prunable)]
    conv = CONV_RATES.get(config.model, 1.0)
    rates = {n: conv for n, s in zip(names, shapes, strict=True) if len(s) > 2}
    rates |= dict.fromkeys(_output(names, shapes), 0.5)
    return {n: rates.get(n, 1.0) for n in names}


def _output(names: list[str], shapes: list[tuple]) -> list[str]:
    """The output layer, if it can be pruned: the dense kernel of the fewest columns."""
    dense = [(s[-1], n) for n, s in zip(names, shapes, strict=True) if len(s) == 2]
    return [min(dense)[1]] if dense else []
