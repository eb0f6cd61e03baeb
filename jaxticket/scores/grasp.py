"""GraSP: what keeps the gradient flowing."""

import jax
import jax.numpy as jnp

from jaxticket import kernels
from jaxticket.base import NO_EVIDENCE, Evidence, Params, Scores
from jaxticket.scores.score import needs


@needs("loss")
def grasp(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`w * (H g)`: how much of the gradient's squared norm goes with the connection.

    To first order, taking `w` away changes `|g|^2 / 2` by `-w * (H g)`, with `g` the
    gradient and `H` the Hessian of the loss. Published as `S = -w * (H g)`, of which
    the highest go: here, too, the highest of the scores stay. The sign counts.

    What has been pruned has no part in `g`: kernels where they are zero. The released
    code leaves out biases and normalisation too, draws the linear layers of a copy anew
    before it scores them, takes a few images of each class in halves that are
    sorted by class, and normalises by the batch. Here the network is scored that will
    train, by `evidence.loss`. Give one whose logits are divided by 200, as published
    (`supervised.evidence`): without, what stays is what makes the loss large.

    Reference:
      Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient
      Flow", 2020.
    """
    gradient = jax.grad(evidence.loss)
    flow = jax.tree.map(
        lambda w, g, is_kernel: jnp.where(w == 0, 0, g) if is_kernel else g,
        weights,
        gradient(weights),
        kernels.found(weights),
    )
    _, change = jax.jvp(gradient, (weights,), (flow,))
    return jax.tree.map(jnp.multiply, weights, change)
