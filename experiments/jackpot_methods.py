"""From settings to jackpots: how a mask is searched over trained weights."""

import functools

import jax
import jax.numpy as jnp
import optax

from experiments import methods, optimizers
from experiments.methods import Method, Network
from experiments.settings import Settings
from jaxticket import controls, prune, schedules, scores, searches, selection
from jaxticket.base import Params, Search, Ticket

RATES = {
    "global": selection.global_top,
    "uniform": selection.per_layer(selection.equal),
    "erk": selection.per_layer(selection.erk),
}
RESTRICTIONS = {"quartic": schedules.quartic, "cosine": schedules.cosine}


def method(
    name: str, config: Settings, params: Params, *, steps: int, epoch_steps: int
) -> Method:
    """Builds a method, as `methods.method` does.

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
    return Method(
        lambda _: search,
        rounds=1,
        steps=config.search_steps if searched else 0,
        settings=methods.settings("density", sorted(config.densities, reverse=True)),
        trains_ticket=True,
        hard=True,
        ticket_model="trained",
        opens=functools.partial(_opened, config, random),
        looks=True,
        tune_steps=config.tune_steps or 0,
        measures={"changed": changed} if searched else {},
    )


def changed(before, after) -> jax.Array:
    """Entries of the mask that change in a step, on average over a stretch."""
    steps = after.count - before.count
    return (after.changed - before.changed) / jnp.maximum(steps, 1)


def _jackpot(name: str, config: Settings, epoch_steps: int) -> Search:
    every = epoch_steps if config.schedules_every == "epoch" else 1
    optimizer = optimizers.of_scores(config, config.search_steps, every)
    if name != "jackpot_restricted":
        return searches.jackpot(optimizer)
    restriction = RESTRICTIONS.get(config.restriction, lambda *_, **__: None)
    return searches.jackpot(
        optimizer,
        absolute=False,
        pruned_score=0.99,
        restriction=restriction(config.search_steps, epoch_steps=every),
    )


def _opened(config: Settings, random: bool, key, values, initial, trained: Network):
    del initial
    ticket = Ticket(trained.weights, methods.full(config, trained.weights))
    ticket = prune(
        ticket, scores.magnitude, values["density"], select=RATES[config.rates]
    )
    if random:
        ticket = controls.shuffle(key, ticket)
    return ticket, trained.model_state
