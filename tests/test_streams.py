"""Data that stream: the numbers of a training from memory, and what is refused."""

import builtins
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import studies

from jaxticket import Ticket, masks, searches, training
from jaxticket.base import NO_EVIDENCE
from jaxticket.data import digits, streams
from jaxticket.engine import lanes, programs, resumable

grain = pytest.importorskip("grain")

ROWS, BATCH = 40, 8
PLAN = resumable.stretches(2, 12, 7, resume=3)  # stretches cross epochs, of 5 steps


def loss_fn(params, model_state, batch, key):
    x, y = batch["x"].astype(jnp.float32), batch["y"]
    noise = 0.01 * jax.random.normal(key, y.shape)
    loss = jnp.mean((x @ params["w"] - y + noise) ** 2)
    return loss, {"seen": batch["x"][:, 0].astype(jnp.float32)}


def evaluate(params, model_state, held_out):
    return {
        "error": jnp.mean((held_out["x"] @ params["w"] - held_out["y"]) ** 2),
        "seen": jnp.sum(model_state["seen"]),
    }


def evidence(train):
    assert {*train} == {"x", "y"}  # the rows at hand, however data come
    return lambda model_state: NO_EVIDENCE


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(0, 256, (ROWS, 6), np.uint8),
        "y": rng.normal(size=(ROWS, 4)).astype(np.float32),
    }


class Elements:
    """A source of one's own, which counts what is read."""

    def __init__(self, rows):
        self.rows, self.read = rows, []

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        self.read.append(row)
        return jax.tree.map(lambda x: x[row], self.rows)


def program(*, streamed, per_device=1):
    search = searches.imp(optax.adam(0.01), density=0.5, rewind_step=3)
    layout = lanes.layout(per_device, jax.devices()[: 2 // per_device])
    made = programs.program(
        lambda _: search,
        loss_fn,
        evaluate,
        ("error", "seen"),
        layout,
        batch_size=BATCH,
        streams=streamed,
        evidence=evidence,
    )
    return made, layout


def unit(made):
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    weights = {"w": jax.vmap(lambda k: jax.random.normal(k, (6, 4)))(keys)}
    seen = jnp.zeros((2, BATCH))
    tickets = Ticket(weights, jax.vmap(masks.full)(weights), {"seen": seen})
    return resumable.Unit(
        2,
        lambda: made.start(keys, tickets, ()),
        lambda round_: jax.vmap(lambda key: jax.random.fold_in(key, round_))(keys),
        PLAN,
    )


def ran(parts, folder, train, *, stop_at=None, held_out=None):
    """The metrics and the ticket of the last round; None where it was stopped."""
    made, layout = parts
    data = lanes.everywhere(layout, programs.Data(train, held_out))
    looks = []
    try:
        for event in resumable.run(
            made,
            unit(made),
            data,
            folder,
            config={"a": 1},
            save_seconds=0,
            stop=lambda: len(looks) == stop_at,
        ):
            if isinstance(event, resumable.Measured):
                looks.append(event.index)
            if isinstance(event, resumable.Closed):
                ticket = jax.device_get(event.view.ticket)
    except resumable.Stopped:
        return None
    return event.metrics, ticket


def equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("per_device", [1, 2])
def test_streaming_is_training_from_memory_to_the_last_bit(
    per_device, rows, tmp_path, monkeypatch
):
    held_out = rows
    whole = ran(
        program(streamed=False, per_device=per_device),
        tmp_path / "memory",
        rows,
        held_out=held_out,
    )
    parts = program(streamed=True, per_device=per_device)
    for steps in (1, 5):  # of a window
        monkeypatch.setattr(streams, "MOST_STEPS", steps)
        for name, source in (
            ("own", Elements(rows)),
            ("grain", grain.MapDataset.source(Elements(rows)).map(dict)),
        ):
            train = streams.stream(streams.Rows(source), first=3, workers=2)
            folder = tmp_path / f"{name}-{steps}"
            equal(ran(parts, folder, train, held_out=held_out), whole)


def test_a_run_that_was_stopped_within_an_epoch_goes_on_at_the_same_row(rows, tmp_path):
    parts = program(streamed=True)

    def stream():
        source = Elements(rows)
        return source, streams.stream(streams.Rows(source), workers=1)

    _, train = stream()
    whole = ran(parts, tmp_path / "whole", train, held_out=rows)
    source, train = stream()
    assert ran(parts, tmp_path / "cut", train, stop_at=1, held_out=rows) is None
    first = len(source.read)
    source, train = stream()
    equal(ran(parts, tmp_path / "cut", train, held_out=rows), whole)
    # What was trained on before is not read again: 7 steps of two lanes.
    looked_at = 1 + streams.LOOKED_AT + 3
    assert first - looked_at == 2 * 7 * BATCH
    assert len(source.read) - looked_at == 2 * (5 + 9) * BATCH


def test_rows_are_those_of_the_step_function(rows):
    key, size = jax.random.key(3), ROWS

    def losses(data, **options):
        def seen(params, model_state, batch, key):
            return jnp.sum(params["w"]), {"rows": batch["rows"]}

        weights = {"w": jnp.zeros((2, 2))}
        start = training.start(
            searches.fixed(optax.sgd(0.1)),
            key,
            Ticket(weights, masks.full(weights), {"rows": jnp.zeros(7, int)}),
        )
        found = []
        for step in range(11):
            carry, _, _ = training.steps(
                searches.fixed(optax.sgd(0.1)),
                seen,
                start,
                key,
                data,
                first=step,
                last=step + 1,
                round=0,
                batch_size=7,
            )
            found.append(np.asarray(carry.model["rows"]))
        return np.stack(found)

    visits = training.visits(key, jnp.arange(11), size=size, batch_size=7)
    np.testing.assert_array_equal(visits, losses({"rows": jnp.arange(size)}))
    epochs = np.sort(np.asarray(visits)[:10].reshape(2, -1))
    assert all(len({*epoch}) == 35 for epoch in epochs)


def test_what_a_visit_draws_is_its_own_whoever_reads_it(rows, tmp_path, monkeypatch):
    def vary(element, generator):
        return {**element, "x": generator.integers(0, 256, 6, np.uint8)}

    def stream(workers, f=vary):
        source = streams.Rows(Elements(rows))
        return streams.stream(source.varied(f), first=3, workers=workers)

    parts = program(streamed=True)
    monkeypatch.setattr(streams, "MOST_STEPS", 5)
    whole = ran(parts, tmp_path / "whole", stream(1), held_out=rows)
    assert ran(parts, tmp_path / "cut", stream(1), stop_at=1, held_out=rows) is None
    equal(ran(parts, tmp_path / "cut", stream(1), held_out=rows), whole)
    monkeypatch.setattr(streams, "MOST_STEPS", 1)
    equal(ran(parts, tmp_path / "other", stream(3), held_out=rows), whole)
    plain = ran(parts, tmp_path / "plain", stream(1, lambda x, _: x), held_out=rows)
    assert (plain[0]["train_loss"] != whole[0]["train_loss"]).all()
    # Of lane and step, whatever other lanes and steps there are.
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    steps = np.arange(4, dtype=np.int32)
    _, bits = programs._visits(keys, steps, ROWS, BATCH, True)
    assert len(np.unique(np.reshape(bits, (-1, streams.BITS)), axis=0)) == 3 * 4 * BATCH
    alone = programs._visits(keys[1:2], steps[2:3], ROWS, BATCH, True)[1]
    np.testing.assert_array_equal(alone[0, 0], bits[1, 2])
    # What is looked at otherwise is as it is.
    np.testing.assert_array_equal(stream(1).first["x"], rows["x"][:3])


# Rows


def test_rows_are_indexed_as_an_array_is(rows, monkeypatch):
    images = rows["x"]
    lazy = streams.Rows([*images])
    assert (lazy.shape, lazy.dtype, lazy.ndim, lazy.size) == ((40, 6), np.uint8, 2, 240)
    for index in (slice(3, 9), np.array([[5, 1], [1, 7]]), images[:, 0] > 99, slice(0)):
        np.testing.assert_array_equal(lazy[index], images[index])
    odd = lazy.only(np.arange(40) % 2 == 1).only(np.array([4, 0]))
    np.testing.assert_array_equal(odd[:], images[[9, 1]])
    np.testing.assert_array_equal(np.concatenate([*streams.pieces(lazy)]), images)
    monkeypatch.setattr(streams, "PART", 7)  # for a thread
    for source in (lazy, images):
        for index in (slice(2, 39), images[:, 0] > 99):
            np.testing.assert_array_equal(streams.read(source, index), images[index])


def test_many_rows_are_asked_for_at_once(rows):
    class Many(Elements):
        def __getitems__(self, rows):
            return [self[row] for row in rows]

        def __getitem__(self, row):
            assert type(row) is int
            return super().__getitem__(row)

    equal(streams.Rows(Many(rows))[3:5], jax.tree.map(lambda x: x[3:5], rows))


def test_numbers_of_64_bits_are_read_as_a_device_has_them():
    assert streams.Rows([1, 2, 3]).dtype == np.int32
    assert streams.Rows(np.ones((3, 2))).dtype == np.float32


def test_a_window_is_as_long_as_memory_allows(monkeypatch):
    train = streams.stream(streams.Rows(np.zeros((9, 10), np.uint8)), first=4)
    assert train.first.shape == (4, 10)
    assert streams.window(train, 2) == streams.MOST_STEPS
    monkeypatch.setattr(streams, "WINDOW_BYTES", 100)
    assert streams.window(train, 3) == 3
    assert streams.window(train, 30) == 1


# What is refused


def test_sources_that_cannot_be_are_refused_in_one_line():
    bad = np.zeros(3), np.zeros(3), np.zeros(4)
    mixed = np.zeros(3, np.uint8), np.zeros(3, np.int8)
    endless = grain.MapDataset.source([1, 2]).repeat()
    for source, words in (
        ((i for i in range(3)), "must have a length and elements by number; got gener"),
        (grain.MapDataset.source([1]).to_iter_dataset(), "before .to_iter_dataset"),
        ([], "must have from 1 to 2147483647 elements; got 0"),
        (endless, r"give it before .repeat\(\)"),
        (bad, r"element 2 is float32 \[4\] and the first float32 \[3\]"),
        (mixed, r"element 1 is int8 \[3\] and the first uint8 \[3\]"),
        (({"x": 1}, {"x": 1, "y": 2}), "element 1 is int32"),
        ((None, None), "elements without arrays"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            streams.Rows(source)
        assert "\n" not in str(caught.value)


def test_an_element_that_differs_later_is_named_while_it_is_read():
    elements = [np.zeros(3)] * 1000
    elements[17] = np.zeros(2)
    train = streams.stream(streams.Rows(elements, name="mine"))
    windows = train.reader.windows(np.arange(20).reshape(1, 5, 4), 2)
    with pytest.raises(ValueError, match=r"mine: element 17 is float32 \[2\]"):
        list(windows)


def test_lengths_that_differ_and_numbers_below_1_are_refused():
    with pytest.raises(ValueError, match="as many rows each"):
        streams.stream((np.zeros(3), np.zeros(4)))
    with pytest.raises(ValueError, match="workers must be"):
        streams.stream(np.zeros(3), workers=-1)


def test_without_grain_it_is_said_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "grain":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install grain"):
        streams.stream(np.zeros(3))


def test_what_streams_is_not_trained_on_as_arrays():
    weights = {"w": jnp.zeros((2, 2))}
    search = searches.fixed(optax.sgd(0.1))
    with pytest.raises(ValueError, match="data that stream are no arrays"):
        training.run(
            search,
            lambda params, model_state, batch, key: (jnp.sum(params["w"]), model_state),
            jax.random.key(0),
            Ticket(weights, masks.full(weights)),
            streams.stream(np.zeros((4, 2))),
            rounds=1,
            epochs=1,
            batch_size=2,
        )


# Experiments


@pytest.mark.parametrize(
    ("memory", "stream", "search"),
    [
        ("digits", "digits", {"methods": ("imp", "snip"), "rounds": 2}),
        (
            "test_streams:arrays",
            "test_streams:sources",
            {"methods": ("snip",), "augment": True},
        ),
    ],
)
def test_a_study_of_data_that_stream_has_the_numbers_of_one_in_memory(
    memory, stream, search, toy_study, tmp_path, monkeypatch
):
    del toy_study
    search = {"controls": (), **search}
    monkeypatch.setattr(streams, "MOST_STEPS", 6)  # of the 20 of an epoch
    whole = studies.run("ticket_search", tmp_path / "memory", **search, dataset=memory)
    ours = studies.run(
        "ticket_search", tmp_path / "stream", **search, dataset=stream, stream=True
    )
    studies.assert_same(ours, whole)


def test_a_study_that_is_killed_within_an_epoch_goes_on_at_the_same_row(
    toy_study, tmp_path
):
    """By SIGKILL, while a thread reads: to the bits of a run in memory."""
    flags = {"methods": ("imp",), "controls": (), "rounds": 2, "eval_every": 7}
    flags |= {"save_seconds": 0.0}  # an epoch has 20 steps, a round 40
    memory = studies.run("ticket_search", tmp_path / "memory", **flags)
    given = ["--methods=imp", "--controls=", "--rounds=2", "--eval_every=7"]
    given += ["--save_seconds=0", "--stream", *studies.FLAGS]
    # The first two that are read are none of training; so it is in the third stretch,
    # whose steps are 14 to 20, of the second round.
    killed = studies.started("ticket_search", "read:58", tmp_path / "cut", *given)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    work = tmp_path / "cut" / "work" / "imp-search-0"
    assert not (work / "outcome.npz").exists()
    names = {path.name for path in (work / "checkpoint").iterdir()}
    kept = names & {"1", "2"}  # stretches: of the second it may be half written
    assert "1" in kept
    with toy_study.context() as patch:
        taken = studies.stretches_taken(patch)
        ours = studies.run("ticket_search", tmp_path / "cut", stream=True, **flags)
    assert len(taken) == 6 - len(kept)
    studies.assert_same(ours, memory)
    studies.assert_same_tickets(tmp_path / "cut", tmp_path / "memory")


def arrays():
    """The digits as a data set of one's own."""
    return [digits.arrays(split) for split in ("train", "test")]


def sources():
    """The same, of images in no array."""
    train, test = arrays()
    return (grain.MapDataset.source([*train[0]]), train[1]), ([*test[0]], test[1])
