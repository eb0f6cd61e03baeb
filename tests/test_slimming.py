"""Network slimming: which channels go, and what is left of the network without them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxticket import Ticket, fixed, imp, masks, prune
from jaxticket.searches import slimming

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


def assert_whole(mask, channels):
    """A kernel keeps these channels, and all of each."""
    np.testing.assert_array_equal(mask, np.broadcast_to(channels, mask.shape))


def slim(ticket, density, layers=slimming.by_number):
    score, select = slimming.scales(layers), slimming.channels(layers)
    return prune(ticket, score, density, select=select)


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


def test_the_search_by_hand_from_training_to_fine_tuning():
    """The penalty draws scales to zero, and `imp` can prune them round by round."""
    params, x = network(), jnp.ones((2, 6, 6, 3)) * jnp.arange(6).reshape(1, 1, 6, 1)

    def trained(search):
        state = search.init(jax.random.key(0), Ticket(params, masks.full(params)))

        def step(state, at):
            grads = jax.grad(lambda p: jnp.mean(apply(p, x) ** 2))(search.params(state))
            return search.update(grads, state, at), None

        return jax.lax.scan(step, state, jnp.arange(30))[0]

    def size(search):
        params = search.params(trained(search))
        return sum(jnp.abs(params[f"norm_{i}"]["scale"]).sum() for i in range(2))

    sgd = optax.sgd(0.01)
    assert size(fixed(optax.chain(slimming.shrink(1.0), sgd))) < 0.9 * size(fixed(sgd))
    search = imp(
        optax.chain(slimming.shrink(1e-2), sgd),
        density=0.8,
        score=slimming.scales(),
        select=slimming.channels(),
        retrain="finetune",
    )
    mask = search.ticket(search.advance(trained(search))).mask
    assert sum(mask[name]["kernel"].any((0, 1, 2)).sum() for name in CHANNELS) == 8


def test_layers_are_paired_by_number_wherever_they_are():
    inner = network() | {"conv_2": {"kernel": jnp.ones((1, 1, 6, 6))}}
    inner["conv_1"]["bias"] = jnp.ones(6)
    assert slimming.by_number({"net": inner}) == [
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
        lambda params, mask: slimming.by_number({"w": params["output"]}),
        lambda params, mask: slim(
            Ticket(params, mask | {"conv_0": {"kernel": None}}), 0.5
        ),
    ],
    ids=["no pair", "no kernel"],
)
def test_parameters_without_a_pair_are_refused(refused):
    params = network()
    del params["conv_1"]
    with pytest.raises(ValueError, match="layers"):
        refused(params, masks.full(params))
