"""Swaps of a mask: what is predicted and what comes, from the files of a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import studies
import toy

from experiments import swaps
from experiments.reports import findings
from experiments.reports import loss_changes as report
from jaxticket import masks

pytestmark = pytest.mark.usefixtures("unoptimised")
ALL = {"images": 200, "prunable": "kernels", "hyper": {"magnitude.density": 0.3}}


@pytest.fixture(scope="module")
def done(unoptimised, tmp_path_factory):
    with studies.tiny():
        folder = tmp_path_factory.mktemp("swaps")
        return folder, studies.run("swaps", folder, **ALL)


def test_as_many_as_promise_something_in_each_layer_and_in_all(done):
    rows = pd.read_csv(done[0] / report.FILE)
    assert rows["layer"].nunique() == 3
    for (_, layer), ours in rows.groupby(["seed", "layer"]):
        first = 2 if layer == report.ALL else 1
        assert [*ours["swaps"]] == [first * 2**i for i in range(len(ours))]
        assert len(ours) > 1
        assert (ours["predicted"].diff().dropna() < 0).all()  # more promise more
    assert (rows["predicted"] < 0).all()
    assert np.isfinite(rows["actual"]).all()


def test_the_loss_is_of_as_many_images_as_are_asked_for(done, tmp_path):
    """They are looked at in batches of a hundred at most, and all are looked at."""
    rows = {200: pd.read_csv(done[0] / report.FILE)}
    for images in (150, 100):
        with studies.tiny():
            options = {**ALL, "images": images, "seeds": 1}
            studies.run("swaps", tmp_path / str(images), **options)
        rows[images] = pd.read_csv(tmp_path / str(images) / report.FILE)
    first = [x["predicted"][0] for x in rows.values()]
    assert len({*first}) == 3


def test_a_linear_loss_does_what_its_gradient_says():
    """Whatever the number of swaps; each row swaps as many as it says."""
    ticket = toy.ticket(lost=9)
    slopes = toy.init(jax.random.key(3))

    def loss(ticket, train):
        del ticket, train
        return lambda w: sum(map(jnp.vdot, *map(jax.tree.leaves, (slopes, w))))

    gains = swaps._gains(loss, ticket, None)
    jax.tree.map(
        lambda found, m, w, g: np.testing.assert_allclose(found, w * g, rtol=1e-6),
        gains,
        ticket.mask,
        masks.prunable_like(ticket.weights, ticket.mask),
        masks.prunable_like(slopes, ticket.mask),
    )
    places, counts = swaps._counts(ticket, gains)
    assert [x[1] for x in places if x[0] == "dense/kernel"][:2] == [1, 2]
    totals = sum(jax.tree.leaves(counts))
    assert [*totals] == [number for _, number in places]
    found = swaps._changes(loss, ticket, gains, None, counts)
    np.testing.assert_allclose(found.actual, found.predicted, rtol=1e-4)
    assert (found.predicted < 0).all()


def test_many_swaps_do_less_than_is_predicted(done):
    ((_, rows),) = findings.of(done[0])
    for ends in report._ends(rows):
        assert ends["few"].mean() > ends["many"].mean()
    (table,) = report.sections(rows)
    assert len(table.lines) == 3


def test_the_report_says_it(done):
    ((finding, rows),) = findings.of(done[0])
    assert finding is report
    assert "of 2 seeds" in report.headlines(rows)[0]
    assert set(report.drawn(rows)) == {"swaps"}


def test_made_up_ratios_are_those_of_few_and_of_many_swaps():
    rows = pd.DataFrame(
        {"method": "magnitude", "setting": "", "seed": seed, "prunings": 1}
        | {"density": 0.1, "layer": report.ALL, "swaps": q, "predicted": -q}
        | {"actual": -q * ratio}
        for seed in (0, 1)
        for q, ratio in ((4, 0.2), (1, 0.9), (2, 0.95))
    )
    (found,) = report._ends(rows)
    np.testing.assert_allclose(found["few"], 0.9)
    np.testing.assert_allclose(found["many"], 0.2)
    np.testing.assert_allclose(found["falling"], 0.5)
    assert [*found["most"]] == [4, 4]
