"""From settings to jackpots: how a mask is searched over trained weights."""

import functools

import optax

from experiments.study.methods import Method, Network
from experiments.study.study import mask_search, methods, optimizers
from jaxticket import (
    controls,
    prune,
    schedules,
    scores,
    searches,
    selection,
)
from jaxticket.base import Params, Search, Ticket

RATES = {
    "global": selection.global_top,
    "uniform": selection.per_layer(selection.equal),
    "erk": selection.per_layer(selection.erk),
}
RESTRICTIONS = {"quartic": schedules.quartic, "cosine": schedules.cosine}


def method(
    name: str,
    config: mask_search.Config,
    params: Params,
    *,
    steps: int,
    epoch_steps: int,
) -> Method:
    """Builds a method, as `ticket_methods.method` does.

    All start from the trained dense network, under a mask that keeps as many weights of
    each layer as one of the magnitudes does: that mask, or a random one.
    """
    del params, steps
    random = name in ("jackpot_from_random", "random")
    searched = name not in ("magnitude", "random")
    search = (
        _jackpot(name, config, epoch_steps)
        if searched
        else searches.jackpot(optax.set_to_zero())
    )
    return mask_search.method(
        lambda _: search,
        steps=config.search_steps if searched else 0,
        opens=functools.partial(_opened, config, random),
        settings=methods.settings("density", sorted(config.densities, reverse=True)),
        tune_steps=config.tune_steps,
    )


def _jackpot(name: str, config: mask_search.Config, epoch_steps: int) -> Search:
    every = mask_search.every(config, epoch_steps)
    optimizer = optimizers.of_scores(config, config.search_steps, every)
    if name in ("jackpot", "jackpot_from_random"):
        return searches.jackpot(optimizer)
    rate = RESTRICTIONS[config.restriction](config.search_steps, epoch_steps=every)
    return searches.jackpot(
        optimizer,
        absolute=False,
        pruned_score=0.99,
        restriction=rate if name == "jackpot_restricted" else None,
    )


def _opened(
    config: mask_search.Config, random: bool, key, values, initial, trained: Network
):
    del initial
    ticket = Ticket(trained.weights, methods.full(config, trained.weights))
    ticket = prune(
        ticket, scores.magnitude, values["density"], select=RATES[config.rates]
    )
    if random:
        ticket = controls.shuffle(key, ticket)
    return ticket, trained.model_state
