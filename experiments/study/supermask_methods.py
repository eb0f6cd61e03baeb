"""From settings to supermasks: masks over random weights that are never trained."""

import functools

import jax.numpy as jnp
import optax

from experiments.study.methods import Method, Network
from experiments.study.study import mask_search, methods, optimizers, ticket_methods
from jaxticket import controls, prune, scores, searches, selection
from jaxticket.base import Params, Ticket

CONSTANT = "_constant"  # ends the name of a method over signed constants

# Zhou et al.'s criteria, which look at the weights before and after training. Where a
# sign does not fit the score is 0, and chance decides between zeros.
CRITERIA = {
    "large_final": scores.magnitude,
    "small_final": scores.small_final,
    "large_init": scores.large_init,
    "small_init": scores.small_init,
    "large_init_large_final": scores.large_init_large_final,
    "small_init_small_final": scores.small_init_small_final,
    "magnitude_increase": scores.magnitude_increase,
    "movement": scores.movement,
    "random": scores.random,
    "large_final_same_sign": scores.same_sign(scores.magnitude),
    "large_final_diff_sign": scores.diff_sign(scores.magnitude),
    "magnitude_increase_same_sign": scores.same_sign(scores.magnitude_increase),
    "magnitude_increase_diff_sign": scores.diff_sign(scores.magnitude_increase),
}
GRADIENT = {"snip": scores.snip, "gradient": scores.gradient}  # at initialisation
LEARNED = (
    *(f"{name}{end}" for name in ("learned", "rescaled") for end in ("", CONSTANT)),
    "edge_popup",
    "edge_popup_normal",
    "continuous_sparsification",
    f"continuous_sparsification{CONSTANT}",
)
ONE_SHOT = (*CRITERIA, *GRADIENT)
# Of a method whose search runs with other masks than its tickets have.
TESTED_LATER = {"trains_ticket": False, "hard": False, "train_steps": 0}
METHODS = (*LEARNED, *ONE_SHOT, *(f"{name}{CONSTANT}" for name in ONE_SHOT))


def method(
    name: str,
    config: mask_search.Config,
    params: Params,
    *,
    steps: int,
    epoch_steps: int,
) -> Method:
    """Builds a method, as `ticket_methods.method` does: one of `METHODS`.

    All start from the weights of the initialisation, from `sign(w)` times the standard
    deviation of their layer, or from Kaiming values, and none changes these.
    """
    del steps
    kind = name.removesuffix(CONSTANT)
    if kind in ("learned", "rescaled"):
        return _learned(name, config, epoch_steps)
    if kind == "continuous_sparsification":
        return _annealed(name, config, epoch_steps)
    if kind in ("edge_popup", "edge_popup_normal"):
        return _popped(name, config, epoch_steps)
    return _one_shot(name, config, params)


def _learned(name: str, config: mask_search.Config, epoch_steps: int) -> Method:
    """Masks that are drawn."""
    rescale, steps = name.startswith("rescaled"), config.search_steps
    every = mask_search.every(config, epoch_steps)
    optimizer = optimizers.of_logits(config, steps, every)
    return mask_search.method(
        lambda x: searches.supermask(
            optimizer, initial_logit=x["s0"], rescale=rescale, read=config.read
        ),
        steps=steps,
        opens=functools.partial(_initial, name, config),
        settings=methods.settings("s0", [config.s0]),
        kept_weights=rescale,  # times a factor that only the search knows
        **({} if config.read == "sample" else TESTED_LATER),
    )


def _annealed(name: str, config: mask_search.Config, epoch_steps: int) -> Method:
    """Masks by Continuous Sparsification."""
    gates, steps = optimizers.of_gates(config), config.search_steps
    return mask_search.method(
        lambda x: ticket_methods.continuous_sparsification(
            config, x["s0"], steps, epoch_steps, optimizer=gates
        ),
        steps=steps,
        opens=functools.partial(_initial, name, config),
        settings=ticket_methods.s0_settings(config),
        measures={},
        **TESTED_LATER,
    )


def _popped(name: str, config: mask_search.Config, epoch_steps: int) -> Method:
    """Masks by edge-popup."""
    every = mask_search.every(config, epoch_steps)
    optimizer = optimizers.of_scores(config, config.search_steps, every)
    return mask_search.method(
        lambda x: searches.edge_popup(optimizer, density=x["density"]),
        steps=config.search_steps,
        opens=functools.partial(_kaiming, config, name == "edge_popup"),
        settings=_falling(config.popup_densities),
    )


def _one_shot(name: str, config: mask_search.Config, params: Params) -> Method:
    """Masks by a criterion, at the rates of the Lottery Ticket paper."""
    kind = name.removesuffix(CONSTANT)
    rates = ticket_methods.lottery_rates(config, params)

    def opens(key, x, initial: Network, trained: Network):
        if kind in GRADIENT:
            score = scores.at_initial(GRADIENT[kind](lambda _: initial.gradient))
        else:
            score = CRITERIA[kind]
        start, model_state = _initial(name, config, key, x, initial, trained)
        found = prune(
            start._replace(weights=trained.weights),
            scores.ties_at_random(score),
            x["density"],
            initial=initial.weights,
            key=key,
            select=selection.per_layer(selection.at_rates(rates)),
        )
        return start._replace(mask=found.mask), model_state

    return mask_search.method(
        lambda _: searches.jackpot(optax.set_to_zero()),
        steps=0,
        opens=opens,
        settings=_falling(config.densities),
        needs_gradient=kind in GRADIENT,
    )


def _falling(densities) -> tuple[methods.Setting, ...]:
    return methods.settings("density", sorted(densities, reverse=True))


def _initial(name: str, config, key, x, initial: Network, trained: Network):
    """The weights of the initialisation, or signed constants in their place."""
    del key, x, trained
    ticket = Ticket(initial.weights, methods.full(config, initial.weights))
    if name.endswith(CONSTANT):
        ticket = controls.signed_constant(ticket)
    return ticket, initial.model_state


def _kaiming(config, constant: bool, key, x, initial: Network, trained: Network):
    """Edge-popup's start: Kaiming values, and no biases."""
    del trained
    ticket = Ticket(initial.weights, methods.full(config, initial.weights))
    density = {"none": 1.0, "density": x["density"], "code": 1 - x["density"]}
    fan = jnp.asarray(density[config.scale_fan], jnp.float32)
    if constant:
        ticket = controls.kaiming_constant(ticket, density=fan)
    else:
        ticket = controls.kaiming_normal(key, ticket, density=fan)
    return ticket, initial.model_state
