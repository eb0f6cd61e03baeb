"""Jackpots through their experiment: rows, masks, weights and overlaps."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import studies
from flax import linen

from experiments import jackpots
from experiments.reports import reading
from experiments.study import records
from experiments.study.outputs import Claim
from experiments.study.records import Lane
from experiments.study.shelf import Shelf
from jaxticket import masks, models
from jaxticket.base import Ticket
from jaxticket.models import is_hidden

pytestmark = pytest.mark.usefixtures("toy_study")
SEARCHES = ("jackpot", "jackpot_restricted", "jackpot_from_random")
METHODS = (*SEARCHES, "magnitude", "random", "dense_longer")
DENSITIES = (0.2, 0.05)
SETTINGS = [f"density={density}" for density in DENSITIES]
TICKETS = [(m, seed, s) for m in METHODS[:-1] for seed in (0, 1) for s in SETTINGS]
ALL = {
    "methods": METHODS,
    "search_epochs": 2,
    "tune_steps": 10,
    "hyper": {"jackpot.density": DENSITIES},
}
ONE = {"methods": ("jackpot",), "tune_steps": None}
ONE |= {"hyper": {"jackpot.density": 0.2}}


def run(folder, **changes):
    return studies.run("jackpots", folder, **{**ALL, **changes})


@pytest.fixture(scope="module")
def done(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("jackpots")
    return folder, run(folder)


@pytest.fixture(scope="module")
def tickets(done):
    """Every ticket, and the trained network of every seed."""
    shelf = studies.network(done[0], is_hidden)
    found = {key: shelf.ticket(Lane(*key[:1], "ticket", key[1], 1, key[2]))
             for key in TICKETS}  # fmt: skip
    return found, [shelf.anchor(records.dense(seed)) for seed in (0, 1)]


def test_every_method_density_and_seed_has_its_rows_and_files(done):
    folder, rows = done
    names = ["method", "treatment", "setting", "seed", "prunings"]
    expected = [("dense", "dense", "", seed, 0) for seed in (0, 1)]
    expected += [(method, kind, setting, seed, 1) for method, seed, setting in TICKETS
                 for kind in ("ticket", "tuned")]  # fmt: skip
    expected += [("dense_longer", kind, "", seed, 0) for seed in (0, 1)
                 for kind in ("ticket", "tuned")]  # fmt: skip
    assert sorted(rows[names].itertuples(index=False, name=None)) == sorted(expected)
    for row in rows.itertuples():
        if row.setting:
            wanted = float(row.setting.removeprefix("density="))
            assert row.density == pytest.approx(wanted, abs=1e-3)
        else:
            assert row.density == 1
        searched = row.method in SEARCHES
        assert row.search_steps == (40 if searched else 0)
        assert row.search_epochs == (2 if searched else 0)
        assert row.best_test_accuracy >= row.test_accuracy
    longer = rows[rows.method == "dense_longer"]
    assert {*longer.steps} == {40, 10}  # of its own, and of the tuning
    assert {path.name for path in folder.iterdir()} >= {"overlaps.csv", "metrics.jsonl"}


def test_a_search_starts_from_the_mask_that_stands_beside_it(done):
    """Bit for bit: no other weights, statistics or batches slip in between."""
    looks = reading.looks(done[0] / "metrics.jsonl")
    first = studies.select(looks, treatment="ticket", step=0)
    for still, *methods in (
        ("magnitude", "jackpot", "jackpot_restricted"),
        ("random", "jackpot_from_random"),
    ):
        for method in methods:
            ours, theirs = (
                studies.select(first, method=name)
                .drop(columns=["method", "changed"])
                .sort_values(["setting", "seed"], ignore_index=True)
                for name in (method, still)
            )
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert first.train_loss.isna().all()
    moved = studies.select(looks, treatment="ticket", method="jackpot", step=20)
    assert (moved.changed > 0).all()


def kept(mask, *leaves):
    """What a mask keeps of some leaves; what a file leaves out is not there."""
    return leaves if mask is None else [leaf[mask] for leaf in leaves]


def test_weights_are_those_of_the_trained_network(tickets):
    found, trained = tickets
    for (_, seed, _), ticket in found.items():
        jax.tree.map(
            lambda w, d, m: np.testing.assert_array_equal(*kept(m, w, d)),
            ticket.weights,
            trained[seed].weights,
            ticket.mask,
        )


def test_controls_have_the_layer_counts_and_other_masks(tickets):
    found, _ = tickets
    for _, seed, setting in TICKETS:
        here = {name: found[name, seed, setting].mask for name in METHODS[:-1]}
        magnitude = here["magnitude"]
        assert magnitude["output"]["kernel"] is None
        for name, mask in here.items():
            assert masks.layer_counts(mask) == masks.layer_counts(magnitude)
            same = float(masks.overlap(mask, magnitude)) == 1
            assert same == (name == "magnitude")


def test_tuning_trains_the_weights_that_a_mask_keeps(done):
    folder, rows = done
    tuned = studies.select(rows, treatment="tuned")
    assert (tuned.steps == 10).all()
    assert np.isfinite(tuned.train_loss).all()
    looks = reading.looks(folder / "metrics.jsonl")
    lane = ["method", "seed", "setting"]
    last = looks.groupby([*lane, "treatment"]).last().reset_index()
    both = studies.select(last, treatment="ticket").merge(
        studies.select(last, treatment="tuned"), on=lane
    )
    assert len(both) == len(tuned)
    assert (both.density_x == both.density_y).all()
    assert (both.test_loss_x != both.test_loss_y).all()


def test_the_dense_network_trained_longer_goes_on_from_the_dense_one(done, tickets):
    folder, rows = done
    longer = studies.select(rows, method="dense_longer", treatment="ticket")
    dense = studies.select(rows, method="dense")
    assert (longer.train_loss < dense.train_loss).all()
    shelf = studies.network(folder, is_hidden)
    weights = shelf.ticket(Lane("dense_longer", "ticket", 0, 0)).weights
    away = jax.tree.map(lambda w, d: float(np.abs(w - d).max()), weights,
                        tickets[1][0].weights)  # fmt: skip
    assert all(0 < x < 0.5 for x in jax.tree.leaves(away))


def test_overlaps_of_magnitude_with_itself_and_with_chance(done):
    found = pd.read_csv(done[0] / "overlaps.csv")
    assert len(found) == len(TICKETS) * len(jackpots.CRITERIA)
    itself = studies.select(found, method="magnitude", criterion="magnitude")
    assert (itself.observed == 1).all()
    np.testing.assert_allclose(found.expected, found.density, rtol=0.02)
    chance = found[(found.method == "random") | (found.criterion == "random")]
    away = np.abs(chance.observed - chance.expected)
    assert (away < 5 * chance.deviation).all()
    kept = studies.select(found, method="jackpot", criterion="magnitude")
    assert kept.observed.between(kept.expected + 0.15, 0.999).all()


def test_a_finished_run_is_read_and_says_the_same(done):
    folder, rows = done
    names = ("metrics.jsonl", "results.csv", "overlaps.csv")
    before = [(folder / name).read_bytes() for name in names]
    assert run(folder).equals(rows)
    assert [(folder / name).read_bytes() for name in names] == before


def test_weights_of_a_file_take_the_place_of_dense_training(tmp_path, monkeypatch):
    """Of every seed, tested as they are and searched: nothing trains them."""
    given = studies.narrow("").init(jax.random.key(7), jnp.zeros((1, 8, 8, 1)))

    def load(path, name, *, num_classes, image):
        assert (path, name) == ("weights.safetensors", "lenet_300_100")
        assert (num_classes, image) == (10, (8, 8, 1))
        return given

    monkeypatch.setattr(models.pretrained, "load", load)
    rows = run(tmp_path, **ONE, pretrained="weights.safetensors")
    dense = studies.select(rows, method="dense")
    assert (dense.steps == 0).all()
    assert len(dense.test_accuracy.unique()) == 1
    shelf = studies.network(tmp_path, is_hidden)
    ticket = shelf.ticket(Lane("jackpot", "ticket", 1, 1))
    jax.tree.map(
        lambda w, g, m: np.testing.assert_array_equal(*kept(m, w, g)),
        ticket.weights,
        given[0],
        ticket.mask,
    )


def test_a_file_of_weights_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        run(tmp_path / "out", **ONE, pretrained="nowhere.safetensors")
    assert not (tmp_path / "out" / "results.csv").exists()


class Normalised(linen.Module):
    """A small network with batch statistics."""

    @linen.compact
    def __call__(self, x, *, train=False):
        x = linen.Dense(20, name="hidden")(x.reshape(len(x), -1))
        norm = linen.BatchNorm(use_running_average=not train, name="norm")
        return linen.Dense(10, name="output")(linen.relu(norm(x)))


def test_batch_statistics_move_in_a_search_or_not(tmp_path, monkeypatch):
    """Free, as released; frozen, they are those of the training."""
    model = models.from_linen(Normalised())
    monkeypatch.setattr(models, "create", lambda *_, **__: model)
    monkeypatch.setattr(jackpots, "overlaps", lambda study: None)
    images = np.zeros((1, 8, 8, 1))
    weights, model_state = jax.eval_shape(model.init, jax.random.key(0), images)
    mask = jax.eval_shape(lambda w: masks.full(w, is_hidden), weights)
    for statistics_are in ("free", "frozen"):
        folder = tmp_path / statistics_are
        run(folder, **ONE, batch_statistics=statistics_are)
        shelf = Shelf(folder, Ticket(weights, mask, model_state), Claim())
        trained = shelf.anchor(records.dense(1))
        found = shelf.ticket(Lane("jackpot", "ticket", 1, 1))
        for name in ("hidden", "norm", "output"):
            np.testing.assert_array_equal(
                found.weights[name]["bias"], trained.weights[name]["bias"]
            )
        same = [
            np.array_equal(x, y)
            for x, y in zip(
                jax.tree.leaves(found.model_state),
                jax.tree.leaves(trained.model_state),
                strict=True,
            )
        ]
        assert same == [statistics_are == "frozen"] * 2


def test_a_run_says_what_searches_are_compared_with(done):
    about = json.loads((done[0] / "config.json").read_text())
    named = {name: jackpots.METHODS[name].reference for name in METHODS}
    assert about["references"] == named
    assert named["jackpot"] == named["jackpot_restricted"] == "jackpot_from_random"
    assert not named["jackpot_from_random"]
    assert {*named.values()} <= {"", *METHODS}
