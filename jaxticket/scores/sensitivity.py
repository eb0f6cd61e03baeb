"""Scores by the gradient of the loss."""

import jax
import jax.numpy as jnp

from jaxticket.base import NO_EVIDENCE, Evidence, Params, Scores
from jaxticket.scores.score import needs


@needs("loss")
def gradient(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`|g|`, with `g` the gradient of the loss."""
    return jax.tree.map(jnp.abs, jax.grad(evidence.loss)(weights))


@needs("loss")
def snip(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`|g * w|`, how much the loss depends on the connection.

    As published the scores are divided by their sum, which changes no rank. The
    released code takes one mini-batch, prunes biases too, and then trains other weights
    than it has scored; `evidence.loss` may be of any data, and whoever prunes decides
    the rest.

    Reference:
      Lee et al., "SNIP: Single-shot Network Pruning Based on Connection Sensitivity",
      2019.
    """
    grads = jax.grad(evidence.loss)(weights)
    return jax.tree.map(
        lambda g, w: jnp.abs(g.astype(jnp.promote_types(g.dtype, jnp.float32)) * w),
        grads,
        weights,
    )
