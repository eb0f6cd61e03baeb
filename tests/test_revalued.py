"""Other values under the same mask: what stays, what is permuted, what is drawn."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxticket import (
    Ticket,
    audit,
    masks,
    prune_by_deviation,
    revalued,
    starts,
    structure,
)

KEY = jax.random.key(0)


def leaves_equal(tree, other):
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return [bool((a == b).all()) for a, b in pairs]


NET = {"conv": (3, 3, 4, 8), "same": (3, 3, 4, 8), "dense": (5, 6), "bias": (6,)}
FANS = {"conv": 36, "same": 36, "dense": 5}


def net(dtype=jnp.float32):
    """Kernels of mean 1 and deviation 2, a zero among them, and what is not pruned."""
    rng = np.random.default_rng(0)
    weights = {n: jnp.asarray(rng.normal(1, 2, s), dtype) for n, s in NET.items()}
    weights["dense"] = weights["dense"].at[0, 0].set(0)
    mask = masks.full(weights)
    return Ticket(weights, mask | {"conv": weights["conv"] > 1})


def deviations(ticket):
    """Over the whole layer, what is pruned included; of the population."""
    return {n: np.std(np.asarray(ticket.weights[n], np.float64)) for n in FANS}


def kaiming(density=1.0):
    return {n: np.sqrt(2) / np.sqrt(density * fan) for n, fan in FANS.items()}


def test_starts_change_values_alone():
    """All that are listed: of new values, none of the old, and all else as it was."""
    ticket = net()._replace(model_state={"mean": jnp.ones(3)})
    for name in filter(lambda name: hasattr(revalued, name), starts.__all__):
        start = getattr(revalued, name)
        takes_key = "key" in inspect.signature(start).parameters
        found = start(*[KEY] * takes_key, ticket)
        audit.differs(name, found, ticket, by="weights")
        assert found.model_state is ticket.model_state
        bias, *kernels = leaves_equal(found.weights, ticket.weights)
        assert bias
        assert not any(kernels)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("control", "constants"),
    [
        (functools.partial(revalued.signed_constant, KEY), deviations),
        (revalued.kaiming_constant, lambda _: kaiming()),
        (lambda t: revalued.kaiming_constant(t, density=0.3), lambda _: kaiming(0.3)),
    ],
    ids=["deviation", "kaiming", "scaled"],
)
def test_signed_constants(control, constants, dtype):
    ticket = net(dtype)
    found = toy.hurried(control)(ticket)
    for n, constant in constants(ticket).items():
        expected = np.sign(np.asarray(ticket.weights[n], np.float64)) * constant
        assert found.weights[n].dtype == dtype
        assert not found.weights[n].weak_type
        rtol = 1e-6 if dtype == "float32" else 1e-2
        np.testing.assert_allclose(
            np.asarray(found.weights[n], np.float64), expected, rtol=rtol
        )
        np.testing.assert_array_equal(found.mask[n], ticket.mask[n])
    np.testing.assert_array_equal(found.weights["bias"], ticket.weights["bias"])
    assert found.mask["bias"] is None


def test_deviations_of_half_precision_are_of_single():
    """The squares of small numbers are 0 in float16."""
    weights = {"w": jnp.float16(1e-4 * jax.random.normal(KEY, (40, 50)))}
    half, wide = (
        Ticket(w, masks.full(w)) for w in (weights, jax.tree.map(jnp.float32, weights))
    )
    for f in (
        lambda t: revalued.signed_constant(KEY, t).weights["w"],
        lambda t: prune_by_deviation(t, 1.0).mask["w"].mean(),
        lambda t: structure.valley(t.weights, t.mask)["w"],
    ):
        np.testing.assert_allclose(np.float32(f(half)), f(wide), rtol=0.02)


def test_kaiming_normal_weights_are_a_new_draw():
    """Not a permutation of the old, not twice the same, and of the right deviation."""
    ticket, key = net(), jax.random.key(3)
    found = revalued.kaiming_normal(key, ticket, density=0.5)
    for n, deviation in kaiming(0.5).items():
        w = np.asarray(found.weights[n], np.float64)
        assert found.weights[n].dtype == jnp.float32
        assert np.isin(w, ticket.weights[n]).mean() < 0.01
        # Four deviations of a mean and of a variance of normal numbers.
        assert abs(w.mean()) < 4 * deviation / np.sqrt(w.size)
        assert abs(w.var() / deviation**2 - 1) < 4 * np.sqrt(2 / w.size)
    assert np.isin(found.weights["conv"], found.weights["same"]).mean() < 0.01
    assert found.weights["bias"] is ticket.weights["bias"]
    assert all(leaves_equal(found.mask, ticket.mask))
    other = revalued.kaiming_normal(jax.random.key(4), ticket, density=0.5)
    assert np.isin(found.weights["conv"], other.weights["conv"]).mean() < 0.01
    again = revalued.kaiming_normal(key, ticket)  # the density is a factor only
    np.testing.assert_allclose(
        found.weights["conv"], again.weights["conv"] * np.sqrt(2), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["kaiming_constant", "kaiming_normal"])
def test_kaiming_densities_are_mapped_and_checked(name):
    control = getattr(revalued, name)
    if name == "kaiming_normal":
        control = functools.partial(control, KEY)
    densities = np.array([0.2, 1.0], np.float32)
    mapped = toy.hurried(jax.vmap(lambda density: control(net(), density=density)))(
        densities
    )
    for i, density in enumerate(densities.tolist()):
        one = control(net(), density=density).weights["conv"]
        np.testing.assert_allclose(mapped.weights["conv"][i], one, rtol=1e-6)


def as_numpy(ticket, name):
    """A layer's values and what the mask keeps of them, flat."""
    w, m = (np.asarray(tree[name]).ravel() for tree in (ticket.weights, ticket.mask))
    return w, m


def mapped_and_alone(name):
    """A treatment of `net()` under `jit` and `vmap`, of one key of three, and alone."""
    treat, keys = getattr(revalued, name), jax.random.split(KEY, 3)
    many = toy.hurried(jax.vmap(treat, (0, None)))(keys, net())
    one = jax.tree.map(lambda x: x[1], many)
    return one, toy.hurried(treat)(keys[1], net()), net()


@pytest.mark.parametrize(
    "name", ["permute", "permute_kept", "signed_permute", "signed_permute_kept"]
)
def test_what_is_permuted_are_the_values_that_were_there(name):
    found, alone, ticket = mapped_and_alone(name)
    assert all(leaves_equal(found, alone))
    for layer in FANS:
        (w, m), (v, _) = as_numpy(ticket, layer), as_numpy(found, layer)
        moved, signed = m if "kept" in name else np.ones_like(m), "signed" in name
        np.testing.assert_array_equal(v[~moved], w[~moved])
        assert np.mean(v[moved] == w[moved]) < 0.2
        if signed:
            there = v != 0  # one value is zero, of no sign, and ends somewhere
            np.testing.assert_array_equal(np.sign(v[there]), np.sign(w[there]))
        else:
            np.testing.assert_array_equal(np.sort(v[moved]), np.sort(w[moved]))
        there = np.isin(np.abs(v[v != 0]), np.abs(w[moved]))
        assert there[moved[v != 0]].all()
    np.testing.assert_array_equal(found.weights["bias"], ticket.weights["bias"])
    assert all(leaves_equal(found.mask, ticket.mask))


@pytest.mark.parametrize("name", ["permute", "permute_kept"])
def test_every_order_is_as_likely(name):
    """Of three kept values among four places, 24 or 6 orders."""
    ticket = Ticket({"w": jnp.arange(1.0, 5)}, {"w": jnp.arange(4) > 0})
    keys = jax.random.split(KEY, 4800)
    many = toy.hurried(jax.vmap(getattr(revalued, name), (0, None)))(keys, ticket)
    orders, counts = np.unique(many.weights["w"], axis=0, return_counts=True)
    assert len(orders) == {"permute": 24, "permute_kept": 6}[name]
    expected = 4800 / len(orders)
    chi2 = np.sum((counts - expected) ** 2 / expected)
    assert chi2 < len(orders) - 1 + 4 * np.sqrt(2 * (len(orders) - 1))


def test_random_constants_have_the_signs_of_the_layer_elsewhere():
    found, alone, ticket = mapped_and_alone("random_constant")
    assert all(leaves_equal(found, alone))
    for layer, deviation in deviations(ticket).items():
        (w, _), (v, _) = as_numpy(ticket, layer), as_numpy(found, layer)
        np.testing.assert_allclose(np.abs(v[v != 0]), deviation, rtol=1e-6)
        np.testing.assert_array_equal(np.sort(np.sign(v)), np.sort(np.sign(w)))
        assert (np.sign(v) != np.sign(w)).any()


@pytest.mark.parametrize("level", [0.5, 3.0])
def test_noise_is_of_so_many_deviations(level):
    ticket = net()
    found = toy.hurried(revalued.noise)(KEY, ticket, level)
    for layer, deviation in deviations(ticket).items():
        (w, _), (v, _) = as_numpy(ticket, layer), as_numpy(found, layer)
        noise = (v - w) / (level * deviation)
        assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
        assert abs(noise.var() - 1) < 4 * np.sqrt(2 / noise.size)
    np.testing.assert_array_equal(found.weights["bias"], ticket.weights["bias"])
    conv, same = ((found.weights[n] - ticket.weights[n]) for n in ("conv", "same"))
    assert abs(np.corrcoef(conv.ravel(), same.ravel())[0, 1]) < 0.3
