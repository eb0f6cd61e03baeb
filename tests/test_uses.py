"""A page of uses: losses of many kinds, and loops that are not ours.

Each finds a ticket in a few lines; what is asserted is that it learns, that counts are
exact and that what is pruned is zero.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding, PartitionSpec

from jaxticket import (
    Ticket,
    as_optax,
    continuous_sparsification,
    fixed,
    imp,
    masks,
    models,
    run,
    schedules,
)

KEY = jax.random.key(0)
ADAM = optax.adam(0.03)


def dense(sizes, key=KEY):
    """Layers `{"w": [in, out], "b": [out]}`."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(k, (n, m)) / n**0.5, "b": jnp.zeros(m)}
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def apply(layers, x):
    *hidden, last = layers
    for layer in hidden:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


@pytest.fixture(autouse=True)
def promotion():
    """As users have it."""
    with jax.numpy_rank_promotion("allow"):
        yield


def found(search, loss, weights, *data, learns=True, **options):
    """The result of a run, compiled in a hurry; its loss has fallen in every round."""

    def loss_fn(params, model_state, batch, key):
        return loss(params, batch, key), model_state

    ticket = Ticket(weights, masks.full(weights))
    result = toy.hurried(
        lambda key: run(search, loss_fn, key, ticket, *data, **options)
    )
    result = result(KEY)
    assert not learns or (result.losses[:, -1] < result.losses[:, 0]).all()
    return result


def assert_pruned(params, mask, density):
    np.testing.assert_allclose(masks.density(mask), density, atol=0.01)
    for w, m in zip(
        jax.tree.leaves(masks.prunable_like(params, mask)),
        jax.tree.leaves(mask),
        strict=True,
    ):
        assert not np.asarray(w)[~np.asarray(m)].any()


# Losses.


def test_a_variational_autoencoder():
    x = jnp.tanh(jax.random.normal(KEY, (64, 2)) @ jax.random.normal(KEY, (2, 8)))
    weights = {"encoder": dense((8, 12, 4)), "decoder": dense((2, 12, 8))}

    def loss(params, x, key):
        mean, log_variance = jnp.split(apply(params["encoder"], x), 2, axis=-1)
        noise = jax.random.normal(key, mean.shape)
        z = mean + jnp.exp(log_variance / 2) * noise
        error = jnp.sum((apply(params["decoder"], z) - x) ** 2, -1)
        divergence = jnp.exp(log_variance) + mean**2 - 1 - log_variance
        return jnp.mean(error + jnp.sum(divergence, -1) / 20)

    search = imp(ADAM, density=0.5)
    options = {"rounds": 2, "epochs": 8, "batch_size": 16}
    result = found(search, loss, weights, x, **options)
    assert_pruned(search.params(result.carry.search), result.ticket.mask, 0.5)


def test_a_network_that_solves_an_equation_is_evaluated_by_its_ticket():
    """`u'' = -sin x` with its values at both ends; second derivatives through gates.

    At the end some gates of a soft mask are still open: the parameters that it trains
    with are not those of the ticket.
    """
    search = continuous_sparsification(
        ADAM, temperature=20.0, steps=300, penalty=1e-4, initial_logit=0.05
    )

    def loss(params, batch, key):
        assert batch is None
        x = jax.random.uniform(key, (16,), maxval=jnp.pi)

        def u(x):
            return apply(params, x[None])[0]

        residual = jax.vmap(jax.grad(jax.grad(u)))(x) + jnp.sin(x)
        ends = u(jnp.float32(0)) ** 2 + u(jnp.float32(jnp.pi)) ** 2
        return jnp.mean(residual**2) + ends

    weights = dense((1, 12, 12, 1))
    result = found(search, loss, weights, rounds=1, steps=300, every=100)
    trained, ticket = search.params(result.carry.search), result.ticket
    density = float(masks.density(ticket.mask))
    assert 0.1 < density < 1
    gone = jax.tree.map(jnp.logical_not, ticket.mask)
    open_ = masks.prunable_like(masks.apply(gone, trained), ticket.mask)
    assert any(leaf.any() for leaf in jax.tree.leaves(open_))
    assert_pruned(masks.apply(ticket.mask, ticket.weights), ticket.mask, density)


def test_a_policy_without_data():
    """REINFORCE: the batch is what the policy does, drawn by the step's key."""

    def reward(state, action):
        return (action == (state[:, 0] > 0)).astype(jnp.float32)

    def loss(policy, batch, key):
        assert batch is None
        state_key, action_key = jax.random.split(key)
        state = jax.random.normal(state_key, (64, 3))
        logits = apply(policy, state)
        action = jax.random.categorical(action_key, jax.lax.stop_gradient(logits))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)
        return -jnp.mean((reward(state, action) - 0.5) * chosen[:, 0])

    search = imp(ADAM, density=0.5, retrain="continue")
    options = {"rounds": 2, "steps": 60, "learns": False}  # its loss is no measure
    result = found(search, loss, dense((3, 8, 2)), **options)
    policy = search.params(result.carry.search)
    assert_pruned(policy, result.ticket.mask, 0.5)
    state = jax.random.normal(jax.random.key(9), (200, 3))
    assert reward(state, jnp.argmax(apply(policy, state), -1)).mean() > 0.9


def test_contrastive_pairs():
    """InfoNCE: every row of a batch is the others' negative."""
    content = jax.random.normal(KEY, (64, 4))
    views = jax.random.normal(jax.random.key(1), (2, 64, 4)) * 0.1 + content
    pairs = {"one": views[0], "other": views[1]}

    def loss(params, pairs, key):
        one, other = (apply(params, pairs[name]) for name in ("one", "other"))
        one, other = (z / jnp.linalg.norm(z, axis=-1)[:, None] for z in (one, other))
        labels = jnp.arange(len(one))
        return optax.softmax_cross_entropy_with_integer_labels(
            one @ other.T / 0.2, labels
        ).mean()

    search = imp(ADAM, density=0.5, select="erk")
    options = {"rounds": 2, "epochs": 8, "batch_size": 16}
    result = found(search, loss, dense((4, 12, 6)), pairs, **options)
    assert_pruned(search.params(result.carry.search), result.ticket.mask, 0.5)


def test_a_recurrent_network():
    """The kernels of an LSTM are pruned, its biases are not."""

    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(nn.RNN(nn.OptimizedLSTMCell(6))(x)[:, -1])[:, 0]

    model = models.from_linen(Recurrent())
    x = jax.random.normal(KEY, (64, 5, 2))
    weights, _ = model.init(KEY, x)
    data = {"x": x, "y": x[..., 0].sum(-1)}

    def loss(params, batch, key):
        return jnp.mean((model.apply(params, {}, batch["x"])[0] - batch["y"]) ** 2)

    search = imp(ADAM, density=0.5)
    options = {"rounds": 2, "epochs": 8, "batch_size": 32}
    result = found(search, loss, weights, data, **options)
    names = masks.names(result.ticket.mask)
    assert len(names) == 9
    assert all(name.endswith("kernel") for name in names)
    assert_pruned(search.params(result.carry.search), result.ticket.mask, 0.5)


# Loops that know only optax: the same regression in all.

X = jax.random.normal(KEY, (32, 4))
Y = jnp.sin(X[:, :2])
WEIGHTS = dense((4, 8, 2))
LOOP = {"rounds": 2, "round_steps": 5}
SEARCH = imp(ADAM, density=0.5)


def regression(params, x=X):
    return jnp.mean((apply(params, x) - Y) ** 2)


def transformation(weights=WEIGHTS, search=SEARCH, **options):
    return as_optax(search, Ticket(weights, masks.full(weights)), KEY, **LOOP | options)


def reference(steps):
    """The search itself, step by step."""
    state = SEARCH.init(KEY, Ticket(WEIGHTS, masks.full(WEIGHTS)))

    @toy.hurried
    def step(state, at):
        grads = jax.grad(regression)(SEARCH.params(state))
        return SEARCH.update(grads, state, at)

    for at in range(steps):
        state = SEARCH.advance(state) if at == LOOP["round_steps"] else state
        state = step(state, at % LOOP["round_steps"])
    return SEARCH.ticket(state).mask, SEARCH.params(state)


@pytest.fixture(scope="module")
def expected():
    with jax.numpy_rank_promotion("allow"):
        return reference(8)


def assert_found(params, state, expected):
    mask, theirs = expected
    assert_pruned(params, SEARCH.ticket(state.search).mask, 0.5)
    for ours, other in zip(
        jax.tree.leaves((SEARCH.ticket(state.search).mask, params)),
        jax.tree.leaves((mask, theirs)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, other, atol=1e-5)


def test_a_train_state_whose_memory_is_given_away(expected):
    """And what it was made of stays."""
    state = TrainState.create(
        apply_fn=apply, params=jax.tree.map(jnp.copy, WEIGHTS), tx=transformation()
    )

    def step(state):
        grads = jax.grad(regression)(state.params)
        return state.apply_gradients(grads=grads)

    step = jax.jit(step, donate_argnums=0)
    for _ in range(8):
        state = step(state)
    assert_found(state.params, state.opt_state, expected)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((WEIGHTS, KEY)))


def test_an_optimiser_of_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(4, 8, rngs=rngs)
            self.output = nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x):
            return self.output(jnp.tanh(self.hidden(x)))

    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(
        net, transformation(nnx.state(net, nnx.Param)), wrt=nnx.Param
    )

    @nnx.jit
    def step(net, optimizer):
        value, grads = nnx.value_and_grad(lambda net: jnp.mean((net(X) - Y) ** 2))(net)
        optimizer.update(net, grads)
        return value

    losses = [step(net, optimizer) for _ in range(8)]
    assert losses[-1] < losses[5] < losses[0]
    kernels = [net.hidden.kernel[...], net.output.kernel[...]]
    assert sum(int((kernel == 0).sum()) for kernel in kernels) == 24


def test_steps_of_several_batches(expected):
    """`optax.MultiSteps`: the search sees every second gradient, their mean."""
    optimizer = optax.MultiSteps(transformation(), every_k_schedule=2)
    params, state = WEIGHTS, optimizer.init(WEIGHTS)

    @toy.hurried
    def step(params, state, half):
        def loss(params):
            return jnp.mean((apply(params, X[half]) - Y[half]) ** 2)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    halves = jnp.arange(32).reshape(2, 16)
    for at in range(16):
        params, state = step(params, state, halves[at % 2])
    assert_found(params, state.inner_opt_state, expected)


def test_what_an_optimiser_of_several_batches_is_told_reaches_the_one_within():
    by_step = schedules.scale_by_step(lambda step: 0.1 * (step + 1.0))
    found = run(
        fixed(optax.MultiSteps(by_step, 2)),
        lambda params, state, batch, key: (jnp.sum(params["w"]), state),
        KEY,
        Ticket({"w": jnp.zeros((2, 3))}, {"w": jnp.ones((2, 3), bool)}),
        rounds=1,
        steps=4,
    )
    # At steps 1 and 3, of a gradient of one.
    np.testing.assert_allclose(found.ticket.weights["w"], -0.2 - 0.4, rtol=1e-6)


def test_a_transformation_counts_its_steps_whatever_others_in_a_chain_are_told():
    chain = optax.chain(schedules.scale_by_step(lambda step: -1.0), transformation())
    alone, grads = transformation(), jax.grad(regression)(WEIGHTS)
    told = {"step": jnp.int32(7)}
    found, _ = chain.update(grads, chain.init(WEIGHTS), WEIGHTS, **told)
    expected, _ = alone.update(grads, alone.init(WEIGHTS), WEIGHTS)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_transformation_comes_last_in_a_chain(expected):
    """After it, a step to zero is made half of a step: nothing is pruned."""
    before = optax.chain(optax.scale(0.5), transformation())
    after = optax.chain(transformation(), optax.scale(0.5))
    zeros = []
    for optimizer in (before, after):
        params, state = WEIGHTS, optimizer.init(WEIGHTS)
        step = toy.hurried(
            lambda params, state, optimizer=optimizer: optimizer.update(
                jax.grad(regression)(params), state, params
            )
        )
        for _ in range(8):
            updates, state = step(params, state)
            params = optax.apply_updates(params, updates)
        kernels = jax.tree.leaves(masks.prunable_like(params, expected[0]))
        zeros.append(sum(int((kernel == 0).sum()) for kernel in kernels))
    assert zeros == [24, 0]


def test_a_network_on_two_devices_in_a_loop_of_optax(expected):
    """On a mesh with explicit axes, the columns of every kernel cut in two."""
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])

    def put(leaf):
        spec = PartitionSpec(*[None] * (leaf.ndim - 1), "x")
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    def loss(params, x, y):
        hidden, last = params
        x = jnp.tanh(x @ hidden["w"] + hidden["b"])
        whole = jax.sharding.reshard(x, PartitionSpec())
        return jnp.mean((whole @ last["w"] + last["b"] - y) ** 2)

    with jax.set_mesh(mesh):
        params = jax.tree.map(put, WEIGHTS)
        optimizer = transformation(params)
        state = optimizer.init(params)

        def step(params, state):
            grads = jax.grad(loss)(params, X, put(Y))
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(jnp.copy, params)
        step = jax.jit(step, donate_argnums=(0, 1))
        for _ in range(8):
            params, state = step(params, state)
        spec = params[0]["w"].sharding.spec
        assert spec == PartitionSpec(None, "x")
    assert_found(params, state, expected)


def test_one_array_in_two_places_is_two_arrays_from_the_first_step_on():
    """To tie them, keep one and use it twice."""
    w = jax.random.normal(KEY, (4, 4))
    with pytest.warns(UserWarning, match="'a' and 'b' are one array"):
        mask = masks.full({"a": w, "b": w})
    search = fixed(optax.sgd(0.1))

    def loss(params):
        return jnp.sum((X @ params["a"] @ params["b"] - X) ** 2) / 32

    state = search.init(KEY, Ticket({"a": w, "b": w}, mask))
    state = search.update(jax.grad(loss)(search.params(state)), state, 0)
    params = search.params(state)
    assert (params["a"] != params["b"]).any()
