"""What the weights of a finished run do, from its files."""

import json

import numpy as np
import pandas as pd
import pytest
import studies

from experiments import movement
from experiments import report as page
from experiments.reports import adjacency, findings, reading, values
from experiments.reports import distances as report
from experiments.study import records
from experiments.study.records import Lane
from jaxticket.engine import keys

pytestmark = pytest.mark.usefixtures("toy_study")
LAYERS = ["hidden_0/kernel", "output/kernel"]


def look(folder):
    movement.experiment(movement.Config(output_dir=str(folder)))


@pytest.fixture(scope="module")
def done(toy_study, tmp_path_factory):
    """A run, whose settings are then those of a version with others."""
    folder = tmp_path_factory.mktemp("movement")
    studies.run("ticket_search", folder, methods=("imp",), controls=(), rounds=3)
    path = folder / "config.json"
    about = json.loads(path.read_text())
    about["config"] |= {"methods": ["gone"], "a_setting": 3, "hyper": {"gone.x": 0.1}}
    about["identity"], about["environment"]["jax"] = "another", "0.1"
    path.write_text(json.dumps(about))
    before = path.read_bytes()
    look(folder)
    assert path.read_bytes() == before  # it claims nothing
    return folder


def test_a_row_a_ticket_and_layer_from_the_weights_that_are_there(done):
    """By numpy, from the files: initial weights are drawn again, to the bit."""
    rows = pd.read_csv(done / report.FILE)
    assert len(rows) == 2 * 2 * 3
    shelf = studies.network(done)
    for seed in (0, 1):
        initial = studies.narrow("").init(
            keys.of_seed(seed).init, np.zeros((1, 8, 8, 1))
        )
        trained = shelf.anchor(records.dense(seed)).weights
        ticket = shelf.ticket(Lane("imp", "ticket", seed, 2))
        given = shelf.anchor(Lane("imp", "ticket", seed, 1)).weights
        together = [[], []]
        for layer in sorted({*rows["layer"]} - {report.ALL}):
            holder, name = layer.split("/")
            w0, w1, anchor = (
                np.asarray(tree[holder][name], float)
                for tree in (initial[0], trained, given)
            )
            np.testing.assert_array_equal(w0, anchor)  # as the search had them
            mask = np.asarray(ticket.mask[holder][name])
            row = studies.select(rows, seed=seed, prunings=2, layer=layer).loc[0]
            for side, chosen in (("in", mask), ("out", ~mask)):
                moved = np.abs(w1 - w0)[chosen]
                assert row[f"distance_{side}"] == pytest.approx(moved.mean(), rel=1e-4)
                grown = (np.abs(w1) > np.abs(w0))[chosen]
                assert row[f"grown_{side}"] == pytest.approx(grown.mean(), rel=1e-4)
                together[side == "in"] += [*moved]
            kept = mask.sum(0)
            assert row["incoming"] == pytest.approx(kept.std() / kept.mean(), rel=1e-4)
        row = studies.select(rows, seed=seed, prunings=2, layer=report.ALL).loc[0]
        assert row["distance_in"] == pytest.approx(np.mean(together[1]), rel=1e-4)
        assert row["distance_out"] == pytest.approx(np.mean(together[0]), rel=1e-4)


def test_distributions_are_shares(done):
    rows = pd.read_csv(done / values.FILE)
    names = ["prunings", "layer", "what", "of"]
    shares = rows.groupby(names)["share"].sum()
    assert len(shares) == 2 * 2 * 8
    np.testing.assert_allclose(shares, 1, atol=1e-3)
    assert {*rows["what"]} == {*values.LABELS}


def test_the_report_says_it(done):
    found = {x.FILE: (x, rows) for x, rows in findings.of(done)}
    assert set(found) == {report.FILE, values.FILE}  # images are no signals
    assert all(finding.drawn(rows) for finding, rows in found.values())
    _, rows = found[report.FILE]
    assert all(line.endswith(".") for line in report.headlines(rows))
    assert all(table.lines for table in report.sections(rows))


def test_of_a_run_that_has_grown_the_report_says_what_was_looked_at(done):
    run = reading.read(done)
    rows = reading.table(done / report.FILE, report.COLUMNS)
    assert page._of_fewer(run, rows) == []
    before = rows[(rows["seed"] == 0) & (rows["prunings"] == 1)]
    (said,) = page._of_fewer(run, before)
    assert "movement.csv, and what was written with it, is of 1 of the 4 tick" in said


def test_neighbours_in_a_first_layer_over_a_signal():
    rows = pd.DataFrame(
        {"method": "imp", "setting": "", "seed": seed, "prunings": n, "density": 0.4**n}
        | {"observed": 0.4**n, "shuffled": 0.16**n, "by_input": 0.2**n}
        for seed in (0, 1)
        for n in (1, 2)
    )
    assert [*rows] == [*adjacency.COLUMNS]
    (table,) = adjacency.sections(rows)
    assert [line[3][:5] for line in table.lines] == ["2.50×", "6.25×"]
    assert "6.25×" in adjacency.headlines(rows)[0]
    assert set(adjacency.drawn(rows)) == {"adjacency"}


def test_what_cannot_be_looked_at_is_said(done, tmp_path):
    with pytest.raises(ValueError, match="a folder that is there"):
        look(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="not the config of a run"):
        look(tmp_path)
    work = done / "work"
    work.rename(done / "away")
    with pytest.raises(ValueError, match="seed-0.npz is not there: .* work/"):
        look(done)
    (done / "away").rename(work)
    rows = (done / "results.csv").read_text()
    (done / "results.csv").write_text(
        "".join(line for line in rows.splitlines(True) if not line.startswith("imp"))
    )
    with pytest.raises(ValueError, match="no tickets that prune"):
        look(done)
    (done / "results.csv").write_text(rows)
    about = json.loads((done / "config.json").read_text())
    (done / "config.json").write_text(json.dumps(about | {"data": "others"}))
    with pytest.raises(ValueError, match="a run on other data"):
        look(done)
