"""The host's loop: the plan, evaluation, resumption, and what stops it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxticket import masks, schedules, searches
from jaxticket.base import Ticket
from jaxticket.engine import lanes, programs, resumable

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
        rewind_step=3,
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


def make_unit(seeds=(0, 1), plan=None, settings=()):
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))

    def begin():
        weights = {"w": jax.vmap(lambda k: jax.random.normal(k, (6, 4)))(keys)}
        mask = jax.vmap(masks.full)(weights)
        return keys, Ticket(weights, mask), {"n": jnp.zeros(len(seeds))}

    return resumable.Unit(
        "toy",
        [f"seed {seed}" for seed in seeds],
        begin,
        lambda round_: jax.vmap(lambda key: jax.random.fold_in(key, round_))(keys),
        plan or resumable.stretches(3, 10, 4, resume=3),
        settings,
    )


class Stopped(Exception):
    pass


def run(parts, folder, unit=None, stop_at=None, **options):
    """Runs a unit; returns its outcome and the last view of every round."""
    program, data = parts
    views = {}

    def watch(stretch, index, metrics):
        if index == stop_at:
            raise Stopped

    def closed(round_, view):
        views[round_] = jax.tree.map(np.asarray, view)

    outcome = resumable.run(
        program,
        unit or make_unit(),
        data,
        folder,
        config={"a": 1},
        save_seconds=0,
        watch=watch,
        closed=closed,
        **options,
    )
    return outcome, views


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


@pytest.mark.parametrize(
    "numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)], ids=["rounds", "steps", "every"]
)
def test_plan_refuses_numbers_below_one(numbers):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        resumable.stretches(*numbers)


def test_plan_refuses_to_begin_after_the_end():
    with pytest.raises(ValueError, match="a round of 10 steps cannot begin at step 10"):
        resumable.stretches(2, 10, 4, resume=10)


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    return run(parts, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop_at", [0, 1, 2, 3, 5, 8])
def test_a_stopped_run_resumes_to_the_same_bits(parts, whole, tmp_path, stop_at):
    with pytest.raises(Stopped):
        run(parts, tmp_path, stop_at=stop_at)
    outcome, views = run(parts, tmp_path)
    assert_equal(outcome.metrics, whole[0].metrics)
    assert_equal(views[2], whole[1][2])


def test_a_finished_run_is_read_and_not_done_again(parts, whole, tmp_path):
    first, _ = run(parts, tmp_path)
    assert not (tmp_path / "checkpoint").exists()
    again, views = run(parts, tmp_path)
    assert views == {}
    assert_equal(again, first)


def test_a_seed_does_not_depend_on_its_neighbours(parts, whole, tmp_path):
    outcome, views = run(parts, tmp_path, make_unit(seeds=(7, 0)))
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
            temperature=schedules.temperature(50.0, 10),
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
        unit = make_unit(seeds=(0, i), settings=settings)
        outcome, views = run(parts, tmp_path / str(i), unit)
        found.append((outcome.metrics, views[2]))
    for name, metric in found[0][0].items():
        np.testing.assert_array_equal(metric[:, 0], found[1][0][name][:, 0])
    assert_equal(*(jax.tree.map(lambda x: x[0], view) for _, view in found))
    densities = [metrics["density"][-1] for metrics, _ in found]
    assert len({*densities[0], *densities[1]}) == 3, "settings that decide nothing"


def test_settings_outlive_a_kill(tmp_path):
    search, values = FAMILIES["imp"]
    parts = make_parts(search)
    unit = make_unit(settings={k: np.float32(v[:2]) for k, v in values.items()})
    whole, _ = run(parts, tmp_path / "whole", unit)
    with pytest.raises(Stopped):
        run(parts, tmp_path / "killed", unit, stop_at=4)
    again, _ = run(parts, tmp_path / "killed", unit)
    assert_equal(again.metrics, whole.metrics)


def test_densities_and_the_model_state_follow_the_rounds(whole):
    outcome, views = whole
    np.testing.assert_allclose(outcome.metrics["density"][[2, 5, 8], 0], [1, 0.5, 0.25])
    # Ten updates in round 0; then back to the state after three, and seven more.
    np.testing.assert_array_equal(outcome.metrics["n"][[2, 5, 8], 0], [10, 10, 10])
    assert views[0].model_state["n"].tolist() == [3, 3]


def test_tickets_with_trained_weights_have_the_model_state_of_now(tmp_path):
    search = searches.imp(optax.adam(0.05), density=0.5, retrain="finetune")
    parts = make_parts(lambda _: search, rewind_model=False, ticket_model="trained")
    _, views = run(parts, tmp_path)
    # Ten updates, then seven in each of the rounds that begin at step 3.
    assert [v.model_state["n"].tolist() for v in views.values()] == [
        [10, 10],
        [17, 17],
        [24, 24],
    ]


def test_other_settings_are_refused(parts, tmp_path):
    run(parts, tmp_path)
    program, data = parts
    with pytest.raises(ValueError, match="holds another run"):
        resumable.run(program, make_unit(), data, tmp_path, config={"a": 2})


def test_a_loss_that_is_not_finite_names_the_lane(parts, tmp_path):
    program, data = parts
    x, y = data.train
    unit = make_unit()

    def begin():
        keys, ticket, state = unit.begin()
        weights = {"w": ticket.weights["w"].at[1].set(jnp.inf)}
        return keys, ticket._replace(weights=weights), state

    with pytest.raises(FloatingPointError, match="loss of seed 1 is not finite in rou"):
        run(parts, tmp_path, unit._replace(begin=begin))


def test_a_damaged_outcome_is_noticed(parts, tmp_path):
    run(parts, tmp_path)
    path = tmp_path / "outcome.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged.*delete .* and run again"):
        run(parts, tmp_path)
