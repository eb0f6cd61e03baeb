"""The host's loop: the plan, evaluation, resumption, and what stops it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxticket import Ticket, masks, searches
from jaxticket.engine import lanes, programs, resumable
from jaxticket.engine.resumable import Closed, Finished, Measured, Opened, Resumed

# Every comparison is of what one program has computed.
pytestmark = pytest.mark.usefixtures("unoptimised")

ROWS = 40


def loss_fn(params, model_state, batch, key):
    x, y = batch
    noise = 0.01 * jax.random.normal(key, y.shape)
    return jnp.mean((x @ params["w"] - y + noise) ** 2), {"n": model_state["n"] + 1}


def evaluate(params, model_state, held_out):
    x, y = held_out
    return {"error": jnp.mean((x @ params["w"] - y) ** 2), "n": model_state["n"]}


def make_parts(search, per_device=1, **options):
    """A program of two lanes, and its data."""
    layout = lanes.layout(per_device, jax.devices()[: 2 // per_device])
    program = programs.program(
        search,
        loss_fn,
        evaluate,
        ("error", "n"),
        layout,
        batch_size=8,
        **options,
    )
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(ROWS, 6)), rng.normal(size=(ROWS, 4)))
    rows = jax.tree.map(np.float32, rows)
    data = lanes.everywhere(layout, programs.Data(rows, rows))
    return program, data


@pytest.fixture(scope="module")
def parts():
    search = searches.imp(optax.adam(0.05), density=0.5, rewind_step=3)
    return make_parts(lambda _: search)


def tickets(keys):
    weights = {"w": jax.vmap(lambda k: jax.random.normal(k, (6, 4)))(keys)}
    mask = jax.vmap(masks.full)(weights)
    return Ticket(weights, mask, {"n": jnp.zeros(len(keys))})


def make_unit(program, seeds=(0, 1), plan=None, settings=(), tickets=tickets):
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    return resumable.Unit(
        len(seeds),
        lambda: program.start(keys, tickets(keys), settings),
        lambda round_: jax.vmap(lambda key: jax.random.fold_in(key, round_))(keys),
        plan or resumable.stretches(3, 10, 4, resume=3),
    )


def events(parts, folder, stop_at=None, config=None, **options):
    """What happens while a unit runs, up to the look `stop_at`; saves after each."""
    program, data = parts
    unit, config = make_unit(program, **options), config or {"a": 1}
    found = []
    for event in resumable.run(
        program, unit, data, folder, config=config, save_seconds=0
    ):
        found.append(event)
        if isinstance(event, Measured) and event.index == stop_at:
            break
    return found


def run(parts, folder, **options):
    """Runs a unit; returns its outcome and the last view of every round."""
    *happened, outcome = events(parts, folder, **options)
    assert isinstance(outcome, Finished)
    return outcome, {e.round: e.view for e in happened if isinstance(e, Closed)}


def assert_equal(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_plan_covers_every_step_once_and_resumes_the_schedule():
    plan = resumable.stretches(2, 10, 4, resume=5)
    assert [tuple(s) for s in plan] == [
        (0, 0, 4, False),
        (0, 4, 8, False),
        (0, 8, 10, True),
        (1, 5, 8, False),
        (1, 8, 10, True),
    ]


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    return run(parts, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop_at", [0, 1, 2, 3, 5, 8])
def test_a_stopped_run_resumes_to_the_same_bits(parts, whole, tmp_path, stop_at):
    events(parts, tmp_path, stop_at=stop_at)
    outcome, views = run(parts, tmp_path)
    assert_equal(outcome.metrics, whole[0].metrics)
    assert_equal(views[2], whole[1][2])


def short(event):
    """The kind of an event, and the round or look that it is of."""
    whole = isinstance(event, Resumed | Finished)
    return type(event), None if whole else event[0]


def test_events_come_in_their_order_and_of_earlier_calls_are_measured_alone(
    parts, tmp_path
):
    plan = resumable.stretches(2, 10, 6, resume=3)
    first = events(parts, tmp_path, plan=plan, stop_at=2)
    opened = [(Opened, 1), (Measured, 2), (Closed, 1), (Measured, 3), (Finished, None)]
    begun = [(Resumed, None), (Measured, 0), (Closed, 0), (Measured, 1)]
    assert [short(e) for e in first] == [*begun, *opened[:2]]
    # What was seen of look 2 came before it was saved.
    second = events(parts, tmp_path, plan=plan)
    done = [(Resumed, None), (Measured, 0), (Measured, 1)]
    assert [short(e) for e in second] == [*done, *opened]
    again = events(parts, tmp_path, plan=plan)
    looks = [(Measured, index) for index in range(4)]
    assert [short(e) for e in again] == [(Resumed, None), *looks, (Finished, None)]
    for found in (first, second, again):
        for event in found:
            if isinstance(event, Measured):
                assert event.stretch == plan[event.index]
                theirs = {k: v[event.index] for k, v in again[-1].metrics.items()}
                assert_equal(event.metrics, theirs)


def test_a_search_may_go_on_from_a_state_of_its_own(parts, whole, tmp_path):
    """From that in which round 0 closed, with a plan of what is left."""
    program, data = parts
    unit = make_unit(program)
    begun = events(parts, tmp_path / "begun", plan=unit.plan[:3])
    (carry,) = (event.carry for event in begun if isinstance(event, Closed))
    rest = unit._replace(begin=lambda: carry, plan=unit.plan[3:])
    folder = tmp_path / "rest"
    _, opened, *_, outcome = resumable.run(program, rest, data, folder, config={})
    assert short(opened) == (Opened, 1)
    for name, values in outcome.metrics.items():
        np.testing.assert_array_equal(values, whole[0].metrics[name][3:])


def test_a_round_is_looked_at_beside_the_next(parts, whole, tmp_path):
    """To the same bits; a call that ends meanwhile closes the round again."""
    program, data = parts
    begun = []

    def stretch(carry, keys, data, first, last, round):
        begun.append((int(round), int(first)))
        return program.stretch(carry, keys, data, first, last, round)

    told = program._replace(stretch=stretch)
    starts = {0: (1, 3), 1: (2, 3), 2: (2, 8)}  # of the last there is no next
    found, views = [], {}
    for again in range(2):
        for event in resumable.run(told, make_unit(told), data, tmp_path, config={}):
            found.append(short(event))
            if isinstance(event, Closed):
                assert begun[-1] == starts[event.round]
                assert (event.carry is None) == (event.round < 2)
                views[event.round] = event.view
                if again == 0:
                    break  # as a kill would
    assert found[:4] == [(Resumed, None), (Measured, 0), (Measured, 1), (Closed, 0)]
    assert found.count((Closed, 0)) == 2
    assert_equal(event.metrics, whole[0].metrics)
    for round_, view in whole[1].items():
        assert_equal(views[round_], view)


def test_a_finished_run_is_read_and_not_done_again(parts, whole, tmp_path):
    first, _ = run(parts, tmp_path)
    assert not (tmp_path / "checkpoint").exists()
    again, views = run(parts, tmp_path)
    assert views == {}
    assert_equal(again, first)


def test_a_seed_does_not_depend_on_its_neighbours(parts, whole, tmp_path):
    outcome, views = run(parts, tmp_path, seeds=(7, 0))
    for name, values in outcome.metrics.items():
        np.testing.assert_array_equal(values[:, 1], whole[0].metrics[name][:, 0])
    ours, theirs = (
        jax.tree.map(lambda x, i=i: x[i], v[2]) for i, v in ((1, views), (0, whole[1]))
    )
    assert_equal(ours, theirs)


FAMILIES = {
    "imp": (
        lambda x: searches.imp(optax.adam(0.05), density=x["density"], rewind_step=3),
        {"density": (0.5, 0.25, 0.75)},
    ),
    "continuous_sparsification": (
        lambda x: searches.continuous_sparsification(
            optax.adam(0.05),
            steps=10,
            temperature=50.0,
            initial_logit=x["s0"],
            penalty=x["penalty"],
            rewind_step=3,
        ),
        {"s0": (0.2, 0.02, 0.5), "penalty": (0.0, 0.01, 0.1)},
    ),
}


@pytest.mark.parametrize("per_device", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_settings_are_of_a_lane_alone(name, per_device, tmp_path):
    search, values = FAMILIES[name]
    parts = make_parts(search, per_device)
    found = []
    for i, other in enumerate((1, 2)):
        # The neighbour is of another setting, and of another seed the second time.
        settings = {k: np.float32([v[0], v[other]]) for k, v in values.items()}
        outcome, views = run(parts, tmp_path / str(i), seeds=(0, i), settings=settings)
        found.append((outcome.metrics, views[2]))
    for name, metric in found[0][0].items():
        np.testing.assert_array_equal(metric[:, 0], found[1][0][name][:, 0])
    assert_equal(*(jax.tree.map(lambda x: x[0], view) for _, view in found))
    densities = [metrics["density"][-1] for metrics, _ in found]
    assert len({*densities[0], *densities[1]}) == 3, "settings that decide nothing"


def test_settings_outlive_a_kill(tmp_path):
    search, values = FAMILIES["imp"]
    parts = make_parts(search)
    settings = {k: np.float32(v[:2]) for k, v in values.items()}
    whole, _ = run(parts, tmp_path / "whole", settings=settings)
    events(parts, tmp_path / "killed", settings=settings, stop_at=4)
    again, _ = run(parts, tmp_path / "killed", settings=settings)
    assert_equal(again.metrics, whole.metrics)


def test_densities_and_the_model_state_follow_the_rounds(whole):
    outcome, views = whole
    np.testing.assert_allclose(outcome.metrics["density"][[2, 5, 8], 0], [1, 0.5, 0.25])
    # Ten updates in round 0; then back to the state after three, and seven more.
    np.testing.assert_array_equal(outcome.metrics["n"][[2, 5, 8], 0], [10, 10, 10])
    assert [v.ticket.model_state["n"].tolist() for v in views.values()] == [[3, 3]] * 3
    assert [v.model_state["n"].tolist() for v in views.values()] == [[10, 10]] * 3


def test_tickets_with_trained_weights_have_the_model_state_of_now(tmp_path):
    search = searches.imp(optax.adam(0.05), density=0.5, retrain="finetune")
    _, views = run(make_parts(lambda _: search), tmp_path)
    # Ten updates, then seven in each of the rounds that begin at step 3.
    for view, updates in zip(views.values(), (10, 17, 24), strict=True):
        assert view.ticket.model_state["n"].tolist() == [updates, updates]
        assert_equal(view.model_state, view.ticket.model_state)


def test_other_settings_are_refused(parts, tmp_path):
    run(parts, tmp_path)
    with pytest.raises(ValueError, match="was left by another run"):
        run(parts, tmp_path, config={"a": 2})


def spoilt(lane, value):
    """Tickets, of which that of one lane holds a value that no weight has."""

    def make(keys):
        ticket = tickets(keys)
        weights = {"w": ticket.weights["w"].at[lane].set(value)}
        return ticket._replace(weights=weights)

    return make


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e30])
def test_a_lane_that_diverges_is_marked_and_the_others_do_not_notice(
    parts, whole, tmp_path, value
):
    outcome, views = run(parts, tmp_path, tickets=spoilt(1, value))
    assert outcome.diverged.tolist() == [-1, 0]
    for name, values in outcome.metrics.items():
        np.testing.assert_array_equal(values[:, 0], whole[0].metrics[name][:, 0])
    ours, theirs = (jax.tree.map(lambda x: x[0], v[2]) for v in (views, whole[1]))
    assert_equal(ours, theirs)
    happened = events(parts, tmp_path, tickets=spoilt(1, value))
    alive = [e.alive.tolist() for e in happened if isinstance(e, Measured)]
    assert alive == [[True, False]] * len(make_unit(parts[0]).plan)


def test_it_may_diverge_late_and_by_what_is_evaluated(tmp_path):
    """The loss stays finite: the error of lane 0 leaves float32 in the second round."""
    search = searches.imp(optax.adam(0.05), density=0.5)

    def evaluated(params, model_state, held_out):
        late = (model_state["n"] > 12) & (model_state["lane"] == 0)
        return {"error": jnp.where(late, jnp.inf, 1.0), "n": model_state["n"]}

    def loss(params, model_state, batch, key):
        value, new = loss_fn(params, model_state, batch, key)
        return value, {**model_state, **new}

    layout = lanes.layout(1, jax.devices()[:2])
    options = {"names": ("error", "n"), "layout": layout, "batch_size": 8}
    search = searches.imp(optax.adam(0.05), density=0.5, retrain="finetune")
    program = programs.program(lambda _: search, loss, evaluated, **options)
    rng = np.random.default_rng(0)
    rows = (
        np.float32(rng.normal(size=(ROWS, 6))),
        np.float32(rng.normal(size=(ROWS, 4))),
    )
    data = lanes.everywhere(layout, programs.Data(rows, rows))

    def begun(keys):
        state = {"n": jnp.zeros(2), "lane": jnp.arange(2.0)}
        return tickets(keys)._replace(model_state=state)

    plan = resumable.stretches(2, 10, 5)
    outcome, _ = run((program, data), tmp_path, tickets=begun, plan=plan)
    assert outcome.diverged.tolist() == [2, -1]
    assert outcome.alive(1).tolist() == [True, True]
    assert outcome.alive(2).tolist() == [False, True]


def test_where_all_have_diverged_nothing_more_is_computed(parts, tmp_path):
    nan = spoilt(slice(None), np.nan)
    outcome, _ = run(parts, tmp_path, tickets=nan)
    assert outcome.diverged.tolist() == [0, 0]
    assert len(outcome.seconds) == 1
    again = events(parts, tmp_path, tickets=nan)
    kinds = [(Resumed, None), (Measured, 0), (Finished, None)]
    assert [short(event) for event in again] == kinds


@pytest.mark.parametrize("taken", [2, 3, 4])
def test_a_run_that_is_asked_to_stop_saves_first(parts, whole, tmp_path, taken):
    """Even where it is asked once; the third stretch ends a round."""
    program, data = parts
    asked = itertools.count(1)
    running = resumable.run(
        program,
        make_unit(program),
        data,
        tmp_path,
        config={"a": 1},
        stop=lambda: next(asked) == taken,
    )
    with pytest.raises(resumable.Stopped):
        list(running)
    resumed, *_ = events(parts, tmp_path)
    assert len(resumed.history.seconds) == taken
    outcome, views = run(parts, tmp_path)
    assert_equal(outcome.metrics, whole[0].metrics)


@pytest.mark.parametrize("state", ["kept", "lost"])
def test_a_longer_plan_goes_on_from_a_shorter_ones_outcome(
    parts, whole, tmp_path, state
):
    program, data = parts
    short_ = make_unit(program, plan=make_unit(program).plan[:3])
    options = {"config": {"a": 1}, "keep": state == "kept"}
    *_, first = resumable.run(program, short_, data, tmp_path, **options)
    resumed, *happened = resumable.run(
        program, make_unit(program), data, tmp_path, **options
    )
    assert len(resumed.history.seconds) == (3 if state == "kept" else 0)
    if state == "kept":
        np.testing.assert_array_equal(happened[-1].seconds[:3], first.seconds)
    assert_equal(happened[-1].metrics, whole[0].metrics)
    with pytest.raises(ValueError, match="of another plan"):
        run(parts, tmp_path, plan=resumable.stretches(3, 10, 5))


def test_the_work_of_another_config_is_taken_over_where_it_is_named(parts, tmp_path):
    program, data = parts
    first, _ = run(parts, tmp_path)
    unit, others = make_unit(program), [{"a": 1}]
    *_, again = resumable.run(
        program, unit, data, tmp_path, config={"a": 2}, others=others
    )
    assert_equal(again, first)


def test_a_damaged_outcome_is_made_again(parts, tmp_path, caplog):
    first, _ = run(parts, tmp_path)
    path = tmp_path / "outcome.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again, views = run(parts, tmp_path)
    assert len(views) == 3
    assert_equal(again.metrics, first.metrics)
    assert "it is made again" in caplog.text
