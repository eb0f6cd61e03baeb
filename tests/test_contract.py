"""Every search keeps the laws, its promises are true, and what cannot be is refused.

Most look at `cases.story`: all states of a search that ran compiled, several seeds and
keys side by side, in double precision.
"""

from typing import get_args

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from cases import CASES, METHODS, STEPS, assert_same, at
from laws import LAWS

from jaxticket import (
    Gated,
    continuous_sparsification,
    controls,
    fixed,
    gradual,
    hyperparameters,
    imp,
    iss,
    masks,
    searches,
)
from jaxticket.searches.imp import Retrain

pytestmark = pytest.mark.usefixtures("x64")
every = pytest.mark.parametrize("name", CASES)
each_method = pytest.mark.parametrize("name", METHODS)


def promises_of(name):
    return CASES[name].make().promises


@pytest.mark.parametrize(
    ("law", "name"),
    [
        pytest.param(law, name, id=f"{law.name}-{name}")
        for law in LAWS
        for name, case in CASES.items()
        if law.applies(case, promises_of(name))
    ],
)
def test_law(law, name):
    law.holds(CASES[name], promises_of(name), cases.story(name))


def broken(name, promises):
    """The laws that a search does not keep if it promises this."""

    def fails(law):
        try:
            law.holds(CASES[name], promises, cases.story(name))
        except AssertionError:
            return True
        return False

    applying = [law for law in LAWS if law.applies(CASES[name], promises)]
    return [law.name for law in applying if fails(law)]


def lies(case, true):
    """What a search could promise and must not: each time one promise is false."""
    found = [("random", not true.random), ("kept", lambda mask: 30)]
    found += [("weights", w) for w in ("anchor", "trained", "given")]
    found += [("scale", factor) for factor in (1.0, 2.0, None)]
    if case.decides:  # else there is no mask to see it by
        found += [("hard", not true.hard), ("opens_given", not true.opens_given)]
    if true.weights == "anchor":
        found += [("rewind_step", step) for step in (0, 1, 2)]
        found += [("rewinds", not true.rewinds)]
    if true.rounds:
        found += [("rounds", False)]
    if true.hard:
        other = None if true.running else lambda step: 0.01
        found += [("running", other)]
        found += [("dense_gradient", None if true.dense_gradient else np.ones_like)]
    return [(field, value) for field, value in found if getattr(true, field) != value]


@every
def test_a_false_promise_is_noticed(name):
    true = promises_of(name)
    assert not broken(name, true)
    for field, value in lies(CASES[name], true):
        assert broken(name, true._replace(**{field: value})), (field, value)


@pytest.mark.parametrize(
    "name", ["continuous_sparsification, as code", "jackpot", "supermask"]
)
def test_masks_that_return_are_not_nested(name):
    assert broken(name, promises_of(name)._replace(nested=True))


# Pure functions of any numbers.


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def assert_moves_keep_types(search, given):
    key, weights = jax.random.key(0), given.weights
    state = jax.eval_shape(search.init, key, given)
    params, step = jax.eval_shape(search.params, state), jnp.int32(0)
    assert types(params) == types(weights)
    assert types(jax.eval_shape(search.ticket, state)) == types(given)
    assert types(jax.eval_shape(search.update, params, state, step)) == types(state)

    def advance(state):
        return search.advance(state, cases.evidence())

    assert types(jax.eval_shape(advance, state)) == types(state)


@every
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moves_keep_structure_shapes_dtypes_and_weak_types(name, dtype):
    _, ticket = cases.start(0)
    weights = jax.tree.map(lambda w: w.astype(dtype), ticket.weights)
    assert_moves_keep_types(CASES[name].make(), ticket._replace(weights=weights))


@each_method
def test_numbers_may_be_traced(name):
    """All that a signature says may be swept."""

    def traced(numbers):
        assert_moves_keep_types(CASES[name].make(**numbers), cases.start(0)[1])

    jax.eval_shape(traced, cases.numbers(name))


@each_method
def test_every_hyperparameter_has_a_plain_default_and_is_explained(name):
    for hyper in hyperparameters.of(getattr(searches, name)).values():
        assert isinstance(hyper.default, hyper.kind | int | None), hyper.name
        assert hyper.help, hyper.name


@each_method
def test_compiled_side_by_side_equals_a_python_loop_over_one(name):
    search, lane = CASES[name].make(), 1
    state = search.init(*cases.start(lane))
    for round_ in range(2):
        state = search.advance(state, cases.evidence()) if round_ else state
        for step in range(STEPS):
            grads = cases.gradient(search.params(state))
            state = search.update(grads, state, step)
    found = cases.Story(state, search.params(state), search.ticket(state))
    found = jax.tree.map(cases.plain, found)
    assert_same(found, at(cases.story(name), lane, 1, STEPS), rtol=1e-10)


# What a search promises nothing about.


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


def test_frozen_pruned_weights_count_and_do_not_move():
    """Kept weights descend by the gradient of the network that has both."""
    _, ticket = cases.start(0)
    optimizer = optax.sgd(0.05, momentum=0.9)
    params = descend(fixed(optimizer, pruned="frozen"), ticket)
    expected = jax.tree.map(lambda w: np.array(w, np.float64), ticket.weights)
    speed = jax.tree.map(np.zeros_like, expected)
    for _ in range(6):
        now = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), expected)
        grads = masks.apply(ticket.mask, cases.gradient(now))
        speed = jax.tree.map(lambda s, g: 0.9 * s + np.asarray(g), speed, grads)
        expected = jax.tree.map(lambda w, s: w - 0.05 * s, expected, speed)
    for ours, theirs in zip(*map(jax.tree.leaves, (params, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    pruned = jax.tree.map(jnp.logical_not, ticket.mask)
    assert int(masks.count(pruned)) > 0
    ours, theirs = (
        masks.apply(pruned, masks.prunable_like(w, pruned))
        for w in (params, ticket.weights)
    )
    assert_same(ours, theirs)


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

    @toy.hurried
    def learned(key, ticket):
        opened = search.init(key, ticket)
        state, path = jax.lax.scan(step, opened, jnp.arange(100))
        found = search.ticket(state)
        others = jax.vmap(lambda k: error(controls.shuffle(k, found)))
        return path, found, error(found), others(jax.random.split(key, 200))

    path, found, best, others = learned(key, ticket)
    for at_step in (0, 50, 99):
        assert_same(at(path, at_step), masks.apply(ticket.mask, ticket.weights))
    assert_same(found.weights, ticket.weights)
    assert (best < others).mean() > 0.95
    assert best < error(ticket)


# What is refused.


@each_method
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


@each_method
def test_what_is_no_optimiser_is_refused(name):
    with pytest.raises(ValueError, match=r"must be an optax.GradientTransformation"):
        CASES[name].make(optimizer=0.1)


def test_steps_of_a_round_need_no_length_of_it():
    kept = gradual(cases.ADAMW, every=2, start=1, stop=5).promises.kept
    assert kept({"w": np.ones((4, 5), bool)}) == {"w": 2}
