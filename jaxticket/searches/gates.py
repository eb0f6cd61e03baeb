"""What the searches with a gate on every weight share."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket.base import Params, PRNGKey, Scores, State, Step
from jaxticket.searches.fixed import remember

Weights = Literal["anchor", "trained"]


class Gated(NamedTuple):
    """What is trained: the weights, and a logit for each one that can be pruned.

    Also the labels that optimisers need to treat the two differently, as in
    `optax.partition({"w": sgd, "s": adam}, Gated("w", "s"))`, or
    `optax.add_decayed_weights(1e-4, mask=Gated(True, False))`. A search over random
    weights that are never trained (a supermask) is
    `optax.partition({"w": optax.set_to_zero(), "s": adam}, Gated("w", "s"))`.
    """

    weights: Params
    logits: Scores


def check(*, penalty: ArrayLike, rewind_step: int, weights: str) -> None:
    """Raises a `ValueError` that names the option that cannot be."""
    if isinstance(penalty, float | int) and penalty < 0:
        raise ValueError(f"penalty must be at least 0, got {penalty}")
    if rewind_step < 0:
        raise ValueError(f"rewind_step must be at least 0, got {rewind_step}")
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be one of {get_args(Weights)}, got {weights!r}")


def realise(weights: Params, gates: Scores) -> Params:
    """What the network runs with: `w * gate`, and `w` where there is no gate."""
    return jax.tree.map(lambda w, g: w if g is None else w * g, weights, gates)


def update(
    optimizer: optax.GradientTransformationExtraArgs,
    gates: Callable[[Scores], tuple[Scores, Scores]],
    grads: Params,
    state: State,
    step: Step,
    *,
    penalty: ArrayLike,
    rewind_step: int,
) -> State:
    """One step of the optimiser on `loss + penalty * sum(penalised)`.

    Args:
      optimizer: trains the pair; it is given `step`.
      gates: `logits -> (gates, penalised)`, differentiable.
      grads: of the loss, with respect to `realise(weights, gates)`.
      state: of a search, with the fields `gated`, `optimizer`, `anchor` and `round`.
      step: within the round.
      penalty: may be traced.
      rewind_step: at this step of round 0 the weights become the anchor; at 0 it is
        what the search was opened with.

    Returns:
      The state with the pair, the optimiser's state and the anchor after the step.
    """
    step = jnp.asarray(step, jnp.int32)
    anchor = state.anchor
    if rewind_step > 0:
        anchor = remember(
            anchor, state.gated.weights, now=step == rewind_step, first=state.round == 0
        )

    def run_with(gated):
        gate, penalised = gates(gated.logits)
        return realise(gated.weights, gate), penalised

    (_, penalised), pull_back = jax.vjp(run_with, state.gated)
    # d(penalty * sum(penalised)) / d(penalised) is the penalty itself.
    slope = jax.tree.map(lambda g: jnp.full_like(g, penalty), penalised)
    (grads,) = pull_back((grads, slope))
    updates, inner = optimizer.update(grads, state.optimizer, state.gated, step=step)
    gated = optax.apply_updates(state.gated, updates)
    return state._replace(gated=gated, optimizer=inner, anchor=anchor)


def uniform(
    key: PRNGKey, count: jax.Array, like: Scores, low: float = 0.0, high: float = 1.0
) -> Scores:
    """Draws for step `count`: uniform in `[low, high)`, in float32 at least.

    They depend on the key, the count and the place of the leaf, and on nothing else.
    """
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.fold_in(key, count), len(leaves))
    wide = [jnp.promote_types(leaf.dtype, jnp.float32) for leaf in leaves]
    return tree.unflatten(
        jax.random.uniform(k, leaf.shape, dtype, low, high)
        for k, leaf, dtype in zip(keys, leaves, wide, strict=True)
    )
