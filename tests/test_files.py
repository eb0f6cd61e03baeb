"""Files: what is written comes back, and what is damaged is noticed."""

import concurrent.futures
import io
import json
import os
import pathlib
import pickle
import zipfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from ml_dtypes import bfloat16

from jaxticket import Ticket, files, imp, masks


class Pair(NamedTuple):
    first: object
    second: object


class Old(NamedTuple):
    weights: object
    mask: object


TREES = {
    "dict": {"b": np.arange(3), "a": {"w": np.ones((2, 3), np.float32)}},
    "list": [np.zeros(2), [np.ones(1, np.int8)], ()],
    "tuple": Pair(np.float64([1, np.nan, -0.0, np.inf]), Pair(np.arange(2), None)),
    "leaf": np.arange(4.0),
    "None": {"w": np.ones((2, 2)), "b": None},
    "bool": {"m": np.arange(21).reshape(3, 7) % 3 == 0, "none": np.zeros((0, 3), bool)},
    "bfloat16": [np.linspace(0, 1, 6).astype(bfloat16).reshape(2, 3)],
    "scalars": [np.float32(2), np.bool_(True), bfloat16(1.5), np.int32(-7)],
    "others": [np.float16([1.5]), np.zeros((0, 2)), np.uint8([255]), 1j * np.eye(2)],
    "equal": [np.ones(3), np.ones(3), np.ones((3, 1))],
    "transposed": [np.arange(6).reshape(2, 3).astype(bfloat16).T],
    "jax": {"w": jnp.arange(3.0), "m": jnp.array([True, False])},
    "keys": {"key": jax.random.key(3), "keys": jax.random.split(jax.random.key(0), 5)},
    "kinds of keys": [jax.random.key(3), jax.random.key(3, impl="rbg")],
}  # fmt: skip


def identical(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for ours, theirs in zip(*map(jax.tree.leaves, (tree, other)), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = map(jax.random.key_data, (ours, theirs))
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.mark.parametrize("name", TREES)
def test_trees_come_back(tmp_path, name):
    tree, path = TREES[name], tmp_path / "new" / "folder" / "file.npz"
    files.save(path, tree, name=name, numbers=[1, 2.5, None])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    for like in (tree, shapes):
        found, about = files.load(path, like)
        identical(found, tree)
        assert about == {"name": name, "numbers": [1, 2.5, None]}
    assert os.listdir(path.parent) == ["file.npz"]


def test_numbers_of_another_byte_order_keep_their_values(tmp_path):
    files.save(tmp_path / "a", [np.arange(3, dtype=">f4")])
    (found,), _ = files.load(tmp_path / "a", [np.zeros(3, np.float32)])
    np.testing.assert_array_equal(found, [0, 1, 2])


def test_equal_arrays_are_stored_once_and_masks_are_packed(tmp_path):
    rng = np.random.default_rng(0)
    array, mask = rng.bytes(4000), rng.random(32_000) < 0.5
    array = np.frombuffer(array, np.uint8)
    files.save(tmp_path / "a", [array] * 5 + [mask] * 5)
    assert (tmp_path / "a").stat().st_size < 10_000


STATES = {
    "none": None,
    "empty": {},
    "statistics": {"norm": {"mean": jnp.arange(3.0), "var": jnp.ones(3)}},
    "leaf": jnp.int32(7),
    "streams": {"dropout": jax.random.key(2), "count": jnp.uint32(9)},
}


def with_nan(ticket):
    """The weights of a ticket, with no number for what it prunes."""
    return jax.tree.map(
        lambda w, m: w if m is None else jnp.where(m, w, jnp.nan),
        ticket.weights,
        ticket.mask,
    )


@pytest.mark.parametrize("lost", [0, 7])
@pytest.mark.parametrize("state", STATES)
def test_tickets_come_back_without_what_they_pruned(tmp_path, lost, state):
    ticket = toy.ticket(lost=lost)._replace(model_state=STATES[state])
    files.save_ticket(tmp_path / "t.npz", ticket, round=3)
    kept = ticket._replace(weights=with_nan(ticket))
    dense = toy.ticket()._replace(model_state=STATES[state])
    for like in (ticket, dense, jax.eval_shape(lambda: dense)):
        found, about = files.load_ticket(tmp_path / "t.npz", like)
        assert about == {"round": 3}
        identical(found, kept)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))


def test_a_file_without_a_model_state_is_still_read(tmp_path):
    """As earlier versions wrote all of them."""
    ticket = toy.ticket()
    files.save(tmp_path / "t", Old(ticket.weights, ticket.mask))
    like = ticket._replace(model_state=STATES["statistics"])
    identical(files.load_ticket(tmp_path / "t", like)[0], ticket)


@pytest.mark.parametrize(
    "state", [None, {}, {"norm": {"mean": jnp.ones(3)}}, {"a": jnp.ones(1)}]
)
def test_a_model_state_that_does_not_fit_is_refused(tmp_path, state):
    ticket = toy.ticket()._replace(model_state=STATES["statistics"])
    files.save_ticket(tmp_path / "t", ticket)
    with pytest.raises(ValueError, match="does not fit: expected"):
        files.load_ticket(tmp_path / "t", ticket._replace(model_state=state))


@pytest.mark.parametrize(
    "weights",
    [
        jnp.ones((2, 2)),
        [jnp.ones((2, 2)), jnp.ones(2)],
        Pair(jnp.eye(2), None),
        (jnp.ones(2), {"a": (jnp.eye(2), jnp.ones((2, 2)))}),
        {"w/": jnp.ones((2, 3)), "": jnp.eye(2)},
    ],
)
def test_tickets_of_any_structure(tmp_path, weights):
    ticket = Ticket(weights, masks.full(weights))
    files.save_ticket(tmp_path / "t", ticket)
    identical(files.load_ticket(tmp_path / "t", ticket)[0], ticket)


def test_the_state_of_a_search_comes_back(tmp_path):
    """Keys, counters and moments: what a run that goes on needs."""
    search = imp(optax.adam(0.1), rewind_step=1)
    state = search.init(jax.random.key(1), toy.ticket(lost=3))
    state = search.advance(search.update(toy.ticket().weights, state, 0))
    files.save(tmp_path / "state", state)
    identical(files.load(tmp_path / "state", jax.eval_shape(lambda: state))[0], state)


def test_a_ticket_that_does_not_fit_itself_is_not_written(tmp_path):
    ticket = toy.ticket()
    ticket.mask["head"]["kernel"] = jnp.ones((2, 2), bool)
    with pytest.raises(ValueError, match="mask at 'head/kernel' has shape"):
        files.save_ticket(tmp_path / "t", ticket)
    assert not list(tmp_path.iterdir())


TREE = {"a": np.arange(6, dtype=np.float32), "m": np.array([True, False]), "n": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.zeros(5, "f4")}, r"expected a float32\[5\], found a float32\[6\]"),
        ({"a": np.zeros(6, np.int32)}, r"expected a int32\[6\], found a float32\[6\]"),
        ({"m": np.zeros(2, np.uint8)}, r"expected m uint8\[2\], found m bool\[2\]"),
        ({"m": None}, "expected 1 arrays, found 2"),
        ({"a": None}, r"expected m bool\[2\], found a float32\[6\]"),
        ({"n": np.zeros(3)}, "expected 3 arrays, found 2"),
        ({"b": np.zeros(3)}, r"expected b float64\[3\], found m bool\[2\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, change, message):
    path = tmp_path / "file"
    files.save(path, TREE)
    with pytest.raises(ValueError, match=f"{path} does not fit: {message}"):
        files.load(path, TREE | change)


def test_a_leaf_of_another_name_does_not_fit(tmp_path):
    files.save(tmp_path / "file", {"a": np.zeros(2), "b": np.zeros(2)})
    with pytest.raises(ValueError, match=r"expected c float64\[2\], found b float64"):
        files.load(tmp_path / "file", {"a": np.zeros(2), "c": np.zeros(2)})


def test_a_ticket_for_other_parameters_is_named(tmp_path):
    ticket = toy.ticket()
    files.save_ticket(tmp_path / "t", ticket)
    other = {"head": {"bias": jnp.ones(4), "kernel": jnp.ones((6, 5))}}
    other = ticket._replace(weights=ticket.weights | other)
    message = r"expected weights/head/kernel float32\[6, 5\], found .* float32\[6, 4\]"
    with pytest.raises(ValueError, match=message):
        files.load_ticket(tmp_path / "t", other)


@pytest.mark.parametrize("leaf", [np.array(["text"]), np.array([{}]), object()])
def test_only_numbers_are_stored(tmp_path, leaf):
    with pytest.raises(TypeError, match="deep/leaf is .*: only arrays of numbers"):
        files.save(tmp_path / "file", {"deep": {"leaf": leaf}})
    assert not list(tmp_path.iterdir())


ABOUT = {
    "float": (np.float32(0.5), 0.5),
    "integer": (np.int64(3), 3),
    "truth": (np.bool_(True), True),
    "bfloat16": (bfloat16(1.5), 1.5),
    "array": (np.arange(3), [0, 1, 2]),
    "jax": (jnp.float32(0.25), 0.25),
    "jax array": (jnp.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
    "nested": ({"a": (np.float64(0.1), [np.uint8(7), "x"])}, {"a": [0.1, [7, "x"]]}),
}  # fmt: skip


@pytest.mark.parametrize("name", ABOUT)
def test_numbers_of_arrays_are_kept_as_facts(tmp_path, name):
    given, expected = ABOUT[name]
    files.save(tmp_path / "a", TREE, fact=given)
    _, found = files.load(tmp_path / "a", TREE)
    assert found == {"fact": expected}
    assert json.dumps(found) == json.dumps({"fact": expected})


@pytest.mark.parametrize(
    ("fact", "error", "message"),
    [
        (object(), TypeError, "fact is a object: a fact about a file is a JSON value"),
        ({"a": [1, {2}]}, TypeError, r"fact\['a'\]\[1\] is a set: a fact"),
        (pathlib.Path("a"), TypeError, "fact is a PosixPath"),
        (b"bytes", TypeError, "fact is a bytes"),
        ({1: 2}, TypeError, "fact is a dict: .* dicts with words as keys"),
        (1j, TypeError, "fact is a complex"),
        (np.complex64(1j), TypeError, "fact is a complex"),
        (np.datetime64(7, "D"), TypeError, "fact is a date"),
        (jax.random.key(0), TypeError, "fact is a PRNGKeyArray"),
        (float("nan"), ValueError, "fact is nan: only finite numbers"),
        (np.float32("inf"), ValueError, "fact is inf: only finite numbers"),
        ([0.5, -np.inf], ValueError, r"fact\[1\] is -inf: only finite"),
    ],
)
def test_what_is_no_fact_is_named_and_not_written(tmp_path, fact, error, message):
    for save, tree in ((files.save, TREE), (files.save_ticket, toy.ticket())):
        with pytest.raises(error, match=message):
            save(tmp_path / "a", tree, good=1, fact=fact)
    assert not list(tmp_path.iterdir())


def test_a_ticket_is_written_in_one_of_two_ways(tmp_path):
    with pytest.raises(ValueError, match="pruned must be one of drop, keep"):
        files.save_ticket(tmp_path / "t", toy.ticket(), pruned="zero")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.load(tmp_path / "none", TREE)


# Damage.


def refused(path, content):
    """Whether damaged `content` is refused; else it must be what was saved."""
    path.write_bytes(content)
    try:
        found, about = files.load(path, TREE)
    except ValueError:
        return True
    identical(found, TREE)
    assert about == {"note": "x"}
    return False


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "file.npz"
    files.save(path, TREE, note="x")
    return path, path.read_bytes()


@pytest.mark.parametrize("flip", [0x01, 0x10, 0xFF])
def test_every_flipped_byte_is_noticed_or_harmless(saved, flip):
    path, good = saved
    noticed = 0
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= flip
        noticed += refused(path, bytes(bad))
    assert noticed > len(good) / 2  # the rest are dates and the like


def test_a_truncated_file_is_refused(saved):
    path, good = saved
    for length in range(0, len(good), 7):
        assert refused(path, good[:length])
    with pytest.raises(ValueError, match=f"{path} is damaged or is no jaxticket file"):
        files.load(path, TREE)


def rewritten(good, change):
    """The file with `change(name, array)` in place of its arrays, and valid sums."""
    out = io.BytesIO()
    with np.load(io.BytesIO(good)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.files:
            member = io.BytesIO()
            np.save(member, change(name, old[name]), allow_pickle=True)
            new.writestr(f"{name}.npy", member.getvalue())
    return out.getvalue()


def test_an_array_with_another_content_is_refused(saved):
    path, good = saved
    same = rewritten(good, lambda name, array: array)
    assert not refused(path, same)
    for other in (lambda x: x + 1, lambda x: x[:-1], lambda x: x[::-1]):
        bad = rewritten(good, lambda name, x, f=other: x if "index" in name else f(x))
        assert refused(path, bad)


@pytest.mark.parametrize("index", [b"[]", b"{}", b"7", b"{", b'{"leaves": [[1]]}', b""])
def test_an_index_that_makes_no_sense_is_refused(saved, index):
    path, good = saved
    index = np.frombuffer(index, np.uint8)
    bad = rewritten(good, lambda name, x: index if "index" in name else x)
    assert refused(path, bad)


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("where", ["index", "array", "whole", "npy"])
def test_pickles_are_refused_and_never_executed(saved, tmp_path, where):
    path, good = saved
    trap = np.array([Trap(tmp_path / "sprung")], object)

    def change(name, array):
        return trap if ("index" in name) == (where == "index") else array

    if where == "whole":
        bad = pickle.dumps(trap)
    elif where == "npy":
        member = io.BytesIO()
        np.save(member, trap, allow_pickle=True)
        bad = member.getvalue()
    else:
        bad = rewritten(good, change)
    assert refused(path, bad)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "sprung").exists()  # the trap works


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_good_file(saved, monkeypatch, broken):
    path, good = saved

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="no space left"):
        files.save(path, [np.ones(1000)])
    assert path.read_bytes() == good
    assert os.listdir(path.parent) == [path.name]


def test_of_several_writers_of_a_file_one_is_the_last(saved):
    """None finds what another has begun, threads of one process neither."""
    path, _ = saved
    notes = [f"{i}" for i in range(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda note: files.save(path, TREE, note=note), notes))
    assert files.load(path, TREE)[1]["note"] in notes
    assert os.listdir(path.parent) == [path.name]
