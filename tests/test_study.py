"""How any study runs: again, elsewhere, after a kill, and what its audit catches."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import pandas as pd
import pytest
import studies
from jax.typing import ArrayLike

from experiments import report, ticket_search
from experiments.study import command, outputs, stages
from experiments.study.methods import Method
from jaxticket import audit, controls, searches
from jaxticket.base import OfWeights
from jaxticket.engine import layouts

pytestmark = pytest.mark.usefixtures("toy_study")
IMP = {"methods": ("imp",), "controls": ("shuffle",), "rounds": 3}
FLAGS = ("--methods=imp", "--controls=shuffle", "--rounds=3", *studies.FLAGS)


def run(folder, **changes):
    return studies.run("ticket_search", folder, **{**IMP, **changes})


@pytest.fixture(scope="module")
def whole(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def files_of(folder):
    """What a study has written that holds no clock."""
    tickets = {p.name: p.read_bytes() for p in folder.glob("tickets/*/*.npz")}
    return (folder / "metrics.jsonl").read_bytes(), tickets


def test_the_same_command_again_reads_what_is_done(whole):
    folder, rows = whole
    before = [(folder / name).read_bytes() for name in ("metrics.jsonl", "results.csv")]
    assert run(folder).equals(rows)
    after = [(folder / name).read_bytes() for name in ("metrics.jsonl", "results.csv")]
    assert after == before


def test_a_seed_does_not_depend_on_its_company(whole, tmp_path):
    """Among three seeds it is in another group, with another neighbour."""
    rows = run(tmp_path, seeds=3, first_seed=1)
    assert set(rows.seed) == {1, 2, 3}
    studies.assert_same(studies.select(rows, seed=1), studies.select(whole[1], seed=1))


def test_what_auto_decides_is_recorded_and_kept(whole, tmp_path, capsys, monkeypatch):
    rows = run(tmp_path, lanes="auto")
    assert "s a step of all searches" in capsys.readouterr().err
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["layout"] == {"lanes": 1, "width": 2}
    monkeypatch.setattr(layouts, "decide", lambda *_: pytest.fail("it tried again"))
    assert run(tmp_path, lanes="auto").equals(rows)
    studies.assert_same(rows, whole[1])


def test_another_configuration_is_refused_by_name(whole):
    with pytest.raises(ValueError, match=r"\(rounds: 3 there, 2 here\): it can be giv"):
        run(whole[0], rounds=2)
    with pytest.raises(ValueError, match=r"\(imp.density: 0.7 there, 0.5 here\)"):
        run(whole[0], hyper={"imp.density": 0.5})
    with pytest.raises(
        ValueError, match=r"\(methods: imp there, one_shot here\): it c"
    ):
        run(whole[0], methods=("one_shot",))


def test_a_run_goes_on_with_fewer_devices_to_the_same_bits(
    whole, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        studies.faulty(patch, "SIGINT:3")
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, controls=())
    monkeypatch.setattr(layouts.jax, "device_count", lambda: 1)
    rows = whole[1]
    studies.assert_same(run(tmp_path, controls=()), rows[rows.treatment != "shuffle"])


def test_a_run_that_is_killed_and_stopped_ends_with_the_same_bits(
    whole, tmp_path, monkeypatch, capsys
):
    """By SIGKILL in a round of its search, and by Ctrl-C while its controls train."""
    given = (*FLAGS, "--save_seconds=0")
    killed = studies.started("ticket_search", "SIGKILL:5", tmp_path, *given)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    search = tmp_path / "work" / "imp-search-0"
    assert list((search / "checkpoint").iterdir())
    assert not (search / "outcome.npz").exists()
    given = (*given, f"--output_dir={tmp_path}")
    with monkeypatch.context() as patch:
        studies.faulty(patch, "SIGINT:5")
        with pytest.raises(SystemExit) as stopped:
            studies.shell(patch, "ticket_search", *given)
    assert stopped.value.code == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "stopped; the same command goes on from here"
    assert (search / "outcome.npz").exists()
    assert not (tmp_path / "work" / "imp-training-1" / "outcome.npz").exists()
    studies.assert_same(run(tmp_path), whole[1])
    assert files_of(tmp_path) == files_of(whole[0])


def test_a_run_keeps_its_threads_on_fewer_cores(tmp_path):
    """XLA divides sums on CPU among its threads; it is told before it starts.

    A narrower network does not show it.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2 or shutil.which("taskset") is None:
        pytest.skip("needs two cores, and taskset")
    flags = "--batch_size=256 --methods=imp --controls= --rounds=1 --steps=20"
    program = [sys.executable, "-m", "experiments.ticket_search", *flags.split()]
    found = []
    for folder, own in (("two", cores), ("one", cores[:1])):
        there = tmp_path / folder
        there.mkdir()
        if found:
            config = (tmp_path / "two" / "config.json").read_bytes()
            (there / "config.json").write_bytes(config)
        subprocess.run(
            ["taskset", "-c", ",".join(map(str, own))]
            + [*program, "--eval_every=10", "--seeds=1", f"--output_dir={there}"],
            cwd=studies.ROOT, check=True, capture_output=True,
            env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        )  # fmt: skip
        found.append((there / "metrics.jsonl").read_bytes())
    assert found[0] == found[1]


def diverging(patch, folder, fault, *more):
    """The exit code of a run in which seeds diverge."""
    given = (*FLAGS, f"--output_dir={folder}", *more)
    with patch.context() as patch:
        studies.faulty(patch, fault)
        with pytest.raises(SystemExit) as stopped:
            studies.shell(patch, "ticket_search", *given)
    return stopped.value.code


def test_a_seed_that_diverges_is_left_out_and_the_others_do_not_notice(
    whole, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(report, "read", studies.READ)
    monkeypatch.setattr(report, "write", studies.WRITE)
    for _ in range(2):  # the second time from what the first has left
        code = diverging(monkeypatch, tmp_path, "nan:1")
        assert code == command.DIVERGED
        said = capsys.readouterr()
        assert said.out.splitlines()[-1].startswith("1 trainings or searches have div")
        where = "dense, dense of seed 1 has diverged in round 0 before step 20"
        assert f"note: {where}: it is left out" in said.err
        there = pd.read_csv(tmp_path / "divergence.csv")
        assert there[["seed", "round", "step"]].to_numpy().tolist() == [[1, 0, 20]]
        rows = pd.read_csv(tmp_path / "results.csv")
        theirs = pd.read_csv(whole[0] / "results.csv")
        studies.assert_same(rows, theirs[theirs.seed == 0])
        logged = (tmp_path / "metrics.jsonl").read_text()
        theirs = (whole[0] / "metrics.jsonl").read_text().splitlines(keepends=True)
        assert logged == "".join(line for line in theirs if '"seed": 0' in line)
    tickets = sorted(p.name for p in tmp_path.glob("tickets/imp/*"))
    assert tickets == ["seed-0-prunings-1.npz", "seed-0-prunings-2.npz"]
    page = (tmp_path / "report.html").read_text()
    assert where in page


def test_where_every_seed_diverges_the_run_says_so(tmp_path, monkeypatch, capsys):
    assert diverging(monkeypatch, tmp_path, "nan") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: every seed has diverged")
    assert "lower the learning rate" in last


def test_a_seed_that_diverges_stops_the_run_where_that_is_asked_for(
    tmp_path, monkeypatch, capsys
):
    code = diverging(monkeypatch, tmp_path, "nan:1", "--on_divergence=stop")
    assert code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: dense, dense of seed 1 has diverged in round 0")
    assert "lower the learning rate" in last


def test_seeds_and_rounds_are_added_and_only_they_are_run(whole, tmp_path, monkeypatch):
    first = run(tmp_path, seeds=1, rounds=2)
    with monkeypatch.context() as patch:
        grown = studies.stretches_taken(patch)
        rows = run(tmp_path)
    assert run(tmp_path).equals(rows)
    together = pd.concat([rows, first]).drop_duplicates()
    assert len(together) == len(rows)  # the old ones are there, their clocks too
    order = ["method", "treatment", "seed", "prunings"]
    ours, theirs = (x.sort_values(order) for x in (rows, whole[1]))
    studies.assert_same(ours, theirs)
    assert files_of(tmp_path)[1].keys() == files_of(whole[0])[1].keys()
    # Of the first seed a round and a control, of the other five trainings; by epochs.
    assert len(grown) == 2 * (2 + 5)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["parts"] == [
        {"seeds": [0, 1], "rounds": [2, 3]},
        {"seeds": [1, 2], "rounds": [3]},
    ]


MORE = {
    "methods": ("imp_random", "imp", "random"),
    "hyper": {"imp.density": 0.6, "random.density": 0.3},
}


@pytest.mark.parametrize(
    ("begun_with", "new"),
    [
        # Tickets and controls of two methods; of the other seed dense and all three.
        (("imp",), 2 * (2 * 2 + 1 + 3 * 2)),
        # The dense network, which no search has trained, is not trained by one again:
        # two searches have a round more, of both seeds.
        (("random",), 2 * (2 * 3 + 1 + 2 * 3 + 2)),
    ],
)
def test_methods_are_added_and_only_they_are_run(
    tmp_path, monkeypatch, begun_with, new
):
    alone, grown = tmp_path / "alone", tmp_path / "grown"
    first = run(grown, rounds=2, **{**MORE, "methods": begun_with, "seeds": 1})
    with monkeypatch.context() as patch:
        taken = studies.stretches_taken(patch)
        rows = run(grown, rounds=2, **MORE)
    order = ["method", "treatment", "seed", "prunings"]
    ours, theirs = (x.sort_values(order) for x in (rows, run(alone, rounds=2, **MORE)))
    studies.assert_same(ours, theirs)
    studies.assert_same_tickets(grown, alone)
    together = pd.concat([rows, first]).drop_duplicates()
    assert len(together) == len(rows)  # the old ones are there, their clocks too
    assert len(taken) == new
    config = json.loads((grown / "config.json").read_text())
    assert config["begun_with"] == [*begun_with]
    assert config["config"]["methods"] == [*MORE["methods"]]
    with pytest.raises(ValueError, match=r"\(methods: imp_random, imp, random there"):
        run(grown, rounds=2, **{**MORE, "methods": begun_with})


@pytest.mark.parametrize(
    "path",
    [
        "tickets/imp/seed-1-prunings-1.npz",
        "work/anchors/imp/seed-0.npz",
        "work/anchors/dense/seed-1.npz",
        "work/states/dense/seed-1.npz",
        "work/imp-search-0/outcome.npz",
    ],
)
@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_what_is_damaged_or_missing_is_made_again(whole, tmp_path, path, fault, capfd):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    content = bytearray((tmp_path / path).read_bytes())
    (tmp_path / path).unlink()
    if fault == "damaged":
        middle = len(content) // 2  # a single byte may be a date of the zip
        content[middle : middle + 40] = bytes(40)
        (tmp_path / path).write_bytes(content)
    studies.assert_same(run(tmp_path), whole[1])
    assert files_of(tmp_path) == files_of(whole[0])


def test_work_is_taken_over_by_the_run_that_it_is_of_and_by_no_other(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="was left by another run"):
        run(tmp_path, learning_rate=1e-3)
    (tmp_path / "config.json").unlink()
    assert run(tmp_path).equals(whole[1])


@pytest.mark.parametrize(
    ("name", "other"), [("jax", "0.0.1"), ("device", "abacus"), ("XLA_FLAGS", "--fast")]
)
def test_another_environment_is_refused_by_name_or_accepted(
    whole, tmp_path, monkeypatch, name, other
):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    there = outputs.environment()
    monkeypatch.setattr(outputs, "environment", lambda: there | {name: other})
    says = re.escape(f"{name}: {there[name]} there, {other} here), ")
    with pytest.raises(ValueError, match=rf"{says}.*--accept={name} to go on"):
        run(tmp_path)
    taken = studies.stretches_taken(monkeypatch)
    assert run(tmp_path, accept=(name,)).equals(whole[1])
    assert not taken
    (accepted,) = json.loads((tmp_path / "config.json").read_text())["accepted"]
    assert accepted["environment"][name] == other
    assert run(tmp_path).equals(whole[1])  # it need not be said twice
    monkeypatch.setattr(outputs, "environment", lambda: there)
    assert run(tmp_path).equals(whole[1])  # nor of the first


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{}", b"\xff\xfe", b'{"config": 3}', b"{", b""]
)
def test_a_damaged_config_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json .*: give another --output_dir"):
        run(tmp_path)


@pytest.mark.parametrize("layout", ["{}", '{"lanes": 0, "width": 2}', '{"lanes": "2"}'])
def test_a_layout_that_no_run_has_is_one_line(whole, tmp_path, layout):
    about = json.loads((whole[0] / "config.json").read_text())
    about["layout"] = json.loads(layout)
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="has a layout or parts that no run has"):
        run(tmp_path)


class Exhausted:
    """In place of `stages.run`: memory gives out in the first calls."""

    def __init__(self, times):
        self.left, self.layouts, self.real = times, [], stages.run

    def __call__(self, work):
        self.layouts.append((work.layout.mesh.size, work.layout.per_device))
        self.left -= 1
        if self.left >= 0:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")
        self.real(work)


def test_where_memory_gives_out_fewer_devices_take_turns(
    whole, tmp_path, monkeypatch, capsys
):
    run_ = Exhausted(1)
    monkeypatch.setattr(stages, "run", run_)
    studies.assert_same(run(tmp_path), whole[1])
    assert run_.layouts == [(2, 1), (1, 1)]
    said = "out of memory: again on 1 devices, which changes no number"
    assert said in capsys.readouterr().err


def test_there_are_fewer_lanes_only_where_nobody_has_said_how_many(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(layouts, "usual", lambda searches: 4)
    run_ = Exhausted(2)
    monkeypatch.setattr(stages, "run", run_)
    run(tmp_path / "free", seeds=4, lanes=None, controls=(), rounds=2)
    assert run_.layouts == [(1, 4), (2, 2), (1, 2)]
    layout = json.loads((tmp_path / "free" / "config.json").read_text())["layout"]
    assert layout == {"lanes": 2, "width": 4}
    with monkeypatch.context() as patch:
        patch.setattr(stages, "run", Exhausted(9))
        given = (*FLAGS, "--lanes=2", f"--output_dir={tmp_path / 'said'}")
        with pytest.raises(SystemExit) as stopped:
            studies.shell(patch, "ticket_search", *given)
    assert stopped.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: out of memory (RESOURCE_EXHAUSTED")


def test_what_kills_have_left_is_removed(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    leftover = tmp_path / "tickets" / "imp" / ".seed-0-prunings-1.npz.77.tmp"
    leftover.write_bytes(b"half")
    run(tmp_path)
    assert not leftover.exists()


def lying(optimizer: OfWeights, *, density: ArrayLike = 0.5, lie: str = ""):
    """IMP with a false promise.

    Args:
      optimizer: trains the weights.
      density: the fraction that is kept.
      lie: the promise.
    """
    search = searches.imp(optimizer, density=density)
    false = {"kept": {"kept": lambda mask: 7}, "scale": {"scale": 2.0}}[lie]
    return search._replace(promises=search.promises._replace(**false))


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ("kept", r"imp, ticket of seed 0.*: .*7"),
        ("scale", r"imp, ticket of seed 0"),
    ],
)
def test_a_broken_promise_stops_the_study(tmp_path, monkeypatch, lie, says):
    method = Method(functools.partial(lying, lie=lie))
    only = {"imp": method}
    monkeypatch.setattr(ticket_search.Config, "METHODS", only)
    preset = ticket_search.ANY | {"hyper": {}}
    monkeypatch.setattr(ticket_search.Config, "PRESETS", {None: preset})
    with pytest.raises(audit.AuditError, match=says):
        run(tmp_path, rounds=2, controls=())


def test_a_control_that_changes_nothing_stops_the_study(tmp_path, monkeypatch):
    def same(key, ticket, init):
        return ticket

    same.differs_by = "mask"
    monkeypatch.setattr(controls, "shuffle", same)
    with pytest.raises(audit.AuditError, match="should differ by mask"):
        run(tmp_path, rounds=2)
