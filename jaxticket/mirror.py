"""HAM: after every step of an optimiser one that multiplies, as of factored weights."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import calls, checks
from jaxticket.base import Schedule

LARGEST = 5.0  # exponent, of either sign


def ham(
    optimizer: optax.GradientTransformation,
    learning_rate: Schedule | ArrayLike,
    *,
    alpha: ArrayLike = 200.0,
    beta: ArrayLike = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """Hyperbolic aware minimisation around an optimiser, for any search.

    The step of the optimiser from `w` to `v`, with the gradient `g`, is followed by

        v <- v * exp(clip(eta * (-alpha * sign(v) * g - beta), -5, 5))

    in leaves of two dimensions and more. So small weights move less, and zero stays;
    `beta` draws all to it. It wraps the optimiser, and is no part of an `optax.chain`
    with it, where it would not see the gradient.

    Args:
      optimizer: takes the step.
      learning_rate: `eta`, which should be the optimiser's; or a schedule: `step`
        within the round -> `eta`, see `schedules.scale_by_step`.
      alpha: how strongly a weight grows whose gradient makes it larger, and shrinks
        otherwise. May be traced. The default is published for ResNet-50 on ImageNet.
      beta: decay, which goes with `eta` alone. May be traced. The default is published.

    Raises:
      ValueError: a negative number; in `update`, no `params`.

    Reference:
      Jacobs et al., "Hyperbolic Aware Minimization: Implicit Bias for Sparsity", 2026,
      as in the README of its code. That also clips the norm of weights, at 1000, and
      undoes a step that is not finite, which is left out.
    """
    checks.not_negative(alpha=alpha, beta=beta)
    if not callable(learning_rate):
        checks.not_negative(learning_rate=learning_rate)

    def update(grads, state, params=None, **told):
        if params is None:
            raise ValueError("ham needs params: call update(grads, state, params)")
        updates, state = calls.told(optimizer.update, grads, state, params, **told)
        rate = learning_rate
        if callable(rate):
            if "step" not in told:
                raise ValueError(
                    "ham follows a schedule by the step: call update(..., step=step)"
                )
            rate = rate(told["step"])

        def mirrored(w, g, u):
            if w.ndim < 2:
                return u
            v = w + u
            exponent = rate * (-alpha * jnp.sign(v) * g - beta)
            factor = jnp.exp(jnp.clip(exponent, -LARGEST, LARGEST)).astype(v.dtype)
            return v * factor - w

        return jax.tree.map(mirrored, params, grads, updates), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
