"""Layers put back and drawn anew, through the experiment; and what the report says."""

import jax
import numpy as np
import pandas as pd
import pytest
import studies

from experiments import layers
from experiments.reports import findings, tables
from experiments.reports import reset_layers as words
from experiments.study import records
from experiments.study.settings import resolve
from jaxticket import data, supervised
from jaxticket.engine import keys

pytestmark = pytest.mark.usefixtures("toy_study")
OPTIONS = {"checkpoints": (1, 0.25), "optimizer": "adam"}
STEPS = (0, 10, 20)  # initial, a quarter of 40 steps, and an epoch


def run(folder, **changes):
    return studies.run("layers", folder, **{**OPTIONS, **changes})


@pytest.fixture(scope="module")
def done(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    return folder, run(folder)


@pytest.fixture(scope="module")
def found(done):
    return pd.read_csv(done[0] / words.FILE)


def test_every_layer_source_and_seed_has_a_row(done, found):
    folder, rows = done
    assert [*rows["treatment"]] == ["dense", "dense"]
    sources = [("drawn anew", 0), *(("put back", step) for step in STEPS)]
    expected = [(seed, layer, *source) for seed in (0, 1)
                for layer in ("fc_0", "output") for source in sources]  # fmt: skip
    names = ["seed", "layer", "kind", "step"]
    assert [*found[names].itertuples(index=False, name=None)] == expected
    dense = rows.set_index("seed")["test_accuracy"]
    np.testing.assert_allclose(
        found["trained_test_accuracy"], dense[found["seed"]], atol=1e-6
    )


def test_a_row_is_the_accuracy_of_the_network_put_together_by_hand(done, found):
    """Of the kept files and of the seed's own draws."""
    shelf, model = studies.network(done[0]), studies.narrow("")
    split = data.load("digits")
    prepare = data.normalizer("standard", split.train.images, name="digits")
    evaluate = supervised.evaluator(model, prepare=prepare)
    example = prepare(split.train.images[:1])
    for seed in (0, 1):
        stream = keys.of_seed(seed)
        weights = shelf.anchor(records.dense(seed)).weights
        sources = {
            ("put back", step): shelf.anchor(records.at_step(seed, step)).weights
            for step in STEPS[1:]
        }
        sources["put back", 0] = model.init(stream.init, example)[0]
        fresh = keys.named(stream.controls, "layers")
        sources["drawn anew", 0] = model.init(fresh, example)[0]
        for (kind, step), other in sources.items():
            for layer in ("fc_0", "output"):
                mixed = {**weights, layer: other[layer]}
                expected = evaluate(mixed, {}, split.test)
                ours = studies.select(
                    found, seed=seed, layer=layer, kind=kind, step=step
                )
                np.testing.assert_allclose(ours.test_loss, expected.loss, rtol=1e-5)
                np.testing.assert_allclose(
                    ours.test_accuracy, expected.accuracy, atol=1e-6
                )
    assert found["test_accuracy"].nunique() > 8


def test_a_finished_run_is_read_and_says_the_same(done):
    folder, rows = done
    names = ("metrics.jsonl", "results.csv", words.FILE)
    before = [(folder / name).read_bytes() for name in names]
    assert run(folder).equals(rows)
    assert [(folder / name).read_bytes() for name in names] == before


def test_a_seed_that_has_diverged_is_left_out(tmp_path, monkeypatch):
    studies.faulty(monkeypatch, "nan:1")
    run(tmp_path)
    assert {*pd.read_csv(tmp_path / words.FILE)["seed"]} == {0}


@pytest.mark.parametrize(
    ("checkpoints", "says"),
    [
        ((2.0,), "--checkpoints must lie within a training, of 40 steps; got 2.0"),
        ((0.001,), "which is step 0"),
        ((), "--checkpoints must be one or more, each above 0"),
        ((-1.0,), "--checkpoints must be one or more, each above 0"),
    ],
)
def test_checkpoints_that_cannot_be_are_refused(checkpoints, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        run(tmp_path / "out", checkpoints=checkpoints)
    assert not (tmp_path / "out/results.csv").exists()


def test_there_are_no_methods_to_name(tmp_path):
    with pytest.raises(TypeError, match="methods"):
        layers.Config(methods=("imp",))
    with pytest.raises(ValueError, match="no --imp.density"):
        run(tmp_path / "out", hyper={"imp.density": 0.5})


def test_a_command_line_has_the_options_of_the_network(monkeypatch):
    came = []
    monkeypatch.setattr(layers, "experiment", lambda config: came.append(config))
    studies.shell(
        monkeypatch, "layers", "--model=mlp", "--model.hidden=9,7", "--checkpoints=2",
        "--dataset=mnist",
    )  # fmt: skip
    config = resolve(came[0])
    assert config.checkpoints == (2.0,)
    assert config.options("model") == {"hidden": "9,7"}


def made(costs):
    """Rows of two layers: layer -> cost when put back to step 0, when drawn anew."""
    rows = []
    for layer, pair in costs.items():
        for kind, cost in zip((words.RESET, words.FRESH), pair, strict=True):
            for seed, noise in enumerate((-0.01, 0.0, 0.01)):
                row = {"seed": seed, "layer": layer, "kind": kind, "step": 0}
                row |= {"test_loss": 1.0, "trained_test_loss": 0.1}
                row["trained_test_accuracy"] = 0.9 + noise
                rows.append(row | {"test_accuracy": 0.9 - cost})
    return pd.DataFrame(rows)[[*words.COLUMNS]]


def test_the_report_says_which_layer_costs_most(done):
    rows = made({"fc_0": (0.5, 0.8), "fc_10": (0.01, 0.7)})
    first, second = words.headlines(rows)
    assert "its initial values the layer fc_0 (-50.00 ±2.48 points) costs mo" in first
    assert "fc_10 (-1.00 ±2.48 points) least" in first
    assert "fc_0 (-80.00" in second
    (table,) = words.sections(rows)
    assert [line[0] for line in table.lines] == ["fc_0", "fc_10"]
    assert table.lines[0][1:] == ["-50.00 ±2.48", "-80.00 ±2.48"]
    assert "layer" in tables.WORDED
    ((drawing, _),) = words.drawn(rows).values()
    shown = [text.get_text() for text in drawing.axes[0].texts]
    assert shown == ["40.0", "10.0", "89.0", "20.0"]
    assert "A layer from elsewhere" in studies.page(done[0])
    assert [name.FILE for name, _ in findings.of(done[0])] == [words.FILE]


def test_a_tree_of_one_layer_is_said_too():
    rows = made({"output": (0.2, 0.3)})
    assert "output (-20.00" in words.headlines(rows)[0]
    assert len(jax.tree.leaves(words.sections(rows)[0].lines)) == 3
