"""Network slimming: which channels go, and what is left of the network without them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxticket import Ticket, fixed, imp, masks, prune, run, slimming
from jaxticket.searches.slimming import by_number, channels, scales, shrink

pytestmark = pytest.mark.usefixtures("unoptimised")
CHANNELS = {"conv_0": 4, "conv_1": 6}


def network(seed=0):
    """Two convolutions with batch normalisation, and an output layer."""
    rng, params, inputs = np.random.default_rng(seed), {}, 3
    for i, outputs in enumerate(CHANNELS.values()):
        shape = (3, 3, inputs, outputs)
        params[f"conv_{i}"] = {"kernel": rng.normal(size=shape) / 4}
        scale, bias = rng.normal(size=(2, outputs))
        params[f"norm_{i}"] = {"scale": scale, "bias": bias}
        inputs = outputs
    params["output"] = {"kernel": rng.normal(size=(inputs, 2))}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def apply(params, x):
    """Batch normalisation by the statistics of the batch."""
    for i in range(2):
        x = jax.lax.conv_general_dilated(
            x,
            params[f"conv_{i}"]["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        mean, variance = (
            x.mean((0, 1, 2), keepdims=True),
            x.var((0, 1, 2), keepdims=True),
        )
        scale, bias = (
            params[f"norm_{i}"][name].reshape(1, 1, 1, -1) for name in ("scale", "bias")
        )
        x = jax.nn.relu(scale * (x - mean) / jnp.sqrt(variance + 1e-5) + bias)
    return x.mean((1, 2)) @ params["output"]["kernel"]


def assert_whole(mask, stays):
    """A kernel keeps these channels, and all of each."""
    np.testing.assert_array_equal(mask, np.broadcast_to(stays, mask.shape))


def slim(ticket, density, layers=by_number):
    return prune(ticket, scales(layers), density, select=channels(layers))


def largest(params, kept):
    """For each layer, which channels are among the `kept` largest scales of all."""
    sizes = [np.abs(params[f"norm_{i}"]["scale"]) for i in range(2)]
    cut = np.sort(np.concatenate(sizes))[-kept]
    return [size >= cut for size in sizes]


@pytest.mark.parametrize(
    ("density", "kept"), [(0.3, 3), (0.55, 6), (0.9, 9), (1.0, 10)]
)
def test_exactly_the_channels_of_the_largest_scales_stay(density, kept):
    params = network()
    ticket = Ticket(params, masks.full(params))
    found = jax.jit(slim)(ticket, density)
    for name, stays in zip(CHANNELS, largest(params, kept), strict=True):
        assert_whole(found.mask[name]["kernel"], stays)
    assert found.mask["output"]["kernel"].all()
    assert found.mask["norm_0"]["scale"] is None
    jax.tree.map(np.testing.assert_array_equal, found.weights, params)


def test_ties_are_cut_at_the_exact_count():
    params = network()
    for i in range(2):
        params[f"norm_{i}"]["scale"] = jnp.ones(4 + 2 * i)
    mask = slim(Ticket(params, masks.full(params)), 0.5).mask
    kept = [mask[name]["kernel"].any((0, 1, 2)).sum() for name in CHANNELS]
    assert kept == [4, 1]


def test_a_second_pruning_counts_the_channels_that_are_left():
    params = network()
    once = slim(Ticket(params, masks.full(params)), 0.6)
    twice = slim(once, 0.5)
    for name, stays in zip(CHANNELS, largest(params, 3), strict=True):
        assert_whole(twice.mask[name]["kernel"], stays)


def test_weights_pruned_before_do_not_speak_for_their_channel():
    params, rng = network(), np.random.default_rng(2)
    full = masks.full(params)
    some = jax.tree.map(lambda m: jnp.asarray(rng.random(m.shape) < 0.5), full)
    found = slim(Ticket(params, some), 0.5)
    for name, stays in zip(CHANNELS, largest(params, 5), strict=True):
        before = np.asarray(some[name]["kernel"])
        np.testing.assert_array_equal(found.mask[name]["kernel"], before & stays)


def test_a_mask_of_the_normalisation_too_leaves_the_smaller_network():
    """Kernel, scale and shift are gone: as if the channels had never been there."""
    params, x = network(), np.random.default_rng(1).normal(size=(5, 6, 6, 3))
    full = masks.full(params, lambda path, leaf: "output" not in masks.name(path))
    found = slim(Ticket(params, full), 0.5)
    first, second = largest(params, 5)
    assert 0 < first.sum() < 4
    assert 0 < second.sum() < 6
    small = {
        "conv_0": {"kernel": params["conv_0"]["kernel"][..., first]},
        "conv_1": {"kernel": params["conv_1"]["kernel"][..., first, :][..., second]},
        "norm_0": {name: p[first] for name, p in params["norm_0"].items()},
        "norm_1": {name: p[second] for name, p in params["norm_1"].items()},
        "output": {"kernel": params["output"]["kernel"][second]},
    }
    x = jnp.asarray(x, jnp.float32)
    masked = apply(masks.apply(found.mask, found.weights), x)
    np.testing.assert_allclose(masked, apply(small, x), atol=1e-5)
    kernels_alone = slim(Ticket(params, masks.full(params)), 0.5)
    shifted = apply(masks.apply(kernels_alone.mask, params), x)
    assert np.abs(shifted - masked).max() > 0.1  # the shifts are still there


def trained(search, params):
    """The state after some steps that make the outputs small."""
    x = jnp.ones((2, 6, 6, 3)) * jnp.arange(6).reshape(1, 1, 6, 1)
    state = search.init(jax.random.key(0), Ticket(params, masks.full(params)))

    def step(state, at):
        grads = jax.grad(lambda p: jnp.mean(apply(p, x) ** 2))(search.params(state))
        return search.update(grads, state, at), None

    return jax.lax.scan(step, state, jnp.arange(30))[0]


SGD = optax.sgd(0.01)


def test_the_search_trains_whole_and_keeps_the_channels_of_the_largest_scales():
    """The penalty draws scales to zero; density and penalty may be lanes."""
    params = network()

    @jax.jit
    @jax.vmap
    def found(density, penalty):
        search = slimming(SGD, density=density, penalty=penalty)
        state = trained(search, params)
        return search.params(state), search.ticket(state)

    densities, penalties = np.array([0.3, 0.3, 1.0]), np.array([0.0, 1.0, 1.0])
    whole, tickets = found(densities, penalties)
    plain = fixed(SGD)
    expected = plain.params(trained(plain, params))
    for leaf, other in zip(*map(jax.tree.leaves, (whole, expected)), strict=True):
        np.testing.assert_allclose(leaf[0], other, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, tickets.weights, whole)
    for i, kept in enumerate((3, 3, 10)):
        weights, mask = jax.tree.map(lambda x, i=i: x[i], (whole, tickets.mask))
        assert not any((mask_ == 0).any() for mask_ in jax.tree.leaves(weights))
        for name, stays in zip(CHANNELS, largest(weights, kept), strict=True):
            assert_whole(mask[name]["kernel"], stays)
    size = sum(jnp.abs(whole[f"norm_{i}"]["scale"]).sum(1) for i in range(2))
    assert size[1] < 0.9 * size[0]


def test_a_slim_ticket_is_read_from_the_loop():
    """Its model state is that of its weights, trained to the end."""
    params = network()
    data = {"x": jnp.asarray(np.random.default_rng(1).normal(size=(8, 6, 6, 3)), "f4")}

    def loss(params, state, batch, key):
        return jnp.mean(apply(params, batch["x"]) ** 2), {"seen": state["seen"] + 1}

    ticket = Ticket(params, masks.full(params), {"seen": jnp.int32(0)})
    search, sizes = slimming(SGD, density=0.5), {"rounds": 2, "epochs": 1}
    result = run(search, loss, jax.random.key(0), ticket, data, batch_size=4, **sizes)
    kept = [
        result.ticket.mask[name]["kernel"].any((0, 1, 2)).sum() for name in CHANNELS
    ]
    assert sum(kept) == 5
    assert result.ticket.model_state["seen"] == 4
    assert not search.promises.hard
    assert search.promises.weights == "trained"


def test_channels_go_round_by_round_in_imp():
    search = imp(
        optax.chain(shrink(1e-2), SGD),
        density=0.8,
        score=scales(),
        select=channels(),
        retrain="finetune",
    )
    mask = search.ticket(search.advance(trained(search, network()))).mask
    assert sum(mask[name]["kernel"].any((0, 1, 2)).sum() for name in CHANNELS) == 8


def test_layers_are_paired_by_number_wherever_they_are():
    inner = network() | {"conv_2": {"kernel": jnp.ones((1, 1, 6, 6))}}
    inner["conv_1"]["bias"] = jnp.ones(6)
    assert by_number({"net": inner}) == [
        ("net/conv_0/kernel", "net/norm_0/scale", "net/norm_0/bias"),
        (
            "net/conv_1/kernel",
            "net/norm_1/scale",
            "net/conv_1/bias",
            "net/norm_1/bias",
        ),
    ]


def test_layers_may_be_named_by_the_caller():
    scale = jnp.array([3.0, -4.0, 1.0])
    params = {"a": jnp.ones((2, 3)), "g": scale, "b": jnp.ones((3, 2))}
    found = slim(Ticket(params, masks.full(params)), 2 / 3, lambda params: [("a", "g")])
    np.testing.assert_array_equal(found.mask["a"], [[True, True, False]] * 2)
    assert found.mask["b"].all()


@pytest.mark.parametrize(
    "refused",
    [
        lambda params, mask: by_number({"w": params["output"]}),
        lambda params, mask: slim(Ticket(params, mask), 0.5),
        lambda params, mask: slimming(SGD).init(
            jax.random.key(0), Ticket(params["output"], mask["output"])
        ),
        lambda params, mask: slimming(SGD).init(
            jax.random.key(0), Ticket(params, mask)
        ),
    ],
    ids=["no pair", "no kernel", "search, no pair", "search, no kernel"],
)
def test_what_has_no_channels_is_refused(refused):
    params = network()
    del params["conv_1"]
    mask = masks.full(params) | {"conv_0": {"kernel": None}}
    with pytest.raises(ValueError, match="layers"):
        refused(params, mask)
