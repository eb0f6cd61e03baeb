"""The README's examples run, and so does the equinox one it mentions."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jaxticket as jt

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("threefry")
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


def test_there_are_five_examples_and_the_first_is_short():
    assert len(EXAMPLES) == 5
    body = EXAMPLES[0].split("def density")[1].splitlines()
    assert len([line for line in body if line.strip()]) <= 15


def test_the_layout_names_every_module():
    layout = README.split("## Layout")[1].split("```")[1]
    for part, folder in zip(
        layout.split("\nexperiments/\n"), ("jaxticket", "experiments"), strict=True
    ):
        rows = re.findall(r"^  ((?:\w+ ?)+)(?:  |$)", part, re.M)
        named = [name for row in rows for name in row.split()]
        modules = [path.stem for path in (ROOT / folder).glob("[!_]*.py")]
        assert sorted(named) == sorted(modules), folder


@pytest.fixture
def hurried():
    """Compiles without optimising what computes little."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=["grid", "own network", "optax", "summary", "compact"]
)
def test_examples_run_as_they_stand(example, request, capsys):
    if example != EXAMPLES[0]:
        request.getfixturevalue("hurried")
    names = {}
    with jax.numpy_rank_promotion("allow"):  # as users have it
        exec(example, names)
    if "densities" in names:
        assert names["densities"].shape == (8, 3)
        assert (np.diff(names["densities"].mean(0)) > 0).all()  # s0 sets the density
    elif "result" in names:
        assert float(jt.masks.density(names["result"].ticket.mask)) == 0.25
    elif "small" in names:
        assert 0.0005 < float(jt.masks.density(names["paths"])) < 0.002
        layer = names["small"].ticket.weights["fc_1"]["kernel"]
        assert layer.shape == (28, 11)
    elif "search" not in names:
        assert (
            "hidden/kernel  784x300  235,200  47,040   20.00%"
            in capsys.readouterr().out
        )
    else:
        found = names["search"].ticket(names["state"].search).mask
        assert float(jt.masks.density(found)) == 0.25
        assert np.mean(np.asarray(names["params"]["w"]) == 0) == 0.75


def test_an_equinox_network(hurried):
    eqx = pytest.importorskip("equinox")
    digits = jt.data.load("digits")
    prepare = jt.data.normalizer("standard", digits.train.images)
    mlp = jt.models.from_equinox(lambda key: eqx.nn.MLP(64, 10, 50, 1, key=key))
    model = mlp._replace(
        apply=lambda params, state, x, **options: mlp.apply(
            params, state, x.reshape(len(x), -1), **options
        )
    )
    weights, _ = model.init(jax.random.key(0), None)
    result = jt.run(
        jt.imp(optax.adam(3e-3), density=0.5),
        jt.supervised.objective(model, prepare=prepare),
        jax.random.key(1),
        jt.Ticket(weights, jt.masks.full(weights)),
        digits.train,
        rounds=2,
        epochs=5,
        batch_size=60,
    )
    assert float(jt.masks.density(result.ticket.mask)) == 0.5
    assert result.losses[1, -1] < 0.5


def test_importing_the_library_is_light():
    heavy = ("flax", "tensorflow_datasets", "matplotlib", "orbax", "sklearn", "rich")
    code = (
        "import jaxticket, sys\n"
        f"print(sorted(set({heavy}) & set(sys.modules)))\n"
        "import absl.flags\n"
        "names = absl.flags.FLAGS.flags_by_module_dict()\n"
        "print([m for m in names if 'jaxticket' in m])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "[]\n[]\n", done.stderr


def test_no_file_of_the_library_imports_flags_or_plots():
    for path in (ROOT / "jaxticket").rglob("*.py"):
        assert not re.search(r"import (absl|matplotlib)|from absl", path.read_text())
