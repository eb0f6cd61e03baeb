"""The folder of a run: one owner, room, and what is refused before any work."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import types

import pytest
import studies

from experiments.study import lock, outputs

HOLD = """
import sys
from pathlib import Path
from experiments.study import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which has the folder."""
    program = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        program, cwd=studies.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_in_one_line_that_names_the_first(holder, tmp_path):
    says = rf"in use by process {holder.pid} on {os.uname().nodename}, since 20"
    with pytest.raises(ValueError, match=says):
        outputs.Folder(tmp_path).__enter__()


def test_a_lock_dies_with_its_process(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "lock").exists()
    says = f"in use by process {os.getpid()}"
    with outputs.Folder(tmp_path), pytest.raises(ValueError, match=says):
        outputs.Folder(tmp_path).__enter__()
    assert not (tmp_path / "lock").exists()
    with outputs.Folder(tmp_path):
        pass


def test_a_lock_whose_owner_cannot_be_read_is_a_lock(holder, tmp_path):
    (tmp_path / "lock").write_text("[]")
    with pytest.raises(ValueError, match="in use by another process: wait for it"):
        outputs.Folder(tmp_path).__enter__()


def test_where_there_are_no_locks_a_note_says_so(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    system = types.SimpleNamespace(**{**vars(fcntl), "flock": none})
    monkeypatch.setattr(lock, "fcntl", system)
    with outputs.Folder(tmp_path):
        pass
    said = capsys.readouterr().err
    assert said.startswith(f"note: nothing keeps other processes from {tmp_path}")


def test_a_folder_that_is_a_file_or_cannot_be_written_to_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FileExistsError):
        outputs.Folder(file).__enter__()
    with pytest.raises(NotADirectoryError):
        outputs.Folder(file / "below").__enter__()


def test_a_folder_that_is_read_only_is_refused(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o500)
    root = os.geteuid() == 0  # who may write anywhere
    if root:
        os.seteuid(65534)
    try:
        for path in (there, there / "below"):
            with pytest.raises(PermissionError) as refused:
                outputs.Folder(path).__enter__()
            told = f"{path} cannot be written to (Permission denied): give another --"
            assert str(refused.value).startswith(told)
    finally:
        if root:
            os.seteuid(0)
    assert not [*there.iterdir()]


def test_room_is_asked_for_before_a_run_begins(tmp_path):
    with outputs.Folder(tmp_path) as folder:
        folder.check_room(1000)
        with pytest.raises(OSError, match="needs at least 1,000,000,000,000 MB: make"):
            folder.check_room(10**18)


def test_a_run_that_goes_on_is_not_asked_for_room_again(tmp_path):
    about = {"config": {}, "layout": {"lanes": 1, "width": 1}, "environment": {}}
    about |= {"identity": "", "accepted": [], "parts": []}
    (tmp_path / "config.json").write_text(json.dumps(about))
    with outputs.Folder(tmp_path) as folder:
        folder.check_room(10**18)
