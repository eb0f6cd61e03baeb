"""Signals: a run saves first, says how to go on, and ends with the signal's code."""

import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import studies

from experiments import report
from experiments.study import own, signals

pytestmark = pytest.mark.usefixtures("toy_study")
FLAGS = ("--methods=imp", "--controls=", "--rounds=3", *studies.FLAGS)
NEVER = "--save_seconds=1e9"  # no checkpoint but that of the signal
LINE = "stopped; the same command goes on from here"


@pytest.fixture(scope="module")
def whole(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    studies.run("ticket_search", folder, methods=("imp",), controls=(), rounds=3)
    return pd.read_csv(folder / "results.csv")


def command(patch, folder, *more):
    """Runs a command line in this process; its exit code."""
    try:
        given = (*FLAGS, f"--output_dir={folder}", NEVER, *more)
        studies.shell(patch, "ticket_search", *given)
    except SystemExit as stopped:
        return stopped.code
    return 0


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)]
)
@pytest.mark.parametrize("stretch", [1, 2, 4])
def test_the_state_is_saved_first_and_nothing_is_done_twice(
    whole, tmp_path, monkeypatch, capsys, name, code, stretch
):
    """Stretches: two of the dense network, two of each further round."""
    with monkeypatch.context() as patch:
        studies.faulty(patch, f"{name}:{stretch}")
        assert command(patch, tmp_path) == code
    assert capsys.readouterr().err.splitlines()[-1] == LINE
    with monkeypatch.context() as patch:
        taken = studies.stretches_taken(patch)
        assert command(patch, tmp_path) == 0
    assert len(taken) == 6 - stretch
    studies.assert_same(pd.read_csv(tmp_path / "results.csv"), whole)


@pytest.mark.parametrize(
    ("module", "name"),
    [(own, "dataset"), (own, "check"), (report, "write")],
    ids=["data", "programs", "report"],
)
def test_at_any_other_moment_the_run_ends_at_once(
    whole, tmp_path, monkeypatch, capsys, module, name
):
    before = signal.getsignal(signal.SIGTERM)

    def comes(*_, **__):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, comes)
        assert command(patch, tmp_path) == 143
    assert capsys.readouterr().err.splitlines()[-1] == LINE
    assert signal.getsignal(signal.SIGTERM) is before
    assert command(monkeypatch, tmp_path) == 0
    studies.assert_same(pd.read_csv(tmp_path / "results.csv"), whole)


def test_what_the_caller_ignores_is_ignored():
    """As `nohup` does, and a shell that starts a program in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled() as came:
            signal.raise_signal(signal.SIGHUP)
            assert not came
            with pytest.raises(signals.Signalled):
                signal.raise_signal(signal.SIGTERM)
            assert came == [signal.SIGTERM]
            assert signals.asked()
        assert not signals.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def spoilt_by_a_signal():
    """What a library may do: another error takes the place of the signal's."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException as error:
        raise RuntimeError("a callback has failed") from error
    raise RuntimeError("the disk is full")


def test_what_a_library_makes_of_it_is_a_signal_all_the_same():
    with pytest.raises(signals.Signalled), signals.handled():
        spoilt_by_a_signal()


def test_an_error_of_what_is_saved_first_is_an_error():
    with pytest.raises(RuntimeError, match="disk"), signals.handled():  # noqa: SIM117
        with signals.deferred():
            spoilt_by_a_signal()


TWICE = """
import signal, sys, time
from experiments.study import signals
with signals.handled(), signals.deferred():
    print("begun", flush=True)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        {busy}
"""
BUSY = ["time.sleep(0.01)", "sorted(range(30_000_000))"]  # the second holds the GIL


@pytest.mark.parametrize("busy", BUSY, ids=["idle", "inside a library"])
def test_a_second_signal_ends_the_run_at_once(busy):
    program = [sys.executable, "-c", TWICE.format(busy=busy)]
    with subprocess.Popen(
        program, cwd=studies.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == b"stopping; once more to stop at once\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        assert time.monotonic() - begun < 15
        assert said == b"stopped at once; what was saved is kept\n"
