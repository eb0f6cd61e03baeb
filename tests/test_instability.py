"""Copies of tickets: that they differ, and what lies between them."""

import itertools

import jax
import numpy as np
import pandas as pd
import pytest
import studies

from experiments import instability
from experiments.reports import barriers as report
from experiments.reports import findings, tables
from experiments.study.records import Lane
from jaxticket import masks

pytestmark = pytest.mark.usefixtures("toy_study")
COPIES = ("ticket", "reorder", "reorder 2")
ALL = {
    "rounds": 3,
    "points": 5,
    "images": 200,
    "mask_densities": (0.5,),
    "rewind_step": 10,
}
TICKETS = [("unpruned", 1), ("imp", 1), ("imp", 2)]
LAST = {"compare": "last"}


def run(folder, **changes):
    return studies.run("instability", folder, **{**ALL, **changes})


@pytest.fixture(scope="module")
def done(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("instability")
    return folder, run(folder)


def test_copies_are_of_one_ticket_and_differ_from_each_other(done):
    """All start from the weights of one step, under one mask, and see other batches."""
    shelf = studies.network(done[0])
    for (method, prunings), seed in itertools.product(TICKETS, (0, 1)):
        ticket = shelf.ticket(Lane(method, "ticket", seed, prunings))
        trained = [shelf.trained(Lane(method, x, seed, prunings)) for x in COPIES]
        for copy in trained:
            assert masks.layer_counts(copy.mask) == masks.layer_counts(ticket.mask)
            assert float(masks.overlap(copy.mask, ticket.mask)) == 1
        for one, other in itertools.combinations(trained, 2):
            for x, y in zip(
                *map(jax.tree.leaves, (one.weights, other.weights)), strict=True
            ):
                assert 0 < np.abs(x - y).max() < 0.5
    whole = shelf.anchor(Lane("unpruned", "ticket", 0, 1)).weights
    ours = shelf.anchor(Lane("imp", "ticket", 0, 1)).weights
    jax.tree.map(np.testing.assert_array_equal, whole, ours)
    assert (
        float(masks.density(shelf.ticket(Lane("unpruned", "ticket", 0, 1)).mask)) == 1
    )


def test_the_ends_of_every_path_are_the_copies(done):
    """Their errors are those that their trainings ended with."""
    folder, rows = done
    paths = pd.read_csv(folder / report.FILE)
    assert len(paths) == len(TICKETS) * 2 * 3 * ALL["points"]
    assert sorted(paths["alpha"].unique()) == [0, 0.25, 0.5, 0.75, 1]
    keys = ["method", "seed", "prunings"]
    last = rows.set_index([*keys, "treatment"])["test_accuracy"]
    for end, name in ((1, "one"), (0, "other")):
        at = paths[paths["alpha"] == end]
        assert set(at[name]) == {*(COPIES[:2] if name == "one" else COPIES[1:])}
        expected = last.loc[[*at[[*keys, name]].itertuples(index=False, name=None)]]
        np.testing.assert_allclose(1 - at["test_error"], expected, atol=1e-6)
    between = paths[~paths["alpha"].isin((0, 1))]
    assert between["test_loss"].nunique() > len(between) / 2
    assert np.isfinite(paths[["train_error", "train_loss"]]).all(axis=None)


def test_two_equal_copies_have_no_barrier(done, tmp_path, monkeypatch):
    """And the masks of their weights are one."""
    found = {}

    def twice(study):
        for lane, ticket, trained in copies(study):
            yield (
                lane,
                ticket,
                {"ticket": trained["ticket"], "reorder": trained["ticket"]},
            )

    copies = instability.copies
    monkeypatch.setattr(instability, "copies", twice)
    monkeypatch.setattr(
        instability.records,
        "write_table",
        lambda path, columns, rows: found.update({path.name: pd.DataFrame(rows)}),
    )
    run(done[0])
    barriers = report.barriers(found["instability.csv"])
    assert (barriers[["test_barrier", "train_barrier"]] == 0).all(axis=None)
    assert (found["multiplicity.csv"]["observed"] == 1).all()
    monkeypatch.undo()


def test_masks_of_copies_overlap_more_than_by_chance_and_less_than_all(done):
    found = pd.read_csv(done[0] / "multiplicity.csv")
    assert len(found) == len(TICKETS) * 2 * 3
    np.testing.assert_allclose(found["expected"], 0.5, rtol=0.01)
    above = found["observed"] - found["expected"]
    assert (above > 5 * found["deviation"]).all()
    assert (found["observed"] < 1).all()


def test_the_report_says_barriers(done):
    rows = dict((x.FILE, rows) for x, rows in findings.of(done[0]))[report.FILE]
    (table,) = report.sections(rows)
    assert [line[:2] for line in table.lines] == [
        [method, f"pruned {n}×"] for method, n in TICKETS
    ]
    assert isinstance(table, tables.Table)
    assert len(report.headlines(rows)) == 2
    assert set(report.drawn(rows)) == {"instability", "barriers"}


def test_tickets_of_one_density_have_parts_of_a_figure_each():
    """Half of the weights twice, and a quarter at once."""
    rows = pd.DataFrame(
        {"method": "imp", "setting": setting, "prunings": n, "density": 0.25}
        | {"seed": seed, "one": "a", "other": "b", "alpha": alpha}
        | dict.fromkeys(("test_error", "train_error"), 0.1)
        for setting, n in (("density=0.5", 2), ("density=0.25", 1))
        for seed in (0, 1)
        for alpha in (0, 0.5, 1)
    )
    drawing, _ = report.drawn(rows)["instability"]
    titles = [axes.get_title() for axes in drawing.axes if axes.get_title()]
    assert len({*titles}) == 2


def test_a_barrier_of_made_up_errors():
    """Means over the pairs of a seed; alphas in any order."""
    lane = {"method": "imp", "setting": "", "prunings": 1, "density": 0.5}
    errors = {("a", "b"): (0.1, 0.5, 0.3), ("a", "c"): (0.1, 0.1, 0.1)}
    rows = pd.DataFrame(
        [
            lane | {"seed": seed, "one": one, "other": other, "alpha": alpha}
            | dict.fromkeys(("test_error", "train_error"), error)
            for seed in (0, 1)
            for (one, other), values in errors.items()
            for alpha, error in reversed([*zip((0, 0.5, 1), values, strict=True)])
        ]
    )  # fmt: skip
    found = report.barriers(rows)
    np.testing.assert_allclose(found["test_barrier"], 0.15)
    np.testing.assert_allclose(found["test_ends"], 0.15)
    assert [*found["seed"]] == [0, 1]


def test_settings_that_make_no_copies_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--controls needs reorder"):
        run(tmp_path / "x", controls=("shuffle",))
    with pytest.raises(ValueError, match="--points .* from 2"):
        run(tmp_path / "x", points=1)
    with pytest.raises(ValueError, match="--mask_densities"):
        run(tmp_path / "x", mask_densities=(0.0,))
    assert not (tmp_path / "x").exists()
