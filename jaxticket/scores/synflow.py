"""SynFlow: the weights' shares in what flows through the network, without data."""

import jax
import jax.numpy as jnp

from jaxticket import kernels
from jaxticket.base import NO_EVIDENCE, Evidence, Params, Scores
from jaxticket.scores.score import needs

HALVINGS = 40  # at most: what is not finite then is broken, and stays so


@needs("forward")
def synflow(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`|w| * dR/d|w|`, where `R = sum(forward(|w|))` is the flow of an input of ones.

    It is meant for `prune(..., iterations=100)`: one shot may cut a layer. Absolute
    values are taken of all parameters, as in the released code, which takes them of
    running statistics too, in evaluation mode.

    The flow grows with depth: that of a ResNet-32 is 1e40, beyond single precision,
    where the released code fails. Kernels are halved until every score is finite. In a
    network that is a chain without biases this divides all scores by the same power of
    two, and so changes no rank; elsewhere shorter paths gain.

    Reference:
      Tanaka et al., "Pruning Neural Networks without Any Data by Iteratively Conserving
      Synaptic Flow", 2020.
    """

    def flow(sizes):
        grads = jax.grad(lambda p: jnp.sum(evidence.forward(p)))(sizes)
        return jax.tree.map(jnp.multiply, sizes, grads)

    def again(state):
        halvings, sizes, _ = state
        halves = jax.tree.map(
            lambda w, is_kernel: w / 2 if is_kernel else w,
            sizes,
            kernels.found(sizes),
        )
        return halvings + 1, halves, flow(sizes)

    def overflows(state):
        halvings, _, scores = state
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(scores)]
        return ~jnp.all(jnp.stack(finite)) & (halvings < HALVINGS)

    sizes = jax.tree.map(jnp.abs, weights)
    unknown = jax.tree.map(lambda w: jnp.full_like(w, jnp.inf), sizes)
    start = jnp.zeros((), jnp.int32), sizes, unknown
    return jax.lax.while_loop(overflows, again, start)[-1]
