"""Methods that prune a network while it trains, each at several values of its knob."""

from collections.abc import Callable

import optax

from experiments.study.methods import Method
from experiments.study.settings import Settings
from experiments.study.study import methods, optimizers, ticket_methods
from jaxticket import prune, scores, searches
from jaxticket.base import Params, Search, Ticket
from jaxticket.searches import slimming

UPDATES = 50  # of the mask in gradual pruning


def method(
    name: str, config: Settings, params: Params, *, steps: int, epoch_steps: int
) -> Method:
    """Builds a method, as `ticket_methods.method` does.

    A search takes the first `config.search_steps(steps)` steps of the schedule and
    leaves trained weights; the training of its ticket takes the others.
    """
    first = config.search_steps(steps)
    weights = optimizers.of_weights(config)

    def continuous_sparsification(x):
        return ticket_methods.continuous_sparsification(
            config, x["s0"], first, epoch_steps, weights="trained"
        )

    def l0(x):
        return searches.l0(
            optimizers.of_gated(config),
            penalty=x["penalty"],
            initial_logit=config.l0_logit,
            weights="trained",
        )

    def soft_threshold(x):
        gated = optimizers.of_gated(config, logit_decay=config.weight_decay)
        return searches.soft_threshold(gated, initial_logit=x["s"])

    def gradual(x):
        every = max(1, first // UPDATES)
        stop = first // every * every
        return searches.gradual(
            weights, final_density=x["density"], stop=stop, every=every
        )

    def magnitude(x):
        return _pruned(
            searches.fixed(weights),
            lambda ticket: prune(ticket, scores.magnitude, x["density"]),
        )

    def network_slimming(x):
        shrunk = optax.chain(slimming.shrink(config.slimming_penalty), weights)
        return _pruned(
            searches.fixed(shrunk),
            lambda ticket: prune(
                ticket, slimming.scales(), x["channels"], select=slimming.channels()
            ),
        )

    knobs = {
        "continuous_sparsification": (
            continuous_sparsification,
            ticket_methods.s0_settings(config),
        ),
        "gradual": (gradual, _falling("density", config.densities)),
        "magnitude": (magnitude, _falling("density", config.densities)),
        "network_slimming": (
            network_slimming,
            _falling("channels", config.channel_densities),
        ),
        "soft_threshold": (soft_threshold, _rising("s", config.thresholds)),
        "l0": (l0, _rising("penalty", config.l0_penalties)),
    }
    if name == "network_slimming":
        _check_norms(config.model, params)
    search, settings = knobs[name]
    return Method(
        search,
        rounds=1,
        steps=first,
        settings=settings,
        trains_from=first,
        kept_weights=True,
        ticket_model="trained",
    )


def _pruned(search: Search, cut: Callable[[Ticket], Ticket]) -> Search:
    """A search whose ticket is cut down whenever it is read."""
    return search._replace(ticket=lambda state: cut(search.ticket(state)))


def _falling(name: str, values) -> tuple[methods.Setting, ...]:
    return methods.settings(name, sorted(values, reverse=True))


def _rising(name: str, values) -> tuple[methods.Setting, ...]:
    return methods.settings(name, sorted(values))


def _check_norms(model: str, params: Params) -> None:
    try:
        slimming.by_number(params)
    except ValueError:
        raise ValueError(
            f"network_slimming needs batch normalisation, {model} has none: choose "
            "other --methods, or a model like vgg_16"
        ) from None
