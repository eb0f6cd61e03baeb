"""Statistics, tables, figures, page: of made-up runs, and of all that are kept."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import markupsafe
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments import report
from experiments.reports import (
    against,
    costs,
    drawings,
    figures,
    findings,
    mask_searches,
    overlaps,
    reading,
    statistics,
    trainings,
)
from experiments.study import records
from jaxticket import analysis

ROOT = Path(__file__).resolve().parent.parent
KEPT = sorted(p.parent for p in (ROOT / "experiments/results").glob("*/results.csv"))
PNG = b"\x89PNG\r\n\x1a\n"
EARLY = "early_stopping_test_accuracy"


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    monkeypatch.setattr(drawings, "DPI", 20)


def make_row(method, treatment, seed, prunings, *, accuracy=0.97, **values):
    """A training; `accuracy` is every accuracy that `values` do not give."""
    accuracies = (name for name in records.COLUMNS if name.endswith("accuracy"))
    return (
        dict.fromkeys(records.COLUMNS, 1.0)
        | dict.fromkeys(accuracies, accuracy)
        | {"method": method, "treatment": treatment, "seed": seed}
        | {"prunings": prunings, "setting": "", "density": 0.8**prunings}
        | {"early_stopping_step": 500, "search_epochs": 10.0 * prunings}
        | values
    )


def make_pairs(differences, *, dense_step=500, control=None, **values):
    """Tickets that differ from their dense networks by the given accuracies."""
    rows = []
    for seed, difference in enumerate(differences):
        level = 0.90 + 0.02 * seed  # seeds differ by more than the treatments
        dense = {"density": 1.0, "early_stopping_step": dense_step}
        ours = {"density": 0.5} | values
        rows += [
            make_row("dense", "dense", seed, 0, accuracy=level, **dense),
            make_row("imp", "ticket", seed, 1, accuracy=level + difference, **ours),
        ]
        if control is not None:
            accuracy = level + control
            rows.append(make_row("imp", "reinitialise", seed, 1, accuracy=accuracy))
    return pd.DataFrame(rows)


def make_ladder(differences, *, spread=0.001, method="imp", dense=True, **values):
    """Tickets of falling density, three seeds each, `spread` about the difference."""
    rows = []
    for seed, noise in enumerate((-1, 0, 1)):
        if dense:
            rows.append(make_row("dense", "dense", seed, 0, accuracy=0.9))
        rows += [
            make_row(
                method, "ticket", seed, n, accuracy=0.9 + d + noise * spread, **values
            )
            for n, d in enumerate(differences, 1)
        ]
    return pd.DataFrame(rows)


def make_run(folder, rows, *, looks=(), **about):
    """Writes the files that a study leaves."""
    config = {"dataset": "digits", "model": "lenet_300_100", "seeds": 5}
    about = {"config": config, "environment": {"jax": "0.10.2"}, "command": "x"} | about
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(about))
    rows = pd.DataFrame(rows)
    records.write_table(folder / "results.csv", [*rows], rows.to_dict("records"))
    lines = [json.dumps(look) + "\n" for look in looks]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def as_run(rows, *, looks=None, margin=0.5, at="early_stopping_"):
    """What reading a run of these rows gives."""
    if looks is None:
        looks = reading.looks(ROOT / "nowhere.jsonl")
    about, nothing = {"references": {}}, pd.DataFrame()
    empty = (records.LAYERS, records.INPUTS, records.DIVERGENCE)
    beside = (nothing.reindex(columns=[*columns]) for columns in empty)
    return reading.Run(about, margin, at, rows, looks, *beside)


def make_looks(rows):
    """Looks at the trainings of `rows`, at every hundredth step."""
    keys = ("method", "treatment", "seed", "prunings", "setting", "density")
    for row in rows.to_dict("records"):
        for step in range(100, 1001, 100):
            done = 1 - math.exp(-step / 200)
            losses = {"train_loss": 2.3 - 2 * done, "validation_loss": 2.4 - 2 * done}
            accuracies = {
                "validation_accuracy": 0.9 * done,
                "test_accuracy": 0.9 * done,
            }
            look = {key: row[key] for key in keys} | {"step": step, "test_loss": 1.0}
            yield look | losses | accuracies


def ticket_of(rows, **options):
    """The table of the only ticket, and its mean and interval against dense."""
    (ticket,) = statistics.tickets(as_run(rows, **options))
    return ticket, analysis.interval(ticket["to_dense"])


def verdict_of(ticket):
    (verdict,) = ticket["verdict"].unique()
    return verdict


def chosen_of(rows, **options):
    """The tickets that speak for each method, and what the headlines say of them."""
    run = as_run(rows, **options)
    chosen = statistics.choose(statistics.tickets(run))
    return chosen, trainings.headlines(run)


def table_of(rows, **options):
    """The table of all tickets."""
    run = as_run(rows, **options)
    return trainings.every_ticket(run, statistics.tickets(run))


# Numbers.


@pytest.mark.parametrize(
    ("values", "t"),
    [([1.0, 3.0], 12.706205), ([1.0, 2.0, 6.0], 4.302653), (range(10), 2.262157)],
)
def test_interval_is_students_t(values, t):
    mean, low, high = analysis.interval([*values])
    half = t * np.std([*values], ddof=1) / math.sqrt(len(values))
    assert mean == pytest.approx(np.mean(values))
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_interval_of_few_or_failed_runs():
    assert analysis.interval([2.0]).mean == 2.0
    assert math.isnan(analysis.interval([2.0]).low)
    assert math.isnan(analysis.interval([]).mean)
    assert np.isnan(analysis.interval([1.0, math.nan, 2.0])).all()
    assert analysis.interval([3.0, 3.0]) == (3.0, 3.0, 3.0)
    many = analysis.interval([[1.0, 3.0], [2.0, math.nan]])
    np.testing.assert_equal(many.mean, [2.0, math.nan])


def test_ratio_is_of_logarithms():
    first, second = np.array([200.0, 400.0, 800.0]), np.array([100.0, 100.0, 400.0])
    logs = np.log([2.0, 4.0, 2.0])
    low, high = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    found = analysis.ratio(first, second)
    assert found.mean == pytest.approx(16 ** (1 / 3))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    inverse = analysis.ratio(second, first)
    assert inverse.low == pytest.approx(1 / found.high)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("missing", [0.0, math.nan])
def test_a_step_of_zero_or_none_is_said(missing):
    rows = make_pairs([0.01, 0.01])
    rows.loc[1, "early_stopping_step"] = missing
    table = table_of(rows)
    said = table.lines[0][table.headers.index("steps, times\ndense's")]
    assert said == "1 of 2 seeds without a step"


def test_differences_are_paired_by_seed():
    differences = [0.004, 0.005, 0.006, 0.005]
    rows = make_pairs(differences)
    rows = pd.concat(
        [rows[rows.treatment == "dense"], rows[rows.treatment == "ticket"][::-1]]
    )
    found, to_dense = ticket_of(rows)
    dense, ticket = (
        rows[rows.treatment == name].sort_values("seed")[EARLY]
        for name in ("dense", "ticket")
    )
    expected = stats.ttest_rel(ticket, dense).confidence_interval(0.95)
    mean, _, high = analysis.interval(found["accuracy"])
    assert high - mean > 0.03
    assert to_dense == pytest.approx((0.005, *expected))
    assert (verdict_of(found), found["wins"].sum()) == ("better", 4)


@pytest.mark.parametrize(
    ("differences", "options", "verdict", "wins"),
    [
        ([0.010, 0.011, 0.012], {}, "better", 3),
        ([0.0, 0.0, 0.0], {}, "matches", 3),
        ([0.001, 0.0, -0.001], {}, "matches", 2),
        ([-0.002, -0.002, -0.002], {}, "matches", 0),
        ([-0.010, -0.011, -0.012], {}, "worse", 0),
        ([0.02, -0.01, 0.02], {}, "unclear", 2),
        ([-0.002, -0.002, -0.002], {"margin": 0.1}, "worse", 0),
        ([0.02], {}, "one seed", 1),
        ([0.02, math.nan], {}, "unknown", 1),
        ([0.010, 0.011], {"density": 1.0}, "not sparser", 0),
        ([0.010, 0.011], {"density": math.nan}, "unknown", 0),
        ([0.010, 0.0101], {"early_stopping_step": 501}, "better", 0),
    ],
)
def test_verdict(differences, options, verdict, wins):
    margin = {"margin": options.pop("margin", 0.5)}
    ticket, _ = ticket_of(make_pairs(differences, **options), **margin)
    assert (verdict_of(ticket), ticket["wins"].sum()) == (verdict, wins)


def test_rounding_of_float32_is_a_tie():
    tie = float(np.float32(0.9)) - 0.9  # the same count of images, as printed
    assert tie != 0
    for difference in (abs(tie), -abs(tie)):
        ticket, _ = ticket_of(make_pairs([difference] * 3))
        assert (verdict_of(ticket), ticket["wins"].sum()) == ("matches", 3)


def claim(rows):
    """What a page claims: the best verdicts, and the sparsest that matches."""
    verdicts = [verdict_of(x) for x in statistics.tickets(as_run(rows))]
    ranks = {"better": 2, "matches": 1}
    chosen, (headline,) = chosen_of(rows)
    sparsest = chosen["imp"].sparsest
    matches = not headline.startswith("No ticket is shown")
    assert matches == (sparsest is not None)
    density = sparsest["density"].mean() if matches else math.inf
    return [ranks.get(verdict, 0) for verdict in verdicts], -density


def test_more_noise_never_makes_a_better_verdict_or_headline():
    """The means stay: tickets from clearly better to clearly worse."""
    means = [0.02, 0.006, 0.003, 0.0, -0.003, -0.004, -0.006, -0.02]
    last, said = claim(make_ladder(means, spread=0.0))
    assert last == [2, 2, 2, 1, 1, 1, 0, 0]
    for spread in np.geomspace(1e-3, 0.1, 12):
        ranks, sparsest = claim(make_ladder(means, spread=spread))
        assert all(now <= before for now, before in zip(ranks, last, strict=True))
        assert sparsest <= said
        last, said = ranks, sparsest
    assert (last, said) == ([0] * len(means), -math.inf)


def test_accuracy_is_that_of_the_column_asked_for():
    rows = make_pairs([0.01, 0.01], early_stopping_step=250, control=-0.02)
    rows.loc[rows["treatment"] == "ticket", "test_accuracy"] = 0.1
    rows.loc[rows["treatment"] == "dense", "test_accuracy"] = 0.3
    table = table_of(rows)
    assert table.lines[0][5:7] == ["+1.00 ±0.00", "better"]
    assert table.lines[0][7] == "+3.00 ±0.00"
    assert table.lines[0][10] == "0.50× (0.50–0.50)"
    # After the last step, against dense there, and against dense at its stop.
    assert table.lines[0][8] == "-20.00 ±0.00"
    last = table_of(rows, at="")
    assert last.lines[0][5] == "-20.00 ±0.00"
    assert last.lines[0][8] == "-81.00 ±12.71"


def test_what_has_no_pair_is_unknown():
    rows = make_pairs([0.01, 0.011, 0.012], control=0.0)
    alone, _ = ticket_of(rows[rows["treatment"] == "ticket"])
    assert verdict_of(alone) == "unknown"
    lost, _ = ticket_of(rows[(rows["treatment"] != "dense") | (rows["seed"] > 0)])
    assert verdict_of(lost) == "unknown"
    rest = rows[(rows["treatment"] != "reinitialise") | (rows["seed"] > 0)]
    lost, _ = ticket_of(rest)
    assert verdict_of(lost) == "better"
    assert list(lost["to_reinitialise"].isna()) == [True, False, False]
    assert table_of(rest).lines[0][7] == "+1.15 ±0.64 (2 of 3)"
    # A ticket that is missing for a seed has failed there.
    more = rows[(rows["treatment"] == "ticket") & (rows["seed"] > 0)]
    more = pd.concat([rows, more.assign(prunings=2)])
    _, lost = statistics.tickets(as_run(more))
    assert (verdict_of(lost), len(lost)) == ("unknown", 3)


# Choice.


def test_tickets_are_chosen_on_validation_and_reported_on_test():
    rows = make_ladder([0.004, 0.003, -0.02, -0.03])
    validation = rows["prunings"].map({0: 0.9, 1: 0.9, 2: 0.92, 3: 0.9, 4: 0.8})
    rows["early_stopping_validation_accuracy"] = validation + rows["seed"] * 1e-4
    chosen, (headline,) = chosen_of(rows)
    assert (chosen["imp"].among, chosen["imp"].unknown) == (4, 0)
    assert "selected among 4" in headline
    # The third is level on validation, though the test set has it below.
    assert "on test -2.00 ±0.25 points against dense, worse" in headline
    sparsest, best = trainings.milestones(chosen).lines
    assert sparsest[:4] == ["imp", "sparsest that matches, of 4", "pruned 3×", "51.2"]
    assert sparsest[6:] == ["-2.00 ±0.25", "worse", "30", "1"]
    assert best[1:3] == ["most accurate, of 4", "pruned 2×"]
    assert best[6] == "+0.30 ±0.25"


def test_a_failed_seed_is_counted_and_never_chosen():
    rows = make_ladder([0.01, 0.02])
    failed = (rows["prunings"] == 2) & (rows["seed"] == 1)
    rows.loc[failed, "early_stopping_validation_accuracy"] = math.nan
    chosen, (headline,) = chosen_of(rows)
    assert (chosen["imp"].among, chosen["imp"].unknown) == (2, 1)
    for ticket in (chosen["imp"].sparsest, chosen["imp"].best):
        assert set(ticket["prunings"]) == {1}
    assert "1 unknown because a seed failed" in headline


def test_methods_without_a_match_share_a_headline():
    rows = make_ladder([-0.02, -0.03])
    other = make_ladder([0.01], method="all", dense=False, density=1.0)
    rows = pd.concat([rows, other])  # a ticket that keeps everything is none
    chosen, (headline,) = chosen_of(rows)
    assert (chosen["all"].among, chosen["all"].best) == (0, None)
    assert "within 0.5 points: imp (of 2: -2.00 ±0.25 points, worse)," in headline
    assert headline.split("worse), ")[1].startswith("all (none is sparse).")
    assert [line[1] for line in trainings.milestones(chosen).lines] == [
        "most accurate, of 2"
    ]
    one = rows[rows["seed"] == 1]
    assert chosen_of(one, margin=9, at="")[0]["imp"].sparsest is None


def test_settings_and_prunings_tell_tickets_apart():
    rows = make_ladder([0.01, -0.01], setting="k=1")
    sparse = make_ladder([0.0, 0.0], dense=False, setting="k=2")
    rows = pd.concat([rows, sparse.assign(density=sparse["density"] / 2)])
    table = table_of(rows[::-1])
    names = ["k=1", "k=1, pruned 2×", "k=2", "k=2, pruned 2×"]
    assert [line[1] for line in table.lines] == names
    drawn = figures.drawn(as_run(rows))
    assert [*drawn][0] == "comparison"
    labels = [x.get_text() for x in drawn["comparison"][0].legends[0].get_texts()]
    assert labels == ["dense", "imp, k=1", "imp, k=2"]


def test_table_of_tickets_holds_the_numbers():
    rows = make_pairs([0.01, 0.03], early_stopping_step=400, control=-0.01)
    rows.loc[rows["treatment"] == "ticket", "test_accuracy"] += 0.01
    table = table_of(rows)
    cells = {
        " ".join(k.split()): v
        for k, v in zip(table.headers, table.lines[0], strict=True)
    }
    assert cells == {
        "method": "imp",
        "ticket": "pruned 1×",
        "weights kept, %": "50",
        "effective, %": "–",
        "test accuracy, %": "93.00 ±25.41",
        "against dense, points": "+2.00 ±12.71",
        "verdict": "unclear",
        "against re-initialised, points": "+3.00 ±12.71",
        "after the last step, against dense, points": "+3.00 ±12.71",
        "stops at step": "400 ±0",
        "steps, times dense's": "0.80× (0.80–0.80)",
        "seeds that win": "2/2",
    }
    assert table.good == [False]
    frozen = table_of(rows, at="")
    assert "against dense\nat its stop,\npoints" in frozen.headers
    assert not {*trainings.STEPS} & {*frozen.headers}


def test_the_terminal_gets_every_number(capsys, tmp_path):
    pairs = make_pairs([0.01, 0.012, 0.011], control=0.0)
    report.show(report.read(make_run(tmp_path, pairs)))
    said = capsys.readouterr().out
    for words in ("selected among 1", "+1.10 ±0.25", "better", "sparsest that matches"):
        assert words in said


# Files.


def test_results_survive_the_file(tmp_path):
    rows = make_ladder([0.1 / 3, 0.01])
    rows.loc[0, "train_loss"] = math.nan
    found = reading.results(make_run(tmp_path, rows) / "results.csv")
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)
    assert found["prunings"].dtype == int


def test_results_of_earlier_versions_can_be_read(tmp_path):
    rows = make_ladder([0.01, 0.02]).rename(columns={"prunings": "round"})
    rows["validation_accuracy"] = 0.5
    old = rows.drop(columns=[*reading.LATER])
    found = reading.results(make_run(tmp_path, old) / "results.csv")
    assert list(found["prunings"]) == list(rows["round"])
    assert set(found["setting"]) == {""}
    assert set(found["early_stopping_validation_accuracy"]) == {0.5}
    assert found["search_seconds"].isna().all()
    # With settings, `round` numbered them.
    old = rows.assign(setting=["" if n == 0 else f"k={n}" for n in rows["round"]])
    found = reading.results(make_run(tmp_path, old) / "results.csv")
    assert set(found.loc[found["setting"] == "k=2", "prunings"]) == {1}


HEADER = ",".join(records.COLUMNS)
LINE = "imp,ticket,0,1,," + ",".join(["1"] * 13)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "No columns"),
        ("method,seed\nimp,0\n", "lacks the columns"),
        (f"{HEADER}\n", "no rows"),
        (f"{HEADER}\n{LINE.replace('ticket,0', 'ticket,x')}\n", "'x'"),
        (f"{HEADER}\n{LINE.replace(',1,1', ',one,1')}\n", "'one'"),
        (f"{HEADER}\n{LINE.replace('ticket,0', 'ticket,')}\n", "NA values"),
        (f"{HEADER}\n{LINE}\n{LINE},1,1\n", "line 3"),
        (f"{HEADER}\n{LINE}\n{LINE}\n", "line 3: a training comes twice"),
        (b"\xff\xfe\x00", "decode"),
    ],
)
def test_damaged_results_are_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "results.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=reason) as error:
        reading.results(path)
    assert str(path) in str(error.value)


LOOK = '{"method": "imp", "treatment": "ticket", "seed": 0, "round": 1, "step": 1'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f'{LOOK}, "te\n{LOOK}}}\n', "line 1"),
        ("7\n7\n", "line 1"),
        ('{"step": 1}\n', "lacks"),
        (f'{LOOK}}}\n{{"seed": 1}}\n', "metrics"),
        (f'{LOOK}, "test_loss": "x"}}\n', "'x'"),
    ],
)
def test_damaged_metrics_are_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason) as error:
        reading.looks(path)
    assert str(path) in str(error.value)


def test_metrics_of_a_killed_and_resumed_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert reading.looks(path).empty
    path.write_text(
        f'{LOOK}, "test_loss": null}}\n{LOOK}, "test_loss": 0.5}}\n{{"step": 2, "te'
    )
    (look,) = reading.looks(path).to_dict("records")
    assert (look["prunings"], look["step"], look["test_loss"]) == (1, 1, 0.5)
    assert math.isnan(look["changed"])


@pytest.mark.parametrize("name", ["config.json", "results.csv"])
def test_what_is_no_run_and_what_has_not_finished(tmp_path, name):
    (make_run(tmp_path, make_pairs([0.01])) / name).unlink()
    with pytest.raises(ValueError, match=f"{tmp_path} h.* no {name}"):
        report.read(tmp_path)


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"config": 7}'])
def test_a_config_that_is_none(tmp_path, config):
    make_run(tmp_path, make_pairs([0.01]))
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match="config.json is not the config of a run"):
        report.read(tmp_path)


def test_the_margin_is_that_of_the_run_unless_told(tmp_path):
    rows = make_pairs([-0.01, -0.01, -0.01])
    make_run(tmp_path, rows, config={"margin": 1.5})
    assert reading.read(tmp_path).margin == 1.5
    assert reading.read(tmp_path, margin=0.2).margin == 0.2
    assert reading.read(make_run(tmp_path, rows)).margin == 0.5
    for bad in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="--margin must be above 0"):
            reading.read(tmp_path, margin=bad)


# Figures.


@pytest.mark.parametrize(
    ("sparsest", "densest", "ticks"),
    [
        (10, 100, [10, 20, 50, 100]),
        (0.4, 100, [0.5, 1, 2, 5, 10, 20, 50, 100]),
        (2, 20, [2, 5, 10, 20]),
        (60, 100, [60, 70, 80, 90, 100]),
        (0.01, 100, [0.01, 0.1, 1, 10, 100]),
    ],
)
def test_density_ticks_are_round(sparsest, densest, ticks):
    line = {"panel": "", "line": "", "x": [sparsest, densest]}
    points = pd.DataFrame({**line, "mean": 1.0, "low": 0.9, "high": 1.1})
    drawing, grid = drawings.panels(points, "", "")
    drawings.density_axis(grid, sparsest, densest)
    drawing.canvas.draw()
    left, right = grid[0, 0].get_xlim()
    found = [x for x in grid[0, 0].get_xticks() if right <= x <= left]
    assert sorted(found) == pytest.approx(ticks)
    # Labels have room.
    gaps = np.diff(np.sort(np.log(found)))
    assert min(gaps) >= math.log(left / right) / 10


def test_a_collapsed_ticket_does_not_stretch_the_axes():
    rows = make_ladder([0.01, 0.0, -0.02])
    collapsed = make_ladder([-0.8], dense=False, density=0.0006)
    rows = pd.concat([rows, collapsed.assign(prunings=4)])
    (axes,) = figures.drawn(as_run(rows))["comparison"][0].axes
    bottom, right = axes.get_ylim()[0], min(axes.get_xlim())
    assert bottom > 75 - 1
    assert right > 30
    x, y = axes.lines[-1].get_data()
    assert axes.lines[-1].get_markerfacecolor() == "white"
    assert (x[0], y[0]) == pytest.approx((right, bottom))
    # Where most have collapsed, all are shown.
    rows = make_ladder([0.01, -0.8, -0.8])
    (axes,) = figures.drawn(as_run(rows))["comparison"][0].axes
    assert axes.get_ylim()[0] < 10


@pytest.mark.parametrize(("means", "below"), [((60.0, 90.0), 0), ((-5.0, 9.0), -5)])
def test_below_zero_are_lines_of_other_metrics_and_no_bands(means, below):
    points = {"x": [1.0, 2.0], "mean": means, "low": -30.0, "high": 95.0}
    points = pd.DataFrame(points | {"panel": "", "line": "ticket"})
    _, grid = drawings.panels(points, "step", drawings.ACCURACY, curves=True)
    drawings.accuracy_axis(grid)
    assert grid[0, 0].get_ylim()[0] == below


def test_colours_and_markers_differ():
    styles = drawings._styles(["dense", *map(str, range(20))])
    pairs = [(style["color"], style["marker"]) for style in styles.values()]
    assert len({*pairs}) == len(pairs)
    assert styles["dense"] == drawings.GREY


def names_of(rows, looks=(), at="early_stopping_", tmp_path=None):
    looks = reading.looks(make_run(tmp_path, rows, looks=looks) / "metrics.jsonl")
    return [*figures.drawn(as_run(rows, looks=looks, at=at))]


def test_no_figure_shows_nothing(tmp_path):
    rows = make_ladder([0.01, 0.0], search_epochs=5.0)
    trained = ["final_accuracy", "early_stopping_step"]
    assert names_of(rows, tmp_path=tmp_path) == ["comparison", *trained]
    assert names_of(rows, tmp_path=tmp_path, at="") == ["comparison"]
    costly = make_ladder([0.01, 0.0])
    assert names_of(costly, tmp_path=tmp_path, at="") == ["comparison", "cost"]
    controls = make_pairs([0.01, 0.02], control=0.0)
    assert names_of(controls, tmp_path=tmp_path) == ["accuracy", *trained]
    looks = [*make_looks(controls)]
    curves = ["learning_curves_imp", "validation_loss_imp"]
    assert names_of(controls, looks, tmp_path=tmp_path) == [
        "accuracy",
        *trained,
        *curves,
    ]
    dense = rows[rows["treatment"] == "dense"]
    assert names_of(dense, tmp_path=tmp_path) == []


def test_densities_of_searches_by_step(tmp_path):
    """Rounds one after another; what does not change while it trains has no place."""
    rows = make_ladder([0.01, 0.0])
    courses = {1: [0.9, 0.5], 2: [0.4, 0.1]}
    looks = [
        {"method": name, "treatment": kind, "seed": seed, "prunings": prunings}
        | {"step": 10 * (i + 1), "density": density if kind == "search" else 0.3}
        for name, kind in (("l0", "search"), ("l0", "ticket"), ("imp", "ticket"))
        for seed in (0, 1)
        for prunings, course in courses.items()
        for i, density in enumerate(course)
    ]
    folder = make_run(tmp_path, rows, looks=looks)
    looks = reading.looks(folder / "metrics.jsonl")
    drawing, _ = figures.drawn(as_run(rows, looks=looks))["density_by_step"]
    (axes,) = drawing.axes
    assert axes.get_title() == "l0"
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [10, 20, 30, 40])
    np.testing.assert_allclose(line.get_ydata(), [90, 50, 40, 10])


# The page.


def test_page_is_whole_and_safe(tmp_path):
    rows = make_pairs([0.01, 0.011, 0.012], control=-0.01)
    config = {"dataset": "<script>alert(1)</script>", "model": "a&b", "seeds": 3}
    make_run(tmp_path, rows, looks=make_looks(rows), config=config)
    report.write(report.read(tmp_path, margin=0.7))
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"https?://|<link|@import|url\(", page)
    drawn = sorted((tmp_path / "figures").iterdir())
    assert len(drawn) == page.count('src="data:image/png;base64,') == 5
    assert all(path.read_bytes().startswith(PNG) for path in drawn)
    table = table_of(rows, margin=0.7)
    assert all(f">{cell}</td>" in page for cell in table.lines[0])
    assert "above\n-0.7 points" in page
    for said in (
        "same batches in the same order",
        "other\nbatch orders",
        "one test set",
        "<dt>effective</dt>",
        "not sparser: of all weights",
    ):
        assert page.count(said) == 1
    captions = re.findall("<figcaption>([^<]*)", page)
    assert len({*captions}) == 5
    first, table, figure = (page.index(x) for x in ("<ul>", "<table", "<figure"))
    assert first < figure < table  # the headline, a figure, then the rest
    assert not list(tmp_path.rglob(".*"))  # no temporary file stays


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("failed", ["one", "all"])
def test_one_seed_no_controls_and_nan(tmp_path, failed):
    rows = make_ladder([0.01, 0.02])
    rows = rows[rows["seed"] == 1].reset_index(drop=True)
    looks = [*make_looks(rows)]
    lost = {"one": rows.index[-1:], "all": rows.index}[failed]
    for name in rows.columns[rows.columns.str.contains("accuracy|step$")]:
        rows[name] = rows[name].astype(float)
        rows.loc[lost, name] = math.nan
    if failed == "all":
        looks = [{k: None if "_" in k else v for k, v in x.items()} for x in looks]
    report.write(report.read(make_run(tmp_path, rows, looks=looks)))
    page = (tmp_path / "report.html").read_text()
    assert ">unknown</td>" in page
    assert (">one seed</td>" in page) == (failed != "all")
    assert ">nan" not in page
    assert "No ticket is shown to match" in page


@pytest.mark.filterwarnings("error")
def test_only_dense_an_empty_ticket_and_many_methods(tmp_path):
    rows = [make_ladder([0.01, -0.8], method=m, dense=m == "a") for m in "abcd"]
    rows = pd.concat(rows, ignore_index=True)
    rows.loc[rows.index[-1:], "density"] = 0.0
    report.write(report.read(make_run(tmp_path / "many", rows)))
    dense = rows[rows["treatment"] == "dense"]
    report.write(report.read(make_run(tmp_path / "dense", dense)))
    assert not [*(tmp_path / "dense" / "figures").iterdir()]


@pytest.mark.parametrize("kept", KEPT, ids=[path.name for path in KEPT])
def test_every_kept_result_can_be_reported(tmp_path, monkeypatch, capsys, kept):
    """Figures of a few alone, and no pixels: they take most of the time."""
    monkeypatch.setattr(drawings, "png", lambda drawing: PNG)
    if not (drawn := kept.name in ("digits", "mnist_jackpots_lenet_5")):
        monkeypatch.setattr(figures, "drawn", lambda run: {})
    folder = tmp_path / kept.name
    shutil.copytree(kept, folder)
    before = (folder / "results.csv").read_bytes()
    report.experiment(report.Config(str(folder)))
    assert (folder / "results.csv").read_bytes() == before
    page = (folder / "report.html").read_text()
    tickets = "ticket" in {*reading.results(folder / "results.csv")["treatment"]}
    assert tickets == ("Every ticket against the dense network" in page)
    titles = [
        table.title
        for finding, rows in findings.of(folder)
        if hasattr(finding, "sections")
        for table in finding.sections(rows)
    ]
    assert all(str(markupsafe.escape(title)) in page for title in titles)
    assert page.count("<figure>") == len([*(folder / "figures").iterdir()])
    found = any((kept / each.FILE).exists() for each in findings.FINDINGS)
    assert (drawn or found) == ("<figure>" in page)
    if tickets and kept.name in ("mnist1d", "mnist_structured"):
        # What the run asked comes first, and last what was made of it afterwards.
        asked = [
            page.index(f"<h2>{markupsafe.escape(title)}")
            for title in (titles[0], "Every ticket")
        ]
        assert asked == sorted(asked, reverse=kept.name == "mnist1d")
    assert ("There is no metrics.jsonl" in page) != (kept / "metrics.jsonl").exists()
    assert (folder / "overlaps.csv").exists() == ("Overlap of the masks" in page)
    # What searches were compared with was not written down when these were kept.
    assert ("Epochs to the accuracy" in page) == kept.name.startswith("mnist_jackpots")
    assert "report.html" in capsys.readouterr().out


def test_main_says_in_one_line_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "experiments.report", f"--output_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: ")
    assert "config.json" in done.stderr


# Searches over frozen weights.


def make_search(curves, *, setting="density=0.1"):
    """Looks every 10 steps, half an epoch; a single one is of no search."""
    keys = {"treatment": "ticket", "prunings": 1, "setting": setting, "density": 0.1}
    for (method, seed), accuracies in curves.items():
        for look, accuracy in enumerate(accuracies):
            moved = {"train_loss": 1.0 / look, "changed": 3.0} if look else {}
            values = {"method": method, "seed": seed, "test_accuracy": accuracy}
            yield {**keys, **values, "step": 10 * look, "validation_loss": 1.0} | moved


def search_run(looks, folder):
    """The looks, and the rows that sum them up."""
    looks = [*looks]
    last = {(x["method"], x["seed"], x["setting"]): x for x in looks}
    rows = [make_row("dense", "dense", seed, 0, accuracy=0.95) for seed in (0, 1)]
    rows += [
        make_row(method, "ticket", seed, 1, accuracy=look["test_accuracy"])
        | {"setting": setting, "density": 0.1, "search_steps": look["step"]}
        | {"search_epochs": look["step"] / 20}
        for (method, seed, setting), look in last.items()
    ]
    references = {"jackpot": "jackpot_from_random"}
    make_run(folder, rows, looks=looks, verdicts=False, references=references)
    return reading.read(folder)


CURVES = {
    ("jackpot", 0): (0.5, 0.9, 0.8),
    ("jackpot", 1): (0.5, 0.7, 0.9),
    ("jackpot_from_random", 0): (0.1, 0.4, 0.6),
    ("jackpot_from_random", 1): (0.1, 0.5, 0.5),
    ("magnitude", 0): (0.5,),
    ("magnitude", 1): (0.5,),
}


@pytest.mark.parametrize(
    ("accuracy", "epochs"),
    [(0.4, 0), (0.5, 0), (0.51, 1), (0.93, 3), (0.95, math.nan), (math.nan, math.nan)],
)
def test_epochs_to_an_accuracy(accuracy, epochs):
    """The first look that shows it, though later ones may fall below."""
    looks = {mask_searches.EPOCH: range(4), "test_accuracy": (0.5, 0.9, 0.8, 0.94)}
    found = mask_searches.epochs_to(pd.DataFrame(looks), accuracy)
    np.testing.assert_equal(found, epochs)


def test_table_of_searches(tmp_path):
    looks = [*make_search(CURVES)]
    stale = {**looks[1], "test_accuracy": 0.0}  # before a resume: the later stands
    run = search_run([stale, *looks], tmp_path)
    found = mask_searches.searches(run).set_index(["method", "seed"])
    first, second = found.loc["jackpot", 0], found.loc["jackpot", 1]
    assert (first.before_test_accuracy, first.final_test_accuracy) == (0.5, 0.8)
    assert (first.best_test_accuracy, first.best_epoch) == (0.9, 0.5)
    assert (first.target_test_accuracy, first.reference_epochs) == (0.6, 1.0)
    assert first.epochs_to_target == 0.5
    # Its reference is there before its end, and the starting mask before any search.
    assert (second.reference_epochs, second.epochs_to_target) == (0.5, 0.0)
    for name in ("jackpot_from_random", "magnitude"):
        assert found.loc[name, 0].reference == ""
        assert math.isnan(found.loc[name, 0].epochs_to_target)
    report.write(report.read(tmp_path))
    kept = pd.read_csv(tmp_path / "search.csv", keep_default_na=False, na_values=[""])
    assert list(kept["epochs_to_target"].dropna()) == [0.5, 0.0]
    still = [look for look in looks if look["method"] == "magnitude"]
    nothing = search_run(still, tmp_path)
    assert mask_searches.searches(nothing).empty
    assert [*figures.drawn(nothing)] == ["comparison"]


@pytest.mark.parametrize(
    ("ours", "theirs", "cells"),
    [
        # (accuracies of each seed) -> reached, epochs, epochs from random, ratio
        ([(0.1, 0.6, 0.6)] * 2, [(0.1, 0.2, 0.6)] * 2,
         ["2/2", "0.5", "1", "2.00× (2.00–2.00)"]),
        ([(0.1, 0.6, 0.6), (0.1, 0.2, 0.6)], [(0.1, 0.2, 0.6)] * 2,
         ["2/2", "0.75 (0.5–1)", "1", "1.41× (0.02–115.61)"]),
        ([(0.7, 0.7, 0.7)] * 2, [(0.1, 0.2, 0.6)] * 2,
         ["2/2", "0", "1", "2 of 2 before the first step"]),
        ([(0.1, 0.6, 0.6), (0.7, 0.7, 0.7)], [(0.1, 0.2, 0.6)] * 2,
         ["2/2", "0.25 (0–0.5)", "1", "2.00×; 1 of 2 before the first step"]),
        ([(0.1, 0.6, 0.6), (0.1, 0.1, 0.1)], [(0.1, 0.2, 0.6)] * 2,
         ["1/2", "> 0.75 (0.5–1)", "1", "< 1.41×"]),
        ([(0.1, 0.6, 0.6)], [(0.1, 0.1, 0.1)], ["1/1", "0", "0", "–"]),
    ],
    ids=["twice", "spread", "at once", "one at once", "one never", "no gain"],
)  # fmt: skip
def test_times_cheaper(tmp_path, ours, theirs, cells):
    curves = {("jackpot", i): c for i, c in enumerate(ours)}
    curves |= {("jackpot_from_random", i): c for i, c in enumerate(theirs)}
    run = search_run(make_search(curves), tmp_path)
    _, costs = mask_searches.sections(mask_searches.searches(run))
    (line,) = costs.lines
    assert line[:2] == ["jackpot", "10"]
    assert line[3:] == cells


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seeds", [1, 2])
def test_searches_of_few_seeds_and_many_settings(tmp_path, seeds):
    curves = {key: x for key, x in CURVES.items() if key[1] < seeds}
    settings = [f"k={0.9 - 0.05 * i:g}" for i in range(12)]
    run = search_run(
        (look for s in settings for look in make_search(curves, setting=s)), tmp_path
    )
    drawn = figures.drawn(run)
    assert {"search_curves", "oscillation", "training_loss"} <= {*drawn}
    axes = drawn["search_curves"][0].axes
    assert (len(axes), axes[0].get_title()) == (9, "k=0.9: 10% of the weights")
    assert len(drawn["oscillation"][0].axes) == 4
    found = mask_searches.sections(mask_searches.searches(run))
    lengths = [len(table.lines) for table in found]
    assert lengths == [3 * 12, 12]


def test_tuned_weights_have_a_column(tmp_path):
    run = search_run(make_search(CURVES), tmp_path)
    table, _ = mask_searches.sections(mask_searches.searches(run))
    assert "weights\ntuned, %" not in table.headers
    tuned = run.rows[run.rows["method"] == "jackpot"].assign(treatment="tuned")
    rows = pd.concat([run.rows, tuned.assign(test_accuracy=0.99)])
    run = run._replace(rows=rows)
    table, _ = mask_searches.sections(mask_searches.searches(run))
    assert table.headers[-1] == "weights\ntuned, %"
    assert [line[-1] for line in table.lines] == ["99.00 ±0.00", "–", "–"]


def test_overlaps_in_table_and_figure(tmp_path):
    found = pd.DataFrame(
        [
            [method, seed, f"density={d}", d, criterion, x + 0.01 * seed, d, 0.01, 640]
            for method in ("jackpot", "magnitude")
            for d in (0.02, 0.2)
            for criterion, x in (("magnitude", 0.5), ("SNIP", 0.3))
            for seed in (0, 1)
        ],
        columns=["method", "seed", "setting", "density", "criterion"]
        + ["observed", "expected", "deviation", "images"],
    )
    path = tmp_path / overlaps.FILE
    records.write_table(path, [*found], found.to_dict("records"))
    ((finding, rows),) = findings.of(tmp_path)
    (table,) = finding.sections(rows)
    assert table.headers[3:] == ["magnitude, %", "SNIP, %"]
    first = ["jackpot", "20", "20", "50.50 ±6.35", "30.50 ±6.35"]
    assert table.lines[0] == first
    assert [line[:2] for line in table.lines[1:]] == [
        ["magnitude", "20"], ["jackpot", "2"], ["magnitude", "2"]]  # fmt: skip
    (drawing, _) = finding.drawn(rows)["overlaps"]  # but for the criterion itself
    assert [axes.get_title() for axes in drawing.axes] == ["jackpot"]
    labels = [x.get_text() for x in drawing.legends[0].get_texts()]
    assert labels == ["magnitude", "SNIP", "by chance"]
    path.write_text("method,seed\n")
    with pytest.raises(ValueError, match=r"overlaps.csv: it lacks the columns"):
        [*findings.of(tmp_path)]


def test_of_what_has_all_diverged_nothing_is_said(tmp_path):
    """A finding without rows leaves no file, and takes the one of before away."""
    folder = make_run(tmp_path, make_ladder([0.01, 0.0]))
    path = folder / costs.FILE
    records.write_table(path, costs.COLUMNS, [dict.fromkeys(costs.COLUMNS, 1)])
    records.write_table(path, costs.COLUMNS, [])
    assert not path.exists()
    assert [*findings.of(folder)] == []


# Layers and inputs.


@pytest.mark.parametrize("rows", [1, 3])
def test_layers_and_inputs_are_drawn(tmp_path, rows):
    folder = make_run(tmp_path, make_ladder([0.01, 0.0]))
    layers = [
        {"method": "imp", "seed": seed, "prunings": n, "setting": "", "density": 0.8**n}
        | {"layer": layer, "weights": size, "layer_density": 0.8**n * share}
        | {"effective_density": 0.0 if (n, seed, layer) == (2, 1, "last") else 0.2}
        for n in (1, 2)
        for seed in (0, 1)
        for layer, share, size in (("first", 0.5, 30), ("last", 1.2, 10))
    ]
    records.write_table(folder / "layers.csv", records.LAYERS, layers)
    inputs = [
        {"method": "imp", "density": 0.64, "row": i, "column": j, "kept": 0.1 * j}
        for i in range(rows)
        for j in range(4)
    ]
    records.write_table(folder / "inputs.csv", records.INPUTS, inputs)
    run = reading.read(folder)
    *_, sparser = statistics.tickets(run)
    assert list(sparser["effective"]) == pytest.approx(
        [0.2, 0.15, math.nan], nan_ok=True
    )
    assert trainings.cut(run) == [
        "imp, pruned 2×: no path leads through last (of 1 seed)."
    ]
    drawn = figures.drawn(run)
    (axes,) = drawn["layers"][0].axes
    last = axes.lines[1]
    np.testing.assert_allclose(sorted(last.get_ydata()), [76.8, 96.0])
    labels = [x.get_text() for x in drawn["layers"][0].legends[0].get_texts()]
    assert labels == ["first", "last"]
    axes = drawn["inputs"][0].axes[0]
    assert axes.get_title() == "imp: 64%"
    if rows == 1:
        heights = [bar.get_height() for bar in axes.patches]
        np.testing.assert_allclose(heights, [0, 10, 20, 30])
    else:
        assert axes.images[0].get_array().shape == (3, 4)


def test_two_runs_are_paired_by_seed(tmp_path, capsys):
    folders = tmp_path / "here", tmp_path / "there"
    for folder, lift in zip(folders, (0.03, 0.01), strict=True):
        settings = {"ham": 20.0 * (lift > 0.02), "output_dir": str(folder)}
        make_run(folder, make_pairs([lift, lift, lift + 0.001]), config=settings)
    runs = [reading.read(folder) for folder in folders]
    assert against.differences(*runs) == ["ham is 20.0 here, 0.0 there."]
    found = against.table(*runs)
    assert [line[-1] for line in found.lines] == ["+0.00 ±0.00", "+2.00 ±0.00"]
    run, there = map(str, folders)
    report.experiment(report.Config(output_dir=run, against=there))
    assert "+2.00 ±0.00" in capsys.readouterr().out
    other = runs[1].rows.assign(seed=runs[1].rows["seed"] + 7)
    with pytest.raises(ValueError, match="no training in common"):
        against.table(runs[0], runs[1]._replace(rows=other))
