"""Thousands of damaged files, and that the judge of them would see a fault."""

import json
import random
import time

import jax
import numpy as np
import pytest

from experiments import fuzz
from experiments.fuzzing import mutants, trials, zips
from jaxticket import files

LOAD = files.load_ticket
TURNS = ("1", "2", "3", "3, a recipe", "3, rounded")  # of the files that are damaged


def test_no_mutant_is_taken_wrongly(tmp_path):
    found = fuzz.experiment(fuzz.Config(mutants=2000, output_dir=str(tmp_path)))
    assert found["failed"] == 0
    assert set(found["outcomes"]) == {"refused", "equal", "another ticket"}
    assert found["outcomes"]["refused"] > 1000
    assert found["slowest"]["seconds"] < trials.SECONDS
    assert found["largest"]["bytes"] < trials.BYTES
    assert {*found["kinds"]} == {*mutants.KINDS}
    for versions in found["kinds"].values():
        assert {*versions} == {f"version {name}" for name in TURNS}
    assert json.loads((tmp_path / "fuzz.json").read_text())["mutants"] == 2000


@pytest.mark.parametrize("name", mutants.KINDS)
def test_a_kind_of_damage_comes_from_its_seed(name):
    ticket, about = trials.example()
    content = zips.second_version(ticket, about)

    def made(seed):
        draws = random.Random(seed)
        return [mutants.KINDS[name](draws, content) for _ in range(12)]

    assert made(0) == made(0)
    assert made(0) != made(1) or len({*made(0)}) == 1
    assert any(bad != content for bad in made(0))


def other(found):
    """A ticket that differs in one bit."""
    ticket, about = found
    (bias, *others), tree = jax.tree.flatten(ticket.weights)
    bias = np.array(bias)
    bias.view(np.uint8)[0] ^= 1
    return ticket._replace(weights=tree.unflatten([bias, *others])), about


def misshapen(found):
    ticket, about = found
    return ticket._replace(weights=jax.tree.map(lambda w: w[:1], ticket.weights)), about


class Reader:
    """Reads good files as it should, and damaged ones wrongly."""

    def __init__(self, wrongly):
        self.wrongly, self.good, self.number = wrongly, {}, 0

    def __call__(self, path, like):
        if path.stem != "mutant":
            self.good[path.stem] = LOAD(path, like)
            return self.good[path.stem]
        name = TURNS[self.number % len(TURNS)]
        self.number += 1
        return self.wrongly(path, self.good[name])


def raising(error):
    def wrongly(path, good):
        raise error

    return wrongly


def slow(path, good):
    begun = time.process_time()
    while time.process_time() - begun < 0.1:
        pass
    return good


def large(path, good):
    np.ones(2**20)
    return good


@pytest.mark.parametrize(
    ("wrongly", "outcome"),
    [
        (raising(KeyError("x")), "KeyError: 'x'"),
        (raising(MemoryError()), "MemoryError: "),
        (raising(ValueError("no name")), "refused without the file's name: no name"),
        (lambda path, good: other(good), "another ticket"),
        (lambda path, good: (good[0], {}), "another ticket"),
        (slow, "equal, in 0.1 s"),
        (large, "equal, in 0.0 s and 8"),
    ],
)
def test_a_reader_that_takes_them_wrongly_is_caught(
    tmp_path, monkeypatch, wrongly, outcome
):
    monkeypatch.setattr(files, "load_ticket", Reader(wrongly))
    monkeypatch.setattr(trials, "SECONDS", 0.05)
    monkeypatch.setattr(trials, "BYTES", 4e6)
    tried = [*trials.run(12, 0, tmp_path)]
    assert all(trial.fails and trial.outcome.startswith(outcome) for trial in tried)
    monkeypatch.setattr(files, "load_ticket", Reader(wrongly))
    with pytest.raises(AssertionError, match="a damaged file was taken wrongly"):
        fuzz.experiment(fuzz.Config(mutants=3, output_dir=str(tmp_path)))
    assert json.loads((tmp_path / "fuzz.json").read_text())["failed"] == 3


def test_a_forged_file_may_be_another_ticket_but_of_that_network(tmp_path, monkeypatch):
    kinds = {"forged": lambda draw, content: mutants.Forged(content)}
    monkeypatch.setattr(mutants, "KINDS", kinds)
    for wrongly, fails in ((other, False), (misshapen, True)):
        reader = Reader(lambda path, good, f=wrongly: f(good))
        monkeypatch.setattr(files, "load_ticket", reader)
        [trial] = trials.run(1, 0, tmp_path)
        assert trial.outcome == trials.OTHER
        assert trial.fails == fails
