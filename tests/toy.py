"""Toy parameters and tickets that several test files share."""

import jax
import jax.numpy as jnp

from jaxticket import Ticket, masks

SHAPES = {
    "dense": {"bias": (6,), "kernel": (5, 6)},
    "head": {"bias": (4,), "kernel": (6, 4)},
}


def init(key):
    """Standard normal: two kernels, of 30 and 24 weights, and their biases."""
    shapes, tree = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(shapes))
    return tree.unflatten(map(jax.random.normal, keys, shapes))


def network(key):
    """The weights of `init`, and a model state of the same draw."""
    return init(key), {"mean": jax.random.normal(jax.random.fold_in(key, 0), (6,))}


def ticket(seed=0, lost=0):
    """A ticket that has lost the first weights of every kernel."""
    weights = init(jax.random.key(seed))
    mask = jax.tree.map(
        lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) >= lost,
        masks.full(weights),
    )
    return Ticket(weights, mask)
