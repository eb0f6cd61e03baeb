"""Values for the parameters of a network, away from where training starts."""

import math

import jax
import numpy as np

from jaxticket import Ticket, masks
from jaxticket.models import Model


def drawn(model: Model, images: np.ndarray) -> tuple:
    """`(params, state)` of the shapes of `Model.init`, drawn by numpy.

    No program is compiled for them, no scale is 1, no bias and no mean 0.
    """
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if leaf.ndim > 1:
            scale = np.sqrt(2 / math.prod(leaf.shape[:-1]))
            value = rng.normal(scale=scale, size=leaf.shape)
        elif path[-1].key in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = rng.uniform(-0.2, 0.2, leaf.shape)
        return value.astype(leaf.dtype)

    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(draw, variables)


def sparse(model: Model, images: np.ndarray, density: float) -> Ticket:
    """A ticket of `drawn` values, under a mask that is drawn by numpy as well."""
    rng = np.random.default_rng(1)
    params, state = drawn(model, images)
    mask = jax.tree.map(lambda m: rng.random(m.shape) < density, masks.full(params))
    return Ticket(params, mask, state)
