"""The benchmark at toy sizes: that every section gives sound rows, not how fast."""

import importlib.util
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import benchmark, faults
from experiments.benchmarks import (
    arithmetic,
    inference,
    jaxpruning,
    measure,
    plan,
    scaling,
    search,
)
from jaxticket import Ticket, data, masks, models, prune
from jaxticket.compaction import compact
from jaxticket.engine import programs

ROOT = Path(__file__).resolve().parent.parent
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


OTHERS = (
    "rivals",
    "starting",
    "default",
    "jaxpruner",
)  # sections of whole programs, and others'
MEASURED = [name for name in benchmark.SECTIONS if name not in OTHERS]


@pytest.mark.parametrize("section", MEASURED)
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
        assert 0 <= row.low <= row.median <= row.high < math.inf
        assert 1 <= row.n <= 2
        assert all(math.isfinite(value) for value in row.also.values())
    assert rows[0].unit in printed
    written = json.loads(path.read_text())
    assert written["rows"] == [{"section": section, **row._asdict()} for row in rows]
    assert written["config"]["sections"] == [section]
    assert {"jax", "python", "cores", "scipy"} <= set(written["environment"])
    there = importlib.util.find_spec("torch") is not None
    assert ("torch" in written["environment"]) == there


def test_work_is_timed_by_turns():
    order = []
    works = {name: lambda name=name: order.append(name) for name in "ab"}
    times = measure.together(works, repeats=3, limit=60)
    assert order == list("abababab")  # the first two to warm up
    assert [len(timing.seconds) for timing in times.values()] == [3, 3]
    measure.together(works, repeats=3, limit=0)
    assert len(order) == 8 + 4
    times = measure.together(works, repeats=2, limit=60, warm_up=False, apart=True)
    assert order[12:] == list("aabbbbaa")
    assert len(times["a"].seconds) == 2


def test_ratio_and_rate():
    one, other = measure.Timing((2.0, 3.0, 8.0)), measure.Timing((1.0, 2.0, 2.0))
    assert measure.ratio(one, other) == 2.0
    row = measure.rate("it", one, "images/s", 12)
    assert (row.median, row.low, row.high, row.n) == (4.0, 1.5, 6.0, 3)


def test_pytorch_runs_what_compaction_leaves():
    """The same outputs, and rows of it beside those of JAX."""
    pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(3, *inference.SHAPE)).astype(np.float32)
    model = models.create("mlp", hidden=(9, 7))
    weights, state = model.init(jax.random.key(0), x)
    kept = prune(Ticket(weights, masks.full(weights), state), "magnitude", 0.01)
    small = compact(model, kept, x)
    assert small.left
    want, _ = small.model.apply(small.ticket.weights, small.ticket.model_state, x)
    np.testing.assert_allclose(inference.in_pytorch(small.ticket, x)(), want, atol=1e-6)
    rows = benchmark.experiment(benchmark.Config(sections=("inference",), **QUICK))
    ours, theirs = (
        {row.name.removesuffix(end): row.also for row in rows if row.name.endswith(end)}
        for end in (", JAX", ", PyTorch")
    )
    assert [name.split(": ")[1] for name in theirs] == [
        *("dense", "compacted", "filters, compacted")
    ]
    for name, also in theirs.items():
        assert also["kB of weights"] == ours[name]["kB of weights"]
    assert next(iter(theirs.values()))["of dense"] == 1
    points = inference.points([row._asdict() for row in rows])
    assert set(points["panel"]) == {"batch 2"}
    assert set(points["x"]) == {20.0}
    shares = {line: share for _, line, share in points[["line", "mean"]].itertuples()}
    assert not any(line.startswith("dense") for line in shares)
    by_name = {row.name.split(": ")[1]: row.also["of dense"] for row in rows}
    assert shares == {line: by_name[line] for line in shares}
    assert len(shares) == 6


def test_lenet_flops():
    # 6 a weight, less the gradient of the inputs; what is elementwise comes on top.
    expected = 6 * 266_200 - 2 * 784 * 300
    flops = arithmetic.flops("lenet_300_100", 8)
    assert expected <= flops < 1.02 * expected


def test_plan_moves_counts_alone_and_its_page_has_its_numbers():
    """Of every number in the table: what the kept file has."""
    found = benchmark.experiment(benchmark.Config(sections=("plan",), **QUICK))
    rows = {row.name: row for row in found}
    assert rows["toy, pruning"].also["at once"] == 1
    assert rows["toy, pruning"].also["bytes added"] == (16 + plan.TIES) * 4 * 9
    assert rows["toy, state of imp"].median == pytest.approx(9, abs=0.01)
    assert rows["toy, state of gradual"].median == pytest.approx(8, abs=0.01)
    devices = jax.device_count()
    assert rows["toy, moved in a step"].median * 1e9 == pytest.approx(
        6 * rows["toy, weights"].median * 1e9 * (devices - 1) / devices
    )
    kept = json.loads((ROOT / "experiments/results/benchmark/plan.json").read_text())
    kept = {row["name"]: row for row in kept["rows"]}
    page = (ROOT / "experiments/README.md").read_text()
    for name in ("1B", "7B", "13B", "70B"):
        weights, pruning, step = (
            kept[f"{name}, {what}"]
            for what in ("weights", "pruning", "moved in a step")
        )
        held = [
            f"{kept[f'{name}, {what}']['also']['GB a device']:.2f}"
            for what in (
                "state of imp",
                "state of gradual",
                "state of continuous_sparsification",
                "state of jackpot",
                "pruning",
            )
        ]
        cells = [
            name,
            f"{weights['median']:.2f}",
            f"{weights['also']['leaves']}",
            *held,
            f"{pruning['also']['bytes added']:,}",
            f"{step['median']:.1f}",
        ]
        assert f"| {' | '.join(cells)} |" in page
        assert pruning["also"]["at once"] == 1
        assert f"below {step['also']['tokens a device']:,.0f} tokens" in page
        assert weights["also"]["devices"] == 64
    for method, said in (("IMP", "imp"), ("jackpots", "jackpot")):
        size = kept[f"70B, state of {said}"]["median"]
        assert re.search(rf"\b{size:.0f} (bytes a weight )?for {method}", page)


def test_rivals_are_whole_processes(tmp_path, monkeypatch):
    images = np.arange(4 * 28 * 28, dtype=np.uint8).reshape(4, 28, 28, 1)
    split = data.Split(images, np.array([3, 1, 4, 1], np.int32))
    monkeypatch.setattr(search, "images", lambda _: programs.Data(split, split))
    begun = []

    def run(line, *, env, cwd, **kwargs):
        del kwargs
        ours = "open_lth.py" not in line
        if not ours:
            raw = Path(env["HOME"]) / "open_lth_datasets/mnist/MNIST/raw"
            written = (raw / "train-images-idx3-ubyte").read_bytes()
            head = np.frombuffer(written[:16], ">i4")
            assert (*head, written[16:]) == (2051, 4, 28, 28, images.tobytes())
            assert (raw / "t10k-labels-idx1-ubyte").read_bytes()[8:] == b"\3\1\4\1"
            assert cwd == tmp_path
        begun.append((ours, line))
        return subprocess.CompletedProcess(line, 0, "")

    monkeypatch.setattr(subprocess, "run", run)
    flags = {"data_dir": str(tmp_path), "open_lth": str(tmp_path)}
    rows = benchmark.experiment(benchmark.Config(sections=("rivals",), **QUICK | flags))
    names = [row.name for row in rows]
    assert names == ["open_lth", "jaxticket, seeds 1", "jaxticket, seeds 8"]
    assert all(row.also["times open_lth"] > 0 for row in rows)
    # Ours once more, to compile; no two runs share a folder.
    assert [ours for ours, _ in begun] == [True] * 2 + [False, True, True] * 2
    assert len({line[-1] for _, line in begun}) == len(begun)

    def fail(line, **kwargs):
        del kwargs
        return subprocess.CompletedProcess(line, 1, "no\nsuch model")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(ChildProcessError, match="has failed:\nno\nsuch model"):
        benchmark.experiment(benchmark.Config(sections=("rivals",), **QUICK | flags))


def test_experiments_are_started_to_compile_and_again(monkeypatch):
    begun = []

    def run(line, *, env, **kwargs):
        del kwargs
        assert "JAX_COMPILATION_CACHE_DIR" not in env
        cache = Path(env["JAXTICKET_CACHE"])
        begun.append((line[3:-1], cache, line[-1]))
        cache.mkdir(exist_ok=True)
        (cache / f"{line[2]}-cache").touch()
        return subprocess.CompletedProcess(line, 0, "")

    monkeypatch.setattr(subprocess, "run", run)
    sections = "default", "starting"
    rows = benchmark.experiment(benchmark.Config(sections=sections, **QUICK))
    assert [row.name for row in rows] == ["ticket_search", *faults.DOORS]
    assert all(row.also["programs"] == 1 for row in rows)
    doors = [list(calls) for _, calls in itertools.groupby(begun, lambda x: x[1])]
    assert len(doors) == len(rows)  # each with a cache of its own
    for calls in doors:
        assert len(calls) >= 2
        assert len({last for *_, last in calls}) == len(calls)  # no run goes on
    assert begun[0][0] == []  # the default run has no flags


JAXPRUNER = """
import types
def create_updater_from_config(settings):
    asked.append(settings)
    return types.SimpleNamespace(
        wrap_optax=lambda optimizer: optimizer,
        pre_forward_update=lambda params, state: params,
        post_gradient_update=lambda params, state: params,
    )
asked = []
"""


def test_jaxpruner_trains_beside_ours(tmp_path, monkeypatch):
    (tmp_path / "jaxpruner.py").write_text(JAXPRUNER)
    (tmp_path / "ml_collections.py").write_text("ConfigDict = dict")
    monkeypatch.setattr(jax, "tree_map", None, raising=False)
    monkeypatch.setattr(jaxpruning, "EVERY", 4)
    monkeypatch.setattr(jaxpruning, "PAIRS", {"fixed": "no_prune", "static": "x"})
    for name in ("jaxpruner", "ml_collections"):
        monkeypatch.setitem(sys.modules, name, None)
    config = benchmark.Config(sections=("jaxpruner",), jaxpruner=str(tmp_path), **QUICK)
    with pytest.raises(ImportError, match="give --jaxpruner a checkout of it"):
        benchmark.experiment(config)
    for name in ("jaxpruner", "ml_collections"):
        del sys.modules[name]
    rows = {row.name: row for row in benchmark.experiment(config)}
    import jaxpruner

    asked = [settings["algorithm"] for settings in jaxpruner.asked]
    assert asked == ["no_prune", "x"]
    for ours in ("fixed", "static"):
        assert rows[ours].also["times jaxpruner"] > 0
    assert {f"jaxpruner's {name}" for name in asked} < {*rows}


def test_scaling_is_drawn():
    also = {"of first": 1.0}
    rows = [{"name": f"{n} {kind}", "also": also} for kind in "ab" for n in (1, 10)]
    assert scaling.drawn(rows, "b").startswith(b"\x89PNG")
