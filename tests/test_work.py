"""`run` for other work: without data, by steps, from a state, with an early end."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from cases import ROWS, assert_same
from programs import BATCH, EPOCHS, PER_EPOCH, STEPS, lane, noisy, side_by_side

from jaxticket import fixed, imp, run, training

SEARCH = imp(cases.ADAMW, density=0.5, rewind_step=1)
WITH_DATA = {"batch_size": BATCH}


def drawn(params, model_state, batch, key):
    """A loss that draws its own batch."""
    assert batch is None
    x = jax.random.normal(key, (4, 5))
    return cases.loss(params, model_state, {"x": x, "y": jnp.tanh(x[:, :4])}, None)


def whole(loss=noisy, data=True, search=SEARCH, **options):
    """`(key, ticket) -> result`, compiled."""
    data = (cases.data(),) if data else ()
    return toy.hurried(
        lambda key, ticket: run(search, loss, key, ticket, *data, **options)
    )


def test_without_data_the_loss_draws_what_it_learns_from():
    options = {"data": False, "rounds": 2, "steps": 30, "every": 10}
    found = whole(drawn, search=imp(optax.adam(0.05), density=0.5), **options)(*lane(0))
    assert found.losses.shape == (2, 3)
    assert (found.losses[:, -1] < found.losses[:, 0]).all()
    assert found.carry.model["seen"] == 30  # rewound with the weights, and trained
    assert found.epochs.tolist() == [3, 3]


def test_a_round_of_steps_is_that_of_as_many_epochs():
    by_epochs = whole(rounds=2, epochs=EPOCHS, **WITH_DATA)(*lane(0))
    assert_same(whole(rounds=2, steps=STEPS, **WITH_DATA)(*lane(0)), by_epochs)


@pytest.mark.parametrize(
    ("every", "seen"), [(2, [2, 4, 5]), (5, [5]), (9, [5]), (None, [2, 4, 5])]
)
def test_looks_come_after_as_many_steps_as_asked_for(every, seen):
    assert PER_EPOCH == 2

    def record(state, model_state):
        return model_state["seen"]

    options = {"steps": 5, "every": every, "record": record}
    found = whole(rounds=1, **options, **WITH_DATA)(*lane(0))
    assert found.records.tolist() == [seen]


@pytest.mark.parametrize("first", [1, 2])
def test_a_run_that_goes_on_is_one_longer_run(first):
    """From the carry of another, in the same rounds: bit for bit."""
    key, ticket = lane(0)
    options = {"epochs": EPOCHS, **WITH_DATA}
    longer = whole(rounds=3, **options)(key, ticket)
    begun = whole(rounds=first, **options)(key, ticket)
    ended = whole(rounds=3 - first, carry=begun.carry, first_round=first, **options)(
        key, None
    )
    assert_same(ended.ticket, longer.ticket)
    assert_same(ended.carry, longer.carry)
    losses = jnp.concatenate([begun.losses, ended.losses])
    np.testing.assert_array_equal(losses, longer.losses)


def test_a_record_is_told_round_epoch_and_loss_if_it_asks():
    def record(state, model_state, *, loss, round, epoch):
        return round, epoch, loss

    found = whole(rounds=2, epochs=EPOCHS, record=record, **WITH_DATA)(*lane(0))
    rounds, epochs, losses = found.records
    assert rounds.tolist() == [[0, 0], [1, 1]]
    assert epochs.tolist() == [[0, 1], [0, 1]]
    np.testing.assert_array_equal(losses, found.losses)
    for asks in (
        lambda state, model, epoch: epoch,
        lambda loss, round, epoch: epoch,  # the first two are its own names for both
        lambda state, model, **told: told["epoch"],
    ):
        found = whole(rounds=1, epochs=2, record=asks, **WITH_DATA)(*lane(0))
        assert found.records.tolist() == [[0, 1]]


@pytest.mark.parametrize("lanes", [1, 3])
def test_progress_is_told_on_the_host_once_for_each_lane(lanes):
    heard = []

    def progress(round, epoch, loss):
        heard.append((round, epoch, loss))

    def one(key, ticket):
        return run(
            SEARCH,
            noisy,
            key,
            ticket,
            cases.data(),
            rounds=2,
            epochs=EPOCHS,
            progress=progress,
            **WITH_DATA,
        )

    if lanes == 1:
        found = toy.hurried(one)(*lane(0)).losses[None]
    else:
        found = toy.hurried(jax.vmap(one))(*side_by_side(map(lane, range(lanes))))
        found = found.losses
    jax.effects_barrier()
    assert all(type(x) in (int, float) for told in heard for x in told)
    expected = {
        (r, e, float(found[i, r, e])) for i, r, e in np.ndindex(lanes, 2, EPOCHS)
    }
    assert set(heard) == expected
    assert len(heard) == len(expected)


def test_a_round_ends_early_and_says_when():
    """In a lane of its own each; what was trained is what a shorter round trains."""
    limits = jnp.array([1, 3, 9])

    def one(key, ticket, limit):
        return run(
            SEARCH,
            noisy,
            key,
            ticket,
            cases.data(),
            rounds=1,
            epochs=4,
            stop=lambda epoch: epoch + 1 >= limit,
            record=lambda state, model: model["seen"],
            **WITH_DATA,
        )

    lanes = side_by_side([lane(0)] * len(limits))
    found = toy.hurried(jax.vmap(one))(*lanes, limits)
    assert found.epochs.tolist() == [[1], [3], [4]]
    assert np.isnan(found.losses).sum(-1).tolist() == [[3], [1], [0]]
    seen = [[2, 2, 2, 2], [2, 4, 6, 6], [2, 4, 6, 8]]
    assert found.records[:, 0].tolist() == seen
    for i, epochs in enumerate([1, 3, 4]):
        shorter = whole(rounds=1, epochs=epochs, **WITH_DATA)(*lane(0))
        ours = jax.tree.map(lambda leaf, i=i: leaf[i], found.carry)
        assert_same(ours, shorter.carry, rtol=1e-6)


def test_patience_ends_a_round_that_does_not_improve():
    losses = np.float32([3, 2, 2.5, 1.9, 1.9, 1.95, 1.0])

    def ended(patience, **options):
        stop = training.patience(patience, **options)
        over = (
            stop(epoch, jnp.where(np.arange(7) <= epoch, losses, jnp.nan))
            for epoch in range(7)
        )
        return next((epoch for epoch, yes in enumerate(over) if yes), None)

    assert ended(1) == 2
    assert ended(2) == 5
    assert ended(3) is None
    assert ended(2, tolerance=0.2) == 3
    still = fixed(optax.sgd(0.0))
    found = whole(
        search=still,
        loss=cases.loss,
        rounds=2,
        epochs=5,
        batch_size=ROWS,
        stop=training.patience(2, tolerance=1e-3),
    )(*lane(0))
    assert found.epochs.tolist() == [3, 3]
