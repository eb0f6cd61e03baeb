"""Layers by name, and networks with one of them from elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxticket import interventions, masks, models


def zoo(name, **options):
    model = models.create(name, **options)
    image = np.zeros((1, 32, 32, 3), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)[0]


def drawn(seed):
    keys = jax.random.split(jax.random.key(seed), 5)
    return {
        "conv_2": {"kernel": jax.random.normal(keys[0], (3, 3, 2, 4))},
        "norm_2": {"scale": jax.random.normal(keys[1], (4,))},
        "conv_10": {"kernel": jax.random.normal(keys[2], (3, 3, 4, 5))},
        "output": {
            "bias": jax.random.normal(keys[3], (6,)),
            "kernel": jax.random.normal(keys[4], (5, 6)),
        },
    }


def test_a_layer_has_its_bias_and_the_normalisation_of_its_number():
    assert interventions.layers(drawn(0)) == {
        "conv_2": ("conv_2/kernel", "norm_2/scale"),
        "conv_10": ("conv_10/kernel",),
        "output": ("output/bias", "output/kernel"),
    }


@pytest.mark.parametrize(
    ("name", "count", "of"),
    [
        ("lenet_300_100", 3, {"fc_0": ("fc_0/bias", "fc_0/kernel")}),
        ("resnet_20", 22, {"shortcut_1": ("shortcut_1/kernel",)}),
        ("vgg_19_bn", 19, {"fc_0": ("fc_0/bias", "fc_0/kernel")}),
        # Of this number there is a convolution too, of another width.
        ("resnet_50", 54, {"shortcut_3": (
            "shortcut_3/kernel", "shortcut_norm_3/bias", "shortcut_norm_3/scale")}),
    ],
)  # fmt: skip
def test_the_layers_of_the_zoo(name, count, of):
    """Every leaf is in one of them, and every normalisation with its convolution."""
    params = zoo(name)
    found = interventions.layers(params)
    leaves = [leaf for layer in found.values() for leaf in layer]
    assert sorted(leaves) == sorted(masks.names(params))
    assert len(found) == count
    assert not any("norm" in layer for layer in found)
    assert of.items() <= found.items()
    if "conv_1" in found:
        assert any(leaf.startswith("norm_1/") for leaf in found["conv_1"])


def test_what_has_no_partner_is_a_layer_of_its_own():
    """No number, no module of its number, none of its width, or two."""
    kernel, vector = jnp.ones((3, 4)), jnp.ones(4)
    params = {
        "dense": {"kernel": kernel},
        "norm": {"scale": vector},
        "dense_1": {"kernel": kernel},
        "norm_2": {"scale": vector},
        "dense_3": {"kernel": kernel},
        "norm_3": {"scale": jnp.ones(3)},
        "dense_4": {"kernel": kernel},
        "other_4": {"kernel": kernel},
        "norm_4": {"scale": vector},
        "block": {"dense_5": {"kernel": kernel}},
        "norm_5": {"scale": vector},
        "alone": jnp.ones((3, 4)),
    }
    found = interventions.layers(params)
    alone = [name for name in found if "norm" in name]
    assert alone == ["norm", "norm_2", "norm_3", "norm_4", "norm_5"]
    assert found["alone"] == ("alone",)


def test_with_a_layer_from_elsewhere_all_else_stays():
    params, other = drawn(1), drawn(2)
    found = interventions.with_layer(params, other, "conv_2")
    for module, leaves in found.items():
        source = other if module in ("conv_2", "norm_2") else params
        for name, leaf in leaves.items():
            np.testing.assert_array_equal(leaf, source[module][name])


def test_an_unknown_layer_and_another_network_are_refused():
    params = drawn(1)
    with pytest.raises(ValueError, match="layer must be one of conv_2, conv_10, out"):
        interventions.with_layer(params, drawn(2), "conv_3")
    other = params | {"conv_2": {"kernel": jnp.ones((3, 3, 2, 5))}}
    with pytest.raises(ValueError, match="not of one network: 'conv_2/kernel'"):
        interventions.with_layer(params, other, "output")
