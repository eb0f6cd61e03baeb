"""Runs that are killed end as those that were not; what counts that can tell."""

import collections
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import studies

from experiments import faults
from experiments.study import settings

HERE = Path(__file__).parent
COUNTER = collections.Counter
# Networks of the tests, which compile in a hurry; children are forks of this program.
PROGRAM = """
import short_hash
import studies
from experiments import faults
from experiments.study import command
from jaxticket import models, order

short_hash.hurry()
models.create, order.ROUNDS = studies.narrow, 2
command.main(faults.experiment, faults.Config)
"""


def test_what_is_lost_doubled_and_changed_is_counted():
    whole = {"rows": COUNTER({"a": 1, "b": 1}), "tickets": {"t": b"1", "u": b"2"}}
    nothing = {"lost": 0, "doubled": 0, "changed": 0}
    assert faults.differences(whole, whole) == nothing
    for ours, expected in (
        ({"rows": COUNTER({"a": 1})}, {"lost": 1}),
        ({"rows": COUNTER({"a": 1, "b": 2})}, {"doubled": 1}),
        ({"rows": COUNTER({"a": 1, "b": 1, "c": 1})}, {"doubled": 1}),
        ({"rows": COUNTER({"a": 1, "c": 1})}, {"changed": 1}),
        ({"tickets": {"t": b"1"}}, {"lost": 1}),
        ({"tickets": {"t": b"1", "u": b"3"}}, {"changed": 1}),
        ({"others": COUNTER({".x.tmp": 1})}, {"doubled": 1}),
    ):
        assert faults.differences(whole | ours, whole) == nothing | expected


def test_every_experiment_that_trains_is_killed():
    files = sorted((studies.ROOT / "experiments").glob("[!_]*.py"))
    modules = [importlib.import_module(f"experiments.{file.stem}") for file in files]
    settled = {
        module.__name__.removeprefix("experiments.")
        for module in modules
        if issubclass(module.Config, settings.Settings)
    }
    assert settled == {*faults.DOORS} - {faults.STREAMING}


def test_twenty_five_kills_leave_no_trace(tmp_path):
    output = tmp_path / "faults.json"
    streams = importlib.util.find_spec("grain") is not None
    search = faults.STREAMING if streams else "ticket_search"
    doors = f"--doors={search},layers,early_birds"
    flags = ("--kills=25", doors, f"--output={output}")
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM, *flags],
        cwd=studies.ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(studies.ROOT), str(HERE)]),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    found = json.loads(output.read_text())
    assert found["struck"] >= 25
    assert len(found["faults"]) >= 5  # kinds
    wrong = {name: found[name] for name in ("lost", "doubled", "changed")}
    assert not any(wrong.values())
