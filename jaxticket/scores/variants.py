"""Makers of scores: a score -> one that differs from it in one respect."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import meshes
from jaxticket.base import NO_EVIDENCE
from jaxticket.scores.score import Score, needed, needs


def at_initial(score: Score) -> Score:
    """What `score` says of the initial weights, whatever has been pruned since."""

    @_variant("at_initial", score, "initial")
    def at_start(weights, evidence=NO_EVIDENCE):
        del weights
        return score(evidence.initial, evidence)

    return at_start


def inverted(score: Score) -> Score:
    """The opposite order: what `score` would keep first goes first."""

    @_variant("inverted", score)
    def opposite(weights, evidence=NO_EVIDENCE):
        return jax.tree.map(jnp.negative, score(weights, evidence))

    return opposite


def same_sign(score: Score) -> Score:
    """`score`, and zero for a weight whose sign is not its initial one.

    Zero is the lowest of scores that are not negative; others may be lower, as
    published. Give it to `ties_at_random`: there are many zeros.
    """
    return _where_signs("same_sign", jnp.equal, score)


def diff_sign(score: Score) -> Score:
    """`score`, and zero for a weight whose sign is its initial one; see `same_sign`."""
    return _where_signs("diff_sign", jnp.not_equal, score)


def _where_signs(name: str, compare: Callable, score: Score) -> Score:
    @_variant(name, score, "initial")
    def signed(weights, evidence=NO_EVIDENCE):
        return jax.tree.map(
            lambda s, w, w0: jnp.where(compare(jnp.sign(w), jnp.sign(w0)), s, 0),
            score(weights, evidence),
            weights,
            evidence.initial,
        )

    return signed


def ties_at_random(score: Score) -> Score:
    """The order of `score`, with equal scores in an order drawn from `evidence.key`.

    It is one order of all leaves together, so it serves `selection.global_top` and
    `selection.per_layer` alike, and is exact for any number of weights. The values mean
    nothing else. NaN is lowest, as in `selection`.
    """

    @_variant("ties_at_random", score, "key")
    def ordered(weights, evidence=NO_EVIDENCE):
        score_key, tie_key = jax.random.split(evidence.key)
        found = score(weights, evidence._replace(key=score_key))
        leaves, tree = jax.tree.flatten(found)
        values = jnp.concatenate([meshes.gathered(leaf).ravel() for leaf in leaves])
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
            [
                meshes.placed(part.reshape(leaf.shape), like=leaf)
                for part, leaf in zip(parts, leaves, strict=True)
            ]
        )

    return ordered


def _variant(name: str, score: Score, *members: str) -> Callable[[Score], Score]:
    """`needs`, with what the score beneath needs too, and a name made of both."""

    def declare(variant):
        variant.__name__ = f"{name}({getattr(score, '__name__', score)})"
        return needs(*dict.fromkeys((*members, *needed(score))))(variant)

    return declare
