"""The main job: its settings, its files, its audit, and that a kill changes nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import ticket_search
from experiments.reports import statistics
from experiments.study.config import Config
from experiments.study.settings import resolve
from experiments.study.study import jobs, records, study, ticket_methods
from jaxticket import audit, files, masks, models
from jaxticket.engine import layouts

ROOT = Path(__file__).resolve().parent.parent
TINY = Config(
    seeds=2, rounds=3, epochs=2, methods=("imp", "continuous_sparsification"), lanes=1
)


def run(folder, **settings):
    config = dataclasses.replace(TINY, output_dir=str(folder), **settings)
    return ticket_search.experiment(config)


def without_seconds(rows):
    clocks = ("seconds", "search_seconds")
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder)


def test_every_method_treatment_seed_and_round_has_one_row(done):
    folder, rows = done
    found = [(r["method"], r["treatment"], r["seed"], r["round"]) for r in rows]
    kinds = ("ticket", "reinitialise", "shuffle")
    expected = [("dense", "dense", seed, 0) for seed in (0, 1)]
    for name, rounds in (("imp", (1, 2)), ("continuous_sparsification", (1, 2, 3))):
        expected += [(name, k, s, r) for k in kinds for s in (0, 1) for r in rounds]
    assert sorted(found) == sorted(expected)
    assert len(statistics.read_results(folder / "results.csv")) == len(rows)
    for row in rows:
        assert row["steps"] == 40
        assert row["search_steps"] == row["round"] * 40
        assert row["search_epochs"] == row["round"] * 2
        assert (row["search_seconds"] > 0) == (row["round"] > 0)
        assert row["early_stopping_step"] in (20, 40)
        assert 0.3 < row["test_accuracy"] <= 1


def test_controls_have_the_density_of_their_ticket(done):
    _, rows = done
    for row in statistics.select(rows, treatment="ticket"):
        same = {name: row[name] for name in ("method", "seed", "round")}
        for control in ("reinitialise", "shuffle"):
            (other,) = statistics.select(rows, treatment=control, **same)
            assert other["density"] == row["density"] < 1
            assert other["train_loss"] != row["train_loss"]


def test_files_are_complete_and_tickets_can_be_read(done):
    folder, rows = done
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "results.csv", "report.html"}
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["rounds"] == 3
    assert config["environment"]["jax"] == jax.__version__
    lines = statistics.read_metrics(folder / "metrics.jsonl")
    # two looks a training; the rounds of Continuous Sparsification's search come on top
    assert len(lines) == 2 * (len(rows) + 2 * 3)
    model = models.create("lenet_300_100")
    like, _ = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 1)))
    for row in statistics.select(rows, treatment="ticket"):
        name = f"seed-{row['seed']}-round-{row['round']}.npz"
        ticket, about = files.load_ticket(
            folder / "tickets" / row["method"] / name, like
        )
        assert float(masks.density(ticket.mask)) == pytest.approx(row["density"])
        assert about["seed"] == row["seed"]


def test_the_same_command_again_reads_what_is_done(done):
    folder, rows = done
    before = (folder / "metrics.jsonl").read_bytes()
    assert run(folder) == rows
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_seed_does_not_depend_on_how_many_there_are(done, tmp_path):
    _, rows = done
    alone = run(tmp_path, seeds=1, first_seed=1)
    assert without_seconds(alone) == without_seconds(statistics.select(rows, seed=1))


def test_what_auto_decides_is_recorded_and_kept(tmp_path, capsys, monkeypatch):
    settings = {"lanes": "auto", "methods": ("imp",), "controls": (), "seeds": 8}
    rows = run(tmp_path, **settings)
    assert "s a step of all searches" in capsys.readouterr().err
    layout = json.loads((tmp_path / "config.json").read_text())["layout"]
    assert layout["lanes"] in (1, 2)
    assert layout["width"] == 4 * layout["lanes"]
    monkeypatch.setattr(layouts, "decide", lambda *_: pytest.fail("it tried again"))
    assert run(tmp_path, **settings) == rows


FOUR = {"seeds": 4, "rounds": 2, "controls": ("shuffle",)}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return run(tmp_path_factory.mktemp("four"), **FOUR)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_goes_on_with_fewer_devices_to_the_same_bits(
    tmp_path, monkeypatch, devices, four
):
    trained = records.Records.trained

    def stopped(self, *args):
        trained(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records.Records, "trained", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, **FOUR)
    monkeypatch.setattr(layouts.jax, "device_count", lambda: devices)
    assert without_seconds(run(tmp_path, **FOUR)) == without_seconds(four)


def test_another_configuration_is_refused_by_name(done):
    with pytest.raises(ValueError, match="another run .*rounds: 3 there, 4 here"):
        run(done[0], rounds=4)


@pytest.mark.parametrize(
    "settings",
    [
        {"methods": ("imp_continued",)},
        {"methods": ("learning_rate_rewinding", "fine_tuning"), "rewind_step": 10},
        {"methods": ("imp",), "rewind_step": 10, "scope": "global", "density": 0.1},
        {"methods": ("imp",), "scope": "erk", "score": "random", "lanes": 2},
        {"methods": ("imp",), "scope": "uniform", "optimizer": "nesterov", "steps": 30,
         "epochs": None, "weight_decay": 1e-3, "learning_rate_drops": (10, 20)},
        {"methods": ("continuous_sparsification",), "rewind_step": 10, "scaling": False,
         "between_rounds": "code", "temperature_every": "step", "keep_momentum": False,
         "resume_schedule": True, "controls": ("reinitialise", "random")},
    ],
    ids=lambda s: "+".join(s["methods"]) + "/" + s.get("scope", ""),
)  # fmt: skip
def test_every_method_runs_and_passes_its_own_audit(tmp_path, settings):
    rows = run(tmp_path, **{"seeds": 1, "rounds": 2, **settings})
    assert len(statistics.select(rows, treatment="dense", round=0)) == 1
    tickets = statistics.select(rows, treatment="ticket")
    assert {row["method"] for row in tickets} == set(settings["methods"])
    assert (tmp_path / "report.html").exists()


def test_the_final_density_is_reached(tmp_path):
    settings = {"methods": ("imp",), "controls": (), "scope": "global"}
    rows = run(tmp_path, final_density=0.1, **settings)
    last = statistics.select(rows, round=2)
    assert [row["density"] for row in last] == pytest.approx([0.1, 0.1], abs=1e-4)


def test_rewinding_shortens_the_rounds_that_resume_the_schedule(tmp_path):
    settings = {"methods": ("imp",), "seeds": 1, "rewind_step": 10}
    rows = run(tmp_path, **settings)
    assert {r["steps"] for r in rows if r["round"]} == {30}
    assert {r["steps"] for r in rows if not r["round"]} == {40}


def test_a_broken_promise_stops_the_run(tmp_path, monkeypatch):
    real = ticket_methods.method

    def wrong(*args, **kwargs):
        return real(*args, **kwargs)._replace(rates=0.5)

    monkeypatch.setattr(ticket_methods, "method", wrong)
    with pytest.raises(
        audit.AuditError, match="imp, ticket of seed 0, round 1: all layers keep"
    ):
        run(tmp_path, methods=("imp",), scope="global", controls=())


def test_a_control_that_changes_nothing_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs.controls, "shuffle", lambda key, ticket: ticket)
    with pytest.raises(audit.AuditError, match="the control should differ by mask"):
        run(tmp_path, methods=("imp",), seeds=1, rounds=2)


BAD = {
    "dataset": {"dataset": "mnits"},
    "model": {"model": "lenet"},
    "method": {"methods": ("impp",)},
    "no method": {"methods": ()},
    "method twice": {"methods": ("imp", "imp")},
    "control": {"controls": ("shufle",)},
    "density above 1": {"density": 1.3},
    "density 0": {"density": 0.0},
    "density NaN": {"density": float("nan")},
    "final_density": {"final_density": 2.0},
    "density and final_density": {"density": 0.5, "final_density": 0.2},
    "final_density of one round": {"final_density": 0.2, "rounds": 1},
    "rounds": {"rounds": 0},
    "epochs": {"epochs": 0},
    "steps": {"steps": -1, "epochs": None},
    "steps and epochs": {"steps": 10},
    "seeds": {"seeds": 0},
    "first_seed": {"first_seed": -1},
    "lanes": {"lanes": 0},
    "lanes, unknown word": {"lanes": "all"},
    "turns": {"turns": 0},
    "eval_every": {"eval_every": 0},
    "batch_size 0": {"batch_size": 0},
    "batch larger than the data": {"batch_size": 5000},
    "validation": {"validation": 5000},
    "validation 0": {"validation": 0},
    "normalization": {"normalization": "none"},
    "optimizer": {"optimizer": "adagrad"},
    "learning_rate": {"learning_rate": 0.0},
    "learning_rate NaN": {"learning_rate": float("nan")},
    "learning_rate_drops": {"learning_rate_drops": (0,)},
    "weight_decay": {"weight_decay": -0.1},
    "scope": {"scope": "layers"},
    "score": {"score": "snip"},
    "rewind_step": {"rewind_step": -1},
    "rewind_step after the end": {"rewind_step": 40},
    "s0": {"s0": float("inf")},
    "penalty": {"penalty": -1.0},
    "final_temperature": {"final_temperature": 0.0},
    "temperature_every": {"temperature_every": "round"},
    "logit_learning_rate": {"logit_learning_rate": -1.0},
    "between_rounds": {"between_rounds": "mine"},
    "save_seconds": {"save_seconds": -1.0},
    "data_dir without the set": {"dataset": "mnist", "data_dir": "."},
}


@pytest.mark.parametrize("settings", BAD.values(), ids=BAD)
def test_bad_settings_are_refused_before_training(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(study.Study, "run", lambda self: pytest.fail("it trained"))
    with pytest.raises((ValueError, OSError)) as error:
        run(tmp_path / "out", **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_presets_are_the_papers():
    config = resolve(Config(dataset="mnist", model="lenet_300_100"))
    assert (config.optimizer, config.learning_rate, config.batch_size) == (
        "adam",
        1.2e-3,
        60,
    )
    assert (config.steps, config.epochs, config.density) == (50_000, None, 0.8)
    assert resolve(Config(dataset="mnist", epochs=8)).steps is None
    for model, rates in (("conv_2", (0.5, 0.5)), ("conv_6", (0.75, 0.5))):
        config = resolve(Config(dataset="cifar10", model=model))
        params, _ = jax.eval_shape(
            models.create(model).init, jax.random.key(0), np.zeros((1, 32, 32, 3))
        )
        method = ticket_methods.method("imp", config, params, steps=1, epoch_steps=1)
        layers = {len(leaf.shape): [] for leaf in jax.tree.leaves(params)}
        for name, leaf in zip(
            masks.names(params), jax.tree.leaves(params), strict=True
        ):
            if name in method.rates:
                layers[len(leaf.shape)].append((1 - method.rates[name]) / 0.2)
        np.testing.assert_allclose(layers[4], rates[0])
        np.testing.assert_allclose(sorted(layers[2]), [rates[1], 1, 1])


def command(folder, *flags):
    return [
        *(sys.executable, "-m", "experiments.ticket_search"),
        *(f"--output_dir={folder}", "--save_seconds=0.2", "--epochs=3", *flags),
    ]


ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--density=1.3"], "--density is the fraction kept, in (0, 1]; got 1.3"),
        (["--methods=imp,iimp"], "unknown method 'iimp'"),
        (["--learning_rate_drops=1,x"], "--learning_rate_drops takes floats"),
        (["imp"], "not a flag: imp"),
    ],
)
def test_main_says_what_is_wrong_in_one_line(tmp_path, flags, says):
    result = subprocess.run(
        command(tmp_path / "out", *flags),
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_explains_every_setting():
    result = subprocess.run(
        [sys.executable, "-m", "experiments.ticket_search", "--help"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    for field in dataclasses.fields(Config):
        assert f"--{field.name}:" in result.stdout or f"]{field.name}:" in result.stdout


def results(folder):
    rows = without_seconds(statistics.read_results(folder / "results.csv"))
    return repr(rows), (folder / "metrics.jsonl").read_bytes()


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    """Kills with SIGKILL in the searches, between rounds and inside them, and after.

    The run is the default one but for its length.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = {"cwd": ROOT, "env": ENVIRONMENT, "stderr": subprocess.DEVNULL}
    subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL, **options)
    total = len((whole / "metrics.jsonl").read_bytes())
    for share in (0.03, 0.1, 0.4, 0.7):
        process = subprocess.Popen(
            command(killed), stdout=subprocess.DEVNULL, **options
        )
        log = killed / "metrics.jsonl"
        while not log.exists() or log.stat().st_size < share * total:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(killed.glob("work/*/outcome.npz"))
    subprocess.run(command(killed), check=True, stdout=subprocess.DEVNULL, **options)
    assert results(killed) == results(whole)
    tickets = sorted(path.relative_to(whole) for path in whole.glob("tickets/*/*.npz"))
    assert len(tickets) == 5 * 6 + 5 * 6
    for path in tickets:
        first, second = (np.load(folder / path) for folder in (whole, killed))
        assert first.files == second.files  # named by the sha256 of their contents
