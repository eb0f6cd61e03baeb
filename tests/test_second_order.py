"""Deletions through their experiment: masks, losses, tuning, and the report's words."""

import jax
import numpy as np
import pandas as pd
import pytest
import studies

from experiments.reports import deleted as words
from experiments.study import records
from experiments.study.records import Lane
from jaxticket import data, masks, prune, supervised

pytestmark = pytest.mark.usefixtures("toy_study")
METHODS = ("magnitude", "obd", "obd_hutchinson", "random", "deviation")
DENSITIES = (0.5, 0.1)
OPTIONS = {
    "methods": METHODS,
    "tune_steps": 10,
    "hyper": {"magnitude.density": DENSITIES, "deviation.quality": 1.0},
}


def run(folder, **changes):
    return studies.run("second_order", folder, **{**OPTIONS, **changes})


@pytest.fixture(scope="module")
def done(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second_order")
    return folder, run(folder)


@pytest.fixture(scope="module")
def found(done):
    return pd.read_csv(done[0] / words.FILE, keep_default_na=False)


@pytest.fixture(scope="module")
def digits():
    split = data.load("digits")
    prepare = data.normalizer("standard", split.train.images, name="digits")
    return split, prepare


def test_every_method_density_and_seed_has_its_rows(done, found):
    folder, rows = done
    settings = [f"density={density}" for density in DENSITIES]
    expected = [
        (method, seed, setting)
        for method in METHODS
        for setting in (settings if method != "deviation" else [""])
        for seed in (0, 1)
    ]
    names = ["method", "seed", "setting"]
    assert [*found[names].itertuples(index=False, name=None)] == expected
    for treatment in ("ticket", "tuned"):
        trained = studies.select(rows, treatment=treatment)
        assert sorted(trained[names].itertuples(index=False, name=None)) == sorted(
            expected
        )
    given = found[found["setting"] != ""]
    wanted = given["setting"].str.removeprefix("density=").astype(float)
    np.testing.assert_allclose(given["density"], wanted, atol=1e-3)
    free = studies.select(found, method="deviation")["density"]
    assert free.between(0.15, 0.6).all()
    assert free.nunique() == 2


def test_losses_are_those_of_the_networks_before_and_after(done, found, digits):
    split, prepare = digits
    shelf, model = studies.network(done[0]), studies.narrow("")
    evaluate = jax.jit(supervised.evaluator(model, prepare=prepare))
    splits = split.train, split.validation, split.test
    sets = dict(zip(words.SETS, splits, strict=True))
    for row in studies.select(found, seed=1).to_dict("records"):
        ticket = shelf.ticket(Lane(row["method"], "ticket", 1, 1, row["setting"]))
        dense = shelf.anchor(records.dense(1)).weights
        after = masks.apply(ticket.mask, dense)
        for name, images in sets.items():
            for prefix, weights in (("dense_", dense), ("", after)):
                loss, accuracy = map(float, evaluate(weights, {}, images))
                assert row[f"{prefix}{name}_loss"] == pytest.approx(loss, rel=1e-5)
                got = row[f"{prefix}{name}_accuracy"]
                assert got == pytest.approx(accuracy, abs=1e-6)


def test_obd_keeps_the_highest_saliencies_of_the_trained_network(done, digits):
    split, prepare = digits
    shelf, model = studies.network(done[0]), studies.narrow("")
    dense = shelf.anchor(records.dense(0))
    evidence = supervised.evidence(model, split.train, prepare=prepare)({})
    for density in DENSITIES:
        whole = dense._replace(mask=masks.full(dense.weights))
        expected = prune(whole, "obd", density, evidence=evidence).mask
        lane = Lane("obd", "ticket", 0, 1, f"density={density}")
        mask = shelf.ticket(lane).mask
        assert float(masks.overlap(mask, expected)) > 0.995  # but for rounding
        largest = shelf.ticket(lane._replace(method="magnitude")).mask
        assert float(masks.overlap(mask, largest)) < 0.95


def test_a_finished_run_is_read_and_says_the_same(done):
    folder, rows = done
    names = ("metrics.jsonl", "results.csv", words.FILE)
    before = [(folder / name).read_bytes() for name in names]
    assert run(folder).equals(rows)
    assert [(folder / name).read_bytes() for name in names] == before


def made(added):
    """Rows of one setting: method -> what each seed's deletion adds to all losses."""
    rows = []
    for method, seeds in added.items():
        for seed, more in enumerate(seeds):
            row = dict.fromkeys(words.COLUMNS, 0.5)
            row |= {"method": method, "seed": seed, "setting": "density=0.1"}
            row |= {f"{name}_loss": 0.5 + seed + more for name in words.SETS}
            row |= {f"dense_{name}_loss": 0.5 + seed for name in words.SETS}
            rows.append(row | {"density": 0.1})
    return pd.DataFrame(rows)


def test_the_report_counts_the_seeds_that_add_less(done):
    rows = made({"magnitude": (1.0, 2.0, 3.0), "obd": (0.5, 2.5, 1.5)})
    rows.loc[(rows["method"] == "obd") & (rows["seed"] == 0), "test_loss"] += 1
    (line,) = words.headlines(rows)
    assert "10% of the weights kept, adds +1.500 ±2.484 to the training" in line
    assert "magnitude +2.000 ±2.484; less in 2/3, 2/3, 1/3 seeds" in line
    (table,) = words.sections(rows)
    assert [line[0] for line in table.lines] == ["magnitude", "obd"]
    assert [line[-1] for line in table.lines] == ["–", "2/3, 2/3, 1/3"]
    ((drawing, _),) = words.drawn(rows).values()
    assert {axes.get_title() for axes in drawing.axes} == {"training loss", "test loss"}
    assert "What the deletion of weights adds" in studies.page(done[0])


def test_deletions_are_compared_at_one_density_whatever_their_settings_are_called():
    rows = made({"magnitude": (1.0, 2.0), "obd": (0.5, 1.5), "deviation": (0.5, 1.5)})
    rows.loc[rows["method"] == "magnitude", "density"] = 0.1004  # to the last weight
    rows.loc[rows["method"] == "obd", "setting"] = ""
    rows.loc[rows["method"] == "deviation", "density"] = 0.3
    lines = words.sections(rows)[0].lines
    assert {x[0]: x[-1] for x in lines} == {
        **{"magnitude": "–", "deviation": "–"},
        "obd": "2/2, 2/2, 2/2",
    }
    assert len(words.headlines(rows)) == 1


def test_without_magnitude_nothing_is_compared():
    rows = made({"obd": (0.5, 2.5)})
    assert words.headlines(rows) == []
    assert words.sections(rows)[0].lines[0][-1] == "–"
