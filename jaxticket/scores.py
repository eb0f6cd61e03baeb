"""Scores: how much each weight matters. The lowest are pruned.

Every score has the signature `score(weights, *, initial, key) -> scores` and uses what
it
needs: `weights` are the values now, `initial` those before training, `key` is for
random draws. Scores are computed for all leaves; selection looks at the prunable ones.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxticket.base import Params, PRNGKey, Scores

Score = Callable[..., Scores]


def magnitude(weights: Params, *, initial=None, key=None) -> Scores:
    """`|w|` (`large_final` of Zhou et al. 2019)."""
    del initial, key
    return jax.tree.map(jnp.abs, weights)


def random(weights: Params, *, initial=None, key: PRNGKey) -> Scores:
    """Uniform in [0, 1), independent of the weights."""
    del initial
    leaves, tree = jax.tree.flatten(weights)
    draws = [
        jax.random.uniform(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]
    return tree.unflatten(draws)


def movement(weights: Params, *, initial: Params, key=None) -> Scores:
    """`|w - w0|`, how far a weight has moved (Zhou et al. 2019)."""
    del key
    return jax.tree.map(lambda w, w0: jnp.abs(w - w0), weights, initial)


def magnitude_increase(weights: Params, *, initial: Params, key=None) -> Scores:
    """`|w| - |w0|`, how much a weight has grown (Zhou et al. 2019)."""
    del key
    return jax.tree.map(lambda w, w0: jnp.abs(w) - jnp.abs(w0), weights, initial)
