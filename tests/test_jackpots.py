"""Jackpots through their experiment: rows, masks, weights, curves and overlaps."""

import dataclasses
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from test_ticket_search import ENVIRONMENT, ROOT, without_seconds

from experiments import jackpots, report
from experiments.reports import (
    figures,
    overlap_tables,
    search_curves,
    search_figures,
    search_tables,
    statistics,
)
from experiments.reports.search_curves import Curve
from experiments.study.methods import Network
from experiments.study.records import Lane
from experiments.study.settings import resolve
from experiments.study.shelf import Shelf
from experiments.study.study import gradients, jackpot_methods, study
from jaxticket import masks, models
from jaxticket.data import Split

TINY = jackpots.Config(
    seeds=2, epochs=3, search_epochs=2, tune_steps=10, densities=(0.2, 0.05)
)
FLAGS = ("--seeds=2", "--epochs=3", "--search_epochs=2", "--tune_steps=10")
SEARCHES = jackpots.METHODS[:4]
SETTINGS = ("density=0.2", "density=0.05")
TICKETS = [(method, seed, n) for method in jackpots.METHODS for seed in (0, 1)
           for n in (1, 2)]  # fmt: skip


def main(*flags):
    command = [sys.executable, "-m", "experiments.jackpots", *flags]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jackpots")
    result = main(*FLAGS, "--densities=0.2,0.05", f"--output_dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder, statistics.read_results(folder / "results.csv"), result.stdout


@pytest.fixture(scope="module")
def shelf(done):
    model = models.create("lenet_300_100")
    like = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 1)))
    return Shelf(done[0], *like)


def ticket(shelf, method, seed, number):
    return shelf.ticket(Lane(method, "ticket", seed, number, SETTINGS[number - 1]))


# The experiment.


def test_every_method_density_and_seed_has_its_rows_and_files(done):
    folder, rows, said = done
    found = [(r["method"], r["treatment"], r["setting"], r["seed"]) for r in rows]
    expected = [("dense", "dense", "", seed) for seed in (0, 1)]
    expected += [(method, kind, setting, seed) for method in jackpots.METHODS
                 for kind in ("ticket", "tuned") for setting in SETTINGS
                 for seed in (0, 1)]  # fmt: skip
    assert sorted(found) == sorted(expected)
    for row in rows:
        if row["setting"]:
            wanted = float(row["setting"].removeprefix("density="))
            assert row["density"] == pytest.approx(wanted, abs=2e-5)
        searched = row["method"] in SEARCHES
        assert row["search_steps"] == (40 if searched else 0)
        assert row["search_epochs"] == (2 if searched else 0)
        assert row["best_test_accuracy"] >= row["test_accuracy"]
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"search_curves.png", "oscillation.png", "overlaps.png"} <= names
    assert "learning_curves_jackpot.png" in names
    assert "learning_curves_magnitude.png" not in names  # it has a single look
    page = (folder / "report.html").read_text()
    for title in ("Epochs to the accuracy of", "Overlap of the masks found"):
        assert title in page
        assert title in said


def test_a_search_starts_from_the_mask_that_stands_beside_it(done):
    """Bit for bit: no other weights, statistics or batches slip in between."""
    folder, *_ = done
    records = statistics.read_metrics(folder / "metrics.jsonl")
    first = statistics.select(records, treatment="ticket", step=0)
    for still, *methods in (
        ("magnitude", "jackpot", "jackpot_restricted"),
        ("random", "jackpot_from_random"),
    ):
        for method in methods:
            names = ("method", "changed")
            ours, theirs = (
                [{k: v for k, v in r.items() if k not in names}
                 for r in statistics.select(first, method=name)]
                for name in (method, still)
            )  # fmt: skip
            np.testing.assert_equal(ours, theirs)
    assert all(math.isnan(record["train_loss"]) for record in first)


@pytest.mark.parametrize(("method", "seed", "number"), TICKETS)
def test_weights_are_those_of_the_trained_network(shelf, method, seed, number):
    weights, mask = ticket(shelf, method, seed, number)
    dense, _ = shelf.anchor(Lane("dense", "dense", seed, 0))
    jax.tree.map(
        lambda w, d, m: np.testing.assert_array_equal(w, d if m is None else d * m),
        weights,
        dense,
        mask,
    )


def test_tuning_trains_the_weights_that_a_mask_keeps(done):
    folder, rows, _ = done
    for row in statistics.select(rows, treatment="tuned"):
        assert row["steps"] == 10
        assert math.isfinite(row["train_loss"])
    records = statistics.read_metrics(folder / "metrics.jsonl")
    for method, seed, number in TICKETS:
        here = statistics.select(records, method=method, seed=seed, round=number)
        before, after = (
            statistics.select(here, treatment=kind)[-1] for kind in ("ticket", "tuned")
        )
        assert before["density"] == after["density"]
        assert before["test_loss"] != after["test_loss"]


@pytest.mark.parametrize(("seed", "number"), [(0, 1), (1, 2)])
def test_the_control_has_the_layer_counts_and_another_mask(shelf, seed, number):
    found = {m: ticket(shelf, m, seed, number).mask for m in jackpots.METHODS}
    counts = [int(masks.count([leaf])) for leaf in jax.tree.leaves(found["magnitude"])]
    for name, mask in found.items():
        ours = [int(masks.count([leaf])) for leaf in jax.tree.leaves(mask)]
        assert ours == counts, name
        overlap = float(masks.overlap(mask, found["magnitude"]))
        assert (overlap == 1) == (name == "magnitude")
    assert float(masks.overlap(found["random"], found["magnitude"])) < 0.3


def test_a_finished_run_is_read_and_says_the_same(done, monkeypatch):
    folder, rows, _ = done
    monkeypatch.setattr(figures, "draw", lambda folder: [])
    names = ("metrics.jsonl", "search.csv", "overlaps.csv")
    before = [(folder / name).read_bytes() for name in names]
    again = jackpots.experiment(dataclasses.replace(TINY, output_dir=str(folder)))
    np.testing.assert_equal(
        without_seconds(statistics.read_results(folder / "results.csv")),
        without_seconds(rows),
    )
    assert len(again) == len(rows)
    assert [(folder / name).read_bytes() for name in names] == before


def test_overlaps_of_magnitude_with_itself_and_with_chance(done):
    found = overlap_tables.read(done[0])
    assert len(found) == len(TICKETS) * 4
    for row in statistics.select(found, method="magnitude", criterion="magnitude"):
        assert row["observed"] == 1
    for row in found:
        assert row["images"] == 1200  # all that are trained on
        assert row["expected"] == pytest.approx(row["density"], rel=0.3)
        if "random" in (row["method"], row["criterion"]):
            away = row["observed"] - row["expected"]
            assert abs(away) < 5 * row["deviation"]
    for row in statistics.select(found, method="jackpot", criterion="magnitude"):
        assert 0.2 < row["expected"] + 0.15 < row["observed"] < 1


BAD = {
    "rates": ({"rates": "layer"}, "unknown rates 'layer': choose of global, uniform"),
    "restriction": ({"restriction": "linear"}, "unknown restriction 'linear'"),
    "density": ({"densities": (0.1, 1.3)}, "--densities is the fraction kept"),
    "density twice": ({"densities": (0.1, 0.1)}, "--densities: given twice"),
    "search": ({"search_steps": 5}, "give --search_steps or --search_epochs, not both"),
    "tuning": ({"tune_epochs": 1}, "give --tune_steps or --tune_epochs, not both"),
    "no search": ({"search_epochs": 0}, "--search_epochs must be at least 1"),
    "method": ({"methods": ("imp",)}, "unknown method 'imp'"),
    "rate": ({"score_learning_rate": 0.0}, "--score_learning_rate must be above 0"),
    "statistics": ({"batch_statistics": "kept"}, "unknown batch_statistics 'kept'"),
}


@pytest.mark.parametrize(("settings", "says"), BAD.values(), ids=BAD)
def test_bad_settings_are_refused(tmp_path, monkeypatch, settings, says):
    monkeypatch.setattr(study.Study, "run", lambda self: pytest.fail("it trained"))
    config = dataclasses.replace(TINY, output_dir=str(tmp_path / "out"), **settings)
    with pytest.raises(ValueError) as error:
        jackpots.experiment(config)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_main_says_what_is_wrong_in_one_line(tmp_path):
    result = main("--rates=layer", f"--output_dir={tmp_path / 'out'}")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("error: unknown rates 'layer'")


# Curves, on made-up looks.


@pytest.mark.parametrize(
    ("accuracy", "epochs"),
    [(0.4, 0), (0.5, 0), (0.51, 1), (0.9, 1), (0.93, 3), (0.95, math.nan),
     (math.nan, math.nan)],
)  # fmt: skip
def test_epochs_to_an_accuracy(accuracy, epochs):
    """The first look that shows it, though later ones may fall below."""
    curve = Curve((0, 1, 2, 3), (0.5, 0.9, 0.8, 0.94))
    found = search_curves.epochs_to(curve, accuracy)
    np.testing.assert_equal(found, epochs)


def make_records(curves, *, setting="density=0.1"):
    """Looks every 10 steps, half an epoch; a single one is of no search."""
    for (method, seed), accuracies in curves.items():
        for look, accuracy in enumerate(accuracies):
            yield {
                "method": method,
                "treatment": "ticket",
                "seed": seed,
                "round": 1,
                "setting": setting,
                "step": 10 * look,
                "density": 0.1,
                "test_accuracy": accuracy,
                "train_loss": 1.0 / look if look else math.nan,
            } | ({"changed": 3.0 * (look > 0)} if len(accuracies) > 1 else {})


def make_rows(records, **values):
    """What `results.csv` says of them."""
    last = {(r["method"], r["seed"]): r for r in records}
    return [
        dict.fromkeys(statistics.COLUMNS, 1.0)
        | {k: v for k, v in record.items() if k in statistics.COLUMNS}
        | {"search_steps": record["step"], "search_epochs": record["step"] / 20}
        | values
        for record in last.values()
    ]


CURVES = {
    ("jackpot", 0): (0.5, 0.9, 0.8),
    ("jackpot", 1): (0.5, 0.7, 0.9),
    ("jackpot_from_random", 0): (0.1, 0.4, 0.6),
    ("jackpot_from_random", 1): (0.1, 0.5, 0.5),
    ("magnitude", 0): (0.5,),
    ("magnitude", 1): (0.5,),
}


def test_table_of_searches():
    records = list(make_records(CURVES))
    stale = [records[1] | {"test_accuracy": 0.0}]  # before a resume: the later stands
    rows = make_rows(records)
    found = search_curves.table(stale + records, rows)
    of = {(row["method"], row["seed"]): row for row in found}
    first = of["jackpot", 0]
    assert list(first) == list(search_curves.COLUMNS)
    assert (first["before_test_accuracy"], first["final_test_accuracy"]) == (0.5, 0.8)
    assert (first["best_test_accuracy"], first["best_epoch"]) == (0.9, 0.5)
    assert (first["target_test_accuracy"], first["reference_epochs"]) == (0.6, 1.0)
    assert first["epochs_to_target"] == 0.5
    second = of["jackpot", 1]
    # Its reference is there before its end, and the starting mask before any search.
    assert (second["reference_epochs"], second["epochs_to_target"]) == (0.5, 0.0)
    for name in ("jackpot_from_random", "magnitude"):
        assert of[name, 0]["reference"] == ""
        assert math.isnan(of[name, 0]["epochs_to_target"])
    still = [record for record in records if "changed" not in record]
    assert search_curves.table(still, rows) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "cells"),
    [
        # (accuracies of each seed) -> reached, epochs, epochs from random, ratio
        ([(0.1, 0.6, 0.6)] * 2, [(0.1, 0.2, 0.6)] * 2, ["2/2", "0.5", "1", "2×"]),
        ([(0.7, 0.7, 0.7)] * 2, [(0.1, 0.2, 0.6)] * 2,
         ["2/2", "0", "1", "before the first step"]),
        ([(0.1, 0.6, 0.6), (0.7, 0.7, 0.7)], [(0.1, 0.2, 0.6)] * 2,
         ["2/2", "0.25 (0–0.5)", "1", "4× (2–∞)"]),
        ([(0.1, 0.6, 0.6), (0.1, 0.1, 0.1)], [(0.1, 0.2, 0.6)] * 2,
         ["1/2", "> 0.75 (0.5–1)", "1", "< 1.33× (1–2)"]),
        ([(0.1, 0.6, 0.6)], [(0.1, 0.1, 0.1)], ["1/1", "0", "0", "–"]),
    ],
    ids=["twice", "at once", "one at once", "one never", "a reference without gain"],
)  # fmt: skip
def test_times_cheaper(ours, theirs, cells):
    curves = {("jackpot", i): c for i, c in enumerate(ours)}
    curves |= {("jackpot_from_random", i): c for i, c in enumerate(theirs)}
    records = list(make_records(curves))
    _, costs = search_tables.sections(search_curves.table(records, make_rows(records)))
    (line,) = costs.lines
    assert line[:2] == ["jackpot", "10"]
    assert line[3:] == cells


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seeds", [1, 2])
def test_figures_and_tables_of_few_seeds_and_many_settings(tmp_path, seeds):
    curves = {key: x for key, x in CURVES.items() if key[1] < seeds}
    settings = [f"k={0.9 - 0.05 * i:g}" for i in range(12)]
    records = [r for s in settings for r in make_records(curves, setting=s)]
    rows = make_rows(records)
    drawn = search_figures.drawn(records, rows)
    assert set(drawn) == {"search_curves", "oscillation"}
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=40)
    titles = [axes.get_title() for axes in drawn["search_curves"].axes]
    assert (len(titles), titles[0]) == (9, "k=0.9: 10% of the weights")
    sections = search_tables.sections(search_curves.table(records, rows))
    assert [len(section.lines) for section in sections] == [3 * 12, 12]
    still = [record for record in records if "changed" not in record]
    assert search_figures.drawn(still, rows) == {}


def test_a_report_made_again_from_the_files_alone(done, tmp_path, monkeypatch):
    folder, *_ = done
    monkeypatch.setattr(figures, "draw", lambda folder: [])
    for name in ("config.json", "results.csv", "metrics.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    report.write(tmp_path)
    ours, theirs = ((f / "search.csv").read_bytes() for f in (tmp_path, folder))
    assert ours == theirs
    page = (tmp_path / "report.html").read_text()
    assert "Epochs to the accuracy of" in page
    assert "Overlap of the masks found" not in page


def test_gradient_is_the_mean_over_all_batches():
    def loss_fn(weights, model_state, batch, key):
        del key
        return jnp.mean(batch.images @ weights["w"] * batch.labels), model_state

    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5))
    found = jax.jit(gradients.mean_gradient(loss_fn))(
        {"w": jnp.ones(3)}, (), Split(jnp.float32(images), jnp.float32(labels))
    )
    expected = np.mean(images * labels[..., None], axis=(0, 1))
    np.testing.assert_allclose(found["w"], expected, rtol=1e-5)


def test_weights_of_a_file_take_the_place_of_dense_training(tmp_path, monkeypatch):
    """Of every seed, tested as they are and searched: nothing trains them."""
    model = models.create("lenet_300_100")
    given = model.init(jax.random.key(7), jnp.zeros((1, 8, 8, 1)))

    def load(path, name, *, num_classes, image):
        assert (path, name) == ("weights.safetensors", "lenet_300_100")
        assert (num_classes, image) == (10, (8, 8, 1))
        return given

    monkeypatch.setattr(models.pretrained, "load", load)
    config = dataclasses.replace(
        TINY,
        methods=("jackpot",),
        densities=(0.2,),
        tune_steps=None,
        pretrained="weights.safetensors",
        output_dir=str(tmp_path),
    )
    rows = jackpots.experiment(config)
    dense = statistics.select(rows, method="dense")
    assert {row["steps"] for row in dense} == {0}
    assert len({row["test_accuracy"] for row in dense}) == 1
    like = jax.eval_shape(lambda: given)
    weights, mask = Shelf(tmp_path, *like).ticket(Lane("jackpot", "ticket", 1, 1))
    jax.tree.map(
        lambda w, g, m: np.testing.assert_array_equal(w, g if m is None else g * m),
        weights,
        given[0],
        mask,
    )


def test_a_file_of_weights_that_is_not_there_is_one_line(tmp_path):
    result = main("--pretrained=nowhere.safetensors", f"--output_dir={tmp_path}")
    assert result.returncode == 1
    assert "lenet_300_100" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("rates", ["global", "uniform", "erk"])
def test_layers_share_a_density_by_the_rates(rates):
    """Counts by hand; the classifier stays whole."""
    model = models.create("lenet_300_100")
    network = Network(*model.init(jax.random.key(3), jnp.zeros((1, 8, 8, 1))))
    config = resolve(dataclasses.replace(TINY, rates=rates)).in_steps(20)
    method = jackpot_methods.method(
        "jackpot", config, network.weights, steps=60, epoch_steps=20
    )
    values = {"density": np.float32(0.1)}
    found, _ = method.opens(jax.random.key(0), values, None, network)
    assert found.mask["output"]["kernel"] is None
    kernels = [np.abs(network.weights[name]["kernel"]) for name in ("fc_0", "fc_1")]
    sizes = [w.size for w in kernels]
    if rates == "global":
        threshold = np.sort(np.concatenate([w.ravel() for w in kernels]))[
            -round(0.1 * sum(sizes))
        ]
        kept = [(w >= threshold).sum() for w in kernels]
    elif rates == "uniform":
        kept = [round(0.1 * n) for n in sizes]
    else:
        raw = [sum(w.shape) for w in kernels]
        kept = [0.1 * sum(sizes) * r / sum(raw) for r in raw]
    for mask, wanted in zip(jax.tree.leaves(found.mask), kept, strict=True):
        assert abs(int(mask.sum()) - wanted) <= 1


class Normalised(linen.Module):
    """A small network with batch statistics."""

    @linen.compact
    def __call__(self, x, *, train=False):
        x = linen.Dense(20, name="hidden")(x.reshape(len(x), -1))
        norm = linen.BatchNorm(use_running_average=not train, name="norm")
        return linen.Dense(10, name="output")(linen.relu(norm(x)))


@pytest.mark.parametrize("statistics_are", ["free", "frozen"])
def test_batch_statistics_move_in_a_search_or_not(
    tmp_path, monkeypatch, statistics_are
):
    model = models.from_linen(Normalised())
    monkeypatch.setattr(models, "create", lambda *_, **__: model)
    config = dataclasses.replace(
        TINY,
        methods=("jackpot",),
        densities=(0.2,),
        tune_steps=None,
        batch_statistics=statistics_are,
        output_dir=str(tmp_path),
    )
    jackpots.experiment(config)
    like = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 1)))
    shelf = Shelf(tmp_path, *like)
    for seed in (0, 1):
        trained, before = shelf.anchor(Lane("dense", "dense", seed, 0))
        lane = Lane("jackpot", "ticket", seed, 1, "density=0.2")
        weights, after = shelf.anchor(lane)
        # Biases, scale and shift of the normalisation too are those of the training.
        jax.tree.map(np.testing.assert_array_equal, weights, trained)
        same = [
            np.array_equal(x, y)
            for x, y in zip(*map(jax.tree.leaves, (before, after)), strict=True)
        ]
        assert same == [statistics_are == "frozen"] * 2
