"""Runs of seeds apart, joined: the rows and files of one run; what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import studies

from experiments import merge, movement
from experiments.reports import reading
from jaxticket import files

pytestmark = pytest.mark.usefixtures("toy_study")
SETTINGS = {"methods": ("imp",), "controls": ("reinitialise",), "rounds": 2}


def run(folder, **changes):
    return studies.run("ticket_search", folder, **{**SETTINGS, **changes})


def join(*folders, to):
    merge.experiment(merge.Config(tuple(map(str, folders)), str(to)))


@pytest.fixture(scope="module")
def apart(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("apart")
    for seed in (0, 1):
        run(folder / f"job-{seed}", seeds=1, first_seed=seed)
    return folder


@pytest.fixture
def jobs(apart, tmp_path):
    return [shutil.copytree(apart / f"job-{i}", tmp_path / f"job-{i}") for i in (0, 1)]


def test_seeds_of_jobs_are_those_of_one_run(apart, tmp_path):
    whole = tmp_path / "whole"
    run(whole)
    join(apart / "job-1", apart / "job-0", to=tmp_path / "all")
    ours, theirs = (
        reading.results(x / "results.csv") for x in (tmp_path / "all", whole)
    )
    studies.assert_same(ours, theirs)
    looks = [reading.looks(x / "metrics.jsonl") for x in (tmp_path / "all", whole)]
    order = [*merge.KEYS, "seed", "step"]
    pd.testing.assert_frame_equal(
        *(x.sort_values(order).reset_index(drop=True) for x in looks)
    )
    tickets = sorted(p.relative_to(whole) for p in whole.glob("tickets/*/*.npz"))
    assert len(tickets) == 2
    for name in tickets:
        found = (
            files.load_ticket(x / name, studies.network())[0]
            for x in (tmp_path / "all", whole)
        )
        for a, b in zip(*map(studies.jax.tree.leaves, found), strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_is_joined_is_a_run_to_read_and_none_to_go_on(apart, tmp_path):
    to = tmp_path / "all"
    join(apart / "job-0", apart / "job-1", to=to)
    assert studies.page(to)
    about = reading.read(to).about
    assert about["config"]["seeds"] == 2
    commands = [
        json.loads((apart / f"job-{i}/config.json").read_text()) for i in (0, 1)
    ]
    assert about["command"] == "; ".join(x["command"] for x in commands)
    assert {row[0].seed for row in movement.tickets(movement.opened(to))} == {0, 1}
    with pytest.raises(ValueError, match="no 'parts' that a run can go on with"):
        run(to, seeds=3)


def change(folder, **values):
    path = folder / "config.json"
    about = json.loads(path.read_text())
    about["config"] |= values
    path.write_text(json.dumps(about))


def strip(folder, name):
    path = folder / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({k: x for k, x in about.items() if k != name}))


def drop(folder, text):
    path = folder / "results.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if text not in line))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a, b: change(b, learning_rate=1.0), "learning_rate: 1.0 there, 0.004"),
        (lambda a, b: change(b, first_seed=0), "seed 0 is in .*job-0 and in .*job-1"),
        (lambda a, b: change(b, first_seed=3), "seed 1 is in none of the runs"),
        (lambda a, b: drop(b, "reinitialise"), "seed 1 has no row of imp, reinitial"),
        (lambda a, b: (b / "results.csv").unlink(), "seed 1 has no row of dense"),
        (lambda a, b: (b / "config.json").unlink(), "job-1 holds no run"),
        (lambda a, b: (b / "config.json").write_text("[]"), "is not a run's"),
        (lambda a, b: strip(b, "identity"), "no identity, as a run of an earlier"),
    ],
    ids=["setting", "twice", "gap", "row", "unfinished", "no run", "damaged", "old"],
)
def test_what_does_not_belong_together_is_refused(jobs, tmp_path, spoil, message):
    spoil(*jobs)
    with pytest.raises(ValueError, match=message):
        join(*jobs, to=tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_one_run_or_a_folder_with_something_in_it_is_refused(jobs, tmp_path):
    with pytest.raises(ValueError, match="two runs or more to join; got 1"):
        join(jobs[0], to=tmp_path / "all")
    with pytest.raises(ValueError, match="is not empty: give another --output_dir"):
        join(*jobs, to=jobs[0])


def changed(folder, change):
    """A run whose `config.json` says that it is of elsewhere."""
    path = folder / "config.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def test_runs_of_other_machines_and_versions_are_joined_when_asked(
    jobs, tmp_path, capsys
):
    def elsewhere(about):
        about["environment"]["device"] = "another"
        about["layout"]["width"] += 1
        del about["config"]["momentum"]  # as of before there was one

    changed(jobs[1], elsewhere)
    with pytest.raises(ValueError, match="device: another there.*--accept_differences"):
        join(*jobs, to=tmp_path / "all")
    accepted = {"accept_differences": True}
    merge.experiment(
        merge.Config(tuple(map(str, jobs)), str(tmp_path / "all"), **accepted)
    )
    assert "there: device: another there, " in capsys.readouterr().out
    rows = reading.results(tmp_path / "all" / "results.csv")
    assert {*rows["seed"]} == {0, 1}
    about = json.loads((tmp_path / "all" / "config.json").read_text())
    environments = [
        about["environment"],
        *(x["environment"] for x in about["accepted"]),
    ]
    assert {x["device"] for x in environments} > {"another"}

    changed(jobs[1], lambda about: about["config"].update(learning_rate=0.5))
    with pytest.raises(ValueError, match="other settings.*learning_rate: 0.5 there"):
        merge.experiment(
            merge.Config(tuple(map(str, jobs)), str(tmp_path / "two"), **accepted)
        )
    assert not (tmp_path / "two").exists()
