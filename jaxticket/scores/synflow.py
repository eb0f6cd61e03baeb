"""SynFlow: the weights' shares in what flows through the network, without data."""

import jax
import jax.numpy as jnp

from jaxticket import kernels
from jaxticket.base import NO_EVIDENCE, Evidence, Params, Scores
from jaxticket.scores.score import needs

TIMES = 41  # at most: what is not finite then is broken, and stays so
HALF = 0.5
FAINT = 2.0**-64  # where the largest score is below it, small ones are lost


@needs("forward")
def synflow(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`|w| * dR/d|w|`, where `R = sum(forward(|w|))` is the flow of an input of ones.

    It is meant for `prune(..., iterations=100)`: one shot may cut a layer. Absolute
    values are taken of all parameters, as in the released code, which takes them of
    running statistics too, in evaluation mode.

    The flow grows with depth: that of a ResNet-32 is 1e40, beyond single precision,
    where the released code fails; that of a deep one of small weights is too small for
    it. Kernels are halved until every score is finite, and doubled until some are not
    nearly 0, unless no path is left. In a network that is a chain without biases this
    multiplies all scores by the same power of two, and so changes no rank; elsewhere
    shorter paths gain, or longer ones.

    Reference:
      Tanaka et al., "Pruning Neural Networks without Any Data by Iteratively Conserving
      Synaptic Flow", 2020.
    """

    def flow(sizes):
        grads = jax.grad(lambda p: jnp.sum(evidence.forward(p)))(sizes)
        return jax.tree.map(jnp.multiply, sizes, grads)

    is_kernel = kernels.found(weights)

    def nothing(sizes):
        """Whether nothing flows, though all that is left of kernels be 1."""
        ones = jax.tree.map(
            lambda w, ours: jnp.sign(w) if ours else w, sizes, is_kernel
        )
        return jnp.sum(evidence.forward(ones)) == 0

    def again(state):
        times, sizes, _, last = state
        scores = flow(sizes)
        leaves = jax.tree.leaves(scores)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
        most = jnp.max(jnp.stack([jnp.max(x, initial=0) for x in leaves]))
        # What was halved before is not doubled again; what is cut stays 0.
        cut = jax.lax.cond(most == 0, nothing, lambda sizes: jnp.bool(False), sizes)
        faint = (most < FAINT) & (last != HALF) & ~cut
        factor = jnp.where(finite, jnp.where(faint, 1 / HALF, 1), HALF)
        sizes = jax.tree.map(
            lambda w, ours: w * factor.astype(w.dtype) if ours else w, sizes, is_kernel
        )
        return times + 1, sizes, scores, factor

    sizes = jax.tree.map(jnp.abs, weights)
    start = jnp.zeros((), jnp.int32), sizes, sizes, jnp.zeros(())
    return jax.lax.while_loop(
        lambda state: (state[-1] != 1) & (state[0] < TIMES), again, start
    )[2]
