"""The newcomer's page, "From a run to your program", as it stands."""

import importlib.util
import re
import shlex

import jax
import numpy as np
import pytest
import studies

import jaxticket as jt
from experiments import report
from jaxticket import export

PAGE = (studies.ROOT / "experiments" / "README.md").read_text()
SECTION = PAGE.split("## From a run to your program\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```(bash|python|py)\n(.*?)```", SECTION, re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the page is read: an empty folder; programs are not optimised."""
    monkeypatch.chdir(tmp_path)
    for name in ("read", "write", "show"):
        monkeypatch.setattr(report, name, lambda folder, **_: None)
    jax.config.update("jax_disable_most_optimizations", True)
    yield tmp_path
    jax.config.update("jax_disable_most_optimizations", False)


def typed(lines):
    """Runs commands as a shell would, in this process."""
    for line in lines.splitlines():
        python, module, name, *given = shlex.split(line)
        assert (python, module) == ("python", "-m")
        with pytest.MonkeyPatch.context() as patch:
            studies.shell(patch, name.removeprefix("experiments."), *given)


def able(block):
    """Whether all is installed that a block imports."""
    names = re.findall(r"^(?:import|from) (\w+)", block, re.M)
    return all(importlib.util.find_spec(name) for name in names)


def test_the_page_does_what_it_says(folder, capsys):
    names = {}
    with jax.numpy_rank_promotion("allow"):  # as users have it
        for kind, block in BLOCKS:
            if kind == "bash":
                typed(block)
            elif kind == "python" or able(block):
                exec(block, names)
    said = capsys.readouterr().out
    assert said.count("weights as there") == 2
    assert names["path"] in said
    assert (folder / "masks.png").exists()
    shown = re.findall(r"^0\.\d+$", said, re.M)
    assert float(shown[0]) > 0.8  # flax, and then numpy on rounded values
    assert abs(float(shown[0]) - float(shown[1])) < 0.02
    assert f"test accuracy {100 * float(shown[1]):.2f}%" in said
    if importlib.util.find_spec("jax2onnx"):
        [off] = re.findall(r"^largest difference in ONNX: (.*)$", said, re.M)
        assert float(off) < 1e-4
    plain, smaller = (export.read(f"{name}.npz") for name in ("trained", "smaller"))
    outputs = [export.chain(x)(np.asarray(names["images"])) for x in (plain, smaller)]
    np.testing.assert_allclose(*outputs, atol=1e-3)  # it reads values in float16
    ours, theirs = names["back"], names["trained"]
    for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_array_equal(one, other)
    sizes = [(folder / f"{name}.npz").stat().st_size for name in ("small", "mask")]
    assert sizes[1] < sizes[0] < 4 * 50_610 / 8
    assert float(jt.masks.density(theirs.mask)) < 1
