"""Checkpoints: exact round trips, and a way back from damage."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxticket.engine import checkpoint

CONFIG = {"seeds": (1, 2), "rate": 0.1}


class State(NamedTuple):
    weights: dict
    key: jax.Array
    mask: list
    step: jax.Array


def state(seed):
    # As large as it takes for orbax not to notice a flipped bit by itself.
    weights = jax.random.normal(jax.random.key(seed), (20_000,))
    return State(
        {"w": weights, "half": weights.astype(jnp.bfloat16), "none": None},
        jax.random.key(seed),
        [weights > 0, jax.random.split(jax.random.key(seed), 3)],
        jnp.int32(seed),
    )


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert [x.dtype for x in jax.tree.leaves(found)] == [
        x.dtype for x in jax.tree.leaves(expected)
    ]
    assert checkpoint.digest(found) == checkpoint.digest(expected)


@pytest.fixture
def saved(tmp_path):
    """A folder in which steps 1, 2 and 3 were saved."""
    path = tmp_path / "run"
    with checkpoint.Folder(path) as folder:
        for step in (1, 2, 3):
            folder.save(step, state(step), CONFIG)
    return path


def restored(path, config=CONFIG):
    with checkpoint.Folder(path) as folder:
        return folder.restore(lambda step: state(0), [config])


def flip_a_bit(path, step, place=0.5):
    """Damages the values of a checkpoint: a place from 0 to 1 in its largest file."""
    state = (path / str(step) / "state").rglob("*")
    file = max(
        (file for file in state if file.is_file()), key=lambda f: f.stat().st_size
    )
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 4
    file.write_bytes(content)


def test_the_newest_two_are_kept_and_come_back(saved):
    assert {path.name for path in saved.iterdir()} == {"2", "3"}
    step, found = restored(saved)
    assert step == 3
    same(found, state(3))


def test_no_folder_is_made_before_the_first_save(tmp_path):
    assert restored(tmp_path / "run") is None
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", [0.2, 0.4, 0.6, 0.8])
def test_after_damage_the_one_before_is_taken(saved, place):
    flip_a_bit(saved, 3, place)
    with checkpoint.Folder(saved) as folder:
        step, found = folder.restore(lambda step: state(0), [CONFIG])
        assert step == 2
        same(found, state(2))
        folder.save(3, state(7), CONFIG)  # its number is free again
    step, found = restored(saved)
    assert step == 3
    same(found, state(7))


@pytest.mark.parametrize("emptied", [False, True])
def test_after_damage_to_all_a_run_starts_again(saved, emptied):
    for step in (2, 3):
        flip_a_bit(saved, step)
        files = (saved / str(step)).rglob("*") if emptied else ()
        for file in filter(Path.is_file, files):
            file.write_bytes(b"")
    with checkpoint.Folder(saved) as folder:
        assert folder.restore(lambda step: state(0), [CONFIG]) is None
        folder.save(1, state(1), CONFIG)
    step, found = restored(saved)
    assert step == 1
    same(found, state(1))


def test_another_configuration_is_refused(saved):
    with pytest.raises(ValueError, match=r"by another run .*0\.1.*; this .*0\.2"):
        restored(saved, CONFIG | {"rate": 0.2})
    assert restored(saved)[0] == 3  # and does no harm


@pytest.mark.parametrize("step", [2, 3])
def test_steps_must_increase(saved, step):
    with (
        checkpoint.Folder(saved) as folder,
        pytest.raises(ValueError, match=f"step {step} must exceed 3"),
    ):
        folder.save(step, state(4), CONFIG)
    assert restored(saved)[0] == 3


def test_clear_removes_all(saved):
    with checkpoint.Folder(saved) as folder:
        folder.clear()
    assert restored(saved) is None


@pytest.mark.parametrize(
    "other",
    [
        {"w": jnp.array([1.0, -0.0])},
        {"w": jnp.array([1, 0])},
        {"w": jnp.array([[1.0, 0.0]])},
        {"v": jnp.array([1.0, 0.0])},
        [jnp.array([1.0, 0.0])],
        {"w": jnp.array([1.0, 0.0]), "x": jnp.zeros(())},
    ],
)
def test_digests_differ_by_value_type_shape_and_place(other):
    tree = {"w": jnp.array([1.0, 0.0])}
    assert checkpoint.digest(tree) == checkpoint.digest({"w": np.float32([1, 0])})
    assert checkpoint.digest(tree) != checkpoint.digest(other)


def test_digests_of_keys_differ():
    one, other = (checkpoint.digest([jax.random.key(seed)]) for seed in (0, 1))
    assert one != other


def test_a_disk_without_room_is_refused_before_anything_is_written(saved, monkeypatch):
    usage = checkpoint.shutil.disk_usage(saved)
    monkeypatch.setattr(
        checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=100_000)
    )
    says = "a checkpoint takes 0.1 MB, and .* 0.1 MB left: the one before is kept; make"
    with checkpoint.Folder(saved) as folder, pytest.raises(OSError, match=says):
        folder.save(4, state(4), CONFIG)
    assert restored(saved)[0] == 3


def test_a_write_that_fails_is_one_error_and_leaves_nothing(saved, monkeypatch, capfd):
    """As where a quota ends: what orbax and its threads raise is one line."""
    with checkpoint.Folder(saved) as folder:
        folder.restore(lambda step: state(0), [CONFIG])
        half = saved / "4.orbax-checkpoint-tmp"

        def save(*_, **__):
            half.mkdir()
            raise ValueError("RESOURCE_EXHAUSTED: Error writing\n  in OCDBT database")

        monkeypatch.setattr(folder._manager, "save", save)
        with pytest.raises(OSError, match=r"\(the disk is full\): the one before is"):
            folder.save(4, state(4), CONFIG)
    assert not half.exists()
    assert restored(saved)[0] == 3
    assert "Traceback" not in capfd.readouterr().err
