"""Toy parameters and tickets that several test files share."""

import functools

import jax
import jax.numpy as jnp

from jaxticket import Ticket, masks

# `jit` that takes a fifth of the time to compile, for programs that run in no time:
# without what LLVM does for speed, in one piece, fused by simpler means.
hurried = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    },
)

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
