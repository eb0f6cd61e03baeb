"""The highest scores of every layer, looked for from where they were cut last.

A search that chooses its mask anew at every step moves its scores a little at a time,
and the score at which a layer is cut moves with them: the k-th highest moves no further
than the score that moves most. So the cut is looked for near the last one. A number
that exactly `k` scores reach is a cut, whichever it is, and the mask that it makes is
that of `highest`; where none is found in a few passes, as among ties, `highest` finds
the mask itself.
"""

from collections.abc import Sequence
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
      at: a score that so many reach. NaN where none is known.
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
    kind = jnp.promote_types(jnp.result_type(*jax.tree.leaves(scores)), jnp.float32)
    unknown = jnp.full(len(kept), jnp.nan, kind)
    return Cuts(jnp.stack(kept).astype(jnp.int32), unknown, unknown)


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
    ranks = [  # NaN reaches nothing
        jnp.where(m, meshes.placed(s, like=m).astype(cuts.at.dtype), jnp.nan)
        for s, m in zip(jax.tree.leaves(scores), alive, strict=True)
    ]
    found, looked = _look(ranks, cuts)
    ends = [
        _exact(r, m, found[i], jax.tree.map(lambda x, i=i: x[i], looked))
        for i, (r, m) in enumerate(zip(ranks, alive, strict=True))
    ]
    chosen, cut = zip(*ends, strict=True)
    return tree.unflatten(chosen), jax.tree.map(lambda *x: jnp.stack(x), *cut)


class _Look(NamedTuple):
    """What is known of the cuts after some passes: arrays `[layers]`.

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
    cuts: Cuts
    low: jax.Array
    high: jax.Array
    before: jax.Array
    reached: jax.Array


def _look(ranks: Sequence[jax.Array], cuts: Cuts) -> tuple[jax.Array, Cuts]:
    """By secants, halved where these lead out of what is known: which were found."""

    def narrow(look):
        kept, at, dense = look.cuts
        reach = jnp.stack([highest.count(r >= at[i]) for i, r in enumerate(ranks)])
        over = reach - kept
        low = jnp.where(over > 0, at, look.low)
        high = jnp.where(over < 0, at, look.high)
        between = jnp.abs(reach - look.reached)
        steep = between / jnp.abs(at - look.before)  # NaN in the first pass
        dense = jnp.where((between >= _FEW) & jnp.isfinite(steep), steep, dense)
        secant = at + over / dense
        inside = (low < secant) & (secant < high)
        guess = jnp.where(inside, secant, low / 2 + high / 2)
        open_ = look.open & (over != 0) & (low < guess) & (guess < high)
        return _Look(
            look.passes + 1,
            open_,
            over == 0,
            Cuts(kept, jnp.where(open_, guess, at), dense),
            low,
            high,
            at,
            reach,
        )

    none = jnp.zeros_like(cuts.kept)
    begun = _Look(
        jnp.int32(0),
        none == 0,
        none != 0,
        cuts,
        jnp.full_like(cuts.at, -jnp.inf),
        jnp.full_like(cuts.at, jnp.inf),
        jnp.full_like(cuts.at, jnp.nan),
        none,
    )
    look = jax.lax.while_loop(
        lambda look: jnp.any(look.open) & (look.passes < _PASSES), narrow, begun
    )
    return look.found, look.cuts


def _exact(
    ranks: jax.Array, alive: jax.Array, found: jax.Array, cut: Cuts
) -> tuple[jax.Array, Cuts]:
    """The mask of a layer's cut; where that was not found, by `highest`.

    A loop of no step or one: under `vmap` a branch would be taken by all, always.
    """

    def anew(state):
        del state
        (mask,) = highest.highest([ranks], [alive], counts.of(cut.kept))
        at = jnp.min(ranks, initial=jnp.inf, where=mask)
        near = _NEAR * (jnp.max(ranks, initial=-jnp.inf, where=mask) - at)
        lower, upper = (highest.count(ranks >= at + x) for x in (-near, near))
        return jnp.bool(True), mask, Cuts(cut.kept, at, (lower - upper) / (2 * near))

    begun = found, ranks >= cut.at, cut
    _, mask, cut = jax.lax.while_loop(lambda state: ~state[0], anew, begun)
    return mask, cut
