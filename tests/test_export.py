"""Tickets without JAX: the same numbers, and no more trust in a file."""

import random
import subprocess
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.fuzzing import mutants, trials
from jaxticket import Ticket, export, files, masks, models, prune

# Loads the module by its path and runs a chain while nothing else can be imported.
ALONE = """
import importlib.util, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
spec = importlib.util.spec_from_file_location("export", %r)
export = importlib.util.module_from_spec(spec)
spec.loader.exec_module(export)
import numpy as np
ticket = export.read(%r)
found = [export.chain(ticket, sparse=x)(np.load(%r)) for x in (True, False, None)]
np.save(%r, found)
"""
OTHERS = {"jax", "jaxlib", "jaxticket", "flax", "optax", "ml_dtypes", "experiments"}


def network(name="mlp", shape=(4, 3), **options):
    """A pruned network of the zoo, and its function of `x`."""
    model = models.create(name, 5, **options)
    weights, state = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, *shape)))
    biases = jax.random.normal(jax.random.key(1), (99,))
    weights = jax.tree.map(lambda w: biases[: w.size] if w.ndim == 1 else w, weights)
    ticket = prune(Ticket(weights, masks.full(weights), state), "magnitude", 0.3)

    def outputs(ticket, x):
        return model.apply(masks.apply(ticket.mask, ticket.weights), state, x)[0]

    return ticket, outputs


@pytest.fixture(scope="module")
def lenet():
    return network(hidden=(16, 11))


def images(*shape):
    return np.random.default_rng(0).normal(size=(7, *shape)).astype(np.float32)


def test_a_chain_runs_without_jax(tmp_path, lenet):
    ticket, outputs = lenet
    path, x, found = (str(tmp_path / name) for name in ("t.npz", "x.npy", "y.npy"))
    files.save_ticket(path, ticket)
    np.save(x, images(4, 3))
    code = ALONE % (OTHERS, export.__file__, path, x, found)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    expected = outputs(ticket, images(4, 3))
    for each in np.load(found):
        np.testing.assert_allclose(each, expected, rtol=0, atol=1e-5)


def test_it_says_what_a_file_keeps(tmp_path, lenet):
    files.save_ticket(tmp_path / "t.npz", lenet[0], method="imp")
    done = subprocess.run(
        [sys.executable, export.__file__, tmp_path / "t.npz"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == '{"method": "imp"}'
    assert "fc_0/kernel  12x16" in done.stdout
    for arguments in ([], [str(tmp_path / "none")]):
        with pytest.raises(SystemExit, match="^error: "):
            export.main(arguments)


def test_a_layer_may_skip(tmp_path):
    ticket, outputs = network("mlp_1d", (9,), width=8)
    files.save_ticket(tmp_path / "t", ticket)
    chain = export.chain(export.read(tmp_path / "t"), skips=("fc_1",))
    assert [*chain.layers] == ["fc_0", "fc_1", "output"]
    x = images(9)
    np.testing.assert_allclose(chain(x), outputs(ticket, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"pruned": "keep"}, {"values": "bfloat16"}])
def test_it_reads_what_is_written(tmp_path, options):
    ticket, about = trials.example()
    files.save_ticket(tmp_path / "t", ticket, **about, **options)
    expected, facts = files.load_ticket(tmp_path / "t", ticket)
    found = export.read(tmp_path / "t")
    assert found.about == facts
    whole = masks.apply(expected.mask, expected.weights)
    for ours, theirs in ((found.weights, whole), (found.masks, expected.mask)):
        assert [*ours] == masks.names(theirs)
        for name, leaf in zip(ours, jax.tree.leaves(theirs), strict=True):
            leaf = np.asarray(leaf)
            assert ours[name].dtype == (leaf.dtype if leaf.dtype.kind != "V" else "f4")
            np.testing.assert_array_equal(ours[name], leaf.astype(ours[name].dtype))
    state = expected.model_state
    np.testing.assert_array_equal(found.state["key"], jax.random.key_data(state["key"]))
    assert found.state["seen"] == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ("fc_0", "output")}, "output/kernel is .*11, 5.*for 16 inputs"),
        ({"layers": ("fc_0", "fc_1")}, "output/bias is of no dense layer"),
        ({"layers": ("fc_9",)}, "fc_9/kernel is None"),
    ],
)
def test_what_is_no_chain_is_refused(tmp_path, lenet, change, message):
    files.save_ticket(tmp_path / "t", lenet[0])
    with pytest.raises(ValueError, match=message):
        export.chain(export.read(tmp_path / "t"), **change)


def test_what_a_file_does_not_hold_is_named(tmp_path):
    ticket, recipe = trials.rebuilt()
    files.save_ticket(tmp_path / "t", ticket, recipe=recipe)
    found = export.read(tmp_path / "t")
    assert not found.weights
    assert found.kinds["weights/fc_0/kernel"] == ("float32", (6, 5))
    np.testing.assert_array_equal(
        found.masks["fc_0/kernel"], ticket.mask["fc_0"]["kernel"]
    )
    with pytest.raises(ValueError, match="is not in the file, which has a recipe"):
        export.chain(found)


def test_layers_come_by_number():
    names = [f"{name}/kernel" for name in ("fc_10", "output", "fc_2", "fc_0")]
    assert export._order(names) == ["fc_0", "fc_2", "fc_10", "output"]


def test_the_faster_form_of_a_kernel_is_taken(monkeypatch):
    times = iter([2.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr(export, "_seconds", lambda f: next(times))
    dense = np.eye(3)
    assert type(export._fastest(dense, None, 4)).__name__ == "csr_matrix"
    assert export._fastest(dense, None, 4) is dense


def test_more_than_allowed_is_refused_unread(tmp_path, lenet):
    files.save_ticket(tmp_path / "t", lenet[0])
    with pytest.raises(ValueError, match="its arrays take .* bytes, allowed are 999"):
        export.read(tmp_path / "t", most=999)
    with pytest.raises(FileNotFoundError):
        export.read(tmp_path)


def test_a_damaged_file_is_refused_or_the_same(tmp_path):
    path = tmp_path / "mutant.npz"
    for version, (content, _) in trials.files_of(tmp_path).items():
        path.write_bytes(content)
        good = seen(export.read(path))
        for name, kind in mutants.KINDS.items():
            bad = kind(random.Random(f"{version} {name}"), content)
            path.write_bytes(bad)
            tracemalloc.start()
            found = outcome(path, good)
            held = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert held < trials.BYTES, name
            assert found == good or isinstance(bad, mutants.Forged), name


def outcome(path, good):
    """What is read, or what is good where the file is refused by its name."""
    try:
        return seen(export.read(path, most=10**5))
    except ValueError as error:
        return good if str(error).startswith(f"{path} is damaged") else error


def seen(ticket):
    arrays = [
        (name, x.dtype.name, x.shape, x.tobytes())
        for part in ticket[:3]
        for name, x in part.items()
    ]
    return arrays, ticket.about, ticket.kinds
