"""Facts about gates that are drawn, and about searches that need no training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from jaxticket import (
    Gated,
    Ticket,
    continuous_sparsification,
    iss,
    l0,
    masks,
    supermask,
)
from jaxticket.searches import gates
from jaxticket.searches.l0 import Concrete
from jaxticket.searches.l0 import drawn as drawn_hard

pytestmark = pytest.mark.usefixtures("unoptimised")

DRAWS = 4000
KERNELS = ["dense", "head"]


def opened(search, logit=None):
    """A search over weights that are all 1, with one logit for all of them."""
    ticket = toy.ticket()
    ones = jax.tree.map(jnp.ones_like, ticket.weights)
    state = search.init(jax.random.key(1), ticket._replace(weights=ones))
    if logit is None:
        return state
    logits = jax.tree.map(lambda s: jnp.full_like(s, logit), state.gated.logits)
    return state._replace(gated=Gated(ones, logits))


def drawn(search, state):
    """The gates of many steps, if nothing moved: `[DRAWS, weights]`."""
    counts = jnp.arange(DRAWS, dtype=jnp.int32)
    params = jax.vmap(lambda count: search.params(state._replace(count=count)))(counts)
    return np.hstack([params[name]["kernel"].reshape(DRAWS, -1) for name in KERNELS])


def assert_probability(flags, p):
    """`flags` `[DRAWS, weights]` are independent, each true with probability `p`."""
    alone, all_, error = flags.mean(0), flags.mean(), np.sqrt(p * (1 - p) / DRAWS)
    assert np.abs(alone - p).max() < 5 * error
    assert abs(all_ - p) < 5 * error / np.sqrt(flags.shape[1])
    together = np.corrcoef(flags.T) - np.eye(flags.shape[1])
    assert np.abs(together).max() < 6 / np.sqrt(DRAWS)
    from_step_to_step = np.corrcoef(flags[1:].ravel(), flags[:-1].ravel())[0, 1]
    assert abs(from_step_to_step) < 5 / np.sqrt(flags.size)


@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.0])
def test_bernoulli_gates_are_open_as_often_as_their_logit_says(logit):
    search = iss(optax.sgd(0.1))
    found = drawn(search, opened(search, logit))
    assert set(np.unique(found)) == {0.0, 1.0}
    assert_probability(found == 1, 1 / (1 + np.exp(-logit)))


@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.0])
def test_the_l0_penalty_is_how_likely_a_gate_is_not_zero(logit):
    """Both ends of the stretch, by symmetry: `P(z = 1 | a) = P(z = 0 | -a)`."""
    search = l0(optax.sgd(1.0), penalty=1.0)
    state = opened(search, logit)
    found = drawn(search, state)
    still = jax.tree.map(jnp.zeros_like, toy.ticket().weights)
    after = search.update(still, state, 0)
    slope = logit - after.gated.logits["head"]["kernel"]  # p (1 - p) of the penalty
    p = np.mean(found > 0)
    np.testing.assert_allclose(slope, p * (1 - p), atol=0.01)
    expected = 1 / (1 + np.exp(2 / 3 * np.log(0.1 / 1.1) - logit))
    assert_probability(found > 0, expected)
    mirrored = drawn(search, opened(search, -logit))
    assert_probability(mirrored < 1, expected)


# The optimiser of weights and logits, and what of it outlives a round.

PAIR = Gated({"w": jnp.ones((3, 2))}, {"w": jnp.zeros((3, 2))})
GRADS = [jax.tree.map(lambda x, i=i: x + jnp.cos(i + 1.0), PAIR) for i in range(4)]


def test_weights_and_logits_have_optimisers_of_their_own():
    for frozen in (False, True):
        of_weights = optax.set_to_zero() if frozen else optax.sgd(1.0)
        pair = gates.optimizer(of_weights, optax.sgd(10.0))
        updates, _ = pair.update(GRADS[0], pair.init(PAIR), PAIR)
        expected = 0 if frozen else -GRADS[0].weights["w"]
        np.testing.assert_array_equal(updates.weights["w"], expected)
        np.testing.assert_allclose(updates.logits["w"], -10 * GRADS[0].logits["w"])


def by_a_branch(rate):
    """Momentum that opens by a branch, as its state alone does not show."""
    sgd = optax.sgd(rate, momentum=0.9)

    def init(params):
        there = jnp.isfinite(params.weights["w"]).all()
        return jax.lax.cond(there, sgd.init, sgd.init, params)

    return optax.GradientTransformation(init, sgd.update)


# Learning rate -> optimiser.
SCHEDULED = {
    "branch": by_a_branch,
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    "adam": lambda rate: optax.chain(optax.clip(1.0), optax.adam(rate)),
    "adamw": optax.adamw,
    "adafactor": optax.adafactor,
    "hyperparameters": optax.inject_hyperparams(optax.adam),
    "accumulated": lambda rate: optax.MultiSteps(optax.adam(rate), 2),
    "flat": lambda rate: optax.flatten(optax.adam(rate)),
    "apart": lambda rate: gates.optimizer(optax.adam(rate), optax.sgd(rate, 0.9)),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_schedules_start_again_and_moments_stay(name):
    """With its rate at 1 again it does what an optimiser does that always had 1."""

    def after_some(optimizer):
        state = optimizer.init(PAIR)
        for grads in GRADS[:3]:
            _, state = optimizer.update(grads, state, PAIR)
        return state

    falling, constant = (
        SCHEDULED[name](rate) for rate in (lambda n: 0.5**n, lambda n: 1.0)
    )
    state = gates.restarted(falling, after_some(falling), PAIR)
    ours, _ = falling.update(GRADS[3], state, PAIR)
    theirs, _ = constant.update(GRADS[3], after_some(constant), PAIR)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    unlike, _ = falling.update(GRADS[3], after_some(falling), PAIR)
    assert not np.array_equal(unlike.logits["w"], ours.logits["w"])


def test_noise_goes_on_and_what_follows_the_loss_starts_again():
    noise = optax.add_noise(0.1, 0.5, jax.random.key(0))
    opened = noise.init(PAIR)
    _, used = noise.update(GRADS[0], opened, PAIR)
    again = gates.restarted(noise, used, PAIR)
    assert again.count == 0
    assert again.rng_key == used.rng_key != opened.rng_key
    plateau = optax.contrib.reduce_on_plateau()
    opened = plateau.init(PAIR)
    used = opened._replace(scale=jnp.float32(0.1), best_value=jnp.float32(2.0))
    assert gates.restarted(plateau, used, PAIR) == opened


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(
            continuous_sparsification, temperature=20.0, steps=16, scaling=False
        ),
        iss,
    ],
    ids=["cs", "iss"],
)
@pytest.mark.parametrize("name", ["schedule_free_sgd", "dog"])
def test_copies_of_the_logits_do_not_draw_them_back_where_they_were(make, name):
    """What is trained stands in the states of these; no gradient, so nothing moves."""
    search = make(getattr(optax.contrib, name)(0.1))
    state = search.init(jax.random.key(1), toy.ticket())
    up, still = (
        jax.tree.map(lambda w, x=x: jnp.full_like(w, x), search.params(state))
        for x in (-1.0, 1e-12)
    )
    for step in range(4):
        state = search.update(up, state, step)
    risen, state = state.gated.logits, jax.jit(search.advance)(state)
    opened = state.gated.logits
    for step in range(4):
        state = search.update(still, state, step)

    def farthest(logits):
        far = jax.tree.map(lambda s, s0: jnp.abs(s - s0).max(), logits, opened)
        return max(jax.tree.leaves(far))

    assert farthest(state.gated.logits) < 1e-2 * farthest(risen)


@pytest.mark.parametrize("keep_momentum", [True, False])
@pytest.mark.parametrize(
    "make",
    [functools.partial(continuous_sparsification, temperature=20.0, steps=16), iss],
    ids=["cs", "iss"],
)
def test_a_schedule_of_optax_lasts_for_every_round(make, keep_momentum):
    """If it did not, the logits would stay at 0 from the second round on."""
    rate = optax.cosine_decay_schedule(3e-2, 16)
    search = make(optax.adam(rate), keep_momentum=keep_momentum)
    x = jax.random.normal(jax.random.key(1), (8, 6))

    def loss(params):
        hidden = jnp.tanh(x[:, :5] @ params["dense"]["kernel"])
        return jnp.mean((hidden @ params["head"]["kernel"] - x[:, 2:]) ** 2)

    def step(state, at):
        return search.update(jax.grad(loss)(search.params(state)), state, at), ()

    @jax.jit
    def a_round(state):
        state, _ = jax.lax.scan(step, state, jnp.arange(16))
        return search.advance(state), masks.density(search.ticket(state).mask)

    state = search.init(jax.random.key(1), toy.ticket())
    for _ in range(3):
        state, density = a_round(state)
        assert 0 < density < 1


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(continuous_sparsification, temperature=lambda step: 1.0),
        functools.partial(iss, initial_logit=-0.1),
        functools.partial(l0, initial_logit=-3.0),
        functools.partial(supermask, initial_logit=-0.1, read="threshold"),
    ],
    ids=["cs", "iss", "l0", "supermask"],
)
def test_an_empty_ticket_is_not_returned_in_silence(make):
    search = make(optax.sgd(0.1))
    state = search.init(jax.random.key(0), toy.ticket())
    with pytest.warns(UserWarning, match="keeps no weight"):
        assert masks.count(search.ticket(state).mask) == 0


# ISS.


@pytest.mark.filterwarnings("ignore:the ticket keeps no weight")
def test_a_gate_as_often_open_as_closed_is_not_off():
    search = iss(optax.sgd(0.1))
    for logit, kept in ((-0.01, 0), (0.0, 54), (0.01, 54)):
        assert masks.count(search.ticket(opened(search, logit)).mask) == kept


@pytest.mark.parametrize(
    "off", [lambda s: s < -2, 1 / (1 + np.exp(2))], ids=["rule", "probability"]
)
def test_what_is_off_is_dropped_for_good_and_the_others_start_again(off):
    search = iss(optax.sgd(0.1), initial_logit=0.3, off=off)
    state = opened(search)
    kernel = jnp.linspace(-3, 1, 24).reshape(6, 4)
    logits = state.gated.logits | {"head": {"bias": None, "kernel": kernel}}
    state = state._replace(gated=state.gated._replace(logits=logits))
    state = search.advance(state)
    expected = kernel >= -2
    assert masks.count(search.ticket(state).mask) == 30 + expected.sum()
    for leaf in jax.tree.leaves(state.gated.logits):
        np.testing.assert_array_equal(leaf, jnp.float32(0.3))
    ever = drawn(search, state)[:, 30:].any(axis=0)
    np.testing.assert_array_equal(ever, expected.ravel())


# L0.


def test_l0_logits_start_around_the_given_one():
    weights = {"w": jnp.ones((300, 100))}
    ticket = Ticket(weights, masks.full(weights))
    search = l0(optax.sgd(0.1), penalty=0.1, initial_logit=0.7)
    one, other = (
        search.init(jax.random.key(seed), ticket).gated.logits["w"] for seed in (0, 1)
    )
    assert (one != other).mean() > 0.99
    np.testing.assert_allclose(one.mean(), 0.7, atol=5 * 0.01 / np.sqrt(one.size))
    np.testing.assert_allclose(one.std(), 0.01, rtol=0.03)


@pytest.mark.parametrize(
    ("optimizer", "bound"), [(optax.sgd(1.0), 1e-2), (optax.scale(1.0), 1e2)]
)
def test_l0_logits_stay_between_bounds(optimizer, bound):
    """Down the gradient of a huge penalty, and up."""
    search = l0(optimizer, penalty=1e6)
    state = opened(search)
    still = jax.tree.map(jnp.zeros_like, toy.ticket().weights)
    state = search.update(still, state, 0)
    for leaf in jax.tree.leaves(state.gated.logits):
        np.testing.assert_allclose(leaf, np.log(bound), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:the ticket keeps no weight")
@pytest.mark.parametrize("weights", ["anchor", "trained"])
def test_an_l0_ticket_has_the_gates_of_a_test(weights):
    """`z = 1.2 sigmoid(a) - 0.1`, clipped: 0 up to `log(1 / 11)`, 1 from `log 11`."""
    search = l0(optax.sgd(0.1), penalty=0.1, weights=weights)
    for odds, z in ((1 / 12, 0), (1 / 10, 0.1 / 11), (1, 0.5), (3, 0.8), (12, 1)):
        found = search.ticket(opened(search, np.log(odds)))
        assert masks.count(found.mask) == (54 if z else 0)
        for name in KERNELS:
            expected = 1 if weights == "anchor" else z
            np.testing.assert_allclose(
                found.weights[name]["kernel"], expected, atol=1e-6
            )
            assert (found.weights[name]["bias"] == 1).all()


@pytest.mark.parametrize("temperature", [2 / 3, 0.5, 0.37, 2.0])
def test_l0_gates_and_their_slope_are_those_of_the_formula(temperature):
    """At powers that are products of roots, and at another; slopes by differences."""
    rng = np.random.default_rng(0)
    a = np.concatenate([rng.normal(size=300) * 3, [-60.0, 60.0]])
    u = rng.uniform(1e-6, 1 - 1e-6, 302)
    alive = rng.random(302) < 0.8
    of = Concrete(temperature, -0.1, 1.1)

    def z(a):
        concrete = 1 / (1 + np.exp(-(np.log(u / (1 - u)) + a) / temperature))
        return np.where(alive, np.clip(1.2 * concrete - 0.1, 0, 1), 0)

    args = jnp.float32(a), jnp.float32(u), alive
    ours, pull_back = jax.vjp(lambda a: drawn_hard(a, *args[1:], of), args[0])
    (slope,) = pull_back(jnp.ones_like(ours))
    np.testing.assert_allclose(ours, z(a), atol=2e-6)
    inside = (z(a) > 0.001) & (z(a) < 0.999)
    differences = (z(a + 1e-6) - z(a - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope[inside], differences[inside], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(slope[(z(a) == 0) | (z(a) == 1)], 0)
    assert inside.sum() > 30


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_soft_gates_and_their_slope_are_those_of_the_formula(scale):
    s = np.concatenate([np.linspace(-8, 8, 41), [-200.0, 200.0]])
    alive = np.arange(43) % 3 > 0
    sigmoid = 1 / (1 + np.exp(-s))
    args = jnp.float32(s), alive, jnp.float32(scale)
    ours, tangent = jax.jvp(
        lambda s, c: gates.soft(s, args[1], c),
        (args[0], args[2]),
        (jnp.ones(43), jnp.float32(0)),
    )
    np.testing.assert_allclose(ours, np.where(alive, scale * sigmoid, 0), 1e-6, 1e-30)
    slope = np.where(alive, scale * sigmoid * (1 - sigmoid), 0)
    np.testing.assert_allclose(tangent, slope, rtol=1e-5, atol=3e-7)
    of_scale = jax.grad(lambda c: gates.soft(args[0], args[1], c).sum())(args[2])
    np.testing.assert_allclose(of_scale, sigmoid[alive].sum(), rtol=1e-5)
