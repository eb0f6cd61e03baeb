"""Networks on a mesh with explicit axes, as `jax.make_mesh` makes it by default."""

import contextlib

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from cases import METHODS, assert_same
from jax.sharding import NamedSharding, PartitionSpec

from jaxticket import Evidence, Ticket, controls, imp, l0, masks, prune, run, scores
from jaxticket.selection import NAMES

pytestmark = pytest.mark.usefixtures("unoptimised")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])


def put(mesh, tree, axis=-1):
    """Leaves cut in two along an axis, where it can be."""

    def one(leaf):
        spec = [None] * leaf.ndim
        if leaf.ndim > 1 and leaf.shape[axis] % 2 == 0:
            spec[axis] = "x"
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(one, tree)


def sharding(tree):
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


@pytest.mark.parametrize(
    ("select", "axis", "ambient"),
    [("global_top", 0, False), ("equal", -1, True), ("erk", -1, False)],
)
def test_selections_are_those_of_one_device(mesh, select, axis, ambient):
    weights = toy.init(KEY)
    whole = Ticket(weights, masks.full(weights))
    with jax.set_mesh(mesh) if ambient else contextlib.nullcontext():
        there = put(mesh, weights, axis)
        ticket = Ticket(there, masks.full(there))
        found = prune(ticket, "magnitude", 0.5, select=select)
        assert sharding(found.mask) == masks.prunable_like(sharding(there), found.mask)
    assert_same(found.mask, prune(whole, "magnitude", 0.5, select=select).mask)


@pytest.mark.parametrize("score", scores.__all__)
def test_every_score_prunes_by_every_selection(mesh, score):
    """What a mesh does not allow is refused when it is traced."""
    weights = put(mesh, toy.init(KEY))
    evidence = Evidence(
        initial=jax.tree.map(lambda w: w**2 - 1, weights),
        key=KEY,
        loss=lambda p: sum(jnp.sum(w**3) for w in jax.tree.leaves(p)),
        forward=lambda p: jnp.sum(p["head"]["kernel"]) + jnp.sum(p["head"]["bias"]),
        curvature=lambda p: jax.tree.map(jnp.square, p),
    )
    ticket = Ticket(weights, masks.full(weights))
    by = scores.ties_at_random(scores.named(score))
    selects = NAMES if score == "magnitude" else ["global_top"]
    for select in selects:
        jax.eval_shape(
            lambda t, select=select: prune(
                t, by, 0.5, evidence=evidence, select=select
            ),
            ticket,
        )


@pytest.mark.parametrize("ambient", [False, True], ids=["of arrays", "set"])
@pytest.mark.parametrize("name", METHODS)
def test_every_search_takes_sharded_weights(mesh, name, ambient):
    search = METHODS[name].make()
    known = Evidence(loss=lambda p: sum(jnp.sum(w**2) for w in jax.tree.leaves(p)))

    def found(ticket):
        state = search.init(KEY, ticket)
        for step in range(2):
            grads = jax.tree.map(jnp.sin, search.params(state))
            state = search.update(grads, state, step)
        ended = search.ticket(state)
        opened = search.advance(state, known)
        return ended, search.params(opened), controls.shuffle(KEY, ended)

    with jax.set_mesh(mesh) if ambient else contextlib.nullcontext():
        weights = put(mesh, toy.init(KEY))
        ticket = Ticket(weights, masks.full(weights))
        ended, params, shuffled = jax.eval_shape(found, ticket)
    for tree in (ended.weights, params, shuffled.weights):
        kernel = tree["head"]["kernel"]
        assert kernel.sharding.spec == PartitionSpec(None, "x")


@pytest.mark.parametrize(
    ("groups", "spec"),
    [("weights", (None, "x")), ("units", (None, "x")), ("inputs", (None, None))],
)
def test_gates_lie_where_their_weights_do(mesh, groups, spec):
    search = l0(cases.GATED, groups=groups)

    def stepped(ticket):
        state = search.init(KEY, ticket)
        return search.update(jax.tree.map(jnp.sin, search.params(state)), state, 0)

    with jax.set_mesh(mesh):
        weights = put(mesh, toy.init(KEY))
        state = jax.jit(stepped)(Ticket(weights, masks.full(weights)))
    gate = state.gated.logits["head"]["kernel"]
    assert gate.sharding.spec == PartitionSpec(*spec)


@pytest.mark.parametrize("axis", [0, 1], ids=["rows of data", "weights"])
def test_a_whole_run(mesh, axis):
    """Data in parallel, or the weights of each layer on two devices."""
    data = jax.tree.map(np.float32, cases.data())
    ticket = Ticket(toy.init(KEY), masks.full(toy.init(KEY)), {"seen": jnp.int32(0)})
    search = imp(optax.adam(0.05), density=0.5)

    def whole(ticket, data):
        options = {"rounds": 2, "epochs": 2, "batch_size": 12}
        return run(search, cases.loss, KEY, ticket, data, **options)

    expected = jax.jit(whole)(ticket, data)
    with jax.set_mesh(mesh):
        there = data if axis else put(mesh, data, 0)
        weights = put(mesh, ticket.weights, 1) if axis else ticket.weights
        ticket = ticket._replace(weights=weights, mask=masks.full(weights))
        found = jax.jit(whole)(ticket, there)
    assert_same(found.ticket.mask, expected.ticket.mask)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
