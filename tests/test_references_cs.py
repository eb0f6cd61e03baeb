"""Continuous Sparsification against plain numpy, and facts that need no training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references import (
    KERNELS,
    ROUNDS,
    SHAPES,
    STEPS,
    batch,
    check,
    close,
    descend_all,
    draw,
    follow,
    gradient,
    loss,
    mask_tree,
    masked,
    ones,
    optimizer,
    sigmoid,
    some,
)

from jaxticket import (
    Gated,
    Ticket,
    continuous_sparsification,
    fixed,
    masks,
    schedules,
)

pytestmark = pytest.mark.usefixtures("x64", "unoptimised")


def soft(p, s, beta, scale):
    return {name: p[name] * scale * sigmoid(beta * s[name]) for name in KERNELS}


def surrogate_gradient(w, s, alive, beta, scale, penalty, data):
    """Savarese et al. 2020: with `m = sigmoid(beta s)` the gradients are `m dL/dw_eff`
    and `beta m (1 - m) (w dL/dw_eff + penalty)`.

    The released code multiplies the gates, the penalised ones too, by `scale`.
    """
    running = masked(alive, w | soft(w, s, beta, scale))
    dw, ds = gradient(running, *data), {}
    for name in KERNELS:
        gate = sigmoid(beta * s[name])
        pull = scale * beta * gate * (1 - gate)
        ds[name] = alive[name] * pull * (w[name] * dw[name] + penalty)
        dw[name] = alive[name] * scale * gate * dw[name]
    return dw, ds


def continuous(
    *,
    s0,
    final,
    penalty,
    epoch_steps=1,
    rewind_step=0,
    between="paper",
    scaling=True,
    keep_momentum=True,
    alive=None,
    weights="anchor",
):
    """Savarese et al. 2020, Algorithm 2, and the choices of its released code."""
    alive = alive or ones()
    scale = 1 / sigmoid(s0) if scaling else 1.0
    w, s = draw(), {name: np.full(SHAPES[name], s0) for name in KERNELS}
    rest = dict.fromkeys(SHAPES, 0.0), dict.fromkeys(KERNELS, 0.0)
    (vw, vs), path, tickets = rest, [], []
    last_epoch = (STEPS - 1) // epoch_steps
    for round_ in range(ROUNDS):
        if round_:
            ended = final if between == "paper" else 1.0
            s = {name: np.minimum(ended * s[name], s0) for name in KERNELS}
            vw, vs = (vw, vs) if keep_momentum else rest
        for step in range(STEPS + 1):
            beta = final ** min(step // epoch_steps / last_epoch, 1.0)
            path.append(masked(alive, w | soft(w, s, beta, scale)))
            if round_ == 0 and step == rewind_step:
                anchor = w
            if step == STEPS:
                break
            data = batch(round_, step)
            dw, ds = surrogate_gradient(w, s, alive, beta, scale, penalty, data)
            w, vw = descend_all(w, dw, vw, step, nesterov=True)
            s, vs = descend_all(s, ds, vs, step, nesterov=True, decay=0)
        mask = {name: (s[name] > 0) & alive[name] for name in KERNELS}
        start = anchor if weights == "anchor" else w
        kernels = {name: scale * start[name] for name in KERNELS}
        tickets.append((start | kernels, mask))
    return path, tickets


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"between": "code"},
        {"between": "code", "keep_momentum": False},
        {"keep_momentum": False},
        {"scaling": False},
        {"epoch_steps": 2},
        {"epoch_steps": 2, "between": "code"},
        {"penalty": 0.0, "s0": -0.02},
        {"penalty": 0.1, "s0": 0.3},
        {"penalty": 0.05, "scaling": False},
        {"rewind_step": 2},
        {"alive": some()},
        {"weights": "trained"},
        {"weights": "trained", "scaling": False},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_continuous_sparsification(options):
    options = {"s0": 0.1, "final": 8.0, "penalty": 0.02} | options
    expected = continuous(**options)
    alive, s0, final = options.pop("alive", ones()), *map(options.pop, ("s0", "final"))
    epoch_steps = options.pop("epoch_steps", 1)
    search = continuous_sparsification(
        optimizer(nesterov=True, decayed=Gated(True, False)),
        temperature=final,
        steps=STEPS,
        epoch_steps=epoch_steps,
        initial_logit=s0,
        **options,
    )
    check(follow(search, alive), expected, rtol=1e-5)  # beta is kept in float32
    kept = [sum(m.sum() for m in mask.values()) for _, mask in expected[1]]
    assert all(0 < n < 20 for n in kept), "a reference that decides nothing"


def gated_state(search, w, s):
    """The opening state of a search, at other weights and logits."""
    state = search.init(jax.random.key(0), Ticket(w, mask_tree(ones())))
    return state._replace(gated=Gated(w, {name: s.get(name) for name in SHAPES}))


@pytest.mark.parametrize("scaling", [True, False])
def test_gradient_of_the_surrogate(scaling):
    """Against its closed form, and against finite differences of `L_beta` itself."""
    beta, penalty, s0, step = 3.0, 0.05, 0.2, 1e-5
    scale = 1 / sigmoid(s0) if scaling else 1.0
    data, w, s = batch(0, 0), draw(), {name: draw(1)[name] for name in KERNELS}

    def surrogate(w, s):
        gates = [np.sum(scale * sigmoid(beta * s[name])) for name in KERNELS]
        return loss(w | soft(w, s, beta, scale), *data) + penalty * sum(gates)

    search = continuous_sparsification(
        optax.sgd(1.0),
        temperature=lambda _: beta,
        penalty=penalty,
        initial_logit=s0,
        scaling=scaling,
    )
    before = gated_state(search, w, s)
    grads = gradient(jax.tree.map(np.asarray, search.params(before)), *data)
    after = search.update(grads, before, 0)
    found = jax.tree.map(lambda a, b: np.asarray(a - b), before.gated, after.gated)
    closed = surrogate_gradient(w, s, ones(), beta, scale, penalty, data)
    for tree, ours, formula in zip((w, s), found, closed, strict=True):
        for name in tree:
            np.testing.assert_allclose(ours[name], formula[name], rtol=1e-11)
            values = tree[name].ravel()  # a view: the difference is taken in place
            for i in range(values.size):
                kept = values[i]
                values[i] = kept + step
                above = surrogate(w, s)
                values[i] = kept - step
                slope = (above - surrogate(w, s)) / (2 * step)
                values[i] = kept
                np.testing.assert_allclose(ours[name].flat[i], slope, atol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.5])
def test_what_stands_where_the_starting_mask_is_false_does_not_matter(value):
    search = continuous_sparsification(optimizer(), temperature=lambda _: 1.0)
    kept = mask_tree(some())
    w = {n: np.where(some().get(n, True), x, value) for n, x in draw().items()}
    state, same = (search.init(jax.random.key(0), Ticket(x, kept)) for x in (w, draw()))
    for step in range(2):
        close(search.params(state), search.params(same), 0)
        grads = gradient(masked(some(), draw()), *batch(0, step))
        state, same = (search.update(grads, x, step) for x in (state, same))


def test_a_temperature_that_is_a_number_needs_the_steps_of_a_round():
    with pytest.raises(ValueError, match="temperature 8.0 needs steps"):
        continuous_sparsification(optimizer(), temperature=8.0)


# Facts about Continuous Sparsification that need no training.


def released(**options):
    """The search of the released recipe: 85 epochs of 352 steps, beta from 1 to 200."""
    beta = schedules.temperature(200, 85 * 352, epoch_steps=352)
    return continuous_sparsification(optax.sgd(0.1), temperature=beta, **options)


@pytest.mark.parametrize("s0", [-0.3, 0.0, 0.3])
def test_scaled_gates_are_one_at_the_start(s0):
    w = draw()
    ticket = Ticket(w, mask_tree(ones()))
    search = released(initial_logit=s0)
    close(search.params(search.init(jax.random.key(0), ticket)), w, 1e-15)
    unscaled = released(initial_logit=s0, scaling=False)
    params = unscaled.params(unscaled.init(jax.random.key(0), ticket))
    np.testing.assert_allclose(params["w1"], w["w1"] * sigmoid(s0), rtol=1e-14)


def test_released_temperature():
    beta = schedules.temperature(200, 85 * 352, epoch_steps=352)
    epochs = np.arange(85)
    for step in (352 * epochs, 352 * epochs + 351):
        found = jax.vmap(beta)(jnp.asarray(step, jnp.int32))
        np.testing.assert_allclose(found, 200 ** (epochs / 84), rtol=1e-6)
    printed = [beta(352 * epoch) for epoch in (0, 1, 42, 56, 71, 84)]
    np.testing.assert_allclose(printed, [1, 1.065, 14.1, 34.2, 88.1, 200], atol=0.05)
    assert beta(85 * 352) == 200  # what `advance` multiplies by


@pytest.mark.parametrize(
    ("between", "logit", "gate"),
    [
        ("paper", -0.05, 0.0),
        ("paper", -0.5, 0.0),
        ("paper", -5.0, 0.0),
        ("code", -0.05, 0.975),
    ],
)
def test_what_was_pruned_in_the_next_round(between, logit, gate):
    """Off for good in the paper; almost fully back, as to its gate, in the code."""
    search, w = released(between=between), draw()
    s = {name: np.full(SHAPES[name], logit) for name in KERNELS}
    state = gated_state(search, w, s)._replace(temperature=jnp.float32(200))
    grads = jax.tree.map(lambda g: g / 100, gradient(w, *batch(0, 0)))
    state = search.update(grads, search.advance(state), 0)
    for name in KERNELS:
        gates = search.params(state)[name] / state.gated.weights[name]
        np.testing.assert_allclose(gates, gate, atol=1e-3)


def test_logits_that_were_pruned_long_ago_stay_finite():
    """Every round multiplies them by 200; a weight decay would make NaN of -inf."""
    search = released()
    s = {name: np.full(SHAPES[name], -1.0) for name in KERNELS}
    state = gated_state(search, draw(), s)
    for _ in range(200):  # 200 ** 200 is more than a double holds
        state = search.advance(state._replace(temperature=jnp.float32(200)))
    for name in KERNELS:
        assert (state.gated.logits[name] == np.finfo(np.float64).min).all()
        assert not search.params(state)[name].any()


@pytest.mark.filterwarnings("ignore:the ticket keeps no weight")
def test_the_ticket_is_read_before_the_round_ends():
    """Afterwards no logit is above `s0`, and with `s0 <= 0` nothing is left."""
    search = released()
    state = gated_state(search, draw(), {name: draw(1)[name] for name in KERNELS})
    found = search.ticket(state).mask
    for name in KERNELS:
        np.testing.assert_array_equal(found[name], draw(1)[name] > 0)
    assert masks.count(search.ticket(search.advance(state)).mask) == 0


@pytest.mark.parametrize("scaling", [True, False])
def test_a_trained_ticket_is_the_network_at_the_end_of_a_round(scaling):
    """At `beta = 200` gates are binary, and what is binarised is what has trained."""
    search = released(initial_logit=0.3, scaling=scaling, weights="trained")
    s = {name: np.where(draw(1)[name] > 0, 0.3, -0.3) for name in KERNELS}
    state = gated_state(search, draw(), s)._replace(temperature=jnp.float32(200))
    found = search.ticket(state)
    close(masks.apply(found.mask, found.weights), search.params(state), 1e-12)
    tuning = fixed(optax.sgd(0.1))
    opened = tuning.params(tuning.init(jax.random.key(0), found))
    close(opened, search.params(state), 1e-12)
