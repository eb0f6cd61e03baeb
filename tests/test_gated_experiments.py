"""Parallel searches and pruners through their experiments: rows, kills, bad flags."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_ticket_search import ENVIRONMENT, ROOT, without_seconds

from experiments import continuous_sparsification, pruning
from experiments.reports import statistics
from experiments.study.settings import resolve
from experiments.study.study import study
from jaxticket import files, masks, models
from jaxticket.engine import resumable

SEARCH = continuous_sparsification.Config(
    seeds=2, rounds=2, epochs=2, lanes=1, s0_values=(-0.1, 0.1)
)
PRUNE = pruning.Config(
    seeds=2,
    epochs=2,
    lanes=1,
    s0_values=(-0.1, 0.1),
    densities=(0.1, 0.5),
    thresholds=(-1.0, -5.0),
    l0_penalties=(1.0, 1e-6),
    l0_logit=-2.2,
)
PARALLEL = "continuous_sparsification_parallel"


def search(folder, **settings):
    config = dataclasses.replace(SEARCH, output_dir=str(folder), **settings)
    return continuous_sparsification.experiment(config)


def prune(folder, **settings):
    config = dataclasses.replace(PRUNE, output_dir=str(folder), **settings)
    return pruning.experiment(config)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return folder, search(folder)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prune")
    return folder, prune(folder)


# Ticket search.


def test_every_setting_of_a_parallel_search_has_its_tickets(searched):
    folder, rows = searched
    found = statistics.select(rows, method=PARALLEL)
    assert [(r["round"], r["setting"], r["seed"]) for r in found] == [
        (i, setting, seed)
        for i, setting in ((1, "s0=0.1"), (2, "s0=-0.1"))
        for seed in (0, 1)
    ]
    for dense, sparse in zip(found[:2], found[2:], strict=True):
        assert dense["density"] > sparse["density"] > 0
    assert json.loads((folder / "config.json").read_text())["config"]["rounds"] == 2
    assert statistics.read_results(folder / "results.csv") == rows
    assert "sparsest matching" in (folder / "report.html").read_text()
    assert (folder / "figures" / "comparison.png").exists()


def test_rows_say_what_their_ticket_has_cost(searched):
    _, rows = searched
    for row in rows:
        spent = 1 if row["method"] == PARALLEL else row["round"]
        assert row["search_steps"] == spent * 40
        assert row["search_epochs"] == spent * 2
        assert row["steps"] == 40  # of its own training, which is no search
    for method in statistics.distinct(rows, "method"):
        one = statistics.select(rows, method=method, seed=0)
        seconds = [row["search_seconds"] for row in one]
        assert seconds[0] > 0 or method == "dense"
        if method != PARALLEL:
            assert seconds == sorted(seconds)


def test_a_setting_is_the_same_alone(searched, tmp_path):
    _, rows = searched
    options = {"seeds": 1, "first_seed": 1, "s0_values": (-0.1,)}
    alone = search(tmp_path, methods=(PARALLEL,), **options)
    ours = statistics.select(alone, method=PARALLEL)
    theirs = statistics.select(rows, method=PARALLEL, setting="s0=-0.1", seed=1)
    for one, other in zip(ours, theirs, strict=True):
        assert one.pop("round") == 1
        other = {k: v for k, v in other.items() if k != "round"}
        assert without_seconds([one]) == without_seconds([other])


class Killed(BaseException):
    pass


WHOLE = {
    "methods": (PARALLEL,),
    "parallel_rounds": 2,
    "seeds": 3,
    "eval_every": 30,
    "save_seconds": 0.0,
    "controls": ("reinitialise",),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, search(folder, **WHOLE)


@pytest.mark.parametrize("at", [3, 11])
def test_a_killed_parallel_run_ends_with_the_same_bits(
    tmp_path, monkeypatch, whole, at
):
    """Killed between two stretches: of a search, or of the training of tickets."""
    checks, real = [], resumable._check_finite

    def kill(*arguments):
        checks.append(real(*arguments))
        if len(checks) == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(resumable, "_check_finite", kill)
        with pytest.raises(Killed):
            search(tmp_path, **WHOLE)
    rows = search(tmp_path, **WHOLE)
    assert without_seconds(rows) == without_seconds(whole[1])
    logs = [(folder / "metrics.jsonl").read_bytes() for folder in (tmp_path, whole[0])]
    assert logs[0] == logs[1]


def test_the_released_recipe_runs_with_its_multiplier(tmp_path):
    rows = search(
        tmp_path,
        methods=("continuous_sparsification", PARALLEL),
        seeds=1,
        between_rounds="code",
        keep_multiplier=True,
        rewind_epoch=1,
        optimizer="nesterov",
        learning_rate=0.1,
        weight_decay=1e-4,
        learning_rate_drops=(0.5, 30),
        controls=("reinitialise", "shuffle"),
        dtype="bfloat16",
    )
    kinds = {row["treatment"] for row in rows}
    assert kinds == {"dense", "ticket", "reinitialise", "shuffle"}
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert (config["dtype"], config["rewind_epoch"]) == ("bfloat16", 1)
    like, _ = jax.eval_shape(
        models.create("lenet_300_100").init,
        jax.random.key(0),
        np.zeros((1, 8, 8, 1)),
    )
    path = tmp_path / "tickets" / PARALLEL / "seed-0-round-1.npz"
    ticket, about = files.load_ticket(path, like)
    assert about["setting"] == "s0=0.1"
    assert {leaf.dtype for leaf in jax.tree.leaves(ticket.weights)} == {
        np.dtype("float32")
    }


def test_the_preset_is_the_released_recipe():
    config = resolve(
        continuous_sparsification.Config(dataset="cifar10", model="resnet_20")
    ).in_steps(351)
    assert (config.batch_size, config.steps, config.rounds) == (128, 85 * 351, 3)
    assert config.learning_rate_drops == (56 * 351, 71 * 351)
    assert (config.rewind_step, config.prunable) == (2 * 351, "convolutions")
    assert (config.learning_rate, config.logit_learning_rate) == (0.1, 0.1)
    assert (config.optimizer, config.weight_decay) == ("nesterov", 1e-4)
    assert (config.s0, config.penalty, config.final_temperature) == (0.0, 1e-8, 200.0)
    assert (config.augment, config.temperature_every) == (True, "epoch")
    short = resolve(
        continuous_sparsification.Config(
            dataset="cifar10", model="resnet_20", steps=170, rewind_step=5
        )
    ).in_steps(351)
    assert (short.steps, short.rewind_step) == (170, 5)
    assert short.learning_rate_drops == (112, 142)


def test_of_resnet_only_the_3x3_convolutions_are_pruned():
    from experiments import methods

    config = resolve(
        continuous_sparsification.Config(dataset="cifar10", model="resnet_20")
    )
    model = models.create("resnet_20")
    params, _ = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    mask = jax.eval_shape(lambda w: methods.full(config, w), params)
    assert masks.size(mask) == 267_696


# Pruning.


def test_all_pruners_have_the_same_budget(pruned):
    folder, rows = pruned
    assert {r["method"] for r in rows} == {"dense", *resolve(PRUNE).methods}
    for row in rows:
        dense = row["method"] == "dense"
        assert (row["search_steps"], row["steps"]) == ((0, 40) if dense else (30, 10))
    page = (folder / "report.html").read_text()
    assert "<title>Pruning: digits" in page
    assert "<th>verdict</th>" not in page
    assert "sparsest matching" in page


def test_a_knob_turns_the_density(pruned):
    _, rows = pruned
    for method in resolve(PRUNE).methods:
        found = statistics.select(rows, method=method, treatment="ticket")
        assert len({row["setting"] for row in found}) == 2
        for dense, sparse in zip(found[:2], found[2:], strict=True):
            assert 1 >= dense["density"] > sparse["density"]
    for row in statistics.select(rows, method="magnitude"):
        wanted = float(row["setting"].removeprefix("density="))
        assert row["density"] == pytest.approx(wanted, abs=1e-4)


def test_fine_tuning_starts_from_the_trained_weights(pruned):
    """The network does not fall back to where a fresh one would be."""
    _, rows = pruned
    for method in ("gradual", "magnitude", "continuous_sparsification"):
        for row in statistics.select(rows, method=method, round=1):
            assert row["early_stopping_step"] >= 30
            assert row["test_accuracy"] > 0.85


def test_a_pruning_run_again_is_read_and_a_setting_is_its_own(pruned, tmp_path):
    folder, rows = pruned
    before = (folder / "metrics.jsonl").read_bytes()
    assert prune(folder) == rows
    assert (folder / "metrics.jsonl").read_bytes() == before
    alone = prune(tmp_path, methods=("gradual",), seeds=1, densities=(0.5,))
    ours, theirs = (
        statistics.select(found, method="gradual", seed=0, round=1)
        for found in (alone, rows)
    )
    assert without_seconds(ours) == without_seconds(theirs)


BAD_SEARCH = {
    "no s0": {"s0_values": ()},
    "s0 twice": {"s0_values": (0.1, 0.1)},
    "s0 NaN": {"s0_values": (float("nan"),)},
    "parallel_rounds": {"parallel_rounds": 0},
    "rewind_epoch": {"rewind_epoch": -1},
    "rewind_epoch after the end": {"rewind_epoch": 2},
    "rewind_epoch and rewind_step": {"rewind_epoch": 1, "rewind_step": 1},
    "dtype": {"dtype": "float16"},
    "prunable": {"prunable": "all"},
    "no convolutions": {"prunable": "convolutions"},
    "multiplier without scaling": {"keep_multiplier": True, "scaling": False},
    "drop between steps": {"learning_rate_drops": (1.5,)},
    "drop NaN": {"learning_rate_drops": (float("nan"),)},
    "a pruner": {"methods": ("gradual",)},
}
BAD_PRUNING = {
    "search_share": {"search_share": 1.0},
    "search_share NaN": {"search_share": float("nan")},
    "one step": {"steps": 1, "epochs": None},
    "density": {"densities": (0.5, 1.5)},
    "density twice": {"densities": (0.5, 0.5)},
    "channel density": {"channel_densities": (0.0,)},
    "no thresholds": {"thresholds": ()},
    "threshold": {"thresholds": (float("inf"),)},
    "l0 penalty": {"l0_penalties": (-1.0,)},
    "l0 logit": {"l0_logit": float("nan")},
    "slimming penalty": {"slimming_penalty": -1.0},
    "slimming without norms": {"methods": ("network_slimming",)},
    "a search": {"methods": ("imp",)},
    "s0": {"s0_values": (float("inf"),)},
    "dtype": {"dtype": "half"},
}


@pytest.mark.parametrize(
    ("run", "settings"),
    [(search, x) for x in BAD_SEARCH.values()]
    + [(prune, x) for x in BAD_PRUNING.values()],
    ids=[*BAD_SEARCH, *(f"pruning, {name}" for name in BAD_PRUNING)],
)
def test_bad_settings_are_refused_before_training(run, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(study.Study, "run", lambda self: pytest.fail("it trained"))
    with pytest.raises(ValueError) as error:
        run(tmp_path / "out", **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "flag", "says"),
    [
        ("continuous_sparsification", "--s0_values=1,x", "--s0_values takes floats"),
        ("pruning", "--densities=2", "--densities is the fraction kept, in (0, 1]"),
    ],
)
def test_main_says_what_is_wrong_in_one_line(module, flag, says, tmp_path):
    command = [sys.executable, "-m", f"experiments.{module}", flag]
    done = subprocess.run(
        [*command, f"--output_dir={tmp_path}"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
