"""The benchmark at toy sizes: that every section gives sound rows, not how fast."""

import json
import math

import pytest

from experiments import benchmark
from experiments.benchmarks import arithmetic, measure

pytestmark = pytest.mark.usefixtures("unoptimised")

QUICK = {
    "quick": True,
    "repeats": 2,
    "seeds": (1,),
    "devices": (1,),
    "lanes": (1,),
    "batch_sizes": (8,),
    "weights": (1000,),
    "roofline": True,
}


@pytest.mark.parametrize("section", benchmark.SECTIONS)
def test_section_gives_rows(section, tmp_path, capsys, monkeypatch):
    # For the processes that it starts, too.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if section == "pytorch":
        pytest.importorskip("torch")
    path = tmp_path / "rows.json"
    rows = benchmark.experiment(
        benchmark.Config(sections=(section,), output=str(path), **QUICK)
    )
    printed = capsys.readouterr().out
    assert rows
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.section == section
        assert 0 <= row.low <= row.median <= row.high < math.inf
        assert 1 <= row.n <= 2
        assert all(math.isfinite(value) for value in row.also.values())
    assert rows[0].unit in printed
    written = json.loads(path.read_text())
    assert written["rows"] == [row._asdict() for row in rows]
    assert written["config"]["sections"] == [section]
    assert {"jax", "python", "cores"} <= set(written["environment"])


def test_work_is_timed_by_turns():
    order = []
    works = {name: lambda name=name: order.append(name) for name in "ab"}
    times = measure.together(works, repeats=3, limit=60)
    assert order == list("abababab")  # the first two to warm up
    assert [len(timing.seconds) for timing in times.values()] == [3, 3]
    measure.together(works, repeats=3, limit=0)
    assert len(order) == 8 + 4


def test_ratio_and_rate():
    one, other = measure.Timing((2.0, 3.0, 8.0)), measure.Timing((1.0, 2.0, 2.0))
    assert measure.ratio(one, other) == 2.0
    row = measure.rate("lenet", "it", one, "images/s", 12)
    assert (row.median, row.low, row.high, row.n) == (4.0, 1.5, 6.0, 3)


def test_lenet_flops():
    # 6 a weight, less the gradient of the inputs; what is elementwise comes on top.
    expected = 6 * 266_200 - 2 * 784 * 300
    flops = arithmetic.flops("lenet_300_100", 16, 8)
    assert expected <= flops < 1.02 * expected
