"""Small files of tickets: masks in few bytes, kept values alone, recipes of weights."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from ml_dtypes import bfloat16
from test_files import identical, with_nan

from experiments.fuzzing import zips
from jaxticket import Ticket, files, masks, models, packing, prune, recipes
from jaxticket.recipes import Recipe

LENET = {  # its leaves: 266,200 weights and 410 biases
    "fc_0": {"bias": (300,), "kernel": (784, 300)},
    "fc_1": {"bias": (100,), "kernel": (300, 100)},
    "output": {"bias": (10,), "kernel": (100, 10)},
}
MLP = Recipe("mlp", jax.random.key(3), (5,), 4, {"hidden": (6,)})


def small():
    """A ticket of the initial weights that `MLP` is the recipe of."""
    model = models.create("mlp", 4, hidden=(6,))
    weights, _ = jax.jit(model.init)(MLP.key, jnp.ones((1, 5)))
    return prune(Ticket(weights, masks.full(weights)), "magnitude", 0.3)


def lenet(density):
    rng, is_shape = np.random.default_rng(0), lambda x: isinstance(x, tuple)
    weights = jax.tree.map(
        lambda shape: rng.normal(0, 0.05, shape).astype(np.float32),
        LENET,
        is_leaf=is_shape,
    )
    mask = jax.tree.map(
        lambda w: rng.random(w.shape) < density if w.ndim == 2 else None, weights
    )
    return Ticket(weights, mask)


# Masks.


@pytest.mark.parametrize("size", [0, 1, 7, 255, 256, 257, 1000, 70_000])
@pytest.mark.parametrize("density", [0, 0.001, 0.05, 0.5, 1])
def test_gaps_are_the_mask(size, density):
    mask = np.random.default_rng(size).random(size) < density
    found = packing.gaps(mask)
    np.testing.assert_array_equal(packing.mask_of(found, (size,)), mask)
    places, at = [], 0  # as the docstring says it
    for gap in found.tolist():
        at += gap
        if gap < 255:
            places.append(at)
            at += 1
    np.testing.assert_array_equal(places, np.flatnonzero(mask))
    assert len(found) <= size


def test_gaps_are_added_up_in_pieces(monkeypatch):
    monkeypatch.setattr(packing, "_AT_ONCE", 3)
    mask = np.random.default_rng(0).random((40, 60)) < 0.01
    np.testing.assert_array_equal(packing.mask_of(packing.gaps(mask), mask.shape), mask)


@pytest.mark.parametrize("gaps", [[6], [0] * 7, [255], [5, 0], [2**8 - 1] * 9])
def test_gaps_that_reach_beyond_a_mask_are_refused(gaps):
    with pytest.raises(ValueError, match="its gaps reach to .* of 6 weights"):
        packing.mask_of(np.array(gaps, np.uint8), (2, 3))


def forms(path):
    found = zips.index(zips.members(path.read_bytes()))
    return {name: form for name, _, _, _, form in found["leaves"]}


def test_a_mask_is_stored_in_the_way_that_takes_fewer_bytes(tmp_path):
    rng = np.random.default_rng(0)
    weights = {name: np.ones((60, 60), np.float32) for name in "abc"}
    mask = {
        "a": rng.random((60, 60)) < 0.02,
        "b": rng.random((60, 60)) < 0.7,
        "c": np.indices((60, 60)).sum(0) % 60 < 7,
    }
    files.save_ticket(tmp_path / "t", Ticket(weights, mask))
    found = forms(tmp_path / "t")
    assert {found[f"mask/{name}"] for name in "ab"} == {"gaps", "whole"}
    assert found["mask/a"] == "gaps"
    identical(files.load_ticket(tmp_path / "t", Ticket(weights, mask))[0].mask,
              jax.tree.map(jnp.asarray, mask))  # fmt: skip


# Sizes.


def test_a_twentieth_of_lenet_is_a_fifteenth_of_its_file(tmp_path):
    ticket, path = lenet(0.05), tmp_path / "ticket.npz"
    dense = 4 * sum(w.size for w in jax.tree.leaves(ticket.weights))
    assert files.save_ticket(path, ticket) == 0
    assert path.stat().st_size <= dense / 15
    identical(
        files.load_ticket(path, ticket)[0],
        jax.tree.map(jnp.asarray, ticket._replace(weights=with_nan(ticket))),
    )
    exact = path.stat().st_size
    files.save_ticket(path, ticket, values="float16")
    assert path.stat().st_size < 2 / 3 * exact


def test_its_mask_with_a_key_is_an_eightieth(tmp_path):
    ticket, path = lenet(0.05), tmp_path / "mask.npz"
    dense = 4 * sum(w.size for w in jax.tree.leaves(ticket.weights))
    recipe = Recipe("a network of mine", jax.random.key(0), (28, 28, 1))
    files.save_ticket(path, ticket, recipe=recipe)
    assert path.stat().st_size <= dense / 80
    found, _ = files.load_ticket(path, ticket, initial=ticket.weights)
    identical(found, jax.tree.map(jnp.asarray, ticket))


# Values.


@pytest.mark.parametrize("dtype", [np.float16, bfloat16])
def test_shorter_values_say_how_far_off_they_are(tmp_path, dtype):
    ticket, name = toy.ticket(lost=7), np.dtype(dtype).name
    error = files.save_ticket(tmp_path / "t", ticket, values=name, note="x")
    found, about = files.load_ticket(tmp_path / "t", ticket)
    assert about == {"note": "x", "values": name, "largest_error": error}
    off = []
    for layer in ("dense", "head"):
        ours, theirs = ticket.weights[layer], found.weights[layer]
        identical(theirs["bias"], ours["bias"])
        kept = np.asarray(ticket.mask[layer]["kernel"])
        exact = np.asarray(ours["kernel"])[kept]
        expected = exact.astype(dtype).astype(exact.dtype)
        np.testing.assert_array_equal(np.asarray(theirs["kernel"])[kept], expected)
        assert np.isnan(theirs["kernel"]).sum() == (~kept).sum()
        off.append(np.abs(exact - expected).max())
    assert error == max(off) > 0
    assert files.save_ticket(tmp_path / "again", found, **about) == error
    again, facts = files.load_ticket(tmp_path / "again", ticket)
    identical(again, found)
    assert facts == about


def test_a_value_that_a_shorter_dtype_does_not_reach_is_refused(tmp_path):
    weights = {"w": np.float32([[1, 7e4]])}
    ticket = Ticket(weights, {"w": np.array([[True, True]])})
    with pytest.raises(ValueError, match="weights/w: 70000 is beyond float16: take"):
        files.save_ticket(tmp_path / "t", ticket, values="float16")
    assert not list(tmp_path.iterdir())
    assert files.save_ticket(tmp_path / "t", ticket, values="bfloat16") < 256
    spared = ticket._replace(mask={"w": np.array([[True, False]])})
    assert files.save_ticket(tmp_path / "t", spared, values="float16") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": "int8"}, "values must be one of float16, bfloat16"),
        ({"values": "float16", "pruned": "keep"}, "give one of pruned='keep', values"),
        ({"recipe": MLP, "pruned": "keep"}, "give one of pruned='keep', values"),
        ({"recipe": {"model": "mlp"}}, "no recipe of initial weights"),
    ],
)
def test_what_does_not_go_together_is_not_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        files.save_ticket(tmp_path / "t", toy.ticket(), **options)
    assert not list(tmp_path.iterdir())


# Recipes.


def test_a_recipe_is_followed_and_gives_all_weights(tmp_path):
    ticket, path = small(), tmp_path / "t"
    files.save_ticket(path, ticket, recipe=MLP, seed=3)
    assert {*forms(path).values()} <= {"rebuilt", "gaps", "whole"}
    found, about = files.load_ticket(path, jax.eval_shape(lambda: ticket))
    identical(found, ticket)
    assert about["seed"] == 3
    assert recipes.read(about["recipe"])._replace(key=0) == MLP._replace(key=0)
    files.save_ticket(tmp_path / "again", found, **about)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_ticket_that_lacks_what_it_pruned_may_have_a_recipe(tmp_path):
    ticket = small()
    lacking = ticket._replace(weights=with_nan(ticket))
    files.save_ticket(tmp_path / "t", lacking, recipe=MLP)
    identical(files.load_ticket(tmp_path / "t", ticket)[0], ticket)
    own = MLP._replace(model="mine")
    with pytest.raises(ValueError, match="a recipe of a network of one's own reads"):
        files.save_ticket(tmp_path / "own", lacking, recipe=own)


def test_trained_weights_have_no_recipe(tmp_path):
    ticket = small()
    ticket.weights["output"]["bias"] += 1e-7
    with pytest.raises(ValueError, match="weights output/bias are not those of the"):
        files.save_ticket(tmp_path / "t", ticket, recipe=MLP)
    assert not list(tmp_path.iterdir())


def forged(path, edit):
    given = zips.members(path.read_bytes())
    found = zips.index(given)
    edit(found)
    path.write_bytes(zips.packed(zips.with_text(given, zips.text(found, True))))


def test_weights_that_come_out_otherwise_are_refused_in_one_line(tmp_path):
    ticket, path = small(), tmp_path / "t"
    files.save_ticket(path, ticket, recipe=MLP)
    other = MLP._replace(key=jax.random.key(4)).facts()
    forged(path, lambda found: found["about"].update(recipe=other))
    with pytest.raises(ValueError, match=f"^{path} .* are others: weights/fc_0/ker"):
        files.load_ticket(path, ticket)
    own = MLP._replace(model="mine").facts()
    forged(path, lambda found: found["about"].update(recipe=own))
    with pytest.raises(ValueError, match="of 'mine' must be given as `initial`"):
        files.load_ticket(path, ticket)
    identical(files.load_ticket(path, ticket, initial=ticket.weights)[0], ticket)
    wrong = jax.tree.map(lambda w: w + 1, ticket.weights)
    with pytest.raises(ValueError, match="are others: weights/fc_0/bias"):
        files.load_ticket(path, ticket, initial=wrong)
    with pytest.raises(ValueError, match="two trees are not of one network"):
        files.load_ticket(path, ticket, initial={"fc_0": jnp.ones(3)})


RESNET = {"model": "resnet_20", "shape": [8, 8, 3]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (RESNET | {"options": {"blocks": [10**7, 1]}}, "no network: it has more lay"),
        ({"options": {"hidden": [5] * 4000}}, "no network: it has more layers"),
        ({"options": {"hidden": [2**40]}}, "no network: hidden must be"),
        ({"options": {"hidden": [2**30]}}, "of other weights"),
        ({"options": {"hidden": [7]}}, "of other weights"),
        ({"options": {"depth": 7}}, "no network: mlp has no depth"),
        ({"options": {"hidden": [{}]}}, "an option is {}"),
        ({"shape": [2**12, 2**13]}, "of other weights"),
        ({"shape": [2**30]}, "no recipe"),
        ({"num_classes": 0}, "no recipe"),
        ({"key": {"kind": "os.system", "data": [0, 0]}}, "no recipe"),
        ({"key": {"kind": "threefry2x32", "data": [[0, 0]]}}, "its parts are others"),
        ({"more": 1}, "its parts are others"),
    ],
)
def test_a_recipe_may_come_from_anybody(tmp_path, change, reason):
    ticket, path = small(), tmp_path / "t"
    files.save_ticket(path, ticket, recipe=MLP)
    forged(path, lambda found: found["about"]["recipe"].update(change))
    with pytest.raises(ValueError, match=f"^{path} has no weights, and .*{reason}"):
        files.load_ticket(path, ticket)


# Forms of a file that come from anybody.


@pytest.mark.parametrize(
    ("leaf", "form", "reason"),
    [
        ("weights/dense/bias", "kept", "only what a mask prunes may be left out"),
        ("weights/dense/kernel", "gaps", r"\(gaps\)"),
        ("weights/dense/kernel", "whole", "is stored, expected float32"),
        ("weights/dense/kernel", "kept as float16", "is stored, expected float16"),
        ("weights/dense/kernel", "rebuilt", "no leaf names the member"),
        ("mask/dense/kernel", "kept", r"\(kept\)"),
        ("mask/dense/kernel", "rebuilt", "no leaf names the member"),
        ("model_state/mean", "kept", r"\(kept\)"),
        ("model_state/mean", "gaps", r"\(gaps\)"),
    ],
)
def test_a_form_in_a_wrong_place_is_refused(tmp_path, leaf, form, reason):
    state = {"mean": np.ones(3, np.float32)}
    ticket = toy.ticket(lost=27)._replace(model_state=state)
    files.save_ticket(tmp_path / "t", ticket)

    def edit(found):
        [entry] = [each for each in found["leaves"] if each[0] == leaf]
        entry[4] = form

    forged(tmp_path / "t", edit)
    with pytest.raises(ValueError, match=f"^{tmp_path / 't'} .*{reason}"):
        files.load_ticket(tmp_path / "t", ticket)


def test_a_tree_of_a_ticket_is_not_read_without_its_mask(tmp_path):
    ticket = toy.ticket(lost=3)
    files.save_ticket(tmp_path / "t", ticket)
    with pytest.raises(ValueError, match=r"found weights/dense/kernel .* \(kept\)"):
        files.load(tmp_path / "t", ticket)
    assert files.about(tmp_path / "t", ticket) == {}
    assert os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize(("name", "shape"), [("conv_2", (8, 8, 3)), ("mlp", (3,))])
def test_networks_with_dropout_and_without_hidden_layers_are_few_enough(name, shape):
    options = {"hidden": (), "dropout": 0.5} | ({"widths": (2,)} if shape[1:] else {})
    recipe = Recipe(name, jax.random.key(0), shape, 4, options)
    model = models.create(name, 4, **options)
    weights, _ = jax.jit(model.init)(recipe.key, jnp.ones((1, *shape)))
    identical(recipes.rebuilt(recipe, weights), weights)
