"""The board of published targets says what the kept files say, and no more."""

import math

import numpy as np
import pandas as pd
import pytest

from experiments import scoreboard
from experiments.reports.targets import TARGETS, Part, Target, crossing
from jaxticket import analysis, export


def test_the_readme_has_the_board_of_the_kept_files():
    text = (scoreboard.RESULTS / "README.md").read_text("utf-8")
    assert scoreboard.placed(text, scoreboard.table()) == text


def test_every_target_says_what_it_rests_on():
    for target in TARGETS:
        assert bool(target.state) == (target.measure is None), target.id
        assert bool(target.run) == (target.measure is not None), target.id


def test_kept_tickets_are_sound_and_as_dense_as_they_say():
    kept = [*scoreboard.RESULTS.rglob("*.npz")]
    assert kept
    for path in kept:
        ticket = export.read(path)
        left = [mask.mean(dtype=float) for mask in ticket.masks.values()]
        sizes = [mask.size for mask in ticket.masks.values()]
        density = np.average(left, weights=sizes)
        assert density == pytest.approx(ticket.about["density"], rel=1e-6), path


def interval(mean):
    return analysis.Interval(mean, mean - 1, mean + 1)


@pytest.mark.parametrize(
    ("means", "short", "state"),
    [
        ([1.0, 5.0], "", "**met**"),
        ([1.0, 4.9], "", "**missed**: 1 of 2 parts in their bands"),
        ([math.nan, 5.0], "", "**missed**: 1 of 2 parts in their bands"),
        ([1.0, 5.0], "half", "not run at its length (half); 2 of 2 parts in their"),
        ([2.1], "", "**missed**: outside the band"),
    ],
)
def test_a_target_is_met_by_all_its_parts_at_its_length(
    means, short, state, monkeypatch
):
    rows = pd.DataFrame({"seconds": [60.0, 60.0]})
    monkeypatch.setattr(scoreboard.reading, "results", lambda path: rows)
    bands = [(0.5, 2.0), (5.0, math.inf)]
    parts = [
        Part("of it", interval(mean), *band)
        for mean, band in zip(means, bands, strict=False)
    ]
    parts.append(Part("beside it, not judged", interval(3.0)))
    cells = scoreboard.line(Target("X", "x", "", "r", lambda _: parts, short)).split(
        "|"
    )
    assert cells[5].strip().startswith(state)
    assert cells[7].strip() == "2"


def test_a_crossing_is_the_last_and_lies_between_on_a_logarithmic_axis():
    densities = np.array([0.8, 0.4, 0.2, 0.1, 0.05])
    found = crossing(densities, np.array([1, -1, 3, 1, -1.0]))
    assert found == pytest.approx(math.sqrt(0.1 * 0.05))
    found = crossing(densities[::-1], np.array([-3, 1, 3, 1, 1.0]))
    assert found == pytest.approx(0.1 * 0.5**0.25)
    for never in ([1, 1, 1, 1, 1.0], [-1, -1, -1, -1, -1.0]):
        assert math.isnan(crossing(densities, np.array(never)))


def test_a_text_without_marks_is_refused():
    with pytest.raises(ValueError, match="must have the lines <!-- scoreboard -->"):
        scoreboard.placed("# Results", "| |")
