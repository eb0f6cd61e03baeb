"""The main job: its rows and files, and that every search of the library runs in it."""

import json

import jax
import numpy as np
import pandas as pd
import pytest
import studies

from experiments import report
from experiments.reports import reading
from experiments.study import kept, sound
from experiments.study.records import Lane
from jaxticket import data, files, masks, searches

pytestmark = pytest.mark.usefixtures("toy_study", "threefry")
CS = "continuous_sparsification"
VARIANTS = ("imp", "imp_continued", "fine_tuning")
ALL = {
    "methods": (*VARIANTS, CS),
    "controls": ("reinitialise", "shuffle"),
    "rounds": 3,
}


def run(folder, **changes):
    return studies.run("ticket_search", folder, **{**ALL, **changes})


@pytest.fixture(scope="module")
def done(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder)


def test_every_method_treatment_seed_and_pruning_has_one_row(done):
    folder, rows = done
    kinds = ("ticket", "reinitialise", "shuffle")
    expected = [("dense", "dense", seed, 0) for seed in (0, 1)]
    for name in ALL["methods"]:
        times = (1, 2, 3) if name == CS else (1, 2)
        expected += [(name, k, s, n) for k in kinds for s in (0, 1) for n in times]
    names = ["method", "treatment", "seed", "prunings"]
    assert sorted(rows[names].itertuples(index=False, name=None)) == sorted(expected)
    assert (rows.setting == "").all()
    assert (rows.steps == 40).all()
    assert (rows.search_steps == 40 * rows.prunings).all()
    assert (rows.search_epochs == 2 * rows.prunings).all()
    assert ((rows.search_seconds > 0) == (rows.prunings > 0)).all()
    assert rows.early_stopping_step.isin((20, 40)).all()
    assert rows.test_accuracy.between(0.2, 1).all()
    assert len(reading.results(folder / "results.csv")) == len(rows)


def test_controls_have_the_density_of_their_ticket(done):
    _, rows = done
    for ticket in studies.select(rows, treatment="ticket").itertuples():
        same = {name: getattr(ticket, name) for name in ("method", "seed", "prunings")}
        for control in ("reinitialise", "shuffle"):
            other = studies.select(rows, treatment=control, **same).iloc[0]
            assert other.density == ticket.density < 1
            assert other.train_loss != ticket.train_loss


def test_files_are_complete_and_tickets_can_be_read(done):
    folder, rows = done
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["rounds"] == 3
    assert config["config"]["hyper"]["imp.density"] == 0.7  # of the preset
    assert (config["experiment"], config["verdicts"]) == ("Ticket search", True)
    assert config["layout"] == {"lanes": 1, "width": 2}
    assert config["environment"]["jax"] == jax.__version__
    looks = reading.looks(folder / "metrics.jsonl")
    # Two a training; on top those of searches that are not looks at their tickets.
    of_searches = looks.treatment == "search"
    assert of_searches.sum() == 2 * 2 * (2 + 3)
    assert set(looks[of_searches].method) == {"imp_continued", CS}
    assert (~of_searches).sum() == 2 * len(rows)
    shelf = studies.network(folder)
    for row in studies.select(rows, treatment="ticket").itertuples():
        ticket = shelf.ticket(Lane(row.method, "ticket", row.seed, row.prunings))
        assert float(masks.density(ticket.mask)) == pytest.approx(row.density)
        assert ticket.model_state == {}
    tickets = rows[rows.treatment == "ticket"].groupby(["method", "prunings"]).density
    inputs = pd.read_csv(folder / "inputs.csv").groupby("method").density.first()
    for method, sparsest in tickets.mean().groupby("method").min().items():
        assert inputs[method] == pytest.approx(sparsest)  # over the seeds, as `kept`


def test_a_later_ticket_is_verified_against_the_one_before(done):
    """By what its search has promised, whatever flags it was made with."""
    folder, _ = done
    for name, promised in {
        "imp": ["nested in seed-0-prunings-1.npz", "weights as there"],
        "imp_continued": ["nested in seed-0-prunings-1.npz", "weights as there"],
        "fine_tuning": ["nested in seed-0-prunings-1.npz"],
        CS: [],
    }.items():
        path = folder / "tickets" / name / "seed-0-prunings-2.npz"
        assert [*sound.checked(path, kept.read)][4:] == promised, name


def test_its_report_is_one_page(done, monkeypatch):
    folder, _ = done
    assert report.reading.read(folder).at == "early_stopping_"
    monkeypatch.setattr(report.figures, "drawn", lambda *_, **__: {})
    assert "<title>Ticket search: digits" in studies.page(folder)


def test_variants_share_a_dense_training_and_give_the_bits_of_each_alone(
    done, tmp_path
):
    folder, rows = done
    ours = {path.parent.name for path in folder.glob("work/*/outcome.npz")}
    assert {name for name in ours if name.startswith("dense")} == {"dense-training-0"}
    searches_ = {name for name in ours if "search" in name}
    assert searches_ == {f"{name}-search-0" for name in ALL["methods"]}
    # The variants go on after the dense network's training, and cost it too.
    (dense,) = {*studies.select(rows, method="dense").steps}
    for name in VARIANTS:
        first = studies.select(rows, method=name, treatment="ticket", prunings=1)
        assert (first.search_steps == dense).all()
    alone = run(tmp_path, methods=("imp",))
    studies.assert_same(alone, rows[rows.method.isin(("dense", "imp"))])


def test_sweeps_are_lanes_with_the_rows_of_single_runs(tmp_path):
    options = {"methods": ("imp",), "controls": (), "rounds": 2}
    both = run(tmp_path / "both", **options, hyper={"imp.density": (0.5, 0.8)})
    assert [*both.setting.unique()] == ["", "density=0.5", "density=0.8"]
    for density in (0.5, 0.8):
        hyper = {"imp.density": density}
        alone = run(tmp_path / str(density), **options, hyper=hyper)
        ours = both[both.setting.isin(("", f"density={density}"))]
        studies.assert_same(alone, ours, but=["setting"])
        counts = alone[alone.prunings == 1].density
        kept = 1 - (1 - density) * (64 * 16 + 16 * 10 / 2) / (64 * 16 + 16 * 10)
        np.testing.assert_allclose(counts, kept, atol=1e-3)


def test_scores_rewinding_and_the_final_density(tmp_path):
    """IMP by a score of the loss; resumed schedules are shorter by the step."""
    rows = run(
        tmp_path,
        methods=("imp",),
        controls=("random",),
        rewind_step=10,
        final_density=0.1,
        hyper={"imp.select": "global_top", "imp.score": "snip"},
    )
    last = studies.select(rows, method="imp", prunings=2)
    np.testing.assert_allclose(last.density, 0.1, atol=1e-3)
    assert (rows[rows.method == "imp"].steps == 30).all()
    assert (rows[rows.method != "imp"].steps == 40).all()
    second = studies.select(rows, method="imp", treatment="ticket", prunings=2)
    assert (second.search_steps == 40 + 30).all()


def test_tickets_train_as_long_as_the_dense_network_whatever_a_round_takes(tmp_path):
    """Those that a round returns to are trained again, where rounds are shorter."""
    controls = ("reinitialise",)
    rows = run(tmp_path, methods=("imp",), controls=controls, rounds=2, search_epochs=1)
    assert [*rows.treatment.unique()] == ["dense", "ticket", "reinitialise"]
    assert (rows.steps == 40).all()
    assert (rows.search_steps == 20 * rows.prunings).all()


def test_the_recipe_of_mnist1d_prunes_along_a_line_and_beside_it_at_random(tmp_path):
    """Biases too; both start from the dense network's training."""
    rows = run(
        tmp_path,
        preset="mnist1d_paper",
        methods=None,
        controls=None,
        rounds=3,
        hyper={"imp.density": 0.6},
    )
    tickets = studies.select(rows, treatment="ticket")
    assert set(rows.treatment) == {"dense", "ticket"}
    assert set(tickets.method) == {"imp", "imp_random"}
    # Published are accuracies after the last step.
    assert report.reading.read(tmp_path).at == ""
    np.testing.assert_allclose(tickets.density, 1 - 0.4 * tickets.prunings, atol=2e-3)
    (dense,) = {*studies.select(rows, method="dense").steps}
    assert (tickets.search_steps == dense * tickets.prunings).all()
    shelf = studies.network(tmp_path, lambda path, leaf: True)
    by = {}
    for row in tickets[tickets.prunings == 2].itertuples():
        mask = shelf.ticket(Lane(row.method, "ticket", row.seed, 2)).mask
        layer = mask["fc_0"]  # a fifth of kernel and bias together
        assert int(masks.count(layer)) == (64 + 1) * 16 // 5
        assert int(masks.count([layer["bias"]])) < 16
        by[row.method, row.seed] = np.asarray(mask["fc_0"]["kernel"])
    for seed in (0, 1):
        assert (by["imp", seed] != by["imp_random", seed]).any()


def test_tickets_at_initialisation_and_of_one_dense_training(done, tmp_path):
    names = ("one_shot", "snip", "random", "magnitude")
    hyper = {f"{name}.density": (0.5, 0.1) for name in names}
    hyper["snip.select"] = "equal"
    rows = run(tmp_path, methods=names, controls=("shuffle",), hyper=hyper)
    # The dense network is the same, which no search has trained on its way here.
    studies.assert_same(*(studies.select(r, method="dense") for r in (rows, done[1])))
    tickets = studies.select(rows, treatment="ticket")
    assert len(tickets) == len(names) * 2 * 2
    for row in tickets.itertuples():
        wanted = float(row.setting.removeprefix("density="))
        assert row.density == pytest.approx(wanted, abs=1e-3)
        assert (row.prunings, row.steps) == (1, 40)
        # What a training has cost that a ticket is taken from.
        assert row.search_steps == (40 if row.method == "one_shot" else 0)
    shelf = studies.network(tmp_path)
    initial = shelf.anchor(Lane("snip", "ticket", 0, 1, "density=0.5"))
    for name in names:
        anchor = shelf.anchor(Lane(name, "ticket", 0, 1, "density=0.1"))
        jax.tree.map(np.testing.assert_array_equal, anchor.weights, initial.weights)


def test_every_search_of_the_library_runs_by_its_name(tmp_path):
    """But those that need another network, or a start that prunes: see `bad_commands`.

    Slimming wants normalisation, and a jackpot a mask to begin with.
    """
    others = ("slimming", "jackpot")
    names = tuple(name for name in searches.__all__ if name not in others)
    hyper = {f"{name}.every": 10 for name in ("gradual", "rigl", "set", "snfs")}
    rows = run(tmp_path, methods=names, controls=(), rounds=2, hyper=hyper)
    tickets = studies.select(rows, treatment="ticket")
    assert set(tickets.method) == set(names)
    assert tickets.test_accuracy.between(0, 1).all()
    assert tickets.density.between(0, 1).all()
    given = studies.select(tickets, method="fixed")
    assert (given.prunings == 0).all()
    assert (given.density == 1).all()
    shelf = studies.network(tmp_path)
    for row in tickets.itertuples():
        lane = Lane(row.method, "ticket", row.seed, row.prunings, row.setting)
        found = float(masks.density(shelf.ticket(lane).mask))
        assert found == pytest.approx(row.density)


def test_a_ticket_of_another_run_starts_from_its_file(done, tmp_path):
    """With the same weights, of which the control needs what the file has left out."""
    folder, _ = done
    file = folder / "tickets" / "imp" / "seed-{seed}-prunings-2.npz"
    hyper = {"given.file": str(file)}
    rows = run(tmp_path, methods=("given",), controls=("permute",), hyper=hyper)
    assert {*rows.treatment} == {"dense", "ticket", "permute"}
    like = studies.network()
    for seed in {*rows.seed}:
        path = str(file).replace("{seed}", str(seed))
        ours, _ = files.load_ticket(
            tmp_path / f"tickets/given/seed-{seed}-prunings-1.npz", like
        )
        theirs, _ = files.load_ticket(path, like)
        for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_ticket_is_transferred_without_its_output_layer(done, tmp_path):
    """To data of other classes: two of the digits' ten, in a file of arrays."""
    digits = data.load("digits")
    arrays = {
        f"{x}_{name}": value[split.labels < 2]
        for name, split in (("train", digits.train), ("test", digits.test))
        for x, value in (("x", split.images), ("y", split.labels))
    }
    np.savez(tmp_path / "two.npz", **arrays)
    file = done[0] / "tickets" / "imp" / "seed-{seed}-prunings-2.npz"
    options = {
        "methods": ("given",),
        "controls": (),
        "dataset": str(tmp_path / "two.npz"),
        "batch_size": 20,
    }
    with pytest.raises(ValueError, match="does not fit"):
        run(tmp_path / "no", hyper={"given.file": str(file)}, **options)
    hyper = {"given.file": str(file), "given.without": "output"}
    with pytest.raises(ValueError, match="--given.without must be .* fc_0, output"):
        run(tmp_path / "no", hyper=hyper | {"given.without": "last"}, **options)
    rows = run(tmp_path / "yes", hyper=hyper, **options)
    assert studies.select(rows, treatment="ticket").test_accuracy.gt(0.9).all()
    theirs, _ = files.load_ticket(str(file).replace("{seed}", "0"), studies.network())
    ours, about = kept.read(tmp_path / "yes/tickets/given/seed-0-prunings-1.npz")
    for part in ("weights", "mask"):
        one, other = (getattr(t, part)["fc_0"]["kernel"] for t in (ours, theirs))
        np.testing.assert_array_equal(one, other)
    assert ours.mask["output"]["kernel"].shape == (16, 2)
    assert ours.mask["output"]["kernel"].all()
    assert about["method"] == "given"
