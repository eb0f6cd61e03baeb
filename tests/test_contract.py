"""The laws that every search obeys, over the table in `cases`.

Most look at `cases.story`: all states of a search that ran compiled, several seeds and
keys side by side, in double precision.
"""

import re
from typing import get_args

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from cases import CASES, ROUNDS, STEPS, assert_same, at

from jaxticket import (
    Gated,
    continuous_sparsification,
    controls,
    fixed,
    gradual,
    imp,
    iss,
    l0,
    masks,
)
from jaxticket.searches.imp import Retrain

pytestmark = pytest.mark.usefixtures("x64")


def having(promise):
    """The searches that make a promise."""
    names = [name for name, case in CASES.items() if promise(case)]
    return pytest.mark.parametrize("name", names)


every = having(lambda case: True)


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def layers(mask):
    """The leaves of a story's mask, their weights in one axis: `[..., weights]`."""
    return [np.reshape(leaf, (*leaf.shape[:3], -1)) for leaf in jax.tree.leaves(mask)]


def counts(mask):
    """How many weights each layer keeps: `[lanes, ROUNDS, STEPS + 1, layers]`."""
    return np.stack([layer.sum(-1) for layer in layers(mask)], axis=-1)


def keeping(mask, weights):
    """`weights` where the mask is, 0 elsewhere, in numpy."""
    return jax.tree.map(
        lambda w, m: w if m is None else np.where(m, w, 0.0), weights, mask
    )


def scale(factor, weights, mask):
    return jax.tree.map(lambda w, m: w if m is None else factor * w, weights, mask)


# Pure functions.


@every
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moves_keep_structure_shapes_dtypes_and_weak_types(name, dtype):
    search, (key, ticket) = CASES[name].make(), cases.start(0)
    weights = jax.tree.map(lambda w: w.astype(dtype), ticket.weights)
    given = ticket._replace(weights=weights)
    state = jax.eval_shape(search.init, key, given)
    params, step = jax.eval_shape(search.params, state), jnp.int32(0)
    assert types(params) == types(weights)
    assert types(jax.eval_shape(search.ticket, state)) == types(given)
    assert types(jax.eval_shape(search.update, params, state, step)) == types(state)
    assert types(jax.eval_shape(search.advance, state)) == types(state)


@every
def test_compiled_side_by_side_equals_a_python_loop_over_one(name):
    search, lane = CASES[name].make(), 1
    state = search.init(*cases.start(lane))
    for round_ in range(2):
        state = search.advance(state) if round_ else state
        for step in range(STEPS):
            grads = cases.gradient(search.params(state))
            state = search.update(grads, state, step)
        found = cases.Story(state, search.params(state), search.ticket(state))
        expected = at(cases.story(name), lane, round_, STEPS)
        assert_same(found, expected, rtol=1e-10)


@every
def test_the_key_alone_decides_where_a_search_is_random(name):
    _, params, ticket = cases.story(name)
    first, other_key, again = ((at(params, i), at(ticket, i)) for i in (0, 2, 3))
    assert_same(first, again)
    if CASES[name].random:
        for ours, theirs in zip(layers(ticket.mask), layers(ticket.mask), strict=True):
            if not CASES[name].straight:  # those draw their first mask
                assert (ours[0, 0, 0] == theirs[2, 0, 0]).all()
            assert (ours[0, 1] != theirs[2, 1]).any()
    else:
        assert_same(first, other_key)


# Masks.


@having(lambda case: case.kept)
def test_masks_are_nested_constant_in_a_round_and_exact(name):
    mask = cases.story(name).ticket.mask
    for layer in layers(mask):
        assert (layer == layer[:, :, :1]).all()
        assert (layer[:, 1:] <= layer[:, :-1]).all()
    for lane in counts(mask)[:, :, 0].tolist():
        assert lane[0] == [24, 18]
        for before, after in zip(lane[:-1], lane[1:], strict=True):
            expected = CASES[name].kept(before)
            assert expected == (after if isinstance(expected, list) else sum(after))


@having(lambda case: case.course)
def test_masks_get_sparser_within_a_round_as_the_schedule_says(name):
    found = counts(cases.story(name).ticket.mask)
    for lane, round_ in np.ndindex(found.shape[:2]):
        alive = found[lane, round_ - 1, STEPS].tolist() if round_ else [24, 18]
        course = CASES[name].course(alive)
        by_layer = isinstance(course[0], list)
        have = found[lane, round_] if by_layer else found[lane, round_].sum(-1)
        assert have.tolist() == course


@having(lambda case: case.nested)
def test_what_is_pruned_when_a_round_ends_stays_pruned(name):
    for layer in layers(cases.story(name).ticket.mask):
        assert (layer[:, 1:] <= layer[:, :-1, -1:]).all()


@having(lambda case: not case.kept and not case.course)
def test_a_learned_mask_prunes_something_and_not_everything(name):
    kept = counts(cases.story(name).ticket.mask).sum(-1)
    assert (kept[:, 0, STEPS] > 0).all()
    assert (kept[:, :, STEPS] < 24 + 18).all()


@having(lambda case: case.resets)
def test_a_soft_mask_is_read_before_advance(name):
    assert (counts(cases.story(name).ticket.mask)[:, :, 0] == 0).all()


@every
def test_parameters_are_zero_where_a_hard_mask_is_after_every_step(name):
    _, params, ticket = cases.story(name)
    for weights, mask, start in zip(
        layers(masks.prunable_like(params, ticket.mask)),
        layers(ticket.mask),
        jax.tree.leaves(cases.starts()[1].mask),
        strict=True,
    ):
        lost = ~start.reshape(len(start), 1, 1, -1)
        assert (lost & (weights != 0)).any() == CASES[name].returns
        if CASES[name].hard:
            np.testing.assert_array_equal(weights != 0, mask)


@having(lambda case: not case.returns)
def test_gradients_of_what_is_pruned_do_not_matter(name):
    search, (states, params, ticket) = CASES[name].make(), cases.story(name)
    place = 0, ROUNDS - 1, 1
    state, grads = at(states, *place), cases.gradient(at(params, *place))
    bound = CASES[name].hard and not CASES[name].straight
    mask = at(ticket.mask, *place) if bound else cases.start(0)[1].mask
    misled = jax.tree.map(
        lambda g, m: g if m is None else jnp.where(m, g, 1e3), grads, mask
    )
    assert_same(search.update(misled, state, 1), search.update(grads, state, 1))


# Weights and optimisers from round to round.


def anchors(name):
    """The weights that tickets start from: the given ones, or those before a step."""
    case, (_, given) = CASES[name], cases.starts()
    if not case.anchor:
        return given.weights
    states = at(cases.story(name).states, slice(None), 0, case.anchor)
    return case.weights(states)


@having(lambda case: case.anchor is not None)
def test_the_ticket_starts_from_the_anchor_of_the_first_round(name):
    case, ticket = CASES[name], cases.story(name).ticket
    scaled = scale(case.scale, anchors(name), ticket.mask)
    known = case.anchor + 1 if case.anchor else 0  # the update from there remembers
    for round_, step in np.ndindex(ROUNDS, STEPS + 1):
        if round_ > 0 or step >= known:
            weights = at(ticket.weights, slice(None), round_, step)
            assert_same(weights, scaled, rtol=0 if case.scale == 1 else 1e-12)


@having(lambda case: case.anchor is None and case.scale)
def test_the_ticket_holds_the_trained_weights(name):
    case, (states, params, ticket) = CASES[name], cases.story(name)
    if case.hard:
        assert_same(keeping(ticket.mask, ticket.weights), params)
    else:
        scaled = scale(case.scale, case.weights(states), ticket.mask)
        assert_same(ticket.weights, scaled, rtol=0 if case.scale == 1 else 1e-12)


@every
def test_a_round_opens_with_the_anchor_or_with_the_trained_weights(name):
    case, (states, _, ticket) = CASES[name], cases.story(name)
    weights = case.weights(states)
    for round_ in range(1, ROUNDS):
        opening = at(weights, slice(None), round_, 0)
        trained = at(weights, slice(None), round_ - 1, STEPS)
        expected = anchors(name) if case.rewinds else trained
        if case.hard and not case.stores:
            mask = at(ticket.mask, slice(None), round_, 0)
            expected = keeping(mask, expected)
        assert_same(opening, expected)


@every
def test_the_optimiser_is_fresh_or_kept_in_a_new_round(name):
    case = CASES[name]
    optimizer = case.optimizer(cases.story(name).states)
    fresh = at(optimizer, slice(None), 0, 0)
    for round_ in range(1, ROUNDS):
        opening = at(optimizer, slice(None), round_, 0)
        used = at(optimizer, slice(None), round_ - 1, STEPS)
        assert_same(opening, used if case.keeps_momentum else fresh)
        with pytest.raises(AssertionError):
            assert_same(opening, fresh if case.keeps_momentum else used)


@pytest.mark.parametrize("retrain", get_args(Retrain))
def test_the_schedule_starts_again_unless_finetuning(retrain):
    seen = optax.GradientTransformationExtraArgs(
        lambda params: jnp.int32(-1),
        lambda grads, state, params, *, step: (grads, jnp.asarray(step)),
    )
    search = imp(seen, retrain=retrain)
    state = search.init(*cases.start(0))
    steps = []
    for round_, step in np.ndindex(2, 3):
        state = search.advance(state) if round_ and not step else state
        state = search.update(search.params(state), state, step)
        steps.append(int(state.training.optimizer))
    assert steps == [0, 1, 2, *((2, 2, 2) if retrain == "finetune" else (0, 1, 2))]


# `fixed`, against optax and with parts that do not train.


def descend(search, ticket, steps=6):
    """The parameters after some steps, uncompiled."""
    state = search.init(jax.random.key(0), ticket)
    for step in range(steps):
        grads = cases.gradient(search.params(state))
        state = search.update(grads, state, step)
    return search.params(state)


@pytest.mark.parametrize(
    "optimizer",
    [optax.adam(0.05), cases.ADAMW, cases.MOMENTUM],
    ids=["adam", "adamw", "momentum"],
)
def test_a_full_mask_is_the_optimiser_itself_bit_for_bit(optimizer):
    params = toy.ticket().weights
    state = optimizer.init(params)
    for _ in range(6):
        updates, state = optimizer.update(cases.gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    assert_same(descend(fixed(optimizer), toy.ticket()), params)


def test_frozen_leaves_stay_and_leaves_without_a_mask_train():
    labels = {"dense": "frozen", "head": "trained"}
    choices = {"frozen": optax.set_to_zero(), "trained": cases.ADAMW}
    _, ticket = cases.start(0)
    params = descend(fixed(optax.partition(choices, labels)), ticket)
    given = masks.apply(ticket.mask, ticket.weights)
    assert_same(params["dense"], given["dense"])
    assert (params["head"]["bias"] != given["head"]["bias"]).all()


GATES_ALONE = optax.partition(
    {"weights": optax.set_to_zero(), "logits": optax.adam(0.1)},
    Gated("weights", "logits"),
)


@pytest.mark.parametrize(
    "search",
    [
        continuous_sparsification(
            GATES_ALONE, temperature=lambda step: 1.05**step, scaling=False
        ),
        iss(GATES_ALONE),
    ],
    ids=["cs", "iss"],
)
def test_a_mask_is_learned_over_frozen_weights(search):
    """A supermask does better than all weights do, and than most masks as dense."""
    key, ticket = cases.start(0)

    def step(state, at):
        grads = cases.gradient(search.params(state))
        state = search.update(grads, state, at)
        return state, state.gated.weights

    def error(ticket):
        params = masks.apply(ticket.mask, ticket.weights)
        return cases.loss(params, cases.UNSEEN, cases.data(), None)[0]

    opened = search.init(key, ticket)
    state, path = jax.lax.scan(step, opened, jnp.arange(100))
    for at_step in (0, 50, 99):
        assert_same(at(path, at_step), masks.apply(ticket.mask, ticket.weights))
    found = search.ticket(state)
    assert_same(found.weights, ticket.weights)
    others = jax.vmap(lambda k: error(controls.shuffle(k, found)))
    better = error(found) < others(jax.random.split(key, 200))
    assert better.mean() > 0.95
    assert error(found) < error(ticket)


# What is refused.


@every
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((6, 5), bool), r"mask at 'head/kernel' has shape \(6, 5\)"),
        (np.ones((6, 4)), "mask at 'head/kernel' is float64, expected bool"),
        ({"a": None}, "mask has no leaf 'head/kernel'"),
    ],
    ids=["shape", "dtype", "structure"],
)
def test_a_mask_that_does_not_fit_is_refused_by_its_name(name, kernel, message):
    key, ticket = cases.start(0)
    mask = {**ticket.mask, "head": {"bias": None, "kernel": kernel}}
    with pytest.raises(ValueError, match=message):
        CASES[name].make().init(key, ticket._replace(mask=mask))


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (fixed, {"multiplier": 0.0}),
        (imp, {"density": 0.0}),
        (imp, {"density": 1.5}),
        (imp, {"rewind_step": -1}),
        (imp, {"retrain": "rewound"}),
        (continuous_sparsification, {"penalty": -0.1}),
        (continuous_sparsification, {"rewind_step": -1}),
        (continuous_sparsification, {"between": "papers"}),
        (continuous_sparsification, {"weights": "late"}),
        (iss, {"penalty": -0.1}),
        (iss, {"rewind_step": -1}),
        (iss, {"weights": "late"}),
        (l0, {"penalty": -0.1}),
        (l0, {"rewind_step": -1}),
        (l0, {"weights": "late"}),
        (l0, {"temperature": 0}),
        (l0, {"stretch": (0.0, 1.1)}),
        (l0, {"stretch": (-0.1, 1.0)}),
        (gradual, {"final_density": 0.0}),
        (gradual, {"initial_density": 1.1}),
        (gradual, {"every": 0}),
        (gradual, {"stop": 0}),
        (gradual, {"stop": 5}),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_its_name(factory, options):
    needs = {
        continuous_sparsification: {"temperature": float},
        l0: {"penalty": 0.1},
        gradual: {"final_density": 0.5, "stop": 4, "every": 2},
    }
    ((argument, value),) = options.items()
    with pytest.raises(
        ValueError, match=f"(?s){argument}.*got {re.escape(repr(value))}"
    ):
        factory(cases.ADAMW, **(needs.get(factory, {}) | options))


# Controls; `test_controls` has what they leave to chance.


@pytest.mark.parametrize("control", ["reinitialise", "shuffle", "random"])
def test_a_control_is_a_ticket_of_the_same_types(control):
    init = () if control == "shuffle" else (toy.init,)
    key, ticket = cases.start(0)
    assert types(getattr(controls, control)(key, ticket, *init)) == types(ticket)


def test_reinitialised_weights_are_drawn_from_the_key_and_not_permuted():
    key, ticket = cases.start(0)
    found = controls.reinitialise(key, ticket, toy.init)
    assert_same(found.weights, toy.init(key))
    for new, old in zip(
        *map(jax.tree.leaves, (found.weights, ticket.weights)), strict=True
    ):
        assert not np.isin(new, old).any()
