"""Gates that weights share: the equations in plain numpy, where they lie, what goes."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from references import (
    KERNELS,
    SHAPES,
    batch,
    close,
    descend_all,
    draw,
    gradient,
    mask_tree,
    masked,
    ones,
    optimizer,
    sigmoid,
    some,
)

import jaxticket as jt
from jaxticket import Gated, Ticket, draws, masks
from jaxticket.searches import gates, groups

pytestmark = pytest.mark.usefixtures("unoptimised")

PENALTY = 0.02
SUMMED = {"units": 0, "inputs": 1}  # the axis of `[in, out]` that shares a gate


def sum_of(group, x):
    return np.sum(x, SUMMED[group], keepdims=True)


def cs(w, alive, group, key):
    """`sigmoid(beta s) / sigmoid(s0)`, a gate a group, `penalty` a weight."""
    del key
    s0 = 0.02
    s = {n: np.full_like(sum_of(group, w[n]), s0) for n in KERNELS}
    step = 0
    while True:
        beta = 1 + step
        g = {n: sigmoid(beta * s[n]) / sigmoid(s0) for n in KERNELS}
        slope = {n: beta * g[n] * (1 - g[n] * sigmoid(s0)) for n in KERNELS}
        s = yield s, g, slope, g, slope, {n: s[n] > 0 for n in KERNELS}
        step += 1


def hard_concrete(w, alive, group, key):
    """Louizos et al., equations 10 to 12; the draws are the library's."""
    like = {n: jnp.zeros(sum_of(group, w[n]).shape) for n in KERNELS}
    logit_key, key = jax.random.split(key)
    first = jax.random.split(logit_key, len(KERNELS))
    s = {
        n: -2.39 + 0.01 * np.asarray(jax.random.normal(k, like[n].shape))
        for n, k in zip(KERNELS, first, strict=True)
    }
    step = 0
    while True:
        u = draws.uniform(key, step, like, 1e-6, 1 - 1e-6)
        z, slope, d, d_slope, kept = {}, {}, {}, {}, {}
        for n in KERNELS:
            v = np.asarray(u[n])
            soft = sigmoid((np.log(v) - np.log(1 - v) + s[n]) * 1.5)
            z[n] = np.clip(1.2 * soft - 0.1, 0, 1)
            inside = (z[n] > 0) & (z[n] < 1)
            slope[n] = inside * 1.2 * 1.5 * soft * (1 - soft)
            d[n] = sigmoid(s[n] - 2 / 3 * np.log(0.1 / 1.1))
            d_slope[n] = d[n] * (1 - d[n])
            kept[n] = 1.2 * sigmoid(s[n]) - 0.1 > 0
        s = yield s, z, slope, d, d_slope, kept
        s = {n: np.clip(s[n], np.log(1e-2), np.log(1e2)) for n in KERNELS}
        step += 1


def make(kind, **options):
    train = optimizer(decayed=Gated(True, False))
    if kind is cs:
        return jt.continuous_sparsification(
            train, temperature=lambda t: 1.0 + t, initial_logit=0.02, **options
        )
    return jt.l0(train, initial_logit=-2.39, **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.filterwarnings("ignore:the ticket keeps no weight")
@pytest.mark.parametrize("kind", [cs, hard_concrete])
@pytest.mark.parametrize(("group", "alive"), [("units", some()), ("inputs", ones())])
def test_every_step_is_that_of_the_equations(kind, group, alive):
    search, key = make(kind, penalty=PENALTY, groups=group), jax.random.key(0)
    state = search.init(key, Ticket(draw(), mask_tree(alive)))
    update = jax.jit(search.update)
    w = draw()
    reference = kind(w, alive, group, key)
    s, z, slope, _, d_slope, kept = next(reference)
    vw, vs = dict.fromkeys(SHAPES, 0.0), dict.fromkeys(KERNELS, 0.0)
    found = []
    for step in range(12):
        run = masked(alive, w | {n: z[n] * w[n] for n in KERNELS})
        close(search.params(state), run, 1e-9)
        for n in KERNELS:
            assert state.gated.logits[n].shape == s[n].shape
            np.testing.assert_allclose(state.gated.logits[n], s[n], atol=1e-9)
            np.testing.assert_array_equal(
                search.ticket(state).mask[n], kept[n] & alive[n]
            )
        found += [np.mean(kept[n]) for n in KERNELS]
        g = gradient(run, *batch(0, step))
        # A gate's slope is the sum over its group: of the loss, and of the penalty.
        ds = {
            n: sum_of(group, alive[n] * (slope[n] * w[n] * g[n] + PENALTY * d_slope[n]))
            for n in KERNELS
        }
        dw = g | {n: alive[n] * z[n] * g[n] for n in KERNELS}
        state = update(gradient(run, *batch(0, step)), state, step)
        w, vw = descend_all(w, dw, vw, step)
        s, vs = descend_all(s, ds, vs, step, decay=0)
        s, z, slope, _, d_slope, kept = reference.send(s)
    assert any(0 < x < 1 for x in found), "a reference that decides nothing"


KEY = jax.random.key(0)


class Attention(eqx.Module):
    convolution: eqx.nn.Conv2d
    last: eqx.nn.Linear

    def __init__(self):
        self.convolution = eqx.nn.Conv2d(3, 5, 2, key=KEY)
        self.last = eqx.nn.Linear(7, 4, use_bias=False, key=KEY)


def conv_4():
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    return jt.models.create("conv_4").init(KEY, jnp.zeros(images.shape))[0]


@pytest.mark.parametrize(
    ("params", "name", "units", "inputs"),
    [
        (conv_4, "conv_1/kernel", (1, 1, 1, 64), (1, 1, 64, 1)),
        (conv_4, "output/kernel", (1, 10), (256, 1)),
        (Attention, "convolution/weight", (5, 1, 1, 1), (1, 3, 1, 1)),
        (Attention, "last/weight", (4, 1), (1, 7)),
        (
            lambda: {"query": {"kernel": jnp.ones((6, 2, 3))}},
            "query/kernel",
            (1, 2, 3),
            (6, 1, 1),
        ),
        (
            lambda: {
                "out": {"kernel": jnp.ones((2, 3, 6)), "bias": jnp.ones(6)},
                "query": {"kernel": jnp.ones((6, 2, 3))},
            },
            "out/kernel",
            (1, 1, 6),
            (2, 3, 1),
        ),
        (  # no attention: a convolution over a signal
            lambda: {"out": {"kernel": jnp.ones((2, 3, 6)), "bias": jnp.ones(6)}},
            "out/kernel",
            (1, 1, 6),
            (1, 3, 1),
        ),
    ],
)
def test_gates_lie_along_outputs_or_inputs_whatever_the_library(
    params, name, units, inputs
):
    params = params()
    if isinstance(params, eqx.Module):
        params = eqx.filter(params, eqx.is_inexact_array)
    mask = masks.full(params)
    for word, expected in (("units", units), ("inputs", inputs)):
        assert masks.named(groups.shaped(word, params, mask))[name].shape == expected
    alone = masks.named(groups.shaped("weights", params, mask))
    assert {n: x.shape for n, x in alone.items()} == {
        n: x.shape for n, x in masks.named(mask).items()
    }


def test_a_function_says_of_each_kernel_what_shares_a_gate():
    params = {
        "a": {"kernel": jnp.ones((4, 3))},
        "b": {"kernel": jnp.ones((4, 2, 3))},
        "c": {"kernel": jnp.ones((3, 2))},
    }
    said = {"a/kernel": "units", "b/kernel": (0, -1), "c/kernel": "weights"}
    shaped = masks.named(groups.shaped(said.get, params, masks.full(params)))
    assert [x.shape for x in shaped.values()] == [(1, 3), (4, 1, 3), (3, 2)]


@pytest.mark.parametrize(
    ("given", "params", "message"),
    [
        ("unit", {"kernel": jnp.ones((2, 3))}, "did you mean 'units'"),
        (lambda name: "neuron", {"kernel": jnp.ones((2, 3))}, "groups of 'kernel'"),
        (lambda name: (2,), {"kernel": jnp.ones((2, 3))}, "axis of 'kernel'.*-2 to 1"),
        (
            "units",
            {"kernel": jnp.ones((5, 2, 3)), "bias": jnp.ones((5, 3))},
            "units of 'kernel', of shape .5, 2, 3., are not known .*apart",
        ),
    ],
)
def test_what_cannot_be_grouped_is_refused_by_name(given, params, message):
    search = jt.l0(optax.sgd(0.1), groups=given)
    with pytest.raises(ValueError, match=message):
        search.init(KEY, Ticket(params, masks.full(params)))


@pytest.mark.parametrize(
    "method",
    [
        functools.partial(jt.continuous_sparsification, temperature=50.0, steps=300),
        jt.l0,
    ],
    ids=["cs", "l0"],
)
def test_units_that_the_loss_does_not_need_go_whole_and_the_network_gets_smaller(
    method,
):
    """A network of 40 units learns what 2 can do, and half of them are asked for."""
    model = jt.models.create("lenet_300_100", hidden=(40, 30), num_classes=2)
    x = jax.random.normal(KEY, (64, 6))
    y = jnp.tanh(x[:, :2])
    weights, model_state = model.init(jax.random.key(1), x)
    given = Ticket(weights, masks.full(weights), model_state)
    search = method(
        gates.optimizer(optax.adam(3e-3), optax.adam(2e-2)),
        density=0.3,
        density_within="layer",
        dual_learning_rate=0.03,
        groups=lambda name: "weights" if name.startswith("fc_0") else "inputs",
        weights="trained",
    )

    def loss(params):
        return jnp.mean((model.apply(params, model_state, x)[0] - y) ** 2)

    def step(state, at):
        grads = jax.grad(loss)(search.params(state))
        return search.update(grads, state, at), ()

    @toy.hurried
    def found(key):
        state, _ = jax.lax.scan(step, search.init(key, given), jnp.arange(300))
        return search.ticket(state)

    ticket = found(jax.random.key(2))._replace(model_state=model_state)
    rows = np.asarray(ticket.mask["fc_1"]["kernel"])
    assert (rows.all(1) | ~rows.any(1)).all(), "an input of which a part is left"
    units = [
        int(np.asarray(ticket.mask[n]["kernel"]).any(1).sum())
        for n in ("fc_1", "output")
    ]
    assert units == pytest.approx([12, 9], abs=2)
    small = jt.compact(model, ticket, x)
    assert small.ticket.weights["fc_1"]["kernel"].shape == tuple(units)
    whole = masks.apply(ticket.mask, ticket.weights)
    np.testing.assert_allclose(
        small.model.apply(small.ticket.weights, small.ticket.model_state, x)[0],
        model.apply(whole, model_state, x)[0],
        atol=1e-5,
    )
