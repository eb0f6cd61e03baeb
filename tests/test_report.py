"""The statistics, the table, the figures and the report, on a made-up run."""

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich import console

from experiments import report
from experiments.reports import figures, milestones, statistics, tables

ROOT = Path(__file__).resolve().parent.parent
CONTROLS = ("reinitialise", "shuffle", "random")
PNG = b"\x89PNG\r\n\x1a\n"


def make_row(method, treatment, seed, round_, **values):
    """One line of results.csv; ``accuracy`` is that at the early-stopping step."""
    accuracy = values.pop("accuracy", 0.97)
    values.setdefault("density", 0.8**round_)
    values.setdefault("early_stopping_step", 500)
    values.setdefault("search_epochs", 10.0 * round_)
    return dict.fromkeys(statistics.COLUMNS, 1.0) | {
        "setting": "",
        "method": method,
        "treatment": treatment,
        "seed": seed,
        "round": round_,
        "early_stopping_test_accuracy": accuracy,
        "test_accuracy": accuracy - 0.002,
        **values,
    }


def make_curve(row):
    """Lines of metrics.jsonl of the training that ``row`` sums up."""
    names = ("method", "treatment", "seed", "round", "density")
    for step in range(0, 1001, 100):
        done = 1 - math.exp(-step / row["early_stopping_step"] * 3)
        over = max(0.0, step - row["early_stopping_step"]) / 2e4
        yield {name: row[name] for name in names} | {
            "step": step,
            "train_loss": 2.3 * (1 - done) + 0.01,
            "validation_loss": 2.2 * (1 - done) + 0.1 + over,
            "validation_accuracy": 0.1 + 0.87 * done,
            "test_loss": 2.2 * (1 - done) + 0.1,
            "test_accuracy": 0.1 + (row["test_accuracy"] - 0.1) * done,
        }


def make_rows(
    methods=("imp", "continuous_sparsification"), seeds=5, rounds=8, controls=CONTROLS
):
    """Tickets that gain at first and fall off, and controls that fall off sooner."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.002, seeds)
    rows = [
        make_row(
            "dense",
            "dense",
            s,
            0,
            accuracy=0.97 + noise[s],
            early_stopping_step=600 + int(rng.integers(-80, 80)),
        )
        for s in range(seeds)
    ]
    for m, method in enumerate(methods):
        for r in range(1, rounds + 1):
            for t, treatment in enumerate(("ticket", *controls)):
                for s in range(seeds):
                    x = r / rounds
                    gain = 0.012 * x - 0.02 * x**3 - 0.02 * x * t - 0.003 * m
                    density = 0.8 ** (2 * r)
                    if method != "imp":
                        density *= math.exp(rng.normal(-0.3, 0.1))
                    rows.append(
                        make_row(
                            method,
                            treatment,
                            s,
                            r,
                            density=density,
                            accuracy=0.97 + gain + noise[s] + rng.normal(0, 0.001),
                            early_stopping_step=int(
                                600
                                - 300 * x
                                + 300 * x**3
                                + 150 * x * t
                                + rng.integers(-40, 40)
                            ),
                        )
                    )
    return rows


def make_run(folder, rows, *, config=None, spoil=lambda record: record):
    """Writes the files that a search leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "config": config
        or {
            "dataset": "digits",
            "model": "lenet_300_100",
            "seeds": 5,
            "method": ["imp"],
            "learning_rate": 1.2e-3,
        },
        "environment": {"jax": "0.10.2", "device": "cpu"},
        "command": "python -m experiments.ticket_search --seeds=5",
    }
    (folder / "config.json").write_text(json.dumps(settings))
    with open(folder / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, statistics.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with open(folder / "metrics.jsonl", "w") as file:
        for row in rows:
            for record in make_curve(row):
                file.write(json.dumps(spoil(record), allow_nan=False) + "\n")
    return folder


def make_pair(differences, *, steps=500, dense_steps=500, density=0.5, control=None):
    """Tickets that differ from their dense networks by the given accuracies."""
    rows = []
    for seed, difference in enumerate(differences):
        accuracy = 0.90 + 0.02 * seed  # seeds differ by more than the treatments
        values = {"density": density, "early_stopping_step": steps}
        rows += [
            make_row(
                "dense",
                "dense",
                seed,
                0,
                density=1.0,
                accuracy=accuracy,
                early_stopping_step=dense_steps,
            ),
            make_row(
                "imp", "ticket", seed, 1, accuracy=accuracy + difference, **values
            ),
        ]
        if control is not None:
            rows.append(
                make_row(
                    "imp",
                    "reinitialise",
                    seed,
                    1,
                    accuracy=accuracy + control,
                    **values,
                )
            )
    return rows


def summary_of(rows, **options):
    (summary,) = statistics.summarise(rows, **options)
    return summary


@pytest.mark.parametrize(
    ("values", "t"),
    [([1.0, 3.0], 12.706205), ([1.0, 2.0, 6.0], 4.302653), (list(range(10)), 2.262157)],
)
def test_interval_is_students_t(values, t):
    mean, half_width = statistics.interval(values)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert mean == pytest.approx(np.mean(values))
    assert half_width == pytest.approx(t * error, rel=1e-6)


def test_interval_of_few_or_failed_runs():
    assert statistics.interval([2.0]).mean == 2.0
    assert math.isnan(statistics.interval([2.0]).half_width)
    assert math.isnan(statistics.interval([]).mean)
    assert math.isnan(statistics.interval([1.0, math.nan]).mean)


def test_differences_pair_by_seed():
    first, second = {2: 5.0, 0: 1.0, 7: 0.0}, {0: 0.5, 1: 9.0, 2: 3.0}
    assert statistics.paired_differences(first, second) == [0.5, 2.0]


def test_pairing_finds_what_unpaired_means_cannot():
    rows = make_pair([0.004, 0.005, 0.006, 0.005])
    rows = rows[::2] + rows[:0:-2]  # the tickets in another order of seeds
    summary = summary_of(rows)
    assert summary.accuracy.half_width > 0.03
    assert summary.to_dense.mean == pytest.approx(0.005)
    assert summary.to_dense.half_width == pytest.approx(
        3.182446 * 0.00081650 / 2, rel=1e-4
    )
    assert (summary.verdict, summary.clear, summary.wins) == ("winning", True, 4)


@pytest.mark.parametrize(
    ("differences", "options", "verdict", "wins"),
    [
        ([0.01, 0.02], {}, "winning", 2),
        ([0.0, 0.0], {}, "winning", 2),
        ([0.02, -0.01], {}, "winning", 1),
        ([-0.01, -0.02], {}, "no: lower accuracy", 0),
        ([0.01, 0.02], {"steps": 501}, "no: later", 0),
        ([-0.01, -0.02], {"steps": 501}, "no: both", 0),
        ([0.01, 0.02], {"density": 1.0}, "no: not sparser", 0),
        ([0.01, math.nan], {}, "unknown", 1),
    ],
)
def test_verdict(differences, options, verdict, wins):
    summary = summary_of(make_pair(differences, **options))
    assert (summary.verdict, summary.wins) == (verdict, wins)


def test_rounding_of_float32_is_a_tie():
    dense, ticket = float(np.float32(0.9)), 0.9  # the same count of images, as printed
    assert ticket < dense or dense < ticket
    assert statistics.verdict(0.5, -abs(ticket - dense), 1, 1) == "winning"


@pytest.mark.parametrize(
    ("differences", "clear"),
    [
        ([0.01, 0.011, 0.012], True),
        ([-0.01, -0.011, -0.012], True),
        ([0.01, -0.009, 0.012], False),
        ([0.0, 0.0, 0.0], False),
        ([0.01], False),
    ],
)
def test_clear_says_whether_the_interval_excludes_zero(differences, clear):
    assert summary_of(make_pair(differences)).clear is clear


def test_summary_compares_accuracy_at_the_early_stopping_step():
    rows = make_pair([0.01, 0.01], steps=250, control=-0.02)
    for row in statistics.select(rows, treatment="ticket"):
        row["test_accuracy"] = 0.1
    summary = summary_of(rows)
    assert summary.to_dense.mean == pytest.approx(0.01)
    assert summary.to_reinitialised.mean == pytest.approx(0.03)
    assert summary.step_ratio == 0.5
    assert summary_of(rows, accuracy="test_accuracy").to_dense.mean < -0.5


def test_without_dense_or_control_there_is_no_comparison():
    rows = statistics.select(make_pair([0.01, 0.02]), treatment="ticket")
    summary = summary_of(rows)
    assert summary.to_dense is summary.to_reinitialised is summary.step_ratio is None
    assert (summary.verdict, summary.clear) == ("unknown", False)
    assert "–" in tables.cells(summary)


def test_results_survive_the_file(tmp_path):
    rows = make_rows(seeds=2, rounds=2)
    rows[0]["train_loss"] = math.nan
    path = make_run(tmp_path, rows) / "results.csv"
    np.testing.assert_equal(statistics.read_results(path), rows)


def test_results_of_earlier_versions_can_be_read(tmp_path):
    """They lack the column of the best accuracy, as the results that are kept do."""
    path = make_run(tmp_path, make_rows(seeds=2, rounds=2)) / "results.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name != "best_test_accuracy"]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert all(math.isnan(r["best_test_accuracy"]) for r in report_rows(tmp_path))
    for name in ("digits", "mnist_cs", "resnet_20_short", "vgg_16_short"):
        kept = ROOT / "experiments" / "results" / name / "results.csv"
        assert statistics.summarise(statistics.read_results(kept))


def report_rows(folder):
    """What the files hold, after a report was made of them."""
    report.write(folder)
    return statistics.read_results(folder / "results.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks the columns"),
        ("method,seed\nimp,0\n", "lacks the columns"),
        (",".join(statistics.COLUMNS) + "\n", "no rows"),
        (",".join(statistics.COLUMNS) + "\nimp,ticket,x" + 14 * ",1" + "\n", "line 2"),
    ],
)
def test_results_that_are_none(tmp_path, content, message):
    path = tmp_path / "results.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        statistics.read_results(path)


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "test_loss": null}\n{"step": 2, "te')
    (record,) = statistics.read_metrics(path)
    assert record["step"] == 1
    assert math.isnan(record["test_loss"])
    path.write_text('{"step": 2, "te\n{"step": 1}\n')
    with pytest.raises(ValueError, match="line 1"):
        statistics.read_metrics(path)


def test_table_holds_the_numbers():
    summaries = statistics.summarise(make_pair([0.01, 0.03], steps=400, control=-0.01))
    terminal = console.Console(width=150)
    with terminal.capture() as captured:
        terminal.print(tables.of_tickets(summaries))
    for word in (
        "imp",
        "50",
        "93.00",
        "+2.00 ±12.71",
        "+3.00",
        "400",
        "0.80×",
        "2/2",
        "winning, within noise",
    ):
        assert word in captured.get()


def make_ladder(differences, **values):
    """Tickets of falling density, round by round, three seeds a ticket."""
    rows = [make_row("dense", "dense", s, 0, accuracy=0.9) for s in range(3)]
    for round_, difference in enumerate(differences, 1):
        for seed, noise in enumerate((-0.001, 0.0, 0.001)):
            accuracy = 0.9 + difference + noise
            row = make_row("imp", "ticket", seed, round_, accuracy=accuracy, **values)
            rows.append(row | {"test_accuracy": accuracy})
    for row in rows[:3]:
        row["test_accuracy"] = 0.9
    return rows


def test_milestones_are_the_sparsest_that_match_and_the_best():
    # Matching, the best, below but within noise, below, clearly below.
    rows = make_ladder([0.001, 0.004, -0.001, -0.01, -0.02])
    found = {k: v.round for k, v in milestones.milestones(rows)["imp"].items()}
    assert found == {
        "sparsest matching": 2,
        "sparsest within noise": 3,
        "most accurate": 2,
    }
    best = milestones.lines(rows)[2]
    assert best[:3] == ["imp", "most accurate", "64"]
    assert best[3].startswith("90.40 ±")
    assert best[5:] == ["2", "20"]


def test_a_milestone_that_no_ticket_reaches_is_a_dash():
    rows = make_ladder([-0.02, -0.03])
    for line in milestones.lines(rows)[:2]:
        assert set(line[2:]) == {"–"}
    dense = make_ladder([0.01], density=1.0)  # a ticket that keeps everything is none
    assert milestones.milestones(dense)["imp"]["most accurate"] is None
    failed = make_ladder([0.01, math.nan])
    assert milestones.milestones(failed)["imp"]["sparsest matching"].round == 1
    alone = [row for row in make_ladder([0.01, -0.001]) if row["seed"] == 1]
    assert milestones.milestones(alone)["imp"]["sparsest within noise"].round == 1


def test_tickets_of_a_parallel_search_go_by_their_setting(tmp_path):
    rows = make_ladder([0.01, -0.01], search_epochs=5.0)
    for row in rows[3:]:
        row["setting"] = f"s0={0.1 - 0.2 * (row['round'] - 1):g}"
    assert [tables.cells(s)[1] for s in statistics.summarise(rows)] == [
        "s0=0.1",
        "s0=-0.1",
    ]
    report.write(make_run(tmp_path, rows))
    page = (tmp_path / "report.html").read_text()
    assert "<td>sparsest matching</td><td>80</td>" in page
    assert "<td>s0=0.1</td><td>5</td>" in page


def test_report_is_whole_and_safe(tmp_path):
    config = {"dataset": "<script>alert(1)</script>", "model": "a&b", "seeds": 2}
    report.write(make_run(tmp_path, make_rows(seeds=2, rounds=2), config=config))
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"https?://|<link|@import|url\(", page)
    sources = re.findall(r'src="(.{22})', page)
    assert sources == ["data:image/png;base64,"] * 6
    for summary in statistics.summarise(
        statistics.read_results(tmp_path / "results.csv")
    ):
        assert all(f"<td>{cell}</td>" in page for cell in tables.cells(summary))
    assert not list(tmp_path.rglob(".*"))  # no temporary file stays


def test_names_of_the_figures(tmp_path):
    paths = figures.draw(make_run(tmp_path, make_rows(("imp",), seeds=2, rounds=1)))
    names = ["accuracy", "final_accuracy", "early_stopping_step", "comparison"]
    names.append("learning_curves_imp")
    assert paths == [tmp_path / "figures" / f"{name}.png" for name in names]
    assert all(path.read_bytes().startswith(PNG) for path in paths)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("failed", ["none", "one", "all"])
def test_one_seed_no_controls_and_nan(tmp_path, failed):
    rows = make_rows(("imp",), seeds=1, rounds=2, controls=())
    lost = {"none": rows[:0], "one": rows[-1:], "all": rows}[failed]
    columns = ("test_accuracy", "early_stopping_test_accuracy", "early_stopping_step")
    make_run(
        tmp_path,
        rows,
        spoil=lambda record: {
            name: None if "_" in name and failed != "none" else value
            for name, value in record.items()
        },
    )
    for row in lost:
        row |= dict.fromkeys(columns, math.nan)
    with open(tmp_path / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, statistics.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert ("unknown" in page) == (failed != "none")
    assert ">nan" not in page


def test_only_dense_an_empty_ticket_and_many_methods(tmp_path):
    rows = make_rows(("a", "b", "c", "d"), seeds=2, rounds=1, controls=())
    rows[-1]["density"] = rows[-2]["density"] = 0.0
    report.write(make_run(tmp_path / "many", rows))
    dense = statistics.select(rows, treatment="dense")
    report.write(make_run(tmp_path / "dense", dense))
    assert len(list((tmp_path / "many" / "figures").iterdir())) == 4 + 4
    assert len(list((tmp_path / "dense" / "figures").iterdir())) == 3


def run_main(*flags):
    command = [sys.executable, "-m", "experiments.report", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_main_makes_the_report_again(tmp_path):
    make_run(tmp_path, make_rows(("imp",), seeds=2, rounds=1))
    done = run_main(f"--output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "verdict" in done.stdout
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("missing", ["folder", "metrics.jsonl", "config.json"])
def test_main_says_in_one_line_what_is_missing(tmp_path, missing):
    folder = tmp_path / "run"
    if missing != "folder":
        make_run(folder, make_rows(("imp",), seeds=1, rounds=1))
        (folder / missing).unlink()
    done = run_main(f"--output_dir={folder}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert ("run" if missing == "folder" else missing) in done.stderr
