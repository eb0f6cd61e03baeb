"""Networks, data and losses of the user's, from Python and from the command line."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import own as mine
import pandas as pd
import pytest
import studies

from experiments.examples import character_gpt
from experiments.study import own
from jaxticket import data, models, supervised
from jaxticket.data import arrays

pytestmark = pytest.mark.usefixtures("unoptimised")
SHORT = {"seeds": 2, "steps": 3, "epochs": None, "batch_size": 20, "eval_every": 3}
METHODS = {"methods": ("imp",), "rounds": 2, "hyper": {"imp.density": 0.5}}


def images(count=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 4, 4), np.uint8), rng.integers(0, 3, count)


# Data.


@pytest.mark.parametrize("names", arrays.NAMES)
def test_arrays_of_a_file(tmp_path, names):
    train, test = images(), images(10, 1)
    path = tmp_path / "own.npz"
    np.savez(path, **dict(zip(names, (*train, *test), strict=True)))
    found = data.load(str(path), validation=5)
    assert found.train.images.shape == (15, 4, 4, 1)
    assert found.train.images.dtype == np.uint8
    assert found.test.labels.dtype == np.int32
    np.testing.assert_array_equal(found.test.images[..., 0], test[0])
    np.testing.assert_array_equal(found.test.labels, test[1])
    both = np.concatenate([found.train.images, found.validation.images])[..., 0]
    assert sorted(x.tobytes() for x in both) == sorted(x.tobytes() for x in train[0])
    assert found.num_classes == 3


def test_classes_that_no_training_image_is_of_are_named():
    train, test = images(), images(10, 1)

    def note(shift=0, test=test, train=train):
        moved = [data.Split(x, y + shift) for x, y in (train, test)]
        return own.unseen(data.of_splits("own", *moved, validation=5))

    assert note() is None
    assert note(1) == (
        "the network has 4 outputs, for labels from 0 to 3, and no training image is "
        "of 0"
    )
    assert note(9).endswith("of 0, 1, 2, 3, 4 and 4 more")
    assert note(test=(test[0], test[1] + 1)).endswith("is of 3")
    numbers = [(x, np.float32(y)) for x, y in (train, test)]
    assert note(test=numbers[1], train=numbers[0]) is None


def test_numbers_are_standardised_by_the_training_set():
    (x, y), test = mine.arrays()
    found = data.of_splits("own", data.Split(x, y), data.Split(*test), validation=10)
    np.testing.assert_allclose(
        found.test.labels, (test[1] - y.mean(0)) / y.std(0), rtol=1e-3, atol=1e-3
    )
    assert found.num_classes == 2
    assert len(found.validation.labels) == 10
    years = np.linspace(1900, 2026, 2 * 300_000, dtype=np.float32).reshape(-1, 2)
    split = data.Split(np.zeros((len(years), 1), np.float32), years)
    found = data.of_splits("own", split, split, validation=1)
    labels = np.float64(found.train.labels)
    np.testing.assert_allclose(labels.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(labels.std(0), 1, rtol=1e-5)


@pytest.mark.parametrize("what", ["missing", "short", "text", "pickle", "names"])
def test_files_that_cannot_be_read_are_refused(tmp_path, what):
    path = tmp_path / "own.npz"
    names = dict(zip(arrays.NAMES[0], (*images(), *images()), strict=True))
    if what == "text":
        path.write_text("a,b\n1,2\n")
    elif what != "missing":
        changes = {
            "pickle": {"test_images": np.array([{}], object)},
            "names": {},
        }.get(what, {})
        if what == "names":
            names.pop("test_labels")
        np.savez(path, **(names | changes))
        if what == "short":
            path.write_bytes(path.read_bytes()[:-200])
    says = {
        "missing": "there is no such file",
        "names": "holds train_images, train_labels, test_images; it must hold",
        "pickle": "allow_pickle",
    }.get(what, "own.npz")
    with pytest.raises(ValueError, match=says):
        data.load(str(path))


# Losses.


def test_smoothed_labels_lie_partly_on_all_classes():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 6, 3)), rng.integers(0, 3, (4, 6))
    smooth = supervised.smoothed(0.3)
    loss, right = smooth(jnp.asarray(logits, jnp.float32), labels)
    wanted = 0.7 * np.eye(3)[labels] + 0.1
    log_shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(loss, -(wanted * log_shares).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(right, logits.argmax(-1) == labels)
    assert smooth.check is supervised.cross_entropy.check


def test_losses_and_what_they_are_tested_by():
    rng = np.random.default_rng(0)
    logits, numbers = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    several = numbers > 0
    loss, right = supervised.binary_cross_entropy(jnp.asarray(logits), several)
    signs = np.where(several, 1, -1)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-signs * logits)).mean(-1), 1e-5)
    np.testing.assert_allclose(right, ((logits > 0) == several).mean(-1))
    loss, explained = supervised.squared_error(jnp.asarray(logits), numbers)
    np.testing.assert_allclose(loss, ((logits - numbers) ** 2).mean(-1), 1e-5)
    np.testing.assert_allclose(explained, 1 - loss)
    one, _ = supervised.squared_error(jnp.asarray(logits[:, :1]), numbers[:, 0])
    np.testing.assert_allclose(one, (logits[:, 0] - numbers[:, 0]) ** 2, 1e-5)
    one, right = supervised.binary_cross_entropy(
        jnp.asarray(logits[:, :1]), several[:, 0]
    )
    np.testing.assert_allclose(one, np.log1p(np.exp(-signs * logits))[:, 0], 1e-5)
    np.testing.assert_array_equal(right, (logits[:, 0] > 0) == several[:, 0])


@pytest.mark.parametrize(
    "loss", [supervised.squared_error, supervised.binary_cross_entropy]
)
def test_one_number_an_example_is_tested_with_an_axis_for_it_or_without(loss):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 5).astype(np.float32)
    split = data.Split(rng.normal(size=(5, 3)).astype(np.float32), labels)

    def tested(shape):
        model = models.Model(
            lambda key, x: ({}, {}),
            lambda p, s, x, *, train=False, key=None: (x.sum(-1).reshape(shape), s),
        )
        return supervised.evaluator(model, loss, batch_size=3)({}, {}, split)

    np.testing.assert_allclose(tested((-1,)), tested((-1, 1)), 1e-6)


def test_an_evaluator_is_compiled_once_and_takes_a_network_without_a_state():
    model = models.from_linen(nn.Dense(3))
    split = data.Split(jnp.ones((5, 4)), jnp.arange(5, dtype=jnp.int32) % 3)
    params, state = model.init(jax.random.key(0), split.images)
    traced = []

    def loss(outputs, labels):
        traced.append(1)
        return supervised.cross_entropy(outputs, labels)

    evaluate = supervised.evaluator(model, loss, batch_size=2)
    found = evaluate(params, state, split)
    assert len(traced) == 2  # to check labels, and to compile
    assert evaluate(params, None, split) == found
    assert len(traced) == 2
    of_loss = supervised.evidence(model, split)(None).loss
    np.testing.assert_allclose(of_loss(params), found.loss, rtol=1e-6)


def test_the_next_token_counts_at_every_place():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(7, 7))
    model = models.Model(
        lambda key, x: ({"table": jnp.asarray(table)}, {}),
        lambda p, s, x, *, train=False, key=None: (p["table"][x], s),
    )
    tokens = rng.integers(0, 7, (11, 4)).astype(np.int32)
    split = data.Split(tokens[:, :-1], tokens[:, 1:])
    logits = table[split.images]
    chosen = np.take_along_axis(logits, split.labels[..., None], -1)[..., 0]
    losses = np.log(np.exp(logits).sum(-1)) - chosen
    params, state = model.init(None, None)
    found = supervised.evaluator(model, batch_size=4)(params, state, split)
    assert float(found.loss) == pytest.approx(losses.mean(), rel=1e-5)
    right = (logits.argmax(-1) == split.labels).mean()
    assert float(found.accuracy) == pytest.approx(right)
    loss, _ = supervised.objective(model)(params, state, split, jax.random.key(0))
    assert float(loss) == pytest.approx(losses.mean(), rel=1e-5)


# Networks.


def test_whatever_network_is_given_becomes_a_model():
    x = np.ones((2, 6), np.float32)
    linen = own.model("own:linen", 3, {"width": "5", "bias": "False"})
    params, _ = linen.init(jax.random.key(0), x)
    assert jax.tree.map(np.shape, params)["Dense_0"] == {"kernel": (6, 5)}
    nnx = own.model("own:from_nnx", 3, {})
    logits, _ = nnx.apply(*nnx.init(jax.random.key(0), x), x)
    assert logits.shape == (2, 3)
    assert models.adapted(linen) is linen
    zoo = own.model("lenet_300_100", 4, {"hidden": "5,6", "dropout": "0.5"})
    params, _ = zoo.init(jax.random.key(0), x)
    assert params["fc_1"]["kernel"].shape == (5, 6)


# Studies.


@pytest.mark.parametrize(
    ("kind", "loss", "metric"),
    [
        ("numbers", "squared_error", "variance explained"),
        ("several", "binary_cross_entropy", "accuracy"),
        ("numbers", "own:absolute", "within a half"),
    ],
)
def test_what_is_no_classification(tmp_path, kind, loss, metric):
    with studies.tiny():
        rows = studies.run(
            "ticket_search", tmp_path, dataset="own:arrays", model="own:linen",
            loss=loss, controls=("reinitialise", "shuffle"), **SHORT,
            **METHODS | {"hyper": {"imp.density": 0.5, "dataset.kind": kind}},
        )  # fmt: skip
    assert len(rows) == 2 * 4
    assert rows["test_accuracy"].notna().all()
    assert json.loads((tmp_path / "config.json").read_text())["metric"] == metric
    layers = pd.read_csv(tmp_path / "layers.csv")
    assert [*layers["layer"].unique()] == ["Dense_0/kernel", "output/kernel"]
    kept = (layers["weights"] * layers["layer_density"]).groupby(layers["seed"]).sum()
    np.testing.assert_allclose(kept, 128 * layers["density"].iloc[0])
    effective = layers["effective_density"] / layers["layer_density"]
    assert effective.between(0.1, 1).all()
    assert effective.lt(1).any()
    inputs = pd.read_csv(tmp_path / "inputs.csv")
    assert [*inputs["column"]] == [*range(6)]
    first = layers.loc[layers["layer"] == "Dense_0/kernel", "layer_density"]
    assert inputs["kept"].mean() == pytest.approx(first.mean())


def test_the_command_line_takes_a_file_and_a_network(tmp_path):
    path = tmp_path / "own.npz"
    x, y = images(80)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    done = studies.started(
        "ticket_search", "kill:99", tmp_path / "run",
        f"--dataset={path}", "--validation=20",
        "--model=own:linen", "--model.width=5", "--methods=imp", "--imp.density=0.5",
        "--rounds=2", "--steps=3", "--seeds=2", "--batch_size=20", "--controls=",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert about["config"]["hyper"]["model.width"] == "5"


def test_a_small_gpt_is_searched_with_all_controls(tmp_path):
    example = "experiments.examples.character_gpt"
    options = {"model.width": 8, "model.heads": 2, "model.depth": 1}
    options |= {"dataset.length": 8, "dataset.characters": 2000}
    with studies.tiny():
        rows = studies.run(
            "ticket_search", tmp_path, dataset=f"{example}:text",
            model=f"{example}:gpt", controls=("reinitialise", "shuffle", "random"),
            **SHORT, **METHODS | {"hyper": {"imp.density": 0.5, **options}},
        )  # fmt: skip
    kinds = studies.select(rows, seed=0)["treatment"]
    assert [*kinds] == ["dense", "ticket", "reinitialise", "shuffle", "random"]


def test_the_gpt_sees_no_future_and_its_labels_are_one_place_on(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("abcabd" * 40)
    train, test = character_gpt.text(file=str(file), length=6)
    np.testing.assert_array_equal(train.images[0], [0, 1, 2, 0, 1, 3])
    np.testing.assert_array_equal(train.labels[0], [1, 2, 0, 1, 3, 0])
    assert (len(train.images), len(test.images)) == (35, 4)
    model = models.adapted(character_gpt.gpt(4, width=8, depth=1, heads=2))
    params, state = model.init(jax.random.key(0), train.images[:1])
    other = train.images[:1].copy()
    other[0, 4] = 0
    ours, theirs = (
        np.asarray(model.apply(params, state, x)[0][0])
        for x in (train.images[:1], other)
    )
    np.testing.assert_allclose(ours[:4], theirs[:4], rtol=1e-6)
    assert np.abs(ours[4:] - theirs[4:]).min() > 0
    assert optax.tree.norm(params) > 0
