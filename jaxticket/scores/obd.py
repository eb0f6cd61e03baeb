"""Optimal Brain Damage: what deleting a weight adds to the loss, to second order."""

import jax
import jax.numpy as jnp

from jaxticket import checks, meshes
from jaxticket.base import NO_EVIDENCE, Evidence, Params, Scores
from jaxticket.scores.score import Score, needs


@needs("curvature")
def obd(weights: Params, evidence: Evidence = NO_EVIDENCE) -> Scores:
    """`h w^2 / 2`, with `h` the exact diagonal of the Gauss-Newton matrix.

    Deleting `w` changes the loss by `-g w + h w^2 / 2` to second order, if the others
    stay, with `h` the diagonal of the Hessian. Where training has ended `g` is about
    zero: score trained weights. The Gauss-Newton matrix leaves out the curvature of the
    network itself, as in the Levenberg-Marquardt variant of the paper, and of the usual
    losses its diagonal is not negative. It is no empirical Fisher matrix, whose
    diagonal is the mean square of the gradients.

    Of a network of one output an example it costs as much as a gradient, example after
    example; of ten, ten times that. For large networks see `hutchinson`.

    Reference:
      LeCun, Denker and Solla, "Optimal Brain Damage", 1990.
    """
    return _saliencies(weights, evidence.curvature(weights))


def hutchinson(draws: int = 30) -> Score:
    """Optimal Brain Damage by an estimate of the Hessian's diagonal: `mean(v (H v))`.

    Each entry of `v` is a sign at random, so that on average what `v (H v)` has beside
    the diagonal is zero. The standard deviation of entry `k` is the root of
    `sum_j H_kj^2 / draws`, `j` another weight: what is small beside its row is lost in
    it. The Hessian is that of `evidence.loss`, whose diagonal may be negative: to
    second order, deleting such a weight lowers the loss.

    A draw costs two to three gradients of the loss, however many outputs and weights
    there are. Weights that are zero, as pruned ones are, have no part in it: their
    score is zero anyway.

    Args:
      draws: of `v`.

    Reference:
      Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix for
      Laplacian Smoothing Splines", 1990; of the diagonal Bekas, Kokiopoulou and Saad,
      "An Estimator for the Diagonal of a Matrix", 2007.
    """
    checks.whole(1)(draws=draws)

    @needs("loss", "key")
    def obd_hutchinson(weights, evidence=NO_EVIDENCE):
        gradient = jax.grad(evidence.loss)

        def add(total, key):
            signs = _signs(key, weights)
            _, change = jax.jvp(gradient, (weights,), (signs,))
            products = jax.tree.map(jnp.multiply, signs, change)
            return jax.tree.map(jnp.add, total, products), None

        keys = jax.random.split(evidence.key, draws)
        total, _ = jax.lax.scan(add, wide_zeros(weights), keys)
        return _saliencies(weights, jax.tree.map(lambda x: x / draws, total))

    return obd_hutchinson


obd_hutchinson = hutchinson()


def wide_zeros(weights: Params) -> Params:
    """Zeros in which much is summed: of float32 at least."""
    return jax.tree.map(
        lambda w: jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32)), weights
    )


def _signs(key: jax.Array, weights: Params) -> Params:
    """One or minus one for every weight that is not zero."""
    leaves, tree = jax.tree.flatten(weights)
    draws = [
        jax.random.rademacher(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]
    return tree.unflatten(
        jnp.where(leaf == 0, 0, meshes.placed(draw, like=leaf))
        for draw, leaf in zip(draws, leaves, strict=True)
    )


def _saliencies(weights: Params, diagonal: Params) -> Scores:
    return jax.tree.map(
        lambda w, h: h * w.astype(jnp.promote_types(w.dtype, h.dtype)) ** 2 / 2,
        weights,
        diagonal,
    )
