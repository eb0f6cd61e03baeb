"""Analysis: what masks have in common, and what accuracies of several seeds show."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxticket import checks, counts, masks, selection
from jaxticket.base import Mask, Scores

TIE = 1e-6  # accuracies are float32: less than this is rounding, not an image
# Of early birds: looks that a mask is held against, and how far it may be from them.
PAST, BIRD = 5, 0.1


class Overlap(NamedTuple):
    """How much of one mask is in another: fractions of what the first keeps.

    Attributes:
      observed: the fraction of the weights kept by the one that the other keeps too.
      expected: its mean over independent, uniformly random masks of the same layer
        counts.
      deviation: its standard deviation over them.
    """

    observed: jax.Array
    expected: jax.Array
    deviation: jax.Array


def overlap(mask: Mask, other: Mask, *, among: Mask | None = None) -> Overlap:
    """`masks.overlap` beside its distribution by chance: float32 scalars.

    Layers of `n` weights of which `mask` keeps `k` and `other` keeps `j`, at random,
    share a number of them that is hypergeometric, independently of other layers: its
    mean is `k j / n`, its variance `k j (n - k) (n - j) / (n^2 (n - 1))`.

    All three are zero where `mask` keeps nothing.

    Args:
      mask: one mask.
      other: the other, of the same network.
      among: the mask that both have been chosen from, whose weights are the `n`;
        default: all.
    """
    mean, variance = 0.0, 0.0
    masks.together(jnp.logical_and, mask, other)  # of one network
    among = jax.tree.map(jnp.ones_like, mask) if among is None else among
    leaves = (jax.tree.leaves(tree) for tree in (mask, other, among))
    for m, o, a in zip(*leaves, strict=True):
        n, k, j = (masks.count([each]) for each in (a, m, o))
        less, n = jnp.maximum(n - 1, 1), jnp.maximum(n, 1)
        # Divided before they are multiplied: products of counts overflow int32.
        mean += k * (j / n)
        variance += k * (j / n) * ((n - j) / n) * ((n - k) / less)
    total = jnp.maximum(counts.as_float(masks.count(mask)), 1)
    return Overlap(masks.overlap(mask, other), mean / total, jnp.sqrt(variance) / total)


def layer_overlaps(mask: Mask, other: Mask) -> Mask:
    """The `overlap` of every layer by itself: a mask tree of `Overlap`."""
    return masks.together(lambda m, o: overlap([m], [o]), mask, other)


def overlap_with(scores: Scores, mask: Mask) -> Overlap:
    """The `overlap` of a mask with as many of the highest scores of each layer.

    Raises:
      ValueError: scores of what the mask prunes are NaN, as they are of a ticket from a
        file without these weights.
    """
    scores = masks.known(mask, scores, "overlap_with")
    everything = jax.tree.map(jnp.ones_like, mask)
    return overlap(mask, selection.like(mask)(scores, everything, None))


def distance(mask: Mask, other: Mask) -> jax.Array:
    """The share of the prunable weights in which two masks differ: float32 scalar."""
    return masks.density(masks.together(jnp.logical_xor, mask, other))


def unrest(distances: np.ndarray, past: int = PAST) -> np.ndarray:
    """How far each look's mask is from those of the last looks, at most: `[looks]`.

    Args:
      distances: `[looks, looks]`, see `distance`.
      past: how many looks before count; at the first there is none, and it is 0.
    """
    return np.array(
        [row[max(0, i - past) : i].max(initial=0) for i, row in enumerate(distances)]
    )


def early_bird(
    distances: np.ndarray, *, past: int = PAST, threshold: float = BIRD
) -> int | None:
    """The first look whose mask is near those of the last `past`; None without one.

    Args:
      distances: `[looks, looks]`, see `distance`.
      past: how many looks before it are compared, and have to be there.
      threshold: how far it may be from them.

    Reference:
      You et al., "Drawing Early-Bird Tickets", 2020, section 3.2.
    """
    near = unrest(distances, past) <= threshold
    found = np.flatnonzero(near[past:])
    return int(found[0]) + past if found.size else None


class Interval(NamedTuple):
    """A mean and its 95% interval, whose ends are NaN for a single value."""

    mean: Any
    low: Any
    high: Any


def interval(values: ArrayLike) -> Interval:
    """Mean over the last axis and its 95% interval by Student's t; of a number too."""
    from scipy import special

    values = np.atleast_1d(np.asarray(values, float))
    n = values.shape[-1]
    if n == 0:
        return Interval(*np.full((3, *values.shape[:-1]), math.nan))
    mean = values.mean(-1)
    half = mean * math.nan
    if n > 1:
        half = special.stdtrit(n - 1, 0.975) * values.std(-1, ddof=1) / n**0.5
    return Interval(mean, mean - half, mean + half)


def ratio(first: ArrayLike, second: ArrayLike) -> Interval:
    """Geometric mean of ``first / second``, and its interval from the logarithms.

    It is NaN where a number is not above 0: such a pair has no logarithm.
    """
    pairs = np.asarray([first, second], float)
    logs = np.log(np.where(pairs > 0, pairs, math.nan))
    return Interval(*np.exp(interval(logs[0] - logs[1])))


def sign_test(differences: ArrayLike) -> float:
    """The chance that as many differences are above 0 where either sign is as likely.

    One-sided; those that are 0 are left out. Of 5 that are all above it is 0.031. It is
    NaN where a difference is, as of a seed that has diverged.
    """
    signs = np.sign(np.asarray(differences, float))
    if np.isnan(signs).any():
        return math.nan
    n, above = np.count_nonzero(signs), np.count_nonzero(signs > 0)
    return sum(math.comb(n, i) for i in range(above, n + 1)) / 2**n


def verdict(difference: Interval, *, margin: float, density: float) -> str:
    """What is shown of a ticket's accuracy less the dense network's.

    A test of non-inferiority, so that noise never speaks for a ticket: only an interval
    that is narrow enough to exclude a loss of `margin` does.

    Args:
      difference: in accuracy, 0 to 1.
      margin: percentage points that a ticket may fall short and still match.
      density: fraction of the weights kept.

    Returns:
      "better" or "matches" where the interval lies above 0 or above ``-margin``;
      "worse" where it lies below 0; "unclear" between. "unknown" where a number is NaN,
      "one seed" where there is no interval, "not sparser" of all the weights.
    """
    checks.positive(margin=margin)
    if math.isnan(difference.mean) or math.isnan(density):
        return "unknown"
    if density >= 1:
        return "not sparser"
    if math.isnan(difference.low):
        return "one seed"
    if difference.low > TIE:
        return "better"
    if difference.low > -margin / 100:
        return "matches"
    return "worse" if difference.high < -TIE else "unclear"
