"""Stacks of layers, taken apart, are layers like others, wherever layers count."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import assert_same

from jaxticket import (
    Ticket,
    audit,
    controls,
    files,
    imp,
    jackpot,
    masks,
    models,
    prune,
    run,
    selection,
    stacks,
)
from jaxticket.engine import checkpoint

pytestmark = pytest.mark.usefixtures("unoptimised")

KEY = jax.random.key(0)
SCALES = jnp.array([0.01, 0.1, 1.0])


def blocks(axis=0):
    """Three layers of unlike scale, of 400 weights each, along an axis."""
    layers = jax.random.normal(KEY, (3, 20, 20)) * SCALES[:, None, None]
    return {"blocks": jnp.moveaxis(layers, 0, axis)}


def densities(mask):
    return [float(x) for x in jax.tree.leaves(masks.layer_densities(mask))]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("select", ["equal", "erk", "global_top"])
def test_layers_of_a_stack_are_selected_as_those_of_a_list(axis, select):
    listed = {f"block_{i}": layer for i, layer in enumerate(blocks()["blocks"])}
    layers = stacks.apart(blocks(axis), {"blocks": axis})
    found, expected = (
        prune(Ticket(w, masks.full(w)), "magnitude", 1 / 3, select=select).mask
        for w in (layers, listed)
    )
    assert masks.names(found) == ["blocks/0", "blocks/1", "blocks/2"]
    assert densities(found) == densities(expected)
    if select == "equal":
        np.testing.assert_allclose(densities(found), 1 / 3, atol=1 / 400)
    whole = stacks.together(found)["blocks"]
    for i, layer in enumerate(expected.values()):
        np.testing.assert_array_equal(jnp.take(whole, i, axis), layer)


def test_erk_of_a_stack_is_that_of_its_layers():
    """One wide layer among three: as a stack it would count as one of three axes."""
    params = blocks() | {"head": jnp.ones((20, 2))}
    mask = masks.full(stacks.apart(params, {"blocks": 0}))
    apart = [np.ones((20, 20), bool)] * 3 + [np.ones((20, 2), bool)]
    assert jax.tree.leaves(selection.erk(mask, 0.3)) == selection.erk(apart, 0.3)


def test_the_audit_sees_a_layer_that_is_empty():
    layers = stacks.apart(blocks(), {"blocks": 0})
    mask = prune(Ticket(layers, masks.full(layers)), "magnitude", 0.05).mask
    with pytest.raises(audit.AuditError, match="blocks/0 keeps nothing"):
        audit.no_empty_layer("here", jax.device_get(mask))


def test_a_jackpot_keeps_the_count_of_every_layer():
    layers = stacks.apart(blocks(), {"blocks": 0})
    ticket = prune(Ticket(layers, masks.full(layers)), "magnitude", 0.4)
    counts = masks.layer_counts(ticket.mask)
    search = jackpot(optax.sgd(100.0))
    state = search.init(KEY, ticket)
    grads = jax.tree.map(jnp.ones_like, layers)
    for step in range(3):
        state = search.update(grads, state, step)
    found = search.ticket(state).mask
    assert masks.layer_counts(found) == counts == search.promises.kept(ticket.mask)
    assert masks.overlap(found, ticket.mask) < 1
    shuffled = controls.shuffle(KEY, ticket).mask
    assert masks.layer_counts(shuffled) == counts


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 4, 5), 0),
        ((4, 3, 5), 1),
        ((4, 5, 3), -1),
        ((3, 2, 4, 5), (0, 1)),
        ((4, 3, 5, 2), (-1, 1)),
    ],
)
def test_together_is_the_other_way_round(shape, axes):
    params = {"blocks": {"w": jax.random.normal(KEY, shape)}, "head": jnp.ones(2)}
    layers = stacks.apart(params, {"blocks/w": axes})
    number = np.prod([shape[axis] for axis in np.atleast_1d(axes)])
    assert len(jax.tree.leaves(layers)) == 1 + number
    assert {leaf.shape for leaf in jax.tree.leaves(layers)} == {(2,), (4, 5)}
    assert_same(stacks.together(layers), params)
    # A batch axis in front of all leaves changes nothing.
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), layers)
    expected = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    assert_same(stacks.together(batch), expected)
    mask = masks.full(layers, lambda path, leaf: leaf.ndim == 1)
    assert stacks.together(mask)["blocks"]["w"] is None


def test_a_mask_that_some_layers_have_is_no_stack():
    layers = stacks.apart({"blocks": {"w": jnp.ones((3, 2, 4))}}, {"blocks": 0})
    for lacks in (0, 2):
        name = f"blocks/w/{lacks}"
        mask = masks.only(masks.full(layers), lambda p, _, n=name: masks.name(p) != n)
        with pytest.raises(
            ValueError, match=rf"layers \[{lacks}\] of 'blocks/w' are N"
        ):
            stacks.together(mask)


def test_a_function_or_the_longest_name_says_where_layers_lie():
    params = {"blocks": {"w": jnp.ones((3, 2, 4)), "b": jnp.ones((4, 3))}}
    layers = stacks.apart(params, {"blocks": 0, "blocks/b": 1})
    by_function = stacks.apart(params, lambda path, leaf: leaf.shape.index(3))
    assert_same(layers, by_function)
    assert masks.names(masks.full(layers)) == [f"blocks/w/{i}" for i in range(3)]


def test_a_ticket_of_layers_is_kept_in_a_file(tmp_path):
    layers = stacks.apart(blocks(), {"blocks": 0})
    ticket = prune(Ticket(layers, masks.full(layers)), "magnitude", 0.4)
    files.save_ticket(tmp_path / "ticket.npz", ticket)
    found, _ = files.load_ticket(tmp_path / "ticket.npz", ticket)
    assert_same(found.mask, ticket.mask)
    assert_same(masks.apply(found.mask, found.weights), masks.apply(*ticket[1::-1]))


def test_layers_are_kept_in_checkpoints(tmp_path):
    layers = stacks.apart(blocks(), {"blocks": 0})
    with checkpoint.Folder(tmp_path) as folder:
        folder.save(1, layers, {})
    with checkpoint.Folder(tmp_path) as folder:
        assert_same(folder.restore(lambda step: layers, [{}])[1], layers)


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        def layer(dense, x, _):
            return jnp.tanh(dense(x)), None

        scan = nn.scan(
            layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = scan(nn.Dense(6, name="blocks"), x, None)
        return nn.Dense(2, name="head")(x)


def test_a_scanned_network_is_searched_layer_by_layer():
    """And runs as it does with its stacks."""
    whole = models.from_linen(Scanned())
    model = models.unstacked(whole, {"blocks": 0})
    x = jax.random.normal(KEY, (8, 6))
    weights, state = model.init(KEY, x)
    assert_same(model.apply(weights, state, x), whole.apply(*whole.init(KEY, x), x))
    ticket = Ticket(weights, masks.full(weights), state)
    assert masks.size(ticket.mask) == 3 * 36 + 12

    def loss_fn(params, state, batch, key):
        y, state = model.apply(params, state, batch, train=True, key=key)
        return jnp.mean((y - 1) ** 2), state

    search = imp(optax.adam(1e-2), density=0.5, select="equal")
    result = jax.jit(
        lambda key: run(
            search, loss_fn, key, ticket, x, rounds=2, epochs=2, batch_size=4
        )
    )(KEY)
    assert densities(result.ticket.mask) == [0.5] * 4
    assert masks.names(result.ticket.mask)[0] == "blocks/kernel/0"
