"""The loop: what it visits, when it rewinds, and what it compiles to."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from cases import CASES, ROUNDS, ROWS, STEPS, assert_same, at
from programs import (
    BATCH,
    EPOCHS,
    FAMILIES,
    PER_EPOCH,
    TOTAL,
    families,
    lane,
    noisy,
    pruning,
    searching,
    side_by_side,
    stretch,
    whole,
)

from jaxticket import Search, Ticket, fixed, masks, run, training
from jaxticket.engine import lanes


def counted(f):
    """`f`, and a list that grows whenever Python calls it."""
    calls = []

    def count(*arguments):
        calls.append(arguments)
        return f(*arguments)

    return count, calls


# One program for everything.


@families
@pytest.mark.parametrize(("rounds", "epochs"), [(1, 1), (4, 3)])
def test_a_run_of_any_length_traces_the_loss_once(name, rounds, epochs):
    loss, calls = counted(noisy)
    jax.make_jaxpr(whole(name, loss, rounds, epochs))(*lane(0), FAMILIES[name][1][0])
    assert len(calls) == 1


@searching
def test_seeds_and_numbers_are_batch_axes_and_trace_nothing_new(name, x64):
    loss, calls = counted(noisy)
    alone = jax.jit(whole(name, loss))
    together = jax.jit(jax.vmap(whole(name, loss)))
    settings = [[jnp.array(x) for x in numbers] for numbers in FAMILIES[name][1]]
    for seeds in ((0, 1), (1, 2)):
        arguments = [
            (*lane(seed), setting)
            for seed, setting in zip(seeds, settings, strict=True)
        ]
        found = together(*side_by_side(arguments))
        for i, one in enumerate(arguments):
            assert_same(at(found, i), alone(*one), rtol=1e-10)
        kept = jax.vmap(masks.count)(found.ticket.mask)
        assert kept[0] > kept[1] > 0, "settings that decide nothing"
    assert len(calls) == 2  # once for each of the two programs


@pytest.mark.parametrize(
    ("name", "branches"),
    [("fixed", 2), ("imp", 3), ("cs", 3), ("iss", 3), ("gradual", 3)],
)
def test_what_happens_now_and_then_is_a_branch_under_vmap(name, branches):
    """`advance`, the model state to remember, and an anchor or a new mask."""
    arguments = [(*lane(i), setting) for i, setting in enumerate(FAMILIES[name][1])]
    program = jax.jit(jax.vmap(whole(name))).lower(*side_by_side(arguments))
    assert program.as_text().count("stablehlo.case") == branches


def opened(search, seed=0):
    return training.start(search, *lane(seed), cases.UNSEEN)


@pytest.mark.parametrize(
    ("name", "branches"),
    [("fixed", 1), ("imp", 2), ("cs", 2), ("iss", 2), ("gradual", 2)],
)
def test_what_happens_now_and_then_is_a_branch_in_a_stretch_over_lanes(name, branches):
    """As above, without `advance`, and the whole state comes batched."""
    make, (setting, _) = FAMILIES[name]
    search, layout = make(*setting), lanes.layout(2, jax.devices()[:2])
    carry, keys = side_by_side([(opened(search, i), lane(i)[0]) for i in range(4)])
    program = lanes.mapped(layout, stretch(search), (True, True, False, False, False))
    text = program.lower(carry, keys, 0, TOTAL, 0).as_text()
    assert text.count("stablehlo.case") == branches


# What a run does.


@pytest.mark.parametrize("name", ["imp-rewind-2", "cs-rewind-2", "gradual"])
def test_a_run_is_the_five_functions_in_turn_and_its_ticket_the_last(name, x64):
    search, story = CASES[name].make(), cases.story(name)
    found = jax.jit(
        jax.vmap(
            lambda key, ticket: run(
                search,
                cases.loss,
                key,
                ticket,
                cases.data(),
                rounds=ROUNDS,
                epochs=STEPS,
                batch_size=ROWS,
                model_state=cases.UNSEEN,
                record=lambda state, _: search.params(state),
            )
        )
    )(*cases.starts())
    after = jax.tree.map(lambda x: x[:, :, 1:], story.params)
    assert_same(found.records, after, rtol=1e-10)
    last = at(story.ticket, slice(None), ROUNDS - 1, STEPS)
    assert_same(found.ticket, last, rtol=1e-10)


@pytest.mark.parametrize(
    "bounds",
    [(0, 2, TOTAL), (0, 0, 3, 5, TOTAL), range(TOTAL + 1)],
    ids=["two", "empty", "single"],
)
@pytest.mark.parametrize("name", ["imp-movement", "iss", "l0", "gradual"])
def test_stretches_of_any_division_give_the_same_bits(name, bounds):
    search = CASES[name].make()
    take, key = jax.jit(stretch(search)), jax.random.key(1)
    expected, loss = take(opened(search), key, 0, TOTAL, 0)
    carry, total = opened(search), 0.0
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        carry, mean = take(carry, key, first, last, 0)
        total += mean * (last - first) if last > first else 0.0
    assert_same(carry, expected)
    np.testing.assert_allclose(total / TOTAL, loss, rtol=1e-5)


def test_every_epoch_of_a_round_of_a_seed_has_an_order_of_its_own():
    rounds, epochs, seeds = 2, 3, [0, 1]
    diary = np.full((rounds * epochs * PER_EPOCH, BATCH), -1, np.int32)

    def write(params, model_state, batch, key):
        rows, step = model_state
        return jnp.sum(params["head"]["bias"]), (rows.at[step].set(batch), step + 1)

    def search(key):
        return run(
            fixed(optax.sgd(0.1)),
            write,
            key,
            toy.ticket(),
            np.arange(ROWS, dtype=np.int32),
            rounds=rounds,
            epochs=epochs,
            batch_size=BATCH,
            model_state=(diary, np.int32(0)),
            rewind_model=False,
        ).carry.model[0]

    rows = jax.jit(jax.vmap(search))(jax.vmap(jax.random.key)(jnp.array(seeds)))
    orders = rows.reshape(-1, PER_EPOCH * BATCH).tolist()
    assert len(orders) == len(seeds) * rounds * epochs
    assert len(set(map(tuple, orders))) == len(orders)
    for order in orders:
        assert len(set(order)) == PER_EPOCH * BATCH
        assert set(order) <= set(range(ROWS))


# Rewinding, seen by a search that only writes down what it is told.


def witness(length):
    """A search whose state is the steps it was given, -1 where a round ended."""

    def note(state, value):
        steps, at = state
        return steps.at[at].set(value), at + 1

    weights = {"w": np.zeros((2, 2), np.float32)}
    return Search(
        init=lambda key, ticket: (jnp.zeros(length, jnp.int32), jnp.int32(0)),
        update=lambda grads, state, step: note(state, step),
        advance=lambda state: note(state, -1),
        params=lambda state: weights,
        ticket=lambda state: Ticket(weights, masks.full(weights)),
    )


def seen(params, model_state, batch, key):
    """A loss that is what the model state counts."""
    count = model_state["seen"]
    loss = count + jnp.sum(params["w"])
    return loss.astype(jnp.float32), {"seen": count + 1}


def expected_course(rounds, *, rewind_step, rewind_model, resume_schedule):
    """The steps of a run, and the mean of the model state in every epoch."""
    course, means, count, anchor = [], [], 0, 0
    for round_ in range(rounds):
        if round_:
            course.append(-1)
            count = anchor if rewind_model else count
        counts = [[] for _ in range(EPOCHS)]
        for step in range(rewind_step if round_ and resume_schedule else 0, TOTAL):
            if round_ == 0 and step == rewind_step:
                anchor = count
            counts[step // PER_EPOCH].append(count)
            course.append(step)
            count += 1
        means.append([sum(c) / len(c) if c else np.nan for c in counts])
    return course, means


@pytest.mark.parametrize("rewind_step", [0, 2, PER_EPOCH + 1])
@pytest.mark.parametrize("rewind_model", [True, False])
@pytest.mark.parametrize("resume_schedule", [True, False])
def test_steps_and_model_state_return_to_the_rewinding_step_as_told(
    rewind_step, rewind_model, resume_schedule
):
    options = {
        "rewind_step": rewind_step,
        "rewind_model": rewind_model,
        "resume_schedule": resume_schedule,
    }
    course, means = expected_course(3, **options)
    found = jax.jit(
        lambda key: run(
            witness(len(course)),
            seen,
            key,
            toy.ticket(),
            cases.data(),
            rounds=3,
            epochs=EPOCHS,
            batch_size=BATCH,
            model_state=cases.UNSEEN,
            record=lambda state, model_state: model_state["seen"],
            **options,
        )
    )(jax.random.key(0))
    steps, length = found.carry.search
    assert (steps.tolist(), length) == (course, len(course))
    np.testing.assert_allclose(found.losses, means)
    assert found.carry.model_anchor["seen"] == rewind_step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"epochs": -1}, "epochs must be at least 1, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": ROWS + 1}, "batch_size 27 is more than the 26 rows of data"),
        ({"rewind_step": -1}, "rewind_step -1 is outside a round of 6 steps"),
        ({"rewind_step": TOTAL}, "rewind_step 6 is outside a round of 6 steps"),
    ],
)
def test_a_run_that_cannot_be_is_refused(options, message):
    options = {"rounds": 1, "epochs": EPOCHS, "batch_size": BATCH} | options
    with pytest.raises(ValueError, match=message):
        run(pruning(0.8), noisy, *lane(0), cases.data(), **options)
