"""Scores by how large weights are, were, and have become; and by chance."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxticket import meshes
from jaxticket.base import NO_EVIDENCE, Evidence, Params, Scores
from jaxticket.scores.score import needs


def magnitude(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`|w|` (`large_final` of Zhou et al. 2019)."""
    del evidence
    return jax.tree.map(jnp.abs, weights)


def small_final(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`-|w|`."""
    del evidence
    return jax.tree.map(lambda w: -jnp.abs(w), weights)


@needs("initial")
def large_init(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`|w0|`."""
    del weights
    return jax.tree.map(jnp.abs, evidence.initial)


@needs("initial")
def small_init(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`-|w0|`."""
    del weights
    return jax.tree.map(lambda w0: -jnp.abs(w0), evidence.initial)


@needs("key")
def random(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """Uniform in [0, 1), independent of the weights.

    In float32 at least: of the few numbers of a smaller type the ties would go to the
    first weights.
    """
    leaves, tree = jax.tree.flatten(weights)
    draws = [
        jax.random.uniform(
            jax.random.fold_in(evidence.key, i),
            leaf.shape,
            jnp.promote_types(leaf.real.dtype, jnp.float32),
        )
        for i, leaf in enumerate(leaves)
    ]
    return tree.unflatten(draws)


@needs("initial")
def movement(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`|w - w0|`, how far a weight has moved (Zhou et al. 2019)."""
    return jax.tree.map(lambda w, w0: jnp.abs(w - w0), weights, evidence.initial)


@needs("initial")
def magnitude_increase(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`|w| - |w0|`, how much a weight has grown (Zhou et al. 2019)."""
    return jax.tree.map(
        lambda w, w0: jnp.abs(w) - jnp.abs(w0), weights, evidence.initial
    )


@needs("initial")
def large_init_large_final(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """The smaller of the percentiles of `|w0|` and `|w|` in their layer.

    As published, both magnitudes of what is kept reach a common percentile, which
    bisection finds for the count that is wanted. Both reach it where the smaller of
    their own percentiles does, so the highest of these are the same mask.
    """
    return _smaller_percentile(jnp.abs, weights, evidence.initial)


@needs("initial")
def small_init_small_final(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """The smaller of the percentiles of `-|w0|` and `-|w|` in their layer."""
    return _smaller_percentile(lambda w: -jnp.abs(w), weights, evidence.initial)


def _smaller_percentile(
    value: Callable[[jax.Array], jax.Array], weights: Params, initial: Params
) -> Scores:
    """Of `value` now and before, among the weights of a layer that are not zero."""

    def percentile(values, alive):
        # What is pruned goes to the end, where nothing reaches it.
        ordered = jnp.where(alive, values, jnp.inf)
        ordered = jnp.sort(meshes.gathered(ordered), axis=None)
        reached = jnp.searchsorted(ordered, meshes.gathered(values), side="right")
        reached = meshes.placed(reached, like=values)
        fraction = reached / jnp.maximum(jnp.sum(alive, dtype=jnp.int32), 1)
        return jnp.where(jnp.isnan(values), jnp.nan, fraction)

    return jax.tree.map(
        lambda w, w0: jnp.minimum(
            percentile(value(w), w != 0), percentile(value(w0), w != 0)
        ),
        weights,
        initial,
    )
