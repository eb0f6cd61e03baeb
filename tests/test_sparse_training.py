"""Sparse training through its experiment: densities held, arithmetic accounted for."""

import numpy as np
import pandas as pd
import pytest
import studies

from experiments.reports import costs as words
from experiments.reports import reading
from experiments.study import shelf

pytestmark = pytest.mark.usefixtures("toy_study")
METHODS = ("rigl", "static", "gradual")
OPTIONS = {
    "methods": METHODS,
    "hyper": {
        **{f"{name}.density": (0.5, 0.2) for name in ("rigl", "static")},
        "gradual.final_density": (0.5, 0.2),
        "rigl.every": 5,
        "gradual.every": 5,
    },
}
# Of the narrow network: 64 pixels, 16 units, 10 classes.
DENSE = 2 * (64 * 16 + 16 * 10)


@pytest.fixture(scope="module")
def done(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparse_training")
    rows = studies.run("sparse_training", folder, **OPTIONS)
    return rows, pd.read_csv(folder / words.FILE)


def test_every_ticket_has_its_arithmetic_and_its_accuracy(done):
    rows, found = done
    assert len(found) == 2 * 2 * len(METHODS)
    assert (found["dense_inference"] == DENSE).all()
    np.testing.assert_allclose(found["inference"], found["density"] * DENSE, rtol=1e-6)
    for row in found.itertuples():
        [trained] = studies.select(
            rows, method=row.method, setting=row.setting, seed=row.seed
        )["test_accuracy"]
        assert row.test_accuracy == pytest.approx(trained)


def test_what_looks_at_whole_gradients_or_begins_whole_costs_more_than_it_runs(done):
    found = words.compared(done[1])
    by_method = {
        name: found[(found["method"] == name) & np.isclose(found["density"], 0.2, 0.02)]
        for name in METHODS
    }
    static, rigl, gradual = (by_method[name] for name in METHODS[1:2] + METHODS[::2])
    np.testing.assert_allclose(static["trained"], static["running"])
    # An exchange at steps 0, 5, ... of the first three quarters of the training.
    steps = int(done[0]["steps"].iloc[0])
    exchanges = np.arange(0, int(0.75 * steps) + 1, 5).size
    extra = exchanges / steps * (1 - rigl["running"]) / 3
    np.testing.assert_allclose(rigl["trained"], rigl["running"] + extra, rtol=1e-6)
    assert (gradual["trained"] > rigl["trained"].max()).all()


def test_a_further_round_is_paid_for_too(toy_study, tmp_path):
    hyper = {"gradual.final_density": 0.5, "gradual.every": 5, "gradual.rounds": 2}
    studies.run("sparse_training", tmp_path, methods=["gradual"], hyper=hyper)
    found = words.compared(reading.table(tmp_path / words.FILE, words.COLUMNS))
    once, twice = (found[found["prunings"] == n] for n in (1, 2))
    np.testing.assert_allclose(twice["density"], 0.25, atol=0.01)
    # The second round begins with what the first has left: half of the arithmetic.
    ratio = twice["training"].to_numpy() / once["training"].to_numpy()
    np.testing.assert_allclose(ratio, 1.5, rtol=0.02)


def test_the_report_says_who_is_best_and_who_is_cheapest(done):
    found = done[1]
    sentences = words.headlines(found)
    assert len(sentences) == 2
    assert all("static" in x for x in sentences)  # no method needs less arithmetic
    [table] = words.sections(found)
    assert len(table.lines) == 6
    assert set(words.drawn(found)) == {"flops"}


def test_what_needs_no_dense_network_does_not_miss_one_that_diverged(
    toy_study, tmp_path, monkeypatch
):
    real = shelf.Shelf.anchor

    def anchor(self, lane):
        assert lane.treatment != "dense", "there is none"
        return real(self, lane)

    monkeypatch.setattr(shelf.Shelf, "anchor", anchor)
    hyper = {"rigl.density": 0.2, "rigl.every": 5}
    studies.run("sparse_training", tmp_path, methods=["rigl"], hyper=hyper)
    found = reading.table(tmp_path / words.FILE, words.COLUMNS)
    missing = found.assign(dense_test_accuracy=np.where(found["seed"], np.nan, 0.5))
    missing.to_csv(tmp_path / words.FILE, index=False)
    again = reading.table(tmp_path / words.FILE, words.COLUMNS)
    [table] = words.sections(again)
    assert "(1 of 2)" in table.lines[0][-1]
    assert words.headlines(again)
