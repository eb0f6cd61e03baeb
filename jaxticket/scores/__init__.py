"""Scores: how much each weight matters. The lowest are pruned.

Every score has the signature `score(weights, *, initial, key) -> scores` and uses what
it needs: `weights` are the values now, zero where pruned, `initial` those before
training, `key` is for random draws. Scores are computed for all leaves; selection looks
at the prunable ones.

The mask criteria of Zhou et al., "Deconstructing Lottery Tickets", 2019, are here under
their names, but `magnitude` is their `large_final`, and these are composed:

    grad, snip                at_initial(gradient(grad_fn)), at_initial(snip(grad_fn))
    large_final_same_sign     same_sign(magnitude); so too with the others

Selection gives ties to the first, theirs at random: `ties_at_random(score)`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket.base import Params, PRNGKey, Scores

Score = Callable[..., Scores]


def magnitude(weights: Params, *, initial=None, key=None) -> Scores:
    """`|w|` (`large_final` of Zhou et al. 2019)."""
    del initial, key
    return jax.tree.map(jnp.abs, weights)


def small_final(weights: Params, *, initial=None, key=None) -> Scores:
    """`-|w|`."""
    del initial, key
    return jax.tree.map(lambda w: -jnp.abs(w), weights)


def large_init(weights: Params, *, initial: Params, key=None) -> Scores:
    """`|w0|`."""
    del weights, key
    return jax.tree.map(jnp.abs, initial)


def small_init(weights: Params, *, initial: Params, key=None) -> Scores:
    """`-|w0|`."""
    del weights, key
    return jax.tree.map(lambda w0: -jnp.abs(w0), initial)


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


def large_init_large_final(weights: Params, *, initial: Params, key=None) -> Scores:
    """The smaller of the percentiles of `|w0|` and `|w|` in their layer.

    As published, both magnitudes of what is kept reach a common percentile, which
    bisection finds for the count that is wanted. Both reach it where the smaller of
    their own percentiles does, so the highest of these are the same mask.
    """
    del key
    return _smaller_percentile(
        magnitude(weights), large_init(weights, initial=initial), weights
    )


def small_init_small_final(weights: Params, *, initial: Params, key=None) -> Scores:
    """The smaller of the percentiles of `-|w0|` and `-|w|` in their layer."""
    del key
    return _smaller_percentile(
        small_final(weights), small_init(weights, initial=initial), weights
    )


def _smaller_percentile(scores: Scores, others: Scores, weights: Params) -> Scores:
    """The smaller of two percentiles among the weights of a layer that are not zero."""

    def percentile(values, alive):
        # What is pruned goes to the end, where nothing reaches it.
        ordered = jnp.sort(jnp.where(alive, values, jnp.inf), axis=None)
        reached = jnp.searchsorted(ordered, values, side="right")
        fraction = reached / jnp.maximum(jnp.sum(alive, dtype=jnp.int32), 1)
        return jnp.where(jnp.isnan(values), jnp.nan, fraction)

    return jax.tree.map(
        lambda a, b, w: jnp.minimum(percentile(a, w != 0), percentile(b, w != 0)),
        scores,
        others,
        weights,
    )


def gradient(grad_fn: Callable[[Params], Params]) -> Score:
    """The score `|g|`.

    Args:
      grad_fn: `weights -> grads`, the gradient of the loss on a fixed batch.
    """

    def score(weights, *, initial=None, key=None):
        del initial, key
        return jax.tree.map(jnp.abs, grad_fn(weights))

    return score


def snip(grad_fn: Callable[[Params], Params]) -> Score:
    """The score `|g * w|`, how much the loss depends on the connection.

    The published score is divided by its sum, which changes no rank.

    Args:
      grad_fn: `weights -> grads`, the gradient of the loss on a fixed batch.

    Reference:
      Lee et al., "SNIP: Single-shot Network Pruning", 2019.
    """

    def score(weights, *, initial=None, key=None):
        del initial, key
        return jax.tree.map(lambda g, w: jnp.abs(g * w), grad_fn(weights), weights)

    return score


def at_initial(score: Score) -> Score:
    """What `score` says of the initial weights, whatever has been pruned since."""

    def at_start(weights, *, initial, key=None):
        del weights
        return score(initial, initial=initial, key=key)

    return at_start


def same_sign(score: Score) -> Score:
    """`score`, and zero for a weight whose sign is not its initial one.

    Zero is the lowest of scores that are not negative; others may be lower, as
    published. Give it to `ties_at_random`: there are many zeros.
    """
    return _where_signs(jnp.equal, score)


def diff_sign(score: Score) -> Score:
    """`score`, and zero for a weight whose sign is its initial one; see `same_sign`."""
    return _where_signs(jnp.not_equal, score)


def _where_signs(compare: Callable, score: Score) -> Score:
    def signed(weights, *, initial, key=None):
        return jax.tree.map(
            lambda s, w, w0: jnp.where(compare(jnp.sign(w), jnp.sign(w0)), s, 0),
            score(weights, initial=initial, key=key),
            weights,
            initial,
        )

    return signed


def ties_at_random(score: Score) -> Score:
    """The order of `score`, with equal scores in an order drawn from `key`.

    It is one order of all leaves together, so it serves `selection.global_top` and
    `selection.per_layer` alike, and is exact for any number of weights. The values mean
    nothing else. NaN is lowest, as in `selection`.
    """

    def ordered(weights, *, initial=None, key):
        score_key, tie_key = jax.random.split(key)
        leaves, tree = jax.tree.flatten(score(weights, initial=initial, key=score_key))
        values = jnp.concatenate([leaf.ravel() for leaf in leaves])
        draws = jax.random.bits(tie_key, values.shape)
        order = jnp.lexsort((draws, values, ~jnp.isnan(values)))
        ranks = (
            jnp.zeros_like(order, jnp.int32)
            .at[order]
            .set(jnp.arange(values.size, dtype=jnp.int32), unique_indices=True)
        )
        # As a number a rank would be rounded above 2**24. The floats from the smallest
        # normal one on, whose bits are 2**23, are in the order of their bits.
        ranks = jax.lax.bitcast_convert_type(ranks + 2**23, jnp.float32)
        parts = jnp.split(ranks, np.cumsum([leaf.size for leaf in leaves])[:-1])
        return tree.unflatten(
            [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        )

    return ordered
