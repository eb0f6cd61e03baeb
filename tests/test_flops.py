"""Operations of networks, by hand; of trainings, by the formulas of the papers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxticket import Ticket, flops, masks, models, searches, stacks
from jaxticket.graphs import products
from jaxticket.models import convolution

KEY = jax.random.key(0)


def opened(name, shape, **options):
    model = models.create(name, **options)
    weights, state = jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct(shape, "f4"))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    return model, Ticket(weights, masks.full(weights), state)


def counted(model, ticket, shape):
    def network(weights, x):
        return model.apply(weights, ticket.model_state, x)[0]

    return flops.of(network, ticket, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_of_lenet_they_are_two_a_weight():
    shape = 1, 28, 28, 1
    found = counted(*opened("lenet_300_100", shape), shape)
    by_name = masks.named(found.layers)
    assert by_name == {
        "fc_0/bias": 0,
        "fc_0/kernel": 2 * 784 * 300,
        "fc_1/bias": 0,
        "fc_1/kernel": 2 * 300 * 100,
        "output/bias": 0,
        "output/kernel": 2 * 100 * 10,
    }
    assert (found.others, found.dense) == (0, sum(by_name.values()))


def test_of_convolutions_they_are_two_a_weight_and_place():
    shape = 2, 32, 32, 3
    model, ticket = opened("vgg_16", shape)
    found = masks.named(counted(model, ticket, shape).layers)
    sizes = [masks.named(ticket.weights)[f"conv_{i}/kernel"].size for i in range(13)]
    places = [32**2] * 2 + [16**2] * 2 + [8**2] * 3 + [4**2] * 3 + [2**2] * 3
    expected = [2 * 2 * n * at for n, at in zip(sizes, places, strict=True)]
    kernels = [n for n, x in masks.named(ticket.weights).items() if x.ndim == 4]
    assert sorted(found[name] for name in kernels) == sorted(expected)


@pytest.mark.parametrize("name", ["conv_2", "resnet_20"])
def test_xla_counts_about_as_many(name):
    """It counts what is done number by number too, and no product with a padding."""
    shape = 2, 32, 32, 3
    model, ticket = opened(name, shape)
    with convolution.by_definition():
        lowered = jax.jit(lambda w, x: model.apply(w, ticket.model_state, x)[0]).lower(
            ticket.weights, jax.ShapeDtypeStruct(shape, jnp.float32)
        )
    theirs = lowered.cost_analysis()["flops"]
    assert counted(model, ticket, shape).dense == pytest.approx(theirs, rel=0.12)


def test_resnet_50_has_its_four_billion_multiplications():
    shape = 1, 224, 224, 3
    model, ticket = opened("resnet_50", shape, num_classes=1000)
    assert counted(model, ticket, shape).dense / 2 == pytest.approx(4.1e9, rel=0.01)


def test_of_attention_the_products_of_activations_stand_apart():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.MultiHeadDotProductAttention(2, name="attention")(x)

    x = jnp.ones((1, 5, 6))
    weights = Block().init(KEY, x)["params"]
    ticket = Ticket(weights, masks.full(weights))
    found = flops.of(lambda w, x: Block().apply({"params": w}, x), ticket, x)
    kernels = [f for n, f in masks.named(found.layers).items() if "kernel" in n]
    assert kernels == [2 * 5 * 36] * 4
    assert found.others == 2 * (2 * 5 * 5 * 6)


def test_a_layer_that_runs_in_a_loop_counts_as_often_as_it_does():
    def network(w, x):
        return jax.lax.scan(lambda x, w: (x @ w, ()), x, w["stack"])[0] @ w["last"]

    weights = {"stack": jnp.ones((3, 4, 4)), "last": jnp.ones((4, 2))}
    found = flops.of(network, Ticket(weights, masks.full(weights)), jnp.ones((1, 4)))
    assert found.layers == {"stack": 3 * 2 * 16, "last": 2 * 8}


def test_layers_of_a_stack_have_their_own():
    def network(layers, x):
        w = jnp.where(True, 2 * stacks.together(layers)["w"], 0)
        return jax.lax.scan(lambda x, w: (x @ w, ()), x, jnp.moveaxis(w, -1, 0))[0]

    layers = stacks.apart({"w": jnp.ones((4, 4, 3))}, {"w": 2})
    mask = masks.full(layers)
    found = flops.of(network, Ticket(layers, mask), jnp.ones((1, 4)))
    assert jax.tree.leaves(found.layers) == [32] * 3
    [first, *others], tree = jax.tree.flatten(mask)
    mask = tree.unflatten([jnp.zeros_like(first), *others])
    assert flops.inference(found, mask) == 64


def test_kernels_side_by_side_share_and_a_sum_of_two_is_neither():
    """A sum has the zeros of none, so that nothing is left out where one is sparse."""
    weights = {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 1)), "c": jnp.ones((1, 4))}
    ticket, x = Ticket(weights, masks.full(weights)), jnp.ones((1, 4))

    def beside(a, b, c):
        return jnp.concatenate([a, b, jnp.zeros((4, 1))], axis=1)

    def product(a, b, c):
        return b @ c

    def added(a, b, c):
        return jnp.concatenate([a, a[:, :1]], axis=1) + b @ c

    def scaled(a, b, c):
        return a / jnp.linalg.norm(a, axis=0, keepdims=True) * b

    for kernel, expected in (
        (beside, ({"a": 24, "b": 8, "c": 0}, 8)),
        (product, ({"a": 0, "b": 0, "c": 0}, 32)),
        (added, ({"a": 0, "b": 0, "c": 0}, 32)),
        (scaled, ({"a": 24, "b": 0, "c": 0}, 0)),
    ):
        assert flops.of(lambda w, x, k=kernel: x @ k(**w), ticket, x) == expected


def test_a_ticket_has_as_many_as_its_layers_are_dense():
    weights = {"a": jnp.ones((4, 5)), "b": jnp.ones((5, 2))}
    mask = {"a": jnp.arange(20).reshape(4, 5) < 5, "b": None}
    found = flops.of(
        lambda w, x: x @ w["a"] @ w["b"], Ticket(weights, mask), jnp.ones((1, 4))
    )
    assert flops.inference(found, mask) == 2 * (5 + 10)


WEIGHTS = {"a": jnp.arange(400.0).reshape(20, 20), "b": jnp.ones((20, 10))}
FULL = masks.full(WEIGHTS)
LAYERS = flops.Flops({"a": 800, "b": 400}, 0)
STEPS = 101


def trained(search, after):
    return flops.training(LAYERS, FULL, after, search.promises, STEPS)


def at(density):
    return jax.tree.map(
        lambda m: jnp.arange(m.size).reshape(m.shape) < density * m.size, FULL
    )


def test_of_a_dense_or_a_fixed_network_a_step_is_three_passes():
    fixed = searches.fixed(optax.sgd(0.1))
    assert trained(fixed, FULL) == 3 * 1200 * STEPS
    half = flops.training(LAYERS, at(0.5), at(0.5), fixed.promises, STEPS)
    assert half == 3 * 600 * STEPS
    soft = searches.l0(optax.sgd(0.1))
    assert trained(soft, at(0.1)) == 3 * 1200 * STEPS


def test_of_sparse_training_they_are_those_of_the_paper():
    options = {"density": 0.1, "every": 100, "stop": 100}
    sparse, dense = 120, 1200
    set_ = searches.set(optax.sgd(0.1), **options)
    assert trained(set_, at(0.1)) == pytest.approx(3 * sparse * STEPS)
    # Two exchanges in 101 steps: at 0 and at 100.
    rigl = searches.rigl(optax.sgd(0.1), **options)
    expected = 99 * 3 * sparse + 2 * (2 * sparse + dense)
    assert trained(rigl, at(0.1)) == pytest.approx(expected)
    snfs = searches.snfs(optax.sgd(0.1), **options)
    assert trained(snfs, at(0.1)) == pytest.approx((2 * sparse + dense) * STEPS)


def test_of_pruning_and_of_turns_they_follow_the_schedule():
    gradual = searches.gradual(
        optax.sgd(0.1), steps=STEPS, start=10, stop=90, every=20, final_density=0.1
    )
    places = [10, 30, 50, 70, 90]
    densities = [0.1 + 0.9 * (1 - (t - 10) / 80) ** 3 for t in places]
    lengths = [20, 20, 20, 20, STEPS - 90]
    share = 10 + np.dot(densities, lengths)
    np.testing.assert_allclose(trained(gradual, at(0.1)), 3 * 1200 * share, rtol=1e-6)
    turns = searches.ac_dc(
        optax.sgd(0.1), density=0.1, start=10, phase=10, stop=50, final=80
    )
    compressed = 10 + 10 + STEPS - 80
    share = STEPS - 0.9 * compressed
    np.testing.assert_allclose(trained(turns, at(0.1)), 3 * 1200 * share, rtol=1e-6)


@pytest.mark.parametrize("name", ["vgg_16", "resnet_20"])
def test_layers_come_in_the_order_of_the_network(name):
    """By their names `conv_10` would come before `conv_2`."""
    shape = 1, 32, 32, 3
    model, ticket = opened(name, shape)

    def network(weights, x):
        return model.apply(weights, ticket.model_state, x)[0]

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    found = products.order(network, ticket.weights, x)
    assert sorted(found) == sorted(masks.names(ticket.mask))
    assert found[-1] == "output/kernel"
    numbers = [int(x) for x in re.findall(r"conv_(\d+)", " ".join(found))]
    assert numbers == sorted(numbers)
