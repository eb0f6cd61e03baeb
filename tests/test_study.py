"""How any study runs: again, elsewhere, after a kill, and what its audit catches."""

import functools
import json
import signal

import pytest
import studies
from jax.typing import ArrayLike

from experiments import ticket_search
from experiments.study.methods import Method
from jaxticket import audit, controls, searches
from jaxticket.base import OfWeights
from jaxticket.engine import layouts

pytestmark = pytest.mark.usefixtures("unoptimised")
IMP = {"methods": ("imp",), "controls": ("shuffle",), "rounds": 3}
FLAGS = ("--methods=imp", "--controls=shuffle", "--rounds=3", *studies.FLAGS)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with studies.tiny() as patch:
        yield patch


def run(folder, **changes):
    return studies.run("ticket_search", folder, **{**IMP, **changes})


@pytest.fixture(scope="module")
def whole(tiny, unoptimised, tmp_path_factory):
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
    with pytest.raises(ValueError, match=r"another run \(rounds: 3 there, 4 here\)"):
        run(whole[0], rounds=4)
    with pytest.raises(ValueError, match=r"\(imp.density: 0.7 there, 0.5 here\)"):
        run(whole[0], hyper={"imp.density": 0.5})


def test_a_run_goes_on_with_fewer_devices_to_the_same_bits(
    whole, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        studies.faulty(patch, "interrupt:3")
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
    killed = studies.started("ticket_search", "kill:5", tmp_path, *given)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    search = tmp_path / "work" / "imp-search-0"
    assert list((search / "checkpoint").iterdir())
    assert not (search / "outcome.npz").exists()
    given = (*given, f"--output_dir={tmp_path}")
    with monkeypatch.context() as patch:
        studies.faulty(patch, "interrupt:5")
        with pytest.raises(SystemExit) as stopped:
            studies.shell(patch, "ticket_search", *given)
    assert stopped.value.code == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "stopped; the same command goes on from here"
    assert (search / "outcome.npz").exists()
    assert not (tmp_path / "work" / "imp-training-1" / "outcome.npz").exists()
    studies.assert_same(run(tmp_path), whole[1])
    assert files_of(tmp_path) == files_of(whole[0])


def test_a_loss_that_is_not_finite_is_one_line(tmp_path, monkeypatch, capsys):
    given = (*FLAGS, f"--output_dir={tmp_path}")
    with monkeypatch.context() as patch:
        studies.faulty(patch, "nan")
        with pytest.raises(SystemExit) as stopped:
            studies.shell(patch, "ticket_search", *given)
    assert stopped.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: dense, training: the training loss of dense, dense")
    assert "of seed 0" in last
    assert "lower the learning rate" in last


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
