"""The gradient that criteria rank weights by: of the mean loss on training images."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket.base import Params
from jaxticket.data import Split
from jaxticket.training import LossFn, ModelState

IMAGES, BATCH = 10_000, 100


def mean_gradient(loss_fn: LossFn):
    """`(weights, model_state, batches) -> grads`, batch after batch.

    Args:
      loss_fn: in evaluation mode, so that it needs no randomness.
    """

    def gradient(weights: Params, model_state: ModelState, batches: Split) -> Params:
        def add(total, batch):
            grads = jax.grad(
                lambda w: loss_fn(w, model_state, batch, jax.random.key(0))[0]
            )(weights)
            return jax.tree.map(jnp.add, total, grads), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, weights), batches)
        return jax.tree.map(lambda x: x / len(batches.labels), total)

    return gradient


def first(split: Split) -> Split:
    """The first `IMAGES` images in whole batches, `[batches, batch, ...]`."""
    size = len(split.labels)
    batch = min(BATCH, size)
    number = min(IMAGES, size) // batch

    def batches(x):
        return np.asarray(x[: number * batch]).reshape(number, batch, *x.shape[1:])

    return jax.tree.map(batches, split)
