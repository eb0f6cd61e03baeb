"""The loop: what it visits, when it rewinds, and what it compiles to."""

import functools

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
    PER_EPOCH,
    each_method,
    lane,
    noisy,
    search_of,
    side_by_side,
    stretch,
    whole,
)

from jaxticket import (
    Promises,
    Search,
    Ticket,
    fixed,
    imp,
    masks,
    run,
    training,
)
from jaxticket.engine import lanes


def counted(f):
    """`f`, and a list that grows whenever Python calls it."""
    calls = []

    def count(*arguments):
        calls.append(arguments)
        return f(*arguments)

    return count, calls


# One program for everything, and what a run does: the five functions in turn.


def retold(name, loss=cases.loss):
    """`(key, ticket, numbers) -> result`: the story of a case, told by `run`."""

    def one(key, ticket, numbers):
        search = CASES[name].make(**numbers)
        return run(
            search,
            loss,
            key,
            ticket,
            cases.data(),
            rounds=ROUNDS,
            epochs=STEPS,
            batch_size=ROWS,
            evidence=cases.evidence,
            record=lambda state, _: search.params(state),
        )

    return one


def told(name):
    """The arguments of `retold` in all lanes; its numbers in the lanes of a method."""
    keys = jax.vmap(jax.random.key)(jnp.array(cases.KEYS))
    states = {"seen": jnp.zeros(len(keys), jnp.int32)}
    numbers = cases.numbers(name) if name in cases.METHODS else {}
    return (
        keys,
        cases.starts()[1]._replace(model_state=states),
        {n: jnp.full(len(keys), x) for n, x in numbers.items()},
    )


@functools.cache
def lowered(name):
    """The run of a case over all lanes, before it is compiled; traces the loss once."""
    loss, calls = counted(cases.loss)
    found = toy.hurried(jax.vmap(retold(name, loss)))
    found = found.lower(*told(name))
    assert len(calls) == 1
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [*cases.METHODS, "imp, rewind"])
def test_a_run_is_the_five_functions_in_turn_and_its_ticket_the_last(name):
    """With seeds and numbers as batch axes; the loss is traced once."""
    found, story = lowered(name).compile()(*told(name)), cases.story(name)
    # A run has right gradients: wrong ones matter to some searches, see `laws`.
    right = slice(cases.LANES.index((0, 1, cases.OF_NOW)))
    after = jax.tree.map(lambda x: x[right, :, 1:], story.params)
    assert_same(at(found.records, right), after, rtol=1e-10)
    last = at(story.ticket, right, ROUNDS - 1, STEPS)
    ticket = found.ticket._replace(model_state=None)
    assert_same(at(ticket, right), last, rtol=1e-10)

    # The model state goes where the weights go.
    promises = CASES[name].make().promises
    now = ROUNDS * STEPS
    if promises.rewinds:
        now = promises.rewind_step + STEPS
    assert (found.carry.model["seen"] == now).all()
    early = promises.weights == "anchor"
    expected = promises.rewind_step if early else now
    assert (found.ticket.model_state["seen"] == expected).all()


def branches(program, *arguments):
    """How many there are before XLA sees the program: under `vmap` none may be lost."""
    return program.lower(*arguments).as_text().count("stablehlo.case")


@pytest.mark.usefixtures("x64")
def test_what_ends_a_round_is_a_branch_under_vmap():
    alone = branches(jax.jit(retold("imp")), *at(told("imp"), 0))
    assert alone == lowered("imp").as_text().count("stablehlo.case") >= 1


def opened(search, seed=0):
    return training.start(search, *lane(seed))


@each_method
def test_what_happens_now_and_then_is_a_branch_in_a_stretch_over_lanes(name):
    """As above, where the whole state comes batched."""
    search, layout = search_of(name), lanes.layout(2, jax.devices()[:2])
    batched = (True, True, False, False, False)
    one = jax.eval_shape(lambda: (opened(search), lane(0)[0]))
    four = jax.tree.map(lambda x: jax.ShapeDtypeStruct((4, *x.shape), x.dtype), one)
    alone = branches(jax.jit(stretch(search)), *one, 0, STEPS, 0)
    program = lanes.mapped(layout, stretch(search), batched)
    together = branches(program, *four, 0, STEPS, 0)
    # The masks of a schedule; the anchors of the weights and of the model state.
    now_and_then = name in ("ac_dc", "gradual", "rigl", "set", "snfs")
    assert alone == together == now_and_then + 2 * (search.promises.rewind_step > 0)


@pytest.mark.parametrize(("rounds", "epochs"), [(1, 1), (4, 3)])
def test_a_run_of_any_length_traces_the_loss_once(rounds, epochs):
    loss, calls = counted(noisy)
    jax.make_jaxpr(whole("imp", loss, rounds, epochs))(*lane(0), {})
    assert len(calls) == 1


def test_other_seeds_and_numbers_trace_nothing_new():
    loss, calls = counted(noisy)
    program = toy.hurried(jax.vmap(whole("imp", loss)))
    for seeds, densities in (((0, 1), (0.8, 0.4)), ((1, 2), (0.5, 0.3))):
        arguments = [
            (*lane(seed), {"density": jnp.float32(density)})
            for seed, density in zip(seeds, densities, strict=True)
        ]
        found = program(*side_by_side(arguments))
        kept = [round(54 * density) for density in densities]
        assert jax.vmap(masks.count)(found.ticket.mask).tolist() == kept
    assert len(calls) == 1


@functools.cache
def divisible(name):
    """A stretch of a method, compiled, and what it makes of a whole round."""
    search = search_of(name)
    take = toy.hurried(stretch(search))
    return take, opened(search), take(opened(search), jax.random.key(1), 0, STEPS, 0)


@pytest.mark.parametrize(
    "bounds", [(0, 1, STEPS), (0, 0, 2, STEPS), range(STEPS + 1)], ids=str
)
@each_method
def test_stretches_of_any_division_give_the_same_bits(name, bounds):
    take, carry, (expected, loss) = divisible(name)
    total = 0.0
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        carry, mean = take(carry, jax.random.key(1), first, last, 0)
        total += mean * (last - first) if last > first else 0.0
    assert_same(carry, expected)
    np.testing.assert_allclose(total / STEPS, loss, rtol=1e-5)


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
            toy.ticket()._replace(model_state=(diary, np.int32(0))),
            np.arange(ROWS, dtype=np.int32),
            rounds=rounds,
            epochs=epochs,
            batch_size=BATCH,
        ).carry.model[0]

    program = toy.hurried(jax.vmap(search))
    rows = program(jax.vmap(jax.random.key)(jnp.array(seeds)))
    orders = rows.reshape(-1, PER_EPOCH * BATCH).tolist()
    assert len(orders) == len(seeds) * rounds * epochs
    assert len(set(map(tuple, orders))) == len(orders)
    for order in orders:
        assert len(set(order)) == PER_EPOCH * BATCH
        assert set(order) <= set(range(ROWS))


# Rewinding, seen by a search that only writes down what it is told.


def witness(length, promises):
    """A search whose state is the steps it was given, -1 where a round ended."""

    def note(state, value):
        steps, at = state
        return steps.at[at].set(value), at + 1

    weights = {"w": np.zeros((2, 2), np.float32)}
    return Search(
        init=lambda key, ticket: (jnp.zeros(length, jnp.int32), jnp.int32(0)),
        update=lambda grads, state, step: note(state, step),
        advance=lambda state, evidence: note(state, -1),
        params=lambda state: weights,
        ticket=lambda state: Ticket(weights, masks.full(weights)),
        promises=promises,
    )


def seen(params, model_state, batch, key):
    """A loss that is what the model state counts."""
    count = model_state["seen"]
    loss = count + jnp.sum(params["w"])
    return loss.astype(jnp.float32), {"seen": count + 1}


def expected_course(rounds, promises, resume_schedule):
    """The steps of a run, the mean of the model state in every epoch, and its end."""
    course, means, count, anchor = [], [], 0, 0
    for round_ in range(rounds):
        if round_:
            course.append(-1)
            count = anchor if promises.rewinds else count
        counts = [[] for _ in range(EPOCHS)]
        first = promises.rewind_step if round_ and resume_schedule else 0
        for step in range(first, STEPS):
            if round_ == 0 and step == promises.rewind_step:
                anchor = count
            counts[step // PER_EPOCH].append(count)
            course.append(step)
            count += 1
        means.append([sum(c) / len(c) if c else np.nan for c in counts])
    return course, means, anchor if promises.weights == "anchor" else count


@pytest.mark.parametrize("rewind_step", [0, 1, PER_EPOCH + 1])
@pytest.mark.parametrize("weights", ["rewound", "anchor", "trained"])
@pytest.mark.parametrize("resume_schedule", [True, False])
def test_steps_and_model_state_return_to_the_rewinding_step_as_promised(
    rewind_step, weights, resume_schedule
):
    """Said once, by the search: `run` is told nothing."""
    promises = Promises(
        weights="trained" if weights == "trained" else "anchor",
        rewind_step=rewind_step,
        rewinds=weights == "rewound",
    )
    course, means, end = expected_course(3, promises, resume_schedule)
    found = toy.hurried(
        lambda key: run(
            witness(len(course), promises),
            seen,
            key,
            toy.ticket()._replace(model_state=cases.UNSEEN),
            cases.data(),
            rounds=3,
            epochs=EPOCHS,
            batch_size=BATCH,
            resume_schedule=resume_schedule,
        ),
    )(jax.random.key(0))
    steps, length = found.carry.search
    assert (steps.tolist(), length) == (course, len(course))
    np.testing.assert_allclose(found.losses, means)
    assert found.carry.model_anchor["seen"] == rewind_step
    assert found.ticket.model_state["seen"] == end


@pytest.mark.parametrize("state", [{"seen": 70}, {}, None], ids=str)
def test_the_model_state_of_a_ticket_is_where_training_begins(state):
    """A network without any is one whose state is empty."""

    def counting(params, model_state, batch, key):
        loss, _ = cases.loss(params, cases.UNSEEN, batch, key)
        return loss, jax.tree.map(lambda count: count + 1, model_state)

    ticket = toy.ticket()._replace(model_state=jax.tree.map(jnp.int32, state))
    found = toy.hurried(
        lambda ticket: (
            run(
                fixed(optax.sgd(0.1)),
                counting,
                jax.random.key(0),
                ticket,
                cases.data(),
                rounds=1,
                epochs=EPOCHS,
                batch_size=BATCH,
            ).ticket.model_state
        ),
    )(ticket)
    assert found == ({"seen": 70 + STEPS} if state else {})


@pytest.mark.parametrize(
    "switch",
    [
        lambda: jax.enable_x64(True),
        lambda: jax.debug_nans(True),
        lambda: jax.debug_infs(True),
        jax.disable_jit,
        jax.checking_leaks,
    ],
    ids=["enable_x64", "debug_nans", "debug_infs", "disable_jit", "checking_leaks"],
)
def test_a_search_runs_under_the_switches_that_users_turn(switch):
    options = {"rounds": 2, "epochs": 1, "batch_size": ROWS}
    key, (weights, mask, _) = lane(0)[0], toy.ticket()
    with switch():
        ticket = Ticket(weights, mask, {"seen": jnp.zeros((), jnp.int32)})
        found = run(imp(cases.ADAMW), cases.loss, key, ticket, cases.data(), **options)
    assert masks.count(found.ticket.mask) == cases.survivors(54, 0.8)


@pytest.mark.parametrize("name", ["imp", "continuous_sparsification", "iss", "rigl"])
def test_no_key_is_used_twice(name):
    """By JAX's own checker, over several epochs, which share the key of their round."""
    first = jax.tree.map(lambda x: x[0], told(name))
    with jax.debug_key_reuse(True):
        found = toy.hurried(retold(name))(*first)
    assert jnp.isfinite(found.losses).all()


def test_a_batch_of_more_rows_than_there_are_is_refused_wherever_data_are_visited():
    search, rows = fixed(optax.sgd(0.1)), cases.data()
    key = jax.random.key(0)
    carry = training.start(search, key, toy.ticket())
    for call in (
        lambda: training.steps(
            search, cases.loss, carry, key, rows,
            first=0, last=3, round=0, batch_size=ROWS + 1,
        ),
        lambda: training.visits(key, jnp.arange(2), size=ROWS, batch_size=ROWS + 1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"more than the {ROWS} rows of data"):
            call()


def test_an_empty_ticket_is_not_returned_in_silence():
    weights = {"w": jnp.ones((2, 4))}
    with pytest.warns(UserWarning, match="keeps no weight: take fewer rounds"):
        found = run(
            imp(optax.sgd(0.1), density=0.5),
            lambda params, state, batch, key: (jnp.sum(params["w"] ** 2), state),
            jax.random.key(0),
            Ticket(weights, masks.full(weights), {}),
            rounds=5,
            steps=1,
        )
    assert masks.count(found.ticket.mask) == 0


@pytest.mark.parametrize("mask", [None, (2**16, 2**16)])
def test_a_run_that_prunes_nothing_counts_nothing(mask):
    """Neither where nothing can be pruned nor of a leaf that cannot be counted."""

    def loss(params, model_state, batch, key):
        del batch, key
        return jnp.sum(params["w"]), model_state

    def trained(ticket):
        search, key = fixed(optax.sgd(0.1)), jax.random.key(0)
        return run(search, loss, key, ticket, rounds=1, steps=1).ticket

    shape = mask or (2, 2)
    whole = mask and jax.ShapeDtypeStruct(shape, bool)
    weights = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    found = jax.eval_shape(trained, Ticket(weights, {"w": whole}, {}))
    assert found.weights["w"].shape == shape


# Divergence.


def diverging(at, rates, **options):
    """A run of two rounds of four epochs, a lane a rate; the loss is spoilt at a step.

    Args:
      at: the step, counted over all rounds, or -1.
      rates: of SGD.
      **options: of `run`.
    """

    def loss(params, model_state, batch, key):
        del key
        count = model_state["count"]
        value = jnp.mean((batch["x"] @ params["w"]) ** 2)
        value = value + jnp.where(count == at, jnp.inf, 0.0)
        return value, {"count": count + 1}

    weights = {"w": jnp.ones((3, 4))}
    ticket = Ticket(weights, masks.full(weights), {"count": jnp.int32(0)})
    data = {"x": jnp.ones((8, 3)) / 4}

    def one(rate):
        search = imp(optax.sgd(rate), density=0.5, retrain="finetune")
        return run(
            search,
            loss,
            jax.random.key(0),
            ticket,
            data,
            **{"rounds": 2, "epochs": 4, "batch_size": 4} | options,
        )

    return jax.jit(jax.vmap(one))(jnp.float32(rates))


def test_a_search_that_diverges_says_where_and_leaves_no_ticket():
    result = diverging(-1, [0.1, 1e30, 0.2])
    assert result.diverged[0].tolist() == [-1, 0, -1]
    assert result.diverged[1].tolist() == [-1, 0, -1]
    finite = jnp.isfinite(result.ticket.weights["w"]).all((1, 2))
    assert finite.tolist() == [True, False, True]
    assert jnp.isnan(result.ticket.weights["w"][1]).all()
    alone = diverging(-1, [0.1, 0.2])
    for ours, theirs in zip(
        jax.tree.leaves(result.ticket), jax.tree.leaves(alone.ticket), strict=True
    ):
        np.testing.assert_array_equal(ours[jnp.array([0, 2])], theirs)


@pytest.mark.parametrize(("step", "where"), [(0, (0, 0)), (7, (0, 3)), (10, (1, 1))])
def test_a_loss_that_is_not_finite_once_is_divergence(step, where):
    """Two steps an epoch: the weights stay finite where the gradient does."""
    result = diverging(step, [0.1])
    assert tuple(int(x[0]) for x in result.diverged) == where
    later = diverging(step, [0.1], first_round=3)
    assert tuple(int(x[0]) for x in later.diverged) == (where[0] + 3, where[1])


def test_a_run_that_goes_on_from_one_that_has_diverged_says_so():
    """IMP returns to weights that are finite: what it has pruned them by was not."""
    search = imp(optax.sgd(0.1), density=0.5)
    weights = {"w": jnp.ones((3, 4))}

    def loss(params, state, batch, key):
        value = jnp.sum(params["w"] ** 2)
        return value * jnp.where((params["w"] != 0).all(), jnp.inf, 1.0), state

    def over(rounds, **options):
        ticket = None if options else Ticket(weights, masks.full(weights))
        key = jax.random.key(0)
        return run(search, loss, key, ticket, rounds=rounds, steps=2, **options)

    longer, begun = over(3), over(1)
    for _ in range(2):
        begun = over(1, carry=begun.carry, first_round=int(begun.diverged[0]) + 1)
        assert tuple(map(int, begun.diverged)) == (0, 0)
        assert jnp.isnan(begun.ticket.weights["w"]).all()
    assert tuple(map(int, longer.diverged)) == (0, 0)


def test_epochs_that_are_left_out_or_have_no_steps_do_not_diverge():
    stopped = diverging(-1, [0.1], stop=lambda epoch: epoch >= 1)
    assert stopped.epochs.tolist() == [[2, 2]]
    assert stopped.diverged[0].tolist() == [-1]
    search = imp(optax.sgd(0.1), density=0.5, rewind_step=3)
    weights = {"w": jnp.ones((3, 4))}
    result = run(
        search,
        lambda params, state, batch, key: (jnp.sum(params["w"] ** 2), state),
        jax.random.key(0),
        Ticket(weights, masks.full(weights)),
        rounds=2,
        steps=8,
        every=2,
        resume_schedule=True,
    )
    assert jnp.isnan(result.losses[1, 0])  # that of the steps before the rewinding one
    assert int(result.diverged[0]) == -1
