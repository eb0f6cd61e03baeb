"""Parameters of any structure: plain trees, linen, nnx and equinox."""

from typing import NamedTuple

import cases
import equinox
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx
from programs import FAMILIES, searching

from jaxticket import Ticket, masks

pytestmark = pytest.mark.usefixtures("unoptimised")


class Pair(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


class Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        return flax.linen.Dense(4)(jnp.tanh(flax.linen.Dense(6)(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(5, 6, rngs=rngs)
        self.head = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.dense(x)))


def by_hand(layers):
    """Parameters as a tree of `layers`, which gives the two of them."""

    def apply(params, x):
        dense, head = layers(params)
        hidden = jnp.tanh(x @ dense[0] + dense[1][None])
        return hidden @ head[0] + head[1][None]

    return apply


def network(kind):
    """Parameters of two layers, 30 and 24 prunable weights, and `(params, x) -> y`."""
    params = toy.init(jax.random.key(0))
    pairs = [Pair(**params["dense"]), Pair(**params["head"])]
    x, key = jnp.ones((1, 5)), jax.random.key(1)
    match kind:
        case "dict":
            return params, by_hand(lambda p: [Pair(**p["dense"]), Pair(**p["head"])])
        case "list":
            return [list(pair) for pair in pairs], by_hand(lambda p: p)
        case "namedtuple":
            return tuple(pairs), by_hand(lambda p: p)
        case "linen":
            model = Linen()
            return model.init(key, x), model.apply
        case "nnx":
            graph, state = nnx.split(Nnx(nnx.Rngs(0)))
            return state, lambda p, x: nnx.merge(graph, p)(x)
        case "nnx-dict":
            graph, state = nnx.split(Nnx(nnx.Rngs(0)))
            return nnx.to_pure_dict(state), lambda p, x: nnx.merge(graph, p)(x)
        case "equinox":
            model = equinox.nn.Sequential(
                [
                    equinox.nn.Linear(5, 6, key=key),
                    equinox.nn.Lambda(jnp.tanh),
                    equinox.nn.Linear(6, 4, key=key, use_bias=False),
                ]
            )
            arrays, static = equinox.partition(model, equinox.is_inexact_array)
            return arrays, lambda p, x: jax.vmap(equinox.combine(p, static))(x)


@pytest.mark.parametrize(
    "kind", ["dict", "list", "namedtuple", "linen", "nnx", "nnx-dict", "equinox"]
)
@searching
def test_parameters_may_be_any_tree(kind, name):
    weights, apply = network(kind)
    x, y = cases.data().values()
    gradient = jax.grad(lambda params: jnp.mean((apply(params, x) - y) ** 2))
    make, (setting, _) = FAMILIES[name]
    search = make(*setting)
    state = search.init(jax.random.key(0), Ticket(weights, masks.full(weights)))
    tree = jax.tree.structure(state)
    for round_, step in np.ndindex(2, 3):
        state = search.advance(state) if round_ and not step else state
        state = search.update(gradient(search.params(state)), state, step)
    assert jax.tree.structure(state) == tree
    params, found = search.params(state), search.ticket(state)
    masks.check(found.mask, weights)
    assert masks.size(found.mask) == 30 + 24
    kept = int(masks.count(found.mask))
    assert kept == 43 if name == "imp" else 0 < kept < 54
    for trained in (params, found.weights):
        assert jax.tree.structure(trained) == jax.tree.structure(weights)
    for new, old in zip(*map(jax.tree.leaves, (params, weights)), strict=True):
        # Over frozen weights nothing moves but what the mask takes away.
        assert (new != old).any() == (name != "edge_popup" or old.ndim > 1)
