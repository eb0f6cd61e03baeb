"""The highest scores of every layer, looked for from where they were cut last.

A search that chooses its mask anew at every step moves its scores a little at a time,
and the score at which a layer is cut moves with them: the k-th highest moves no further
than the score that moves most. So the cut is looked for near the last one. A number
that exactly `k` scores reach is a cut, whichever it is, and the mask that it makes is
that of `highest`; where none is found in a few passes, as among ties, `highest` finds
the mask itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxticket import counts, highest, masks, meshes
from jaxticket.base import Mask, Scores

_PASSES = 10  # of looking for a cut
_FEW = 8  # scores between two cuts, too few to tell how dense they are
_NEAR = 2.0**-7  # of the way from the cut to the highest score: there they are counted


class Cuts(NamedTuple):
    """Where the layers are cut: arrays `[layers]`, in the order of the mask's leaves.

    Attributes:
      kept: how many weights stay, int32.
      at: a score that so many reach, or where to begin to look for one.
      dense: how many scores there are to a unit around it.
    """

    kept: jax.Array
    at: jax.Array
    dense: jax.Array


def like(scores: Scores, mask: Mask, allowed: Mask) -> Cuts:
    """To keep of each layer as many weights as a mask does, or all that are allowed.

    Args:
      scores: mask tree of numbers.
      mask: what is to have as many.
      allowed: what there is to choose from.
    """
    kept = [
        jnp.minimum(masks.count([a]), masks.count([m]))
        for a, m in zip(*map(jax.tree.leaves, (allowed, mask)), strict=True)
    ]
    kind = jnp.result_type(jnp.float32, *jax.tree.leaves(scores))
    # Any will do to begin with; NaN would stop a program that looks for mistakes.
    begin = jnp.zeros(len(kept), kind), jnp.ones(len(kept), kind)
    return Cuts(jnp.array(kept, jnp.int32), *begin)


def highest_of_each(scores: Scores, allowed: Mask, cuts: Cuts) -> tuple[Mask, Cuts]:
    """The `cuts.kept` highest of each layer, as `selection.like` chooses them.

    Args:
      scores: mask tree of numbers; ties go to the first, NaN is lowest.
      allowed: what there is to choose from.
      cuts: those of scores that were nearly these. What they are decides how long it
        takes, and nothing else.

    Returns:
      The mask, and the cuts to begin with next.
    """
    alive, tree = jax.tree.flatten(allowed)
    if not alive:
        return allowed, cuts
    ends = [
        _layer(meshes.placed(s, like=m), m, jax.tree.map(lambda x, i=i: x[i], cuts))
        for i, (s, m) in enumerate(zip(jax.tree.leaves(scores), alive, strict=True))
    ]
    chosen, cut = zip(*ends, strict=True)
    return tree.unflatten(chosen), jax.tree.map(lambda *x: jnp.stack(x), *cut)


def _layer(scores: jax.Array, alive: jax.Array, cut: Cuts) -> tuple[jax.Array, Cuts]:
    """The mask of a layer and its cut; where none was found, by `highest`.

    That is a loop of no step or one: under `vmap` a branch would be taken by all lanes,
    always.
    """
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        scores = scores.astype(cut.at.dtype)
    ranks = jnp.where(alive, scores, jnp.nan)  # NaN reaches nothing
    found, cut = _look(ranks, cut)

    def anew(state):
        del state
        (mask,) = highest.highest([ranks], [alive], counts.of(cut.kept))
        least, most = (
            jnp.min(ranks, initial=jnp.inf, where=mask).astype(cut.at.dtype),
            jnp.max(ranks, initial=-jnp.inf, where=mask).astype(cut.at.dtype),
        )
        near = _NEAR * (most - least)
        lower, upper = (_reached(ranks, least + x) for x in (-near, near))
        fewer = (lower - upper).astype(near.dtype)
        dense = jnp.where(near > 0, fewer / (2 * near), 1)
        return jnp.bool(True), mask, Cuts(cut.kept, least, dense)

    begun = found, _reaching(ranks, cut.at), cut
    _, mask, cut = jax.lax.while_loop(lambda state: ~state[0], anew, begun)
    return mask, cut


class _Look(NamedTuple):
    """What is known of a layer's cut after some passes.

    Attributes:
      passes: how many there were.
      open: whether a cut is still looked for.
      found: whether exactly `kept` scores reach `at`.
      low: the highest number that more are known to reach.
      high: the lowest that fewer are.
      before: the number looked at last,
      reached: and how many reach it.
    """

    passes: jax.Array
    open: jax.Array
    found: jax.Array
    cut: Cuts
    low: jax.Array
    high: jax.Array
    before: jax.Array
    reached: jax.Array


def _look(ranks: jax.Array, cut: Cuts) -> tuple[jax.Array, Cuts]:
    """By secants, halved where these lead out of what is known; if it was found."""

    def narrow(look):
        kept, at, dense = look.cut
        reached = _reached(ranks, at)
        over = (reached - kept).astype(at.dtype)
        low = jnp.where(over > 0, at, look.low)
        high = jnp.where(over < 0, at, look.high)
        between = jnp.abs(reached - look.reached).astype(at.dtype)
        steep = between / jnp.abs(at - look.before)  # NaN in the first pass
        dense = jnp.where((between >= _FEW) & jnp.isfinite(steep), steep, dense)
        secant = at + over / dense
        inside = (low < secant) & (secant < high)
        guess = jnp.where(inside, secant, low / 2 + high / 2)
        open_ = (over != 0) & (low < guess) & (guess < high)
        cut = Cuts(kept, jnp.where(open_, guess, at), dense)
        return _Look(look.passes + 1, open_, over == 0, cut, low, high, at, reached)

    at = cut.at
    begun = _Look(
        jnp.int32(0),
        jnp.bool(True),
        jnp.bool(False),
        cut,
        jnp.full_like(at, -jnp.inf),
        jnp.full_like(at, jnp.inf),
        jnp.full_like(at, jnp.nan),
        jnp.int32(0),
    )
    look = jax.lax.while_loop(
        lambda look: look.open & (look.passes < _PASSES), narrow, begun
    )
    return look.found, look.cut


def _reaching(ranks: jax.Array, at: jax.Array) -> jax.Array:
    return ranks.astype(at.dtype) >= at


def _reached(ranks: jax.Array, at: jax.Array) -> jax.Array:
    return highest.count(_reaching(ranks, at))
