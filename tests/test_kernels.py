"""What is a kernel, and its fan, in four libraries and in stacks of their layers."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxticket import Ticket, edge_popup, kernels, masks, models, revalued, selection

KEY = jax.random.key(0)
X = jnp.ones((2, 6))


class LinenLayer(nn.Module):
    """One of each kind of layer that has something else than a kernel."""

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(x)
        y = nn.LayerNorm()(y) + nn.RMSNorm()(y) + nn.GroupNorm(2)(y)
        y = nn.RNN(nn.LSTMCell(6), name="lstm")(y)
        y = nn.WeightNorm(nn.Dense(6))(nn.PReLU()(y))
        y = nn.ConvTranspose(6, (3,))(nn.Conv(6, (3,))(y))
        return nn.DenseGeneral((2, 3), name="heads")(y).reshape(y.shape), None


class Scanned(nn.Module):
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        tokens = nn.Embed(5, 6)(jnp.zeros((1, 4), int))
        scan = nn.scan(
            LinenLayer,
            variable_axes={"params": self.axis},
            split_rngs={"params": True},
            length=3,
        )
        return scan(name="blocks")(tokens)[0]


class NnxLayer(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 6, rngs=rngs, decode=False)
        self.layer_norm = nnx.LayerNorm(6, rngs=rngs)
        self.batch_norm = nnx.BatchNorm(6, rngs=rngs)
        self.lstm = nnx.OptimizedLSTMCell(6, 6, rngs=rngs)
        self.low_rank = nnx.LoRALinear(6, 6, lora_rank=2, rngs=rngs)
        self.slope = nnx.PReLU()


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.table = nnx.Embed(5, 6, rngs=rngs)
        keys = jax.random.split(jax.random.key(0), 3)
        self.blocks = nnx.vmap(lambda key: NnxLayer(nnx.Rngs(key)))(keys)


class EquinoxLayer(eqx.Module):
    convolution: eqx.nn.Conv2d
    transposed: eqx.nn.ConvTranspose1d
    attention: eqx.nn.MultiheadAttention
    normalise: eqx.nn.LayerNorm
    ln: eqx.nn.RMSNorm
    group: eqx.nn.GroupNorm
    cell: eqx.nn.GRUCell
    slope: eqx.nn.PReLU

    def __init__(self, key):
        self.convolution = eqx.nn.Conv2d(3, 6, 3, key=key)
        self.transposed = eqx.nn.ConvTranspose1d(3, 6, 3, key=key)
        self.attention = eqx.nn.MultiheadAttention(
            2, 6, use_query_bias=True, use_output_bias=True, key=key
        )
        self.normalise = eqx.nn.LayerNorm((6, 6))
        self.ln = eqx.nn.RMSNorm(6, use_bias=False)
        self.group = eqx.nn.GroupNorm(2, 6)
        self.cell = eqx.nn.GRUCell(6, 6, key=key)
        self.slope = eqx.nn.PReLU(jnp.ones(6))


def equinox():
    def make(key):
        layer = eqx.filter_vmap(EquinoxLayer)(jax.random.split(key, 3))
        return {"table": eqx.nn.Embedding(5, 6, key=key), "blocks": layer}

    return eqx.filter(eqx.filter_eval_shape(make, KEY), lambda x: hasattr(x, "dtype"))


def haiku():
    def layer(x):
        x = hk.LayerNorm(-1, True, True)(hk.Linear(6)(x)) + hk.Bias()(x)
        x = hk.MultiHeadAttention(2, 3, w_init=hk.initializers.Constant(1))(x, x, x)
        return hk.GRU(6)(x, jnp.zeros((2, 6)))[0]

    def network(x):
        x = hk.Embed(5, 6)(jnp.zeros(2, int))
        x = hk.BatchNorm(True, True, 0.9)(x.reshape(1, 1, 2, 6), True).reshape(2, 6)
        return hk.experimental.layer_stack(3, name="blocks")(layer)(x)

    return jax.eval_shape(hk.transform_with_state(network).init, KEY, X)[0]


def linen(axis):
    return jax.eval_shape(Scanned(axis).init, KEY, X)["params"]


def nnx_state(pure):
    state = nnx.state(nnx.eval_shape(lambda: Nnx(nnx.Rngs(0))), nnx.Param)
    return nnx.to_pure_dict(state) if pure else state


NETWORKS = {
    "linen": lambda: linen(0),
    "linen, last axis": lambda: linen(-1),
    "nnx": lambda: nnx_state(pure=False),
    "nnx, as a dict": lambda: nnx_state(pure=True),
    "equinox": equinox,
    "haiku": haiku,
}
# The last words of the names of what can be pruned.
ENDINGS = (
    *("kernel", "kernel/value", "embedding", "embedding/value", "embeddings"),
    *("lora_a", "lora_b", "lora_a/value", "lora_b/value", "w", "w_i", "w_h"),
    *("convolution/weight", "transposed/weight", "proj/weight", "table/weight"),
    *("cell/weight_ih", "cell/weight_hh"),
)


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_and_embeddings_are_prunable_in_any_library_and_stack(name):
    params = NETWORKS[name]()
    chosen = dict(
        zip(masks.names(params), jax.tree.leaves(kernels.found(params)), strict=True)
    )
    expected = {leaf: leaf.endswith(ENDINGS) for leaf in chosen}
    assert chosen == expected
    assert {True, False} <= {ok for leaf, ok in chosen.items() if "blocks" in leaf}


def dense(*layers):
    return {"w": np.ones((*layers, 5, 6)), "b": np.zeros((*layers, 6))}


MATRIX, VECTORS = np.ones((3, 6)), np.zeros((3, 6))


@pytest.mark.parametrize(
    ("params", "prunable"),
    [
        (dense(), ["w"]),
        (dense(3), ["w"]),
        (dense(3, 4), ["w"]),
        ({"a": MATRIX, "b": MATRIX + 1}, ["a", "b"]),
        ({"w": MATRIX, "a": MATRIX + 1, "b": MATRIX + 2}, ["a", "b", "w"]),
        ({"W1": np.ones((2, 3, 4)), "b1": np.ones((2, 4)), "b": MATRIX}, ["W1"]),
        ({"bias": {"b": VECTORS}, "w": MATRIX}, ["w"]),
        ({"mean_w": MATRIX, "w_scale": VECTORS, "mean": VECTORS}, ["mean_w"]),
        ([(np.ones((3, 5, 6)), VECTORS)], ["0/0"]),
        ([(np.ones((3, 6)), np.ones((6, 1)))], ["0/0", "0/1"]),
        ({"ln_1": {"weight": VECTORS}, "fc": {"weight": MATRIX}}, ["fc/weight"]),
        ({"fc.weight": MATRIX, "bn.weight": VECTORS}, ["fc.weight"]),
        ({"m": {"weight": VECTORS, "bias": VECTORS}, "x": MATRIX}, ["x"]),
        ({"pos_embedding": np.ones((1, 5, 6)), "cls": np.ones((1, 1, 6))}, "pos"),
        ({"logit_scale": VECTORS, "bias_table": VECTORS, "k": MATRIX}, ["k"]),
        ({"kernel": np.ones((5, 1)), "kernel_0": np.ones((1, 5))}, "kernel"),
        ({"layer_norm_kernel": {"kernel": MATRIX}}, "layer"),
        ({"wq": np.ones((2, 3, 6)), "bq": VECTORS, "ln1_g": VECTORS}, ["wq"]),
        ({"input_layernorm": VECTORS, "up_proj": MATRIX}, ["up_proj"]),
        ({"relative_position_bias_table": VECTORS, "k": MATRIX}, ["k"]),
        (MATRIX, [""]),
    ],
)
def test_names_and_neighbours_tell_where_shapes_do_not(params, prunable):
    found = masks.names(masks.full(params))
    if isinstance(prunable, str):
        assert found == [n for n in masks.names(params) if n.startswith(prunable)]
    else:
        assert sorted(found) == sorted(prunable)


@pytest.mark.parametrize("name", models.NAMES)
def test_in_the_zoo_it_is_the_number_of_dimensions(name):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params, _ = jax.eval_shape(models.create(name).init, KEY, images)
    assert jax.tree.leaves(kernels.found(params)) == [
        leaf.ndim > 1 for leaf in jax.tree.leaves(params)
    ]
    fans = jax.tree.leaves(kernels.fan_in(params))
    for leaf, fan in zip(jax.tree.leaves(params), fans, strict=True):
        assert leaf.ndim < 2 or fan == np.prod(leaf.shape[:-1])


# Fans.


def leaf(params, *names):
    fans = dict(
        zip(masks.names(params), jax.tree.leaves(kernels.fan_in(params)), strict=True)
    )
    return [fans[name] for name in names]


def test_fans_are_those_of_the_library():
    attention = [f"blocks/attention/{x}/kernel" for x in ("query", "out")]
    assert leaf(linen(0), *attention, "blocks/heads/kernel") == [6, 6, 6]
    assert leaf(linen(0), "blocks/Conv_0/kernel") == [18]
    names = ("convolution/weight", "transposed/weight", "cell/weight_hh")
    assert leaf(equinox(), *(f"blocks/{name}" for name in names)) == [27, 9, 6]
    whole = nnx_state(pure=False)
    assert leaf(whole, "blocks/attention/key/kernel/value") == [6]
    assert leaf(haiku(), "blocks/gru/w_i", "blocks/linear/w") == [6, 6]


@pytest.mark.parametrize(
    ("params", "name", "fan"),
    [
        ({"weight": np.ones((10, 1000))}, "weight", 1000),
        ({"weight": np.ones((10, 4, 3, 3))}, "weight", 36),
        ({"query": {"kernel": np.ones((64, 8, 8))}}, "query/kernel", 64),
        ({"out": {"kernel": np.ones((8, 8, 64))}}, "out/kernel", 64),
        ({"conv2_d_transpose": {"w": np.ones((3, 3, 7, 2))}}, None, 18),
        ({"kernel": np.ones((3, 3, 1, 8)), "bias": np.ones(8)}, "kernel", 9),
        ([np.ones((20, 30))], "0", 20),
    ],
)
def test_a_fan_by_name_and_bias(params, name, fan):
    assert leaf(params, name or masks.names(params)[0]) == [fan]


def test_scores_and_starts_take_the_fan_of_the_network_or_of_the_user():
    layer = eqx.filter(eqx.nn.Linear(1000, 10, key=KEY), eqx.is_inexact_array)
    ticket = Ticket(layer, masks.full(layer))
    search = edge_popup(optax.sgd(0.1))
    largest = jnp.abs(search.init(KEY, ticket).scores.weight).max()
    np.testing.assert_allclose(largest, 1000**-0.5, rtol=1e-2)
    constant = revalued.kaiming_constant(ticket).weights.weight
    np.testing.assert_allclose(jnp.abs(constant), (2 / 1000) ** 0.5, rtol=1e-6)

    def fan_in(params):
        return jax.tree.map(lambda leaf: 40, params)

    search = edge_popup(optax.sgd(0.1), fan_in=fan_in)
    largest = jnp.abs(search.init(KEY, ticket).scores.weight).max()
    np.testing.assert_allclose(largest, 40**-0.5, rtol=1e-2)
    for start in (
        revalued.kaiming_constant(ticket, fan_in=fan_in),
        revalued.kaiming_normal(KEY, ticket, fan_in=fan_in),
    ):
        deviation = jnp.sqrt(jnp.mean(start.weights.weight**2))
        np.testing.assert_allclose(deviation, (2 / 40) ** 0.5, rtol=0.03)


def test_the_output_layer_of_the_lottery_is_the_one_of_the_fewest_outputs():
    mask = {
        "hidden": {"weight": np.ones((30, 20), bool)},
        "output": {"weight": np.ones((10, 30), bool)},
    }
    densities = selection.lottery()(mask, 0.8)
    assert densities["hidden"]["weight"] == 0.8
    assert densities["output"]["weight"] == 0.9
