"""Small networks through their experiment: built, trained in four ways, reported."""

import jax
import numpy as np
import pandas as pd
import pytest
import studies

from experiments import structured
from experiments.reports import small_networks as words
from jaxticket import units
from jaxticket.engine import keys

pytestmark = pytest.mark.usefixtures("toy_study")
OPTIONS = {"hyper": {"filters.density": (0.5, 0.25)}, "longest": 2.0}


def run(folder, **changes):
    return studies.run("structured", folder, **{**OPTIONS, **changes})


@pytest.fixture(scope="module")
def done(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("structured")
    return folder, run(folder)


@pytest.fixture(scope="module")
def found(done):
    return pd.read_csv(done[0] / words.FILE)


def test_every_setting_arm_and_seed_has_a_row(found):
    names = ["setting", "arm", "seed"]
    expected = [
        (f"density={density}", arm, seed)
        for density in (0.25, 0.5)
        for arm in words.ARMS
        for seed in (0, 1)
    ]
    rows = sorted(found[names].itertuples(index=False, name=None))
    assert rows == sorted(expected)


def test_the_small_network_is_the_masked_one_with_as_few_weights(done, found):
    assert (found["difference"] < 1e-5).all()
    for density, left in ((0.5, 8), (0.25, 4)):
        rows = found[found["setting"] == f"density={density}"]
        # 64 pixels, one hidden layer of 16, ten classes.
        assert (rows["weights"] == 64 * left + left + 10 * left + 10).all()
        assert (rows["large_weights"] == 64 * 16 + 16 + 10 * 16 + 10).all()
        share = rows["flops"] / rows["large_flops"]
        np.testing.assert_allclose(share, density, rtol=0.05)


def test_arms_differ_in_where_they_begin_and_how_long_they_train(found):
    steps = found[found["setting"] == "density=0.25"].groupby("arm")["steps"].first()
    whole = steps["scratch-E"]
    assert steps["ticket"] == whole
    assert steps["fine-tuned"] == round(whole / 4)
    assert steps["scratch-B"] == 2 * whole  # no longer than is said
    wide = found.pivot(index=["setting", "seed"], columns="arm", values="test_accuracy")
    assert (wide["fine-tuned"] > 0.2).all()
    assert wide["scratch-B"].mean() > wide["scratch-E"].mean()
    assert (wide["ticket"] != wide["scratch-E"]).any()


def test_a_run_that_was_killed_goes_on_after_the_last_arm(done, found, monkeypatch):
    folder, rows = done
    left = (found["arm"] == "ticket") & (found["seed"] == 1)
    found[~left].to_csv(folder / words.FILE, index=False)
    begun, real = [], structured._begins

    def begins(study, arm, lane, small):
        begun.append((arm, lane.seed))
        ticket = real(study, arm, lane, small)
        # The values of the large network, of the filters that are left.
        stay = np.asarray(study.shelf.ticket(lane).mask["fc_0"]["kernel"]).any(0)
        initial = study.network(keys.of_seed(lane.seed).init).weights
        np.testing.assert_array_equal(
            ticket.weights["fc_0"]["kernel"], initial["fc_0"]["kernel"][:, stay]
        )
        return ticket

    monkeypatch.setattr(structured, "_begins", begins)
    studies.assert_same(run(folder), rows)
    assert begun == [("ticket", 1), ("ticket", 1)]
    again = pd.read_csv(folder / words.FILE)
    names = ["setting", "arm", "seed"]
    pd.testing.assert_frame_equal(
        again.sort_values(names, ignore_index=True),
        found.sort_values(names, ignore_index=True),
    )


def test_a_seed_is_added_and_depends_on_nothing_beside_it(found, tmp_path):
    run(tmp_path, seeds=1)
    first = pd.read_csv(tmp_path / words.FILE)
    assert {*first["seed"]} == {0}
    run(tmp_path, seeds=2)
    names = ["setting", "arm", "seed"]
    for ours, theirs in (
        (first, found[found["seed"] == 0]),
        (pd.read_csv(tmp_path / words.FILE), found),
    ):
        pd.testing.assert_frame_equal(
            ours.sort_values(names, ignore_index=True),
            theirs.sort_values(names, ignore_index=True),
        )


def test_the_report_pairs_arms_by_seed(found):
    [table] = words.sections(found)
    assert len(table.lines) == 8
    line = next(x for x in table.lines if "scratch-B" in x and "density=0.5" in x)
    rows = words.compared(found)
    rows = rows[(rows["arm"] == "scratch-B") & (rows["setting"] == "density=0.5")]
    mean = 100 * rows["to_tuned"].mean()
    assert line[-2].startswith(f"{mean:+.2f}")
    assert len(words.headlines(found)) == 2
    assert set(words.drawn(found)) == {"structured"}


def test_networks_without_filters_are_refused_before_they_train(tmp_path, monkeypatch):
    monkeypatch.setattr(units, "filters", lambda *args, **options: [])
    with pytest.raises(ValueError, match="no filters of any layer can be pruned"):
        run(tmp_path)
    assert not (tmp_path / "results.csv").exists()


def test_gates_on_units_make_smaller_networks_too(tmp_path, monkeypatch):
    hyper = {
        "l0.density": 0.4,
        "l0.dual_learning_rate": 0.1,
        "l0.logit_learning_rate": 0.1,
        "l0.initial_logit": -1.8,
    }
    begun, real = [], structured._begins

    def begins(study, arm, lane, small):
        begun.append((small.ticket.mask, real(study, arm, lane, small).mask))
        return real(study, arm, lane, small)

    monkeypatch.setattr(structured, "_begins", begins)
    run(tmp_path, methods=["l0"], seeds=1, longest=1.0, hyper=hyper)
    # Inputs that it prunes stay in the arrays, and are pruned in every arm.
    for mask, ours in begun:
        jax.tree.map(np.testing.assert_array_equal, mask, ours)
    rows = pd.read_csv(tmp_path / words.FILE)
    assert [*rows["arm"]] == [*words.ARMS]
    pruned = sum((~np.asarray(leaf)).sum() for leaf in jax.tree.leaves(begun[0][0]))
    assert pruned > 0
    # A unit of the hidden layer has 64 weights and a bias, and 10 that read it.
    gone = (rows["large_weights"] - rows["weights"] - pruned) / (64 + 1 + 10)
    assert (gone == gone.round()).all()
    assert 0 < gone[0] < 16
    assert (rows["difference"] < 1e-5).all()
