"""Networks of four libraries as models: modes, batch statistics, dropout."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import assert_same
from flax import nnx

from jaxticket import Ticket, imp, masks, models, run

pytestmark = pytest.mark.usefixtures("unoptimised")
KEY = jax.random.key(0)
X = 3 + 2 * jax.random.normal(KEY, (8, 5))


class Equinox(eqx.Module):
    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    output: eqx.nn.Linear

    def __init__(self, key):
        self.hidden = eqx.nn.Linear(5, 6, key=key)
        self.norm = eqx.nn.BatchNorm(6, "batch", mode="ema")
        self.dropout = eqx.nn.Dropout(0.5)
        self.output = eqx.nn.Linear(6, 2, key=key)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.hidden(x), state)
        return self.output(self.dropout(x, key=key)), state


class EquinoxSequence(eqx.nn.Sequential):
    def __init__(self, key):
        norm = eqx.nn.BatchNorm(6, "rows", mode="batch")
        parts = [eqx.nn.Linear(5, 6, key=key), norm, eqx.nn.Dropout(0.5)]
        super().__init__(parts)


class Linen(nn.Module):
    def body(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


class LinenTrain(Linen):
    @nn.compact
    def __call__(self, x, train):
        return self.body(x, train)


class LinenDeterministic(Linen):
    @nn.compact
    def __call__(self, x, *, deterministic=True):
        return self.body(x, not deterministic)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(5, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.output = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.output(self.dropout(self.norm(self.hidden(x))))


def haiku(x, is_training):
    x = hk.BatchNorm(True, True, 0.9)(hk.Linear(6)(x), is_training)
    rate = 0.5 if is_training else 0.0
    x = hk.dropout(hk.next_rng_key(), rate, x) if is_training else x
    return hk.Linear(2)(x)


NOISY = {
    "equinox": lambda: models.from_equinox(Equinox),
    "equinox sequence": lambda: models.from_equinox(EquinoxSequence, axis_name="rows"),
    "linen": lambda: models.from_linen(LinenTrain()),
    "linen, deterministic": lambda: models.from_linen(LinenDeterministic()),
    "nnx": lambda: models.from_nnx(Nnx),
    "haiku": lambda: models.from_haiku(hk.transform_with_state(haiku)),
}


def strong(tree):
    return jax.tree.map(
        lambda x: (x.shape, x.dtype, getattr(x, "weak_type", False)), tree
    )


@pytest.mark.parametrize("name", NOISY)
def test_training_normalises_by_the_batch_and_drops_and_a_test_does_neither(name):
    model = NOISY[name]()
    params, state = model.init(KEY, X)
    assert jax.tree.leaves(state)
    train = jax.jit(lambda s, key: model.apply(params, s, X, train=True, key=key))
    first, moved = train(state, jax.random.key(1))
    assert strong(moved) == strong(state)
    assert any(
        (np.asarray(new) != np.asarray(old)).any()
        for new, old in zip(*map(jax.tree.leaves, (moved, state)), strict=True)
        if jnp.issubdtype(new.dtype, jnp.inexact)
    )
    again = moved if name == "nnx" else state  # whose streams are in its state
    other, _ = train(again, jax.random.key(2))
    assert (first != other).any()

    tested, same = model.apply(params, moved, X)
    assert_same(same, moved)
    assert_same(model.apply(params, moved, X, key=KEY)[0], tested)
    alone = jnp.concatenate([model.apply(params, moved, x[None])[0] for x in X])
    np.testing.assert_allclose(alone, tested, atol=1e-5)


def test_equinox_as_it_is_called_by_hand():
    model = models.from_equinox(Equinox)
    params, state = model.init(KEY, X)
    module, theirs = eqx.nn.make_with_state(Equinox)(KEY)
    key = jax.random.key(1)

    def call(x, state, key):
        return module(x, state, key=key)

    by_hand = jax.vmap(call, (0, None, 0), (0, None), axis_name="batch")
    expected, after = by_hand(X, theirs, jax.random.split(key, len(X)))
    found, moved = model.apply(params, state, X, train=True, key=key)
    np.testing.assert_array_equal(found, expected)
    for ours, of_equinox in zip(moved, jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(ours, of_equinox)
    tested = eqx.nn.inference_mode(module)
    expected, _ = jax.vmap(tested, (0, None), (0, None), axis_name="batch")(X, after)
    np.testing.assert_array_equal(model.apply(params, moved, X)[0], expected)


class EquinoxStrict(eqx.Module):
    """Its key by name alone, and a key that a call must have."""

    output: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, *, key):
        self.output = eqx.nn.Linear(5, 2, key=key)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, key):
        return self.dropout(self.output(x), key=key)


def test_equinox_with_keys_that_must_be_given():
    model = models.adapted(EquinoxStrict)
    params, state = model.init(KEY, X)
    module, keys = EquinoxStrict(key=KEY), jax.random.split(KEY, len(X))
    found, _ = model.apply(params, state, X, train=True, key=KEY)
    np.testing.assert_array_equal(found, jax.vmap(module)(X, keys))
    found, _ = model.apply(params, state, X)
    np.testing.assert_array_equal(found, jax.vmap(module.output)(X))


PLAIN = {
    "linen": lambda: models.from_linen(nn.Dense(2)),
    "linen sequence": lambda: models.from_linen(nn.Sequential([nn.Dense(3), nn.relu])),
    "equinox": lambda: models.from_equinox(lambda k: eqx.nn.MLP(5, 2, 3, 1, key=k)),
    "nnx": lambda: models.from_nnx(lambda rngs: nnx.Linear(5, 2, rngs=rngs)),
    "haiku": lambda: models.from_haiku(hk.transform(lambda x: hk.Linear(2)(x))),
    "haiku, mode": lambda: models.from_haiku(
        hk.transform(lambda x, t: hk.Linear(2)(x) * (2 if t else 1))
    ),
    "haiku, empty state": lambda: models.from_haiku(
        hk.transform_with_state(lambda x: hk.Linear(2)(x))
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_networks_that_do_not_ask_whether_they_train(name):
    model = PLAIN[name]()
    params, state = model.init(KEY, X)
    assert state == {}
    tested, same = model.apply(params, state, X)
    trained, moved = model.apply(params, state, X, train=True, key=KEY)
    np.testing.assert_array_equal(trained, tested * (2 if name == "haiku, mode" else 1))
    assert same == moved == {}
    masks.full(params)


@pytest.mark.parametrize("name", ["equinox", "haiku"])
def test_batch_statistics_return_with_the_weights(name):
    model = NOISY[name]()
    params, state = model.init(KEY, X)

    def loss_fn(params, state, batch, key):
        y, state = model.apply(params, state, batch, train=True, key=key)
        return jnp.mean((y - 1) ** 2), state

    result = jax.jit(
        lambda key: run(
            imp(optax.adam(0.01), density=0.5, rewind_step=1),
            loss_fn,
            key,
            Ticket(params, masks.full(params), state),
            X,
            rounds=2,
            epochs=1,
            batch_size=4,
        )
    )(KEY)
    assert_same(result.ticket.model_state, result.carry.model_anchor)
    assert masks.density(result.ticket.mask) == 0.5
    assert np.isfinite(result.losses).all()
