"""Parameters of any structure: plain trees, linen, nnx and equinox."""

from typing import NamedTuple

import cases
import equinox
import flax.linen
import jax
import jax.numpy as jnp
import pytest
import toy
from cases import METHODS
from flax import nnx

from jaxticket import Evidence, Ticket, masks

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


kinds = pytest.mark.parametrize(
    "kind", ["dict", "list", "namedtuple", "linen", "nnx", "nnx-dict", "equinox"]
)


def opening(search, weights, apply):
    """`state -> state` of a step and of what ends a round, and the first state."""
    x, y = cases.data().values()

    def loss(params):
        return jnp.mean((apply(params, x) - y) ** 2)

    ones = jnp.ones((1, x.shape[1]))
    known = Evidence(loss=loss, forward=lambda params: apply(params, ones))

    def update(state):
        return search.update(jax.grad(loss)(search.params(state)), state, 0)

    def advance(state):
        return search.advance(state, known)

    ticket = Ticket(weights, masks.full(weights))
    return update, advance, lambda: search.init(jax.random.key(0), ticket)


@kinds
@pytest.mark.parametrize("name", METHODS)
def test_parameters_may_be_any_tree(kind, name):
    """In shape; what is computed does not depend on the tree."""
    weights, apply = network(kind)
    search = METHODS[name].make()
    update, advance, init = opening(search, weights, apply)
    state = jax.eval_shape(init)
    assert jax.eval_shape(update, state) == state
    assert jax.eval_shape(advance, state) == state
    params, found = jax.eval_shape(
        lambda s: (search.params(s), search.ticket(s)), state
    )
    masks.check(found.mask, weights)
    assert masks.size(found.mask) == 30 + 24
    for tree in (params, found.weights):
        assert jax.tree.structure(tree) == jax.tree.structure(weights)
        assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, weights)


@kinds
def test_tickets_are_found_in_any_tree(kind):
    weights, apply = network(kind)
    search = METHODS["imp"].make()
    update, advance, init = opening(search, weights, apply)
    state = update(advance(update(init())))
    assert masks.count(search.ticket(state).mask) == 43
    moved = zip(*map(jax.tree.leaves, (search.params(state), weights)), strict=True)
    assert all((new != old).any() for new, old in moved)
