"""A GPT whose weights are cut over four devices, and searches that find its tickets."""

import functools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import shards
from cases import assert_same
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.examples import character_gpt
from jaxticket import (
    Ticket,
    continuous_sparsification,
    files,
    gradual,
    imp,
    jackpot,
    masks,
    prune,
    rigl,
    run,
)
from jaxticket.engine import checkpoint

pytestmark = pytest.mark.usefixtures("unoptimised", "short_shuffles")
ADAM = optax.adam(0.01)
SEARCHES = {
    "imp": imp(ADAM, density=0.5, rewind_step=1),
    "continuous_sparsification": continuous_sparsification(
        ADAM, temperature=lambda step: 1.0 + step, penalty=1e-3, initial_logit=-0.02
    ),
    "gradual": gradual(ADAM, final_density=0.5, every=2, stop=4),
    "jackpot": jackpot(optax.sgd(0.1, 0.9)),
    "rigl": rigl(ADAM, density=0.5, every=2, stop=4),
}
NETWORK = character_gpt.gpt(24, width=16, depth=1, heads=4)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def mesh():
    return shards.mesh_of(AxisType.Auto, data=2, model=2)


@functools.cache
def weights():
    return jax.jit(NETWORK.init)(KEY, data()[0][:2])["params"]


def data():
    tokens = np.random.default_rng(0).integers(0, 24, (32, 8)).astype(np.int32)
    return tokens, np.roll(tokens, -1, 1)


def loss(params, model_state, batch, key):
    tokens, following = batch
    logits = NETWORK.apply({"params": params}, tokens)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, following)
    return losses.mean(), model_state


def cut(mesh, tree):
    """Each array over both axes, the longest of its own over the data's; vectors whole.

    That is how weights lie that are both sharded for their optimiser and parallel.
    """

    def place(leaf):
        spec = [None] * leaf.ndim
        if leaf.ndim > 1:
            first, second, *_ = np.argsort([-n for n in leaf.shape], kind="stable")
            spec[first], spec[second] = "data", "model"
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(place, tree)


def opened(name, weights):
    """Of three kernels of the block, with two axes and with three: less to compile."""
    some = ("query", "fc")
    ticket = Ticket(
        weights,
        masks.only(
            masks.full(weights),
            lambda path, _: any(each in masks.name(path) for each in some),
        ),
    )
    if name == "jackpot":
        ticket = prune(ticket, "magnitude", 0.5)
    return ticket


def assert_quartered(state):
    """What has the shape of a kernel lies in four parts."""
    arrays = [
        leaf
        for leaf in jax.tree.leaves(state)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    for leaf in arrays:
        if leaf.ndim > 1:
            assert leaf.addressable_shards[0].data.size == leaf.size / 4
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in arrays)
    assert held < 0.3 * sum(leaf.nbytes for leaf in arrays)


@pytest.mark.parametrize("name", SEARCHES)
def test_what_a_search_holds_lies_as_its_weights_do(mesh, name):
    """Made within a program too; and no weight is gathered to end a round."""
    search = SEARCHES[name]
    ticket = opened(name, cut(mesh, weights()))
    state = jax.jit(search.init)(KEY, ticket)
    assert_quartered(state)
    advance = jax.jit(search.advance).lower(state).compile()
    found = shards.collectives(advance)
    assert {kind for kind, _ in found} <= {"all-reduce"}
    assert max((size for _, size in found), default=0) == (name in ("imp", "gradual"))
    assert_quartered(advance(state))


@pytest.mark.parametrize("name", SEARCHES)
def test_by_hand_a_search_finds_the_masks_of_one_device(mesh, name):
    """Of the same gradients: to the last weight."""
    search = SEARCHES[name]

    @jax.jit
    def found(ticket, slopes):
        def step(at, state):
            grads = jax.tree.map(lambda g: g * (1 + at).astype(g.dtype), slopes)
            return search.update(grads, state, at)

        state = search.init(KEY, ticket)
        state = jax.lax.fori_loop(0, 5, step, state)
        opened = search.advance(state)
        return [search.ticket(each).mask for each in (state, opened)], opened

    draws = np.random.default_rng(0)
    slopes = jax.tree.map(lambda w: draws.normal(size=w.shape), weights())
    slopes = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), slopes)
    ours, state = found(opened(name, cut(mesh, weights())), cut(mesh, slopes))
    theirs, _ = found(opened(name, weights()), slopes)
    assert_quartered(state)
    assert_same(ours, theirs)
    assert any(0 < masks.density(mask) < 1 for mask in theirs)


@pytest.mark.parametrize("name", ["imp", "continuous_sparsification", "rigl"])
def test_a_whole_run_finds_the_masks_of_one_device(mesh, name):
    """Sums over the batch are of another order, which moves no weight past another.

    RigL is by SGD here. Adam's first step moves every weight that has just grown by one
    learning rate, to 1e-6: they are then the smallest, and of equals the next exchange
    drops those whose gradients were rounded down.
    """
    search = SEARCHES[name]
    if name == "rigl":
        search = rigl(optax.sgd(0.1), density=0.5, every=2, stop=4)

    @jax.jit
    def whole(ticket, data):
        return run(search, loss, KEY, ticket, data, rounds=2, steps=5, batch_size=8)

    rows = jax.device_put(data(), NamedSharding(mesh, PartitionSpec("data")))
    found = whole(opened(name, cut(mesh, weights())), rows)
    expected = whole(opened(name, weights()), data())
    assert_quartered(found.carry.search)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    assert_same(found.ticket.mask, expected.ticket.mask)
    assert 0 < masks.density(expected.ticket.mask) < 1


def moved(mesh, *axes):
    """array -> how it lies with its axes, the longest first, over these of the mesh."""

    def sharding(leaf):
        spec = [None] * leaf.ndim
        if leaf.ndim > 1:
            order = np.argsort([-n for n in leaf.shape], kind="stable")
            for place, axis in zip(order, axes, strict=False):
                spec[place] = axis
        return NamedSharding(mesh, PartitionSpec(*spec))

    return sharding


def test_a_checkpoint_goes_on_on_other_meshes(mesh, tmp_path):
    """On fewer devices, along another axis, on one: from the same bits to the same."""
    search = SEARCHES["gradual"]

    @jax.jit
    def begun(ticket):
        return search.init(KEY, ticket)

    @functools.partial(jax.jit, static_argnums=2)
    def steps(state, slopes, numbers):
        for at in range(*numbers):
            state = search.update(slopes, state, jnp.int32(at))
        return state

    draws = np.random.default_rng(0)
    slopes = jax.tree.map(lambda w: np.float32(draws.normal(size=w.shape)), weights())
    ticket = opened("gradual", cut(mesh, weights()))
    state = steps(begun(ticket), cut(mesh, slopes), (0, 2))
    kept = checkpoint.digest(state)
    with checkpoint.Folder(tmp_path) as folder:
        folder.save(1, state, {})
    expected = search.ticket(steps(state, cut(mesh, slopes), (2, 4)))
    assert 0 < masks.density(expected.mask) < 1

    def like(sharding):
        return lambda _: jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x)),
            state,
        )

    pair, line = (
        shards.mesh_of(AxisType.Auto, **{name: n}) for name, n in (("p", 2), ("l", 4))
    )
    one = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    for sharding in (
        moved(pair, "p"),
        moved(line, None, "l"),
        lambda _: one,
    ):
        with checkpoint.Folder(tmp_path) as folder:
            step, found = folder.restore(like(sharding), [{}])
        assert (step, checkpoint.digest(found)) == (1, kept)
        for leaf in jax.tree.leaves(found):
            assert leaf.sharding.is_equivalent_to(sharding(leaf), leaf.ndim)
        here = jax.device_put(slopes, jax.tree.map(sharding, slopes))
        assert_same(search.ticket(steps(found, here, (2, 4))), expected)


def test_a_ticket_comes_to_the_host_leaf_by_leaf(mesh, tmp_path):
    """And does not stay there, as what JAX copies of an array does."""
    rows = NamedSharding(mesh, PartitionSpec(("data", "model")))
    draws = np.random.default_rng(0)
    drawn = {f"w{i}": np.float32(draws.normal(size=(1024, 1024))) for i in range(4)}
    size = drawn["w0"].nbytes
    kept = jax.tree.map(lambda w: w > 2.5, drawn)
    ticket = Ticket(*jax.device_put((drawn, kept), rows))
    tracemalloc.start()
    files.save_ticket(tmp_path / "ticket.npz", ticket)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * size
    found, _ = files.load_ticket(tmp_path / "ticket.npz", Ticket(drawn, None))
    assert_same(found.mask, kept)
    assert_same(masks.apply(kept, found.weights), masks.apply(kept, drawn))
