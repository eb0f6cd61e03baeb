"""Searches over gates and pruners through their experiments: settings and budgets."""

import json

import numpy as np
import pytest
import studies

from experiments.study.records import Lane
from jaxticket import masks

pytestmark = pytest.mark.usefixtures("toy_study")
CS = "continuous_sparsification"
PARALLEL = f"{CS}_parallel"
LOGITS = ("initial_logit=0.1", "initial_logit=-0.1")
SEARCH = {
    "methods": (PARALLEL, "unscaled", "one_shot"),
    "rounds": 2,
    "hyper": {
        f"{PARALLEL}.initial_logit": (0.1, -0.1),
        "one_shot.density": (0.5, 0.2),
    },
}
KNOBS = {
    CS: ("initial_logit", (0.1, -0.1)),
    "gradual": ("final_density", (0.5, 0.1)),
    "one_shot": ("density", (0.5, 0.1)),
}
PRUNE = {
    "methods": tuple(KNOBS),
    "hyper": {f"{m}.{name}": values for m, (name, values) in KNOBS.items()}
    | {"gradual.every": 5},
}


def search(folder, **changes):
    return studies.run(CS, folder, **{**SEARCH, **changes})


def prune(folder, **changes):
    return studies.run("pruning", folder, **{**PRUNE, **changes})


@pytest.fixture(scope="module")
def searched(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return folder, search(folder)


@pytest.fixture(scope="module")
def pruned(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prune")
    return folder, prune(folder)


# Ticket search.


def test_every_setting_of_a_parallel_search_has_its_tickets(searched):
    folder, rows = searched
    found = studies.select(rows, method=PARALLEL)
    names = ["prunings", "setting", "seed"]
    assert [*found[names].itertuples(index=False, name=None)] == [
        (1, setting, seed) for setting in LOGITS for seed in (0, 1)
    ]
    density = found.density.to_numpy().reshape(2, 2)
    assert (density[0] > density[1]).all()
    assert density.min() > 0
    config = json.loads((folder / "config.json").read_text())
    assert config["experiment"] == "Continuous Sparsification"


def test_rows_say_what_their_ticket_has_cost(searched):
    _, rows = searched
    spent = {"dense": 0, PARALLEL: 1, "one_shot": 1}
    for row in rows.itertuples():
        assert row.search_epochs == 2 * spent.get(row.method, row.prunings)
        assert row.search_steps == 20 * row.search_epochs
        assert row.steps == 40  # of its own training, which is no search
        assert (row.search_seconds > 0) == (row.method != "dense")


def test_without_scaling_tickets_have_the_initial_weights(searched):
    """With it, 1 / sigmoid(initial logit) times these."""
    shelf = studies.network(searched[0])
    plain = shelf.anchor(Lane("unscaled", "ticket", 0, 1)).weights
    scaled = shelf.anchor(Lane(PARALLEL, "ticket", 0, 1, LOGITS[0])).weights
    pruned = shelf.anchor(Lane("one_shot", "ticket", 0, 1, "density=0.5")).weights
    for name in plain:
        ours, theirs, initial = (w[name]["kernel"] for w in (plain, scaled, pruned))
        np.testing.assert_array_equal(ours, initial)
        np.testing.assert_allclose(theirs, initial * (1 + np.exp(-0.1)), rtol=1e-6)


def test_a_setting_is_the_same_beside_others(searched, tmp_path):
    """In another place, beside another."""
    hyper = {f"{PARALLEL}.initial_logit": (-0.3, -0.1)}
    rows = search(tmp_path, methods=(PARALLEL,), hyper=hyper)
    same = {"method": PARALLEL, "setting": LOGITS[1]}
    studies.assert_same(
        studies.select(rows, **same), studies.select(searched[1], **same)
    )


def test_the_released_recipe_runs_with_its_multiplier(tmp_path):
    rows = search(
        tmp_path,
        methods=(PARALLEL,),
        keep_multiplier=True,
        rewind_step=None,
        rewind_epoch=1,
        optimizer="nesterov",
        learning_rate=0.1,
        weight_decay=1e-4,
        learning_rate_drops=(0.5, 30.0),
        controls=("reinitialise",),
        dtype="bfloat16",
        hyper={
            f"{CS}.between": "code",
            f"{PARALLEL}.initial_logit": -0.1,
            f"{PARALLEL}.rounds": 2,
        },
    )
    assert set(rows.treatment) == {"dense", "ticket", "reinitialise"}
    assert {*studies.select(rows, treatment="ticket").prunings} == {1, 2}
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert (config["dtype"], config["rewind_epoch"]) == ("bfloat16", 1)
    ticket = studies.network(tmp_path).ticket(Lane(PARALLEL, "ticket", 0, 2))
    assert ticket.weights["fc_0"]["kernel"].dtype == np.float32
    last = studies.select(rows, treatment="ticket", prunings=2, seed=0)
    np.testing.assert_allclose(masks.density(ticket.mask), last.density)


# Pruning.


def test_all_pruners_have_the_same_budget(pruned):
    folder, rows = pruned
    dense = rows.method == "dense"
    assert set(rows.method) == {"dense", *KNOBS}
    assert (rows.search_steps == np.where(dense, 0, 30)).all()
    assert (rows.steps == np.where(dense, 40, 10)).all()
    about = json.loads((folder / "config.json").read_text())
    assert (about["experiment"], about["verdicts"]) == ("Pruning", False)


def test_a_knob_turns_the_density(pruned):
    _, rows = pruned
    for method, (name, values) in KNOBS.items():
        found = studies.select(rows, method=method, treatment="ticket")
        assert [*found.setting.unique()] == [f"{name}={value}" for value in values]
        density = found.density.to_numpy().reshape(2, 2)
        assert (density[0] > density[1]).all()
        if name != "initial_logit":
            wanted = np.repeat(values, 2).reshape(2, 2)
            np.testing.assert_allclose(density, wanted, atol=1e-3)


def test_fine_tuning_starts_from_the_trained_weights(pruned):
    """The network does not fall back to where a fresh one would be."""
    _, rows = pruned
    tickets = studies.select(rows, treatment="ticket")
    assert (tickets.early_stopping_step >= 30).all()
    for method in ("gradual", "one_shot"):
        found = studies.select(tickets, method=method)
        assert (found[found.density > 0.4].test_accuracy > 0.5).all()


def test_a_pruning_run_again_is_read(pruned):
    folder, rows = pruned
    before = (folder / "metrics.jsonl").read_bytes()
    assert prune(folder).equals(rows)
    assert (folder / "metrics.jsonl").read_bytes() == before
