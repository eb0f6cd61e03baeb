"""Floating-point operations: of a ticket that runs, and of a search that trains.

They are those of software that leaves out every weight that is pruned, which JAX does
not: what could be saved, by which papers compare sparse training, and no measurement.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import masks
from jaxticket.base import Mask, Params, Promises, Ticket
from jaxticket.graphs import products


class Flops(NamedTuple):
    """Operations of the whole network: a multiplication and an addition are two.

    Attributes:
      layers: of the products with each parameter, in its tree; 0 for biases.
      others: of products without one, as in attention, or with what is computed of
        several, as a sum of two kernels: no mask says what is left of them.
    """

    layers: Params
    others: int

    @property
    def dense(self) -> int:
        """Of all together."""
        return sum(jax.tree.leaves(self.layers)) + self.others


def of(network: Callable, ticket: Ticket, x: Any) -> Flops:
    """The operations of a network, layer by layer, read off its own steps.

    Args:
      network: `(params, x) -> outputs`: of a `Model` as `jaxticket.models.create` makes
        one, `lambda params, x: model.apply(params, ticket.model_state, x)[0]`.
      ticket: whose weights it runs with; or their shapes and dtypes.
      x: what is counted: one example `[1, ...]`, say; or its shape and dtype.

    Returns:
      `Flops` of products of matrices and convolutions; additions of biases,
      activations and normalisation are not counted.

    Raises:
      ValueError: a step of the network cannot be followed: it is named.
    """
    return Flops(*products.counted(network, ticket.weights, x))


def inference(flops: Flops, mask: Mask) -> float:
    """The operations that are left: `sum(F_l * d_l)` with `d_l` a layer's density.

    Args:
      flops: from `of`.
      mask: a layer without one is dense.
    """

    def left(f, m):
        return f if m is None else f * float(jnp.mean(m))

    return sum(jax.tree.leaves(jax.tree.map(left, flops.layers, mask))) + flops.others


def training(
    flops: Flops, before: Mask, after: Mask, promises: Promises, steps: int
) -> float:
    """The operations of the steps of one round, for as many examples as `flops` is of.

        sum over t of 2 f_t + g_t

    with `f_t` those of a pass through the network of step `t`, forward or backward to
    its inputs, and `g_t` those of the gradient of its weights: `f_t` again, or those
    of all weights at a step that looks at the gradient of pruned ones.

    Args:
      flops: from `of`.
      before: what the network may keep at all: the mask with which the round began.
      after: the mask of the ticket, at the end of the round.
      promises: of the search: whether zeros are `hard`, and how dense the network is
        while it is `running`, in between `before` and `after`; layers follow alike.
      steps: of the round.

    Reference:
      Evci et al., "Rigging the Lottery", 2020: `3 f` for dense and for fixed masks,
      `(3 f_S n + 2 f_S + f_D) / (n + 1)` for RigL with an exchange every `n + 1` steps.
    """
    whole, sparse = inference(flops, before), inference(flops, after)
    at = np.arange(steps)
    passes = np.full(steps, sparse if promises.hard else whole)
    least = float(masks.count(after) / masks.count(before))
    if promises.hard and promises.running is not None and least < 1:
        opened = (promises.running(at) - least) / (1 - least)
        passes = sparse + (whole - sparse) * np.asarray(opened)
    gradients = passes
    if promises.hard and promises.dense_gradient is not None:
        gradients = np.where(promises.dense_gradient(at), whole, passes)
    return float(np.sum(2 * passes + gradients))
