"""Analysis: of masks, of weights and what lies between them, of several seeds."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxticket import checks, masks, selection
from jaxticket.base import Mask, Params, Scores

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
    total = jnp.maximum(masks.count(mask), 1)
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


def interpolated(alpha: ArrayLike, one: Params, other: Params) -> Params:
    """A network on the line between two: `alpha w1 + (1 - alpha) w2`, leaf by leaf.

    At 1 and 0 it is one of the two, to the bit.

    Args:
      alpha: scalar; several by `vmap`.
      one: pytree of arrays: weights, or weights with their model state.
      other: of the same structure. Leaves that are no floating-point numbers, as
        counters, are those of `one`.

    Reference:
      Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
      2020, section 2.
    """

    def between(x, y):
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            return x
        a = jnp.asarray(alpha, jnp.result_type(x))
        return a * x + (1 - a) * y

    return masks.together(between, one, other)


def barrier(errors: ArrayLike) -> Any:
    """How much worse the worst network on a line is than its ends: `[...]`, from 0.

    `max E(alpha) - (E(0) + E(1)) / 2`. Two networks are linearly connected, and the one
    that both were trained from is stable, where it is below 2 points of error.

    Args:
      errors: `E` at rising `alpha`, the first at 0 and the last at 1: `[..., points]`,
        arrays of numpy or JAX.

    Reference:
      Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
      2020, section 2.
    """
    return errors.max(-1) - (errors[..., 0] + errors[..., -1]) / 2


class Movement(NamedTuple):
    """What training has done to some weights of a layer: float32; NaN where none are.

    Attributes:
      distance: the mean of `|w_T - w_0|`.
      grown: the fraction whose magnitude has grown, `|w_T| > |w_0|`.
      growth: the mean of `|w_T| - |w_0|`.
    """

    distance: jax.Array
    grown: jax.Array
    growth: jax.Array


def movement(initial: Params, trained: Params, mask: Mask) -> Mask:
    """How far training has moved the weights that a mask keeps, layer by layer.

    Those that it prunes are those of the mask's complement.

    Args:
      initial: the dense network's weights before training, `w_0`.
      trained: the same after it, `w_T`.
      mask: which weights are meant.

    Returns:
      A mask tree of `Movement`.

    Reference:
      Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, Appendix F.5.
    """

    def of_layer(m, before, after):
        growth = jnp.abs(after) - jnp.abs(before)

        def mean(values):
            return jnp.mean(jnp.asarray(values, jnp.float32), where=m)

        return Movement(mean(jnp.abs(after - before)), mean(growth > 0), mean(growth))

    trees = (masks.prunable_like(tree, mask) for tree in (initial, trained))
    return jax.tree.map(of_layer, mask, *trees)


def valley(values: Params, mask: Mask, *, width: float = 0.5) -> Mask:
    """How full the middle of the distribution of a layer's kept values is.

    Their magnitudes, in standard deviations of the whole layer about zero, are counted
    in bins of `width`: the count of the first bin over that of the fullest of the
    others. Below 1 the distribution has a valley at zero, and is bimodal; of a normal
    distribution it is 1.28, of a flat one 1.

    Args:
      values: weights, such as the initial ones.
      mask: which of them are looked at.
      width: of the bins.

    Returns:
      A mask tree of float32 scalars; NaN where no bin but the first has any.
    """

    def of_layer(m, w):
        last = round(4 / width)
        sizes = jnp.abs(w) / (width * jnp.sqrt(jnp.mean(w * w)))
        places = jnp.clip(sizes, 0, last).astype(jnp.int32)
        counts = jnp.zeros(last + 1, jnp.float32).at[places].add(m)
        return jnp.where(jnp.any(counts[1:] > 0), counts[0] / counts[1:].max(), jnp.nan)

    return jax.tree.map(of_layer, mask, masks.prunable_like(values, mask))


class Connections(NamedTuple):
    """The weights that the units of a layer keep.

    Attributes:
      kept: how many each has: int32 `[units]`.
      variation: their standard deviation over their mean; NaN where the layer is empty.
      expected: the root mean square of that over shuffled masks of the layer.
    """

    kept: jax.Array
    variation: jax.Array
    expected: jax.Array


def incoming(mask: Mask) -> Mask:
    """The inputs that each output of a kernel `[..., inputs, outputs]` keeps.

    The number that a unit with `u` of the `n` weights of a layer keeps, of the `k` that
    the layer keeps, is hypergeometric in a shuffled mask: its variance is
    `u (k / n) (1 - k / n) (n - u) / (n - 1)`.

    Returns:
      A mask tree of `Connections`; leaves of one axis have none.

    Reference:
      Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, Appendix F.6.
    """
    return jax.tree.map(lambda m: _connections(m, -1), mask)


def outgoing(mask: Mask) -> Mask:
    """The outputs that each input of a kernel keeps; see `incoming`."""
    return jax.tree.map(lambda m: _connections(m, -2), mask)


def _connections(mask: jax.Array, axis: int) -> Connections | None:
    if mask.ndim < 2:
        return None
    kept = jnp.sum(
        jnp.moveaxis(mask, axis, 0), axis=range(1, mask.ndim), dtype=jnp.int32
    )
    units, n = mask.shape[axis], mask.size
    u, share = n / units, masks.count([mask]) / n
    variance = u * share * (1 - share) * (n - u) / max(n - 1, 1)
    mean = u * share
    return Connections(kept, jnp.std(kept) / mean, jnp.sqrt(variance) / mean)


class Adjacency(NamedTuple):
    """How often a unit keeps two neighbouring inputs: fractions of all such pairs.

    Attributes:
      observed: in the mask.
      shuffled: the mean over shuffled masks.
      by_input: the mean over masks in which every input keeps as many weights, of any
        units: what is left over it is no matter of some inputs being kept more.
    """

    observed: jax.Array
    shuffled: jax.Array
    by_input: jax.Array


def adjacency(mask: jax.Array) -> Adjacency:
    """Whether a layer over a signal keeps inputs together that lie side by side.

    Args:
      mask: of a kernel `[inputs, units]`, whose inputs are in their order.

    Reference:
      Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", 2024.
    """
    n, k = mask.size, masks.count([mask])
    by_input = jnp.mean(mask, axis=1, dtype=jnp.float32)
    return Adjacency(
        jnp.mean(mask[1:] & mask[:-1], dtype=jnp.float32),
        (k / n) * (jnp.maximum(k - 1, 0) / max(n - 1, 1)),
        jnp.mean(by_input[1:] * by_input[:-1]),
    )


class Change(NamedTuple):
    """What another mask does to a loss: float32 scalars.

    Attributes:
      predicted: to first order, `sum g w (m' - m)`, with `g = dL/d(w m)` at the old
        mask `m`.
      actual: `L(w m') - L(w m)`.
    """

    predicted: jax.Array
    actual: jax.Array


def change(
    loss: Callable[[Params], jax.Array], weights: Params, mask: Mask, other: Mask
) -> Change:
    """The `Change` of a loss from one mask over the same weights to another."""
    before, grads = jax.value_and_grad(loss)(masks.apply(mask, weights))

    def gain(m, o, w, g):
        return jnp.sum(w * g * (jnp.asarray(o, w.dtype) - m))

    ours = (masks.prunable_like(tree, mask) for tree in (weights, grads))
    predicted = sum(jax.tree.leaves(jax.tree.map(gain, mask, other, *ours)))
    return Change(predicted, loss(masks.apply(other, weights)) - before)


def exchanged(mask: Mask, gains: Scores, counts: Scores) -> Mask:
    """The mask after some swaps in each layer, of which none prunes or adds a weight.

    Of a layer's pruned weights those with the lowest gains come in, and as many of its
    kept weights, those with the highest, go: the swaps that promise the most, where a
    gain is what the loss gains with the weight, `g w`.

    Args:
      mask: the old mask.
      gains: a mask tree.
      counts: a mask tree of whole numbers, at most as many as there are; may be traced.
    """

    def of_layer(m, gain, count):
        (comes,) = selection.top([-gain], [~m], count)
        (goes,) = selection.top([gain], [m], count)
        return (m | comes) & ~goes

    return jax.tree.map(of_layer, mask, gains, counts)


class Interval(NamedTuple):
    """A mean and its 95% interval, whose ends are NaN for a single value."""

    mean: Any
    low: Any
    high: Any


def interval(values: ArrayLike) -> Interval:
    """Mean over the last axis and its 95% interval by Student's t."""
    from scipy import special

    values = np.asarray(values, float)
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

    One-sided; those that are 0 are left out. Of 5 that are all above it is 0.031.
    """
    signs = np.sign(np.asarray(differences, float))
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
