"""Filters that are pruned whole: which there are, and which stay, against numpy."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

import jaxticket as jt
from jaxticket import units

pytestmark = pytest.mark.usefixtures("unoptimised")

IMAGES = np.random.default_rng(1).normal(size=(2, 12, 12, 3)).astype(np.float32)


def found(name, **options):
    """A network, its whole ticket, and the layers whose filters can be pruned."""
    model = jt.models.create(name, **options)
    ticket = networks.sparse(model, IMAGES, 1.0)
    layers = units.filters(lambda v, x: model.apply(*v, x)[0], ticket, IMAGES[:1])
    return model, ticket, layers


def test_filters_of_a_chain_are_those_of_all_layers_but_the_last():
    _, _, layers = found("conv_4", widths=(6, 8), hidden=(20, 10))
    assert [layer.kernel for layer in layers] == [
        *(f"conv_{i}/kernel" for i in range(4)),
        "fc_0/kernel",
        "fc_1/kernel",
    ]
    # The channels of the last convolution lie innermost, at nine positions.
    assert layers[3] == units.Filters("conv_3/kernel", 3, (("fc_0/kernel", 0, 9, 1),))


def test_channels_of_a_residual_stream_have_no_one_layer():
    _, _, layers = found("resnet_20", width=4, blocks=(2, 1))
    assert [layer.kernel for layer in layers] == [
        "conv_1/kernel", "conv_3/kernel", "conv_5/kernel",
    ]  # fmt: skip
    assert not found("mlp_1d", width=20)[2]


@pytest.mark.parametrize("density", [0.5, 0.3])
def test_the_filters_of_the_largest_norms_stay_with_their_channels(density):
    model, ticket, layers = found("lenet_5", widths=(6, 8), hidden=(20, 10))
    cut = jax.jit(lambda t, d: units.prune_filters(t, layers, d))
    pruned = cut(ticket, density)
    expected = jax.tree.map(np.array, ticket.mask)
    for layer in layers:
        name = layer.kernel.split("/")[0]
        kernel = np.float64(ticket.weights[name]["kernel"])
        norms = np.abs(kernel).reshape(-1, kernel.shape[-1]).sum(0)
        keep = round(density * len(norms))
        stay = np.zeros(len(norms), bool)
        stay[np.argsort(-norms)[:keep]] = True
        expected[name]["kernel"] &= stay
        [(after, axis, outside, _)] = layer.places
        rows = np.moveaxis(expected[after.split("/")[0]]["kernel"], axis, -1)
        rows &= np.tile(stay, outside)
    jax.tree.map(np.testing.assert_array_equal, pruned.mask, expected)
    small = jt.compact(model, pruned, IMAGES)
    assert float(jt.masks.density(small.ticket.mask)) == 1
    weights, _ = jax.eval_shape(small.model.init, jax.random.key(0), IMAGES)
    assert jax.tree.map(np.shape, weights) == jax.tree.map(
        np.shape, small.ticket.weights
    )


def test_norms_of_half_precision_are_summed_in_single():
    rng = np.random.default_rng(0)
    weights = {"a": rng.random((512, 64)), "b": rng.random((64, 2))}
    half = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), weights)
    layers = [units.Filters("a", 1, (("b", 0, 1, 1),))]
    found, wanted = (
        units.prune_filters(jt.Ticket(w, jt.masks.full(w)), layers, 0.5).mask["a"]
        for w in (half, jax.tree.map(jnp.float32, half))
    )
    np.testing.assert_array_equal(found, wanted)


def test_a_small_network_draws_by_its_own_fans():
    """A rebuilt network is no slice of the large one: its fans are smaller."""
    model, ticket, layers = found("lenet_300_100")
    pruned = units.prune_filters(ticket, layers, 0.2)
    small = jt.compact(model, pruned, IMAGES)
    weights, _ = jax.jit(small.model.init)(jax.random.key(0), IMAGES)
    kernel = weights["fc_1"]["kernel"]
    assert kernel.shape == (60, 20)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (60 + 20)), rtol=0.1)


def test_a_density_above_one_is_refused():
    _, ticket, layers = found("lenet_300_100")
    with pytest.raises(ValueError, match=r"density must be .*got 1.3"):
        units.prune_filters(ticket, layers, 1.3)
