"""Early birds: distances of masks, the rule, and the experiment with its report."""

import itertools

import jax
import numpy as np
import pandas as pd
import pytest
import studies

from experiments.reports import mask_distances, reading
from experiments.study import records
from jaxticket import analysis, masks


def test_a_distance_is_the_share_that_differs():
    rng = np.random.default_rng(0)
    one, other = (
        {"a": rng.random((5, 7)) < 0.4, "b": None, "c": rng.random(9) < 0.7}
        for _ in range(2)
    )
    differ = sum((one[k] != other[k]).sum() for k in "ac")
    assert float(analysis.distance(one, other)) == pytest.approx(differ / 44)
    assert float(analysis.distance(one, one)) == 0


def test_a_bird_is_near_all_of_the_last_and_they_have_to_be_there():
    places = np.array([0.9, 0.0, 0.05, 0.0, 0.05, 0.3, 0.25, 0.3, 0.28, 0.21])
    far = np.abs(places[:, None] - places)
    unrest = analysis.unrest(far, 3)
    np.testing.assert_allclose(unrest[:6], [0, 0.9, 0.85, 0.9, 0.05, 0.3])
    assert analysis.early_bird(far, past=3) == 4
    assert analysis.early_bird(far, past=5) is None
    assert analysis.early_bird(far, past=2) == 3
    assert analysis.early_bird(far, past=3, threshold=0.04) == 8
    assert analysis.early_bird(far[:3, :3], past=5, threshold=1) is None


@pytest.mark.usefixtures("toy_study")
def test_masks_of_the_looks_of_a_training(tmp_path):
    given = {"looks": 8, "densities": (0.3,), "select": "equal"}
    studies.run("early_birds", tmp_path, **given)
    rows = reading.table(tmp_path / mask_distances.FILE, mask_distances.COLUMNS)
    steps = [5, 10, 15, 20, 25, 30, 35, 40]
    pairs = [*itertools.combinations(steps, 2)]
    for seed in (0, 1):
        ours = rows[rows["seed"] == seed]
        assert [*zip(ours["step"], ours["later"], strict=True)] == pairs
    shelf = studies.network(tmp_path)
    kept = []
    for lane in (records.at_step(1, 10), records.dense(1)):
        weights = masks.prunable_like(shelf.anchor(lane).weights, shelf.like.mask)
        kept.append([])
        for w in map(np.abs, jax.tree.leaves(weights)):
            least = np.sort(w.ravel())[-round(0.3 * w.size)]
            kept[-1].append(w >= least)
    differ = sum((a != b).sum() for a, b in zip(*kept, strict=True))
    size = sum(a.size for a in kept[0])
    ours = rows[(rows["seed"] == 1) & (rows["step"] == 10) & (rows["later"] == 40)]
    assert ours["distance"].item() == pytest.approx(differ / size)
    # What they have in common, of what each keeps, whatever was asked for.
    common = sum((a & b).sum() for a, b in zip(*kept, strict=True))
    density = ours["density"].item()
    assert density == pytest.approx(sum(a.sum() for a in kept[0]) / size)
    overlap = 1 - ours["distance"].item() / (2 * density)
    assert overlap == pytest.approx(common / (density * size))


@pytest.mark.parametrize("select", ["lottery"])
@pytest.mark.usefixtures("toy_study")
def test_the_density_is_that_of_the_masks(tmp_path, select):
    """The output layer of the lottery's loses half as much."""
    studies.run("early_birds", tmp_path, looks=6, densities=(0.02,), select=select)
    rows = reading.table(tmp_path / mask_distances.FILE, mask_distances.COLUMNS)
    assert (rows["density"] > 0.025).all()
    assert rows["density"].nunique() == 1


def test_what_the_report_says():
    """The bird of one seed; the other has none."""
    rows = []
    for seed, places in ((0, [0.9, *[0.0] * 6, 0.04]), (1, np.arange(8.0))):
        for i, j in itertools.combinations(range(8), 2):
            far = abs(places[i] - places[j])
            rows.append((seed, 0.2, 10 * (i + 1), 10 * (j + 1), far))
    rows = pd.DataFrame(rows, columns=[*mask_distances.COLUMNS])
    found = mask_distances.birds(rows).set_index("seed")
    assert found.loc[0, "step"] == 70
    assert found.loc[0, "share"] == pytest.approx(7 / 8)
    assert found.loc[0, "overlap"] == pytest.approx(1 - 0.04 / 0.4)
    assert found.loc[1].isna()[["step", "share", "overlap"]].all()
    (said,) = mask_distances.headlines(rows)
    assert "after 87.5% of the training (1 of 2 seeds)" in said
    assert "90% of the mask" in said
    (table,) = mask_distances.sections(rows)
    assert len(table.lines) == 1
    drawing, _ = mask_distances.drawn(rows)["early_birds"]
    assert len(drawing.axes) == 1
