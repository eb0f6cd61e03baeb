"""Mask trees: what is prunable, true zeros, counting, and errors that name the leaf."""

import functools
import warnings

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxticket import masks

NAMES = ["dense/bias", "dense/kernel", "head/bias", "head/kernel"]
PARAMS = toy.init(jax.random.key(0))

trees = st.fixed_dictionaries(
    {
        "a": hnp.arrays(bool, (3, 4)),
        "b": st.none(),
        "c": hnp.arrays(bool, (1, 1)),
    }
)


def flat(mask):
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(mask)])


def test_kernels_are_prunable_by_default():
    params = PARAMS | {
        "table": jnp.zeros((2, 3), int),
        "scale": jnp.ones(()),
        "no": None,
    }
    mask = masks.full(params)
    assert masks.names(mask) == ["dense/kernel", "head/kernel"]
    assert all(leaf.dtype == bool and leaf.all() for leaf in jax.tree.leaves(mask))
    assert masks.size(mask) == masks.count(mask) == 54


def test_another_predicate_decides_by_path_and_leaf():
    mask = masks.full(PARAMS, lambda path, leaf: "head" in masks.name(path))
    assert masks.names(mask) == ["head/bias", "head/kernel"]
    masks.check(mask, PARAMS)


def test_nothing_prunable_is_an_error():
    with pytest.raises(ValueError, match="none of the 4 leaves is prunable"):
        masks.full(PARAMS, lambda path, leaf: leaf.ndim > 2)
    with pytest.raises(ValueError, match=r"none of \['dense/kernel', .* is accepted"):
        masks.only(masks.full(PARAMS), lambda path, leaf: leaf.ndim > 2)


def test_what_is_no_array_is_refused_by_its_name():
    with pytest.raises(ValueError, match="'layers/1' is a float, expected an array"):
        masks.full({"layers": [PARAMS["dense"]["kernel"], 1.0]})
    module = equinox.nn.MLP(2, 2, 2, 1, key=jax.random.key(0))
    with pytest.raises(ValueError, match="is_inexact_array"):
        masks.full(module)


def test_some_of_the_default_can_be_left_out():
    mask = masks.only(masks.full(PARAMS), lambda path, _: "head" in masks.name(path))
    assert masks.names(mask) == ["head/kernel"]
    masks.check(mask, PARAMS)


def test_a_warning_says_that_one_array_becomes_two():
    w, b = np.ones((2, 3)), np.ones(3)
    with pytest.warns(UserWarning, match="'a/w' and 'c/w' are one array"):
        masks.full({"a": {"w": w, "b": b}, "c": {"w": w, "b": b}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks.full({"a": {"w": w, "b": b}, "c": {"w": w.copy(), "b": b}})


def test_prunable_like_takes_the_leaves_of_the_mask():
    tree = masks.prunable_like(PARAMS, masks.full(PARAMS))
    assert masks.names(tree) == ["dense/kernel", "head/kernel"]
    assert tree["head"]["kernel"] is PARAMS["head"]["kernel"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.5, -0.0])
def test_apply_puts_true_zeros_and_stops_the_gradient(value, dtype):
    weights = {"w": jnp.array([[value, 2.0]], dtype), "b": jnp.array([value], dtype)}
    mask = {"w": jnp.array([[False, True]]), "b": None}
    applied = masks.apply(mask, weights)
    assert applied["w"].dtype == weights["w"].dtype
    np.testing.assert_array_equal(applied["w"], [[0, 2]])
    assert not np.signbit(applied["w"][0, 0])
    assert applied["b"] is weights["b"]

    def loss(weights):
        return jnp.sum(jnp.exp(masks.apply(mask, weights)["w"]) * value)

    assert jax.jit(jax.grad(loss))(weights)["w"][0, 0] == 0


@jax.jit
def measured(mask, other):
    return {
        "count": masks.count(mask),
        "size": masks.size(mask),
        "density": masks.density(mask),
        "layers": masks.layer_densities(mask),
        "overlap": masks.overlap(mask, other),
        "nested": masks.nested(mask, other),
    }


@settings(deadline=None, max_examples=40)
@given(trees, trees)
def test_counts_against_numpy(mask, other):
    ours, theirs = flat(mask), flat(other)
    expected = {
        "count": ours.sum(),
        "size": 13,
        "density": ours.mean(),
        "layers": {"a": mask["a"].mean(), "b": None, "c": mask["c"].mean()},
        "overlap": (ours & theirs).sum() / max(ours.sum(), 1),
        "nested": (ours <= theirs).all(),
    }
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(close, measured(mask, other), expected)
    by_name = masks.layer_counts(mask)
    assert by_name == {name: mask[name].sum() for name in ("a", "c")}
    assert all(type(n) is int for n in by_name.values())


@pytest.mark.parametrize("gates", [np.full((4, 4), 0.7), np.ones((3, 3), np.uint8)])
def test_what_is_no_mask_is_not_counted(gates):
    for count in (masks.count, masks.density, masks.layer_densities):
        with pytest.raises(ValueError, match="mask at 'w' is .*, expected bool"):
            count({"w": gates, "b": None})


def test_a_mask_is_nested_in_itself_and_in_what_keeps_more():
    inner, outer = toy.ticket(lost=5).mask, toy.ticket(lost=3).mask
    assert masks.nested(inner, outer)
    assert masks.nested(inner, inner)
    assert not masks.nested(outer, inner)
    assert masks.overlap(inner, outer) == 1
    np.testing.assert_allclose(masks.overlap(outer, inner), 44 / 48, rtol=1e-6)


def test_names_are_paths_in_the_order_of_the_leaves():
    assert masks.names(PARAMS) == NAMES
    assert masks.names([{"k": jnp.ones(1)}, jnp.ones(1)]) == ["0/k", "1"]


def fits():
    mask = masks.full(PARAMS)
    return {name: dict(leaves) for name, leaves in mask.items()}


def broken(name, leaf):
    mask = fits()
    if leaf == "missing":
        del mask["head"][name]
    else:
        mask["head"][name] = leaf
    return mask


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (broken("kernel", "missing"), "mask has no leaf 'head/kernel'"),
        (broken("bias", "missing"), "mask has no leaf 'head/bias'"),
        (broken("extra", jnp.ones(2, bool)), "mask has a leaf 'head/extra'"),
        (broken("kernel", jnp.ones((4, 6), bool)), r"'head/kernel' has shape \(4, 6\)"),
        (broken("kernel", jnp.ones((6, 4))), "'head/kernel' is float32, expected bool"),
        (fits() | {"head": None}, "mask has no leaf 'head/bias'"),
        ({}, "mask has no leaf 'dense/bias'"),
    ],
)
def test_check_names_the_first_leaf_that_does_not_fit(mask, message):
    with pytest.raises(ValueError, match=message):
        masks.check(mask, PARAMS)


def test_check_accepts_what_fits():
    masks.check(fits(), PARAMS)
    absent = PARAMS | {"unused": None}  # as equinox marks what is no array
    masks.check(masks.full(absent), absent)
    with pytest.raises(ValueError, match="mask has a leaf 'unused'"):
        masks.check(fits() | {"unused": jnp.ones(2, bool)}, absent)
