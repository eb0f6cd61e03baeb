"""Effective density: paths of kept weights, against a plain numpy of chains."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import linen as nn

import jaxticket as jt

pytestmark = pytest.mark.usefixtures("unoptimised")
X = np.random.default_rng(1).normal(size=(1, 8, 8, 1)).astype(np.float32)


def network(model, ticket):
    return lambda params, x: model.apply(params, ticket.model_state, x)[0]


def by_chain(kernels):
    """Which weights of a chain of layers lie on a path, unit by unit."""
    forward, backward = [np.ones(len(kernels[0]), bool)], []
    for m in kernels:
        forward.append((m & forward[-1][:, None]).any(0))
    alive = np.ones(kernels[-1].shape[1], bool)
    for m in reversed(kernels):
        backward.insert(0, alive)
        alive = (m & alive).any(1)
    return [
        m & before[:, None] & after
        for m, before, after in zip(kernels, forward[:-1], backward, strict=True)
    ]


@pytest.mark.parametrize("density", [0.3, 0.04])
def test_effective_weights_of_a_chain_lie_between_living_units(density):
    model = jt.models.create("mlp", hidden=(30, 20))
    ticket = networks.sparse(model, X, density)
    found = jt.structure.effective(network(model, ticket), ticket, X)
    layers = [layer["kernel"] for layer in ticket.mask.values()]
    for ours, theirs in zip(
        jax.tree.leaves(found), by_chain(list(map(np.asarray, layers))), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    idle = int(jt.masks.count(ticket.mask)) - int(jt.masks.count(found))
    assert (idle > 0) == (density < 0.3)


def by_change(model, ticket, x):
    """Which weights of a network change an output, all kept ones being positive.

    Of a network whose inputs, weights and statistics are positive, and whose biases are
    0, a weight on a path does, and no other.
    """
    positive = jax.tree.map(jnp.abs, jt.masks.apply(ticket.mask, ticket.weights))
    positive = jax.tree_util.tree_map_with_path(
        lambda p, w: jnp.zeros_like(w) if p[-1].key == "bias" else w, positive
    )
    state = jax.tree_util.tree_map_with_path(
        lambda p, s: jnp.zeros_like(s) if p[-1].key == "mean" else s, ticket.model_state
    )
    outputs = jax.jit(lambda p: model.apply(p, state, jnp.abs(x))[0].sum())
    grads = jax.grad(outputs)(positive)
    grads = jt.masks.prunable_like(grads, ticket.mask)
    return jax.tree.map(lambda m, g: m & (g != 0), ticket.mask, grads)


@pytest.mark.parametrize(
    ("name", "options", "density"),
    [
        ("vgg_16", {"widths": ((6,), (8,))}, 0.1),
        ("resnet_20", {"width": 4, "blocks": (1, 1)}, 0.05),
        ("resnet_32", {"width": 4, "blocks": (1, 1)}, 0.05),
    ],
)
def test_effective_weights_are_those_that_can_change_an_output(name, options, density):
    model = jt.models.create(name, **options)
    x = np.ones((1, 8, 8, 3), np.float32)
    ticket = networks.sparse(model, x, density)
    found = jax.jit(lambda t: jt.structure.effective(network(model, t), t, x))(ticket)
    expected = by_change(model, ticket, x)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert 0 < int(jt.masks.count(found)) < int(jt.masks.count(ticket.mask))


class Block(nn.Module):
    """Embedding, attention and a layer beside it, as in a transformer."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 8, name="embed")(tokens)
        y = nn.LayerNorm(name="norm_0")(x)
        mask = nn.make_causal_mask(tokens)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(y, mask=mask)
        y = nn.Dense(16, name="fc")(nn.LayerNorm(name="norm_1")(x))
        x = x + nn.Dense(8, name="back")(nn.gelu(y))
        return nn.Dense(5, name="output")(x)


def test_a_transformer_loses_what_leads_nowhere():
    model = jt.models.from_linen(Block())
    tokens = jnp.arange(6)[None] % 7
    params, state = model.init(jax.random.key(0), tokens)
    mask = jt.masks.full(params)
    whole = jt.Ticket(params, mask, state)
    everything = jt.structure.effective(network(model, whole), whole, tokens)
    assert float(jt.masks.density(everything)) == 1
    # No weight leads to unit 3 of the hidden layer, none away from unit 5.
    mask["fc"]["kernel"] = mask["fc"]["kernel"].at[:, 3].set(False)
    mask["back"]["kernel"] = mask["back"]["kernel"].at[5].set(False)
    ticket = whole._replace(mask=mask)
    found = jt.structure.effective(network(model, ticket), ticket, tokens)
    expected = mask | {
        "fc": {"kernel": mask["fc"]["kernel"].at[:, 5].set(False), "bias": None},
        "back": {"kernel": mask["back"]["kernel"].at[3].set(False), "bias": None},
    }
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_scanned_network_is_followed_layer_by_layer():
    def apply(params, state, x, *, train=False, key=None):
        h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["stack"])
        return h @ params["output"], state

    kernels = {"stack": jnp.ones((2, 4, 4)), "output": jnp.ones((4, 3))}
    mask = {"stack": jnp.ones((2, 4, 4), bool), "output": jnp.ones((4, 3), bool)}
    mask["stack"] = mask["stack"].at[0, :, 1].set(False)
    ticket = jt.Ticket(kernels, mask)
    model = jt.models.Model(None, apply)
    found = jt.structure.effective(network(model, ticket), ticket, jnp.ones((1, 4)))
    np.testing.assert_array_equal(found["stack"], mask["stack"].at[1, 1].set(False))


def test_parts_and_sorted_numbers_are_followed():
    """A gated unit whose halves are split; what is sorted along reaches any place."""

    def network(params, x):
        value, gate = jnp.split(x @ params["in"], 2, axis=-1)
        order = jnp.argsort(gate, axis=-1)
        return jnp.take_along_axis(value, order, axis=-1) @ params["out"]

    params = {"in": jnp.ones((3, 4)), "out": jnp.ones((2, 1))}
    mask = {"in": jnp.ones((3, 4), bool), "out": jnp.array([[True], [False]])}
    found = jt.structure.effective(network, jt.Ticket(params, mask), jnp.ones((1, 3)))
    assert bool(found["in"].all())

    def halves(params, x):
        value, gate = jnp.split(x @ params["in"], 2, axis=-1)
        return (value * jax.nn.sigmoid(gate)) @ params["out"]

    found = jt.structure.effective(halves, jt.Ticket(params, mask), jnp.ones((1, 3)))
    np.testing.assert_array_equal(found["in"], [[True, False, True, False]] * 3)


def test_what_cannot_be_followed_is_refused_by_name():
    ticket = jt.Ticket({"w": jnp.ones(3)}, {"w": jnp.ones(3, bool)})
    with pytest.raises(ValueError, match="'while'"):
        jt.structure.effective(
            lambda p, x: jax.lax.while_loop(
                lambda s: s.sum() < 1, lambda s: s + p["w"], x
            ),
            ticket,
            jnp.ones(3),
        )
    with pytest.raises(ValueError, match="'fft'"):
        jt.structure.effective(
            lambda p, x: jnp.fft.fft(p["w"] * x).real, ticket, jnp.ones(3)
        )


def test_synflow_keeps_effective_weights_and_random_masks_do_not():
    """Target R28: random masks of 1% of LeNet are 0.1% effective, SynFlow's all."""
    model = jt.models.create("lenet_300_100")
    x = np.ones((1, 28, 28, 1), np.float32)
    random = networks.sparse(model, x, 0.01)
    found = jt.structure.effective(network(model, random), random, x)
    assert float(jt.masks.density(found)) < 0.003
    whole = random._replace(mask=jt.masks.full(random.weights))
    ones = jt.Evidence(forward=lambda p: network(model, whole)(p, x))
    flows = jax.jit(
        lambda t: jt.prune(t, "synflow", 0.01, evidence=ones, iterations=100)
    )(whole)
    found = jt.structure.effective(network(model, flows), flows, x)
    np.testing.assert_allclose(jt.masks.density(found), 0.01, rtol=0.05)
