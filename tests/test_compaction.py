"""Smaller arrays compute the same, in training too; what cannot be proven stays."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxticket as jt
from jaxticket.graphs import constants

pytestmark = pytest.mark.usefixtures("unoptimised")

IMAGES = np.random.default_rng(1).normal(size=(4, 12, 8, 3)).astype(np.float32)
ROWS = IMAGES[:, :, 0, 0]


class Equinox(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, key):
        self.first = eqx.nn.Linear(12, 30, key=key)
        self.norm = eqx.nn.BatchNorm(30, "batch", mode="batch")
        self.last = eqx.nn.Linear(30, 3, key=key)

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.last(jax.nn.relu(x)), state


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(3, 20, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(20, rngs=rngs)
        self.last = nnx.Linear(20, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))).mean((1, 2)))


class Block(nn.Module):
    """Attention, and a layer beside it whose units can go, as in a transformer."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), 8, -1)
        y = nn.LayerNorm(name="norm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(4, name="attention")(y)
        y = nn.gelu(nn.Dense(50, name="fc")(nn.LayerNorm(name="norm_1")(x)))
        return nn.Dense(5, name="output")(x + nn.Dense(36, name="back")(y))


def zoo(name, **options):
    return jt.models.create(name, **options)


CASES = {
    "lenet_300_100": (zoo("mlp", hidden=(60, 30)), IMAGES, 0.02),
    "mlp_1d": (zoo("mlp_1d", width=30), ROWS, 0.05),
    "conv_4": (zoo("conv_4", widths=(6, 8), hidden=(30, 20)), IMAGES, 0.05),
    "vgg_16": (zoo("vgg_16", widths=((8,), (16,))), IMAGES, 0.03),
    "resnet_20": (zoo("resnet_20", width=4, blocks=(1, 1)), IMAGES, 0.02),
    "resnet_32": (zoo("resnet_32", width=4, blocks=(1, 1)), IMAGES, 0.02),
    "transformer": (jt.models.from_linen(Block()), IMAGES, 0.02),
    "equinox": (jt.models.from_equinox(Equinox), ROWS, 0.04),
    "nnx": (jt.models.from_nnx(Nnx), IMAGES, 0.04),
}


def ticket_of(name):
    model, x, density = CASES[name]
    if name not in ("equinox", "nnx"):
        return networks.sparse(model, x, density)
    params, state = model.init(jax.random.key(0), x)
    rng = np.random.default_rng(1)
    mask = jax.tree.map(lambda m: rng.random(m.shape) < density, jt.masks.full(params))
    return jt.Ticket(params, mask, state)


def taken(tree, left):
    """The leaves of a tree, where it is smaller what is left of them."""
    return [
        leaf[np.ix_(*left[name])] if name in left else leaf
        for name, leaf in zip(jt.masks.names(tree), jax.tree.leaves(tree), strict=True)
    ]


@pytest.mark.parametrize("name", CASES)
def test_smaller_arrays_compute_the_same_and_train_the_same(name):
    model, x, _ = CASES[name]
    ticket = ticket_of(name)
    small = jt.compact(model, ticket, x)
    assert small.left
    assert sum(map(jnp.size, jax.tree.leaves(small.ticket.weights))) < sum(
        map(jnp.size, jax.tree.leaves(ticket.weights))
    )
    jt.masks.check(small.ticket.mask, small.ticket.weights)
    whole = ticket._replace(weights=jt.masks.apply(ticket.mask, ticket.weights))

    @functools.partial(jax.jit, static_argnums=0)
    def trained(model, ticket):
        """Outputs and gradients, in training where there are batch statistics."""

        def loss(params):
            train = bool(jax.tree.leaves(ticket.model_state)) and name != "nnx"
            y, _ = model.apply(params, ticket.model_state, x, train=train)
            return jnp.sum(jnp.sin(y)), y

        grads, outputs = jax.grad(loss, has_aux=True)(ticket.weights)
        return outputs, jt.masks.apply(ticket.mask, grads)

    outputs, grads = trained(model, whole)
    ours, ours_grads = trained(small.model, small.ticket)
    np.testing.assert_allclose(ours, outputs, rtol=1e-5, atol=1e-5)
    names, tree = jt.masks.names(grads), jax.tree.structure(ours_grads)
    for leaf, got, want, m in zip(
        names,
        jax.tree.leaves(ours_grads),
        taken(grads, small.left),
        tree.flatten_up_to(small.ticket.mask),
        strict=True,
    ):
        # What a constant goes to is pruned: its gradient is the next bias's.
        want = want if m is None else np.where(m, want, 0)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=leaf)


def test_units_of_a_chain_go_and_constants_move_to_the_next_bias():
    model = jt.models.create("mlp", 2, hidden=(4, 3))
    x = ROWS
    params, state = networks.drawn(model, x)
    mask = jax.tree.map(lambda m: np.ones(m.shape, bool), jt.masks.full(params))
    mask["fc_0"]["kernel"][:, 0] = False  # a constant: relu of its bias
    mask["fc_1"]["kernel"][1] = False  # leads nowhere
    params["fc_0"]["bias"][:] = [0.5, 0.1, 0.2, -0.1]
    small = jt.compact(model, jt.Ticket(params, mask, state), x)
    layer = small.ticket.weights["fc_1"]
    np.testing.assert_array_equal(small.left["fc_0/kernel"][1], [2, 3])
    np.testing.assert_array_equal(layer["kernel"], params["fc_1"]["kernel"][2:])
    np.testing.assert_allclose(
        layer["bias"],
        params["fc_1"]["bias"] + 0.5 * params["fc_1"]["kernel"][0],
        rtol=1e-6,
    )
    assert bool(small.ticket.mask["fc_1"]["kernel"].all())


def test_a_bias_that_takes_over_too_much_is_noticed(monkeypatch):
    """What comes out is compared with the network as it was given."""
    found = constants.found

    def wrong(*arguments):
        return [c._replace(gives=2 * c.gives) for c in found(*arguments)]

    monkeypatch.setattr(constants, "found", wrong)
    ticket = two_layers()
    ticket.weights["first"]["bias"] = np.full(6, 0.5, np.float32)
    ticket.weights["last"]["bias"] = np.zeros(2, np.float32)
    ticket.mask["first"]["bias"] = ticket.mask["last"]["bias"] = None
    ticket.mask["last"]["kernel"][2] = True

    def apply(params, state, x, **_):
        for name in params:
            x = x @ params[name]["kernel"] + params[name]["bias"].reshape(1, -1)
        return x, state

    with pytest.raises(ValueError, match="does not compute the same"):
        jt.compact(jt.models.Model(None, apply), ticket, ROWS)


def test_a_constant_before_padding_stays():
    """At the edge of an image the next layer sees less of it."""
    model = jt.models.create("conv_2", 2, widths=(3,), hidden=(4,))
    params, state = networks.drawn(model, IMAGES)
    mask = jax.tree.map(lambda m: np.ones(m.shape, bool), jt.masks.full(params))
    mask["conv_0"]["kernel"][..., 0] = False
    params["conv_0"]["bias"][:] = [0.5, 0.1, 0.2]
    small = jt.compact(model, jt.Ticket(params, mask, state), IMAGES)
    assert "conv_0/kernel" not in small.left
    params["conv_0"]["bias"][0] = -0.5  # nothing is left of it after the ReLU
    small = jt.compact(model, jt.Ticket(params, mask, state), IMAGES)
    assert small.left["conv_0/kernel"][-1].tolist() == [1, 2]


def convolved(x, kernel, *, stretched=1):
    """Of `[batch, channels, places]`, as equinox has it."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1,),
        ((0, 0),),
        lhs_dilation=(stretched,),
        dimension_numbers=("NCH", "IOH", "NCH"),
    )


def row(layer):
    return layer["bias"].reshape(1, 1, -1)


def by_channels(p, x, stretched=1):
    h = convolved(x.swapaxes(1, 2), p["first"]["kernel"]) + p["first"]["bias"][None]
    h = convolved(jnp.abs(h), p["second"]["kernel"], stretched=stretched)
    return convolved(jnp.abs(h + p["second"]["bias"][None]), p["last"]["kernel"])


def in_columns(p, x):
    h = p["first"]["kernel"].T @ x[:, 0].T + p["first"]["bias"]
    h = jnp.einsum("io,ib->ob", p["second"]["kernel"], jnp.abs(h))
    return jnp.abs(h + p["second"]["bias"]).T @ p["last"]["kernel"]


def by_places(p, x):
    h = jnp.abs(x @ p["first"]["kernel"] + row(p["first"]))
    h = jnp.abs(h @ p["second"]["kernel"] + p["second"]["bias"][None])
    return h @ p["last"]["kernel"]


def twice(p, x):
    h = jnp.abs(x @ p["first"]["kernel"] + row(p["first"]))
    h = h @ p["second"]["kernel"]
    again = h.reshape(-1).reshape(h.shape)
    return (jnp.abs(h + row(p["second"])) + again) @ p["last"]["kernel"]


def beside(p, x):
    h = jnp.abs(x @ p["first"]["kernel"] + row(p["first"]))
    h = h @ p["second"]["kernel"]
    return jnp.abs(h + row(p["second"])) @ p["last"]["kernel"], h


def reshaped(p, x):
    h = jnp.abs(x @ p["first"]["kernel"] + row(p["first"]))
    h = h @ p["second"]["kernel"].reshape(5, 4)
    return jnp.abs(h + row(p["second"])) @ p["last"]["kernel"]


@pytest.mark.parametrize(
    ("network", "second", "moves"),
    [
        (by_channels, (5, 4, 2), True),
        (functools.partial(by_channels, stretched=2), (5, 4, 2), False),
        (in_columns, (5, 4), True),
        (by_places, (5, 4), False),
        (twice, (5, 4), False),
        (beside, (5, 4), False),
        (reshaped, (10, 2), False),
    ],
)
def test_a_constant_moves_to_a_bias_of_the_outputs_that_is_all_it_enters(
    network, second, moves
):
    rng = np.random.default_rng(0)
    window = second[2:]
    shapes = {"first": (3, 5, *window), "second": second, "last": (4, 2, *window)}
    params = {
        name: {"kernel": rng.normal(size=shape).astype(np.float32)}
        for name, shape in shapes.items()
    }
    for name, units in {"first": 5, "second": 4}.items():
        params[name]["bias"] = rng.normal(size=(units, 1)).astype(np.float32)
    x = rng.normal(size=(2, 4, 3)).astype(np.float32)
    mask = jax.tree.map(np.array, jt.masks.full(params))
    mask["first"]["kernel"][:, 0] = False  # unit 0 is a constant
    model = jt.models.Model(
        lambda key, x: (params, {}), lambda p, s, x, **options: (network(p, x), s)
    )
    small = jt.compact(model, jt.Ticket(params, mask), x)
    assert ("first/kernel" in small.left) is moves
    for got, want in zip(
        jax.tree.leaves(small.model.apply(small.ticket.weights, {}, x)[0]),
        jax.tree.leaves(network(jt.masks.apply(mask, params), x)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_what_comes_out_is_held_to_the_network_that_was_given(monkeypatch):
    """And not to one whose constants have moved already."""
    ticket, found = two_layers(), constants.found
    bias = np.ones(6, np.float32)
    params = ticket.weights | {"first": ticket.weights["first"] | {"bias": bias}}
    params["last"] = params["last"] | {"bias": np.ones(2, np.float32)}
    mask = jax.tree.map(np.ones_like, jt.masks.full(params))
    mask["first"]["kernel"][:, 2] = False

    def network(p, s, x, **options):
        h = jnp.tanh(x @ p["first"]["kernel"] + p["first"]["bias"][None])
        return h @ p["last"]["kernel"] + p["last"]["bias"][None], s

    model = jt.models.Model(lambda key, x: (params, {}), network)
    assert jt.compact(model, jt.Ticket(params, mask), ROWS).left
    monkeypatch.setattr(
        constants,
        "found",
        lambda *args: [x._replace(gives=2 * x.gives) for x in found(*args)],
    )
    with pytest.raises(ValueError, match="does not compute the same"):
        jt.compact(model, jt.Ticket(params, mask), ROWS)


def test_zeros_that_the_last_layer_begins_with_hide_nothing():
    """A width that is used as a number shows in no output that is zero."""
    ticket = two_layers()
    mask = jax.tree.map(np.ones_like, ticket.mask)
    mask["first"]["kernel"][:, 2] = False
    zeros = {"kernel": np.zeros_like(ticket.weights["last"]["kernel"])}
    ticket = jt.Ticket(ticket.weights | {"last": zeros}, mask)

    def mean(p, s, x, **options):
        h = jnp.tanh(x @ p["first"]["kernel"])
        return (h / h.shape[-1]) @ p["last"]["kernel"], s

    with pytest.raises(ValueError, match="does not compute the same"):
        jt.compact(jt.models.Model(None, mean), ticket, ROWS)


def test_a_network_of_logarithms_is_compacted():
    """It is compared with other weights too, whose logarithms there must be."""
    ticket = two_layers()
    rate = {"rate": np.full(12, 1e-3, np.float32)}
    ticket = jt.Ticket(ticket.weights | rate, ticket.mask | {"rate": None})

    def apply(p, s, x, **options):
        h = jnp.tanh((x * jnp.log(p["rate"])[None]) @ p["first"]["kernel"])
        return h @ p["last"]["kernel"], s

    assert jt.compact(jt.models.Model(None, apply), ticket, ROWS).left


def test_a_channel_of_a_residual_stream_goes_from_all_its_layers_or_from_none():
    model = zoo("resnet_20", width=4, blocks=(1,))
    ticket = networks.sparse(model, IMAGES, 1.0)
    mask = jax.tree.map(np.array, ticket.mask)
    mask["conv_0"]["kernel"][..., 1] = False
    for name in ("scale", "bias"):
        ticket.weights["norm_0"][name][1] = 0
    once = jt.compact(model, ticket._replace(mask=mask), IMAGES)
    assert not once.left  # conv_2 still writes to the channel
    mask["conv_2"]["kernel"][..., 1] = False
    for name in ("scale", "bias"):
        ticket.weights["norm_2"][name][1] = 0
    small = jt.compact(model, ticket._replace(mask=mask), IMAGES)
    assert small.left["conv_1/kernel"][2].tolist() == [0, 2, 3]
    assert small.left["output/kernel"][0].tolist() == [0, 2, 3]
    assert small.ticket.model_state["batch_stats"]["norm_2"]["mean"].shape == (3,)


def two_layers():
    """A ticket of a chain of two kernels, whose unit 2 does nothing."""
    rng = np.random.default_rng(0)
    params = {
        name: {"kernel": rng.normal(size=shape).astype(np.float32)}
        for name, shape in {"first": (12, 6), "last": (6, 2)}.items()
    }
    mask = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    mask["first"]["kernel"][:, 2] = mask["last"]["kernel"][2] = False
    return jt.Ticket(params, mask, {})


@pytest.mark.parametrize("other", [0.5, -1.0])
def test_a_choice_among_constants_is_no_zero(other):
    """A unit that nothing reaches is as `where` has it of zero, and so stays."""

    def apply(params, state, x, *, train=False, key=None):
        h = x @ params["first"]["kernel"]
        h = jnp.where(h > 0, jnp.where(other > 0, h, 1.0), other)
        return h @ params["last"]["kernel"], state

    ticket = two_layers()
    ticket.mask["last"]["kernel"][2] = True
    model = jt.models.Model(None, apply)
    small = jt.compact(model, ticket, ROWS)
    weights = jt.masks.apply(ticket.mask, ticket.weights)
    np.testing.assert_allclose(
        small.model.apply(small.ticket.weights, {}, ROWS)[0],
        apply(weights, {}, ROWS)[0],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("reads", "needs"),
    [
        (lambda h: h - h.mean(-1, keepdims=True), "the step 'reduce_sum'"),
        (lambda h: h * jax.lax.iota(h.dtype, h.shape[-1]), "numbers of the units"),
    ],
)
def test_what_needs_all_units_is_named(reads, needs):
    def apply(params, state, x, *, train=False, key=None):
        h = jax.vmap(reads)(jax.nn.relu(x @ params["first"]["kernel"]))
        return h @ params["last"]["kernel"], state

    small = jt.compact(jt.models.Model(None, apply), two_layers(), ROWS)
    assert not small.left
    assert small.whole == {"first/kernel": needs, "last/kernel": needs}


def test_code_that_writes_widths_down_keeps_its_layers_whole_or_is_refused():
    def network(reads):
        def apply(params, state, x, *, train=False, key=None):
            h = jax.nn.relu(x @ params["first"]["kernel"])
            h = reads(h, params)
            return h @ params["last"]["kernel"], state

        return jt.models.Model(None, apply)

    ticket = two_layers()
    small = jt.compact(network(lambda h, p: h + jnp.zeros((len(h), 6))), ticket, ROWS)
    assert small.whole == {
        "first/kernel": "the network's own code",
        "last/kernel": "the network's own code",
    }
    scaled = network(lambda h, p: h / p["first"]["kernel"].shape[1])
    with pytest.raises(ValueError, match="uses a width of.*first/kernel"):
        jt.compact(scaled, ticket, ROWS)


def test_a_layer_that_is_pruned_away_keeps_a_unit():
    model = jt.models.create("mlp", 2, hidden=(4, 3))
    params, state = networks.drawn(model, ROWS)
    mask = jax.tree.map(lambda m: np.zeros(m.shape, bool), jt.masks.full(params))
    small = jt.compact(model, jt.Ticket(params, mask, state), ROWS)
    assert small.ticket.weights["fc_1"]["kernel"].shape == (1, 1)


def test_a_ticket_without_model_state_and_a_whole_one_are_taken():
    model = jt.models.create("mlp", 2, hidden=(4, 3))
    params, _ = networks.drawn(model, ROWS)
    small = jt.compact(model, jt.Ticket(params, jt.masks.full(params)), ROWS)
    assert not small.left
    assert not small.whole


def test_a_network_in_half_precision_is_compacted():
    """Biases that take constants over are rounded, which is no other network."""
    half = jnp.bfloat16
    model = jt.models.create("lenet_300_100", hidden=(64, 64), dtype=half)
    params, state = model.init(jax.random.key(0), IMAGES)
    params = jax.tree.map(lambda w: (w + 0.3 * (w.ndim == 1)).astype(half), params)
    ticket = jt.Ticket(params, jt.masks.full(params), state)
    evidence = jt.Evidence(key=jax.random.key(1))
    ticket = jt.prune(ticket, "random", 0.02, evidence=evidence)
    small = jt.compact(model, ticket, IMAGES)
    assert small.ticket.weights["fc_0"]["bias"].size < 64
