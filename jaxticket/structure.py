"""Structure: which weights a ticket keeps, what they do, how training moves them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxticket import checks, masks
from jaxticket.base import Mask, Params, Ticket
from jaxticket.graphs import reach


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

    Raises:
      ValueError: a width that is not above 0, or leaves a single bin.
    """
    checks.between(0, 8)(width=width)  # what is 4 deviations away or more has the last

    def of_layer(m, w):
        w = w.astype(jnp.promote_types(w.dtype, jnp.float32))  # for squares of float16
        last = round(4 / width)
        sizes = jnp.abs(w) / (width * jnp.sqrt(jnp.mean(w * w)))
        places = jnp.clip(sizes, 0, last).astype(jnp.int32)
        # In whole numbers: float32 counts to 2**24.
        counts = jnp.zeros(last + 1, jnp.int32).at[places].add(m.astype(jnp.int32))
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


def effective(network: Callable, ticket: Ticket, x: Any) -> Mask:
    """The kept weights that lie on a path of kept weights from an input to an output.

        m_eff = m & (dR/dm != 0),   R = sum(f(m; ones))

    with `f` the network with every nonlinearity the identity, pooling and maxima sums,
    biases and shifts gone, and scales of normalisation 1 unless they are 0. It is read
    off the network's own steps. Where two factors both depend on the input, as in
    attention, a path may lead through either.

    Values of weights do not matter, apart from those that the mask does not cover. A
    bias that the mask covers is on no path, and counts as one that does nothing.

    Args:
      network: `(params, x) -> outputs`: of a `Model` as `jaxticket.models.create` makes
        one, `lambda params, x: model.apply(params, ticket.model_state, x)[0]`.
      ticket: whose mask is asked for. May be traced.
      x: an input, or its shape and dtype; one example is enough.

    Returns:
      A mask, of which `masks.density` is the effective density.

    Raises:
      ValueError: a step of the network cannot be followed: it is named.

    Reference:
      Vysogorets and Kempe, "Connectivity Matters: Neural Network Pruning Through the
      Lens of Effective Sparsity", 2023.
    """
    masks.check(ticket.mask, ticket.weights)
    flows = jax.tree.map(reach.through, ticket.weights, ticket.mask)
    _, grads = reach.reached(network, ticket.weights, flows, x)
    grads = masks.prunable_like(grads, ticket.mask)
    return jax.tree.map(lambda m, grad: m & (grad > 0), ticket.mask, grads)
