"""From settings to supermasks: masks over random weights that are never trained."""

import functools

import jax.numpy as jnp
import optax

from experiments import mask_search, methods, optimizers, ticket_methods
from experiments.methods import Method, Network
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
    every, length = mask_search.every(config, epoch_steps), config.search_steps
    values = controls.signed_constant if name.endswith(CONSTANT) else lambda t: t

    def densities(values):
        return methods.settings("density", sorted(values, reverse=True))

    def opens(key, values_, initial: Network, trained: Network):
        del key, values_, trained
        weights = initial.weights
        start = Ticket(weights, methods.full(config, weights))
        return values(start), initial.model_state

    if kind in ("learned", "rescaled"):
        logits = optimizers.of_logits(config, length, every)
        return mask_search.method(
            lambda x: searches.supermask(
                logits,
                initial_logit=x["s0"],
                rescale=kind == "rescaled",
                read=config.read,
            ),
            steps=length,
            opens=opens,
            settings=methods.settings("s0", [config.s0]),
            kept_weights=kind == "rescaled",  # times a factor that only it knows
            **({} if config.read == "sample" else TESTED_LATER),
        )
    if kind == "continuous_sparsification":
        gates = optimizers.of_gates(config)
        return mask_search.method(
            lambda x: ticket_methods.continuous_sparsification(
                config, x["s0"], length, epoch_steps, optimizer=gates
            ),
            steps=length,
            opens=opens,
            settings=ticket_methods.s0_settings(config),
            measures={},
            **TESTED_LATER,
        )
    if name in ("edge_popup", "edge_popup_normal"):
        optimizer = optimizers.of_scores(config, length, every)
        return mask_search.method(
            lambda x: searches.edge_popup(optimizer, density=x["density"]),
            steps=length,
            opens=functools.partial(_kaiming, config, name == "edge_popup"),
            settings=densities(config.popup_densities),
        )
    rates = ticket_methods.lottery_rates(config, params)

    def pruned(key, x, initial: Network, trained: Network):
        full = methods.full(config, trained.weights)
        if kind in GRADIENT:
            score = scores.at_initial(GRADIENT[kind](lambda _: initial.gradient))
        else:
            score = CRITERIA[kind]
        found = prune(
            Ticket(trained.weights, full),
            scores.ties_at_random(score),
            x["density"],
            initial=initial.weights,
            key=key,
            select=selection.per_layer(selection.at_rates(rates)),
        )
        start = values(Ticket(initial.weights, full))
        return start._replace(mask=found.mask), initial.model_state

    return mask_search.method(
        searches.jackpot(optax.set_to_zero()),
        steps=0,
        opens=pruned,
        needs_gradient=kind in GRADIENT,
        settings=densities(config.densities),
    )


# A method whose search runs with other masks than its tickets have.
TESTED_LATER = {"trains_ticket": False, "hard": False, "train_steps": 0}


def _kaiming(config, constant: bool, key, x, initial: Network, trained: Network):
    """Edge-popup's start: Kaiming values, and no biases."""
    del trained
    weights = initial.weights
    ticket = Ticket(weights, methods.full(config, weights))
    density = {"none": 1.0, "density": x["density"], "code": 1 - x["density"]}
    fan = jnp.asarray(density[config.scale_fan], jnp.float32)
    if constant:
        ticket = controls.kaiming_constant(ticket, density=fan)
    else:
        ticket = controls.kaiming_normal(key, ticket, density=fan)
    return ticket, initial.model_state
