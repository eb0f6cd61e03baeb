"""Supermasks through their experiment: what each method keeps, and of which weights."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import supermasks
from experiments.reports import statistics
from experiments.study.settings import resolve
from jaxticket import classification, data, files, masks, models
from jaxticket.engine import keys

DENSITIES = (0.8, 0.2)
CONFIG = supermasks.Config(
    seeds=2,
    epochs=2,
    search_epochs=4,
    logit_learning_rate=0.03,
    lanes=1,
    densities=DENSITIES,
    s0_values=(0.1, -0.02),
    save_seconds=0,
    methods=(
        "learned",
        "rescaled_constant",
        "edge_popup",
        "continuous_sparsification",
        "large_final_same_sign",
        "large_final_same_sign_constant",
        "snip",
        "random",
    ),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The rows, the folder, and the networks before training, by seed."""
    folder = tmp_path_factory.mktemp("supermasks")
    rows = supermasks.experiment(dataclasses.replace(CONFIG, output_dir=str(folder)))
    model = models.create("lenet_300_100")
    images = data.load("digits").train.images[:1].astype(np.float32)
    init = jax.jit(lambda key: model.init(key, images)[0])
    weights = [init(keys.of_seed(seed).init) for seed in (0, 1)]
    return rows, folder, [jax.tree.map(np.asarray, w) for w in weights]


def ticket(run, method, seed, number):
    _, folder, weights = run
    path = folder / "tickets" / method / f"seed-{seed}-round-{number}.npz"
    return jax.tree.map(np.asarray, files.load_ticket(path, weights[seed])[0])


def kernels(tree):
    return {name: layer["kernel"] for name, layer in tree.items()}


def kept_values(found):
    """Layer -> the values that a ticket keeps."""
    mask = kernels(found.mask)
    return {name: w[mask[name]] for name, w in kernels(found.weights).items()}


def test_every_method_has_a_row_for_every_seed_and_setting(run):
    rows, folder, _ = run
    there = statistics.read_results(folder / "results.csv")
    assert [r["test_accuracy"] for r in there] == [r["test_accuracy"] for r in rows]
    numbers = {"learned": 1, "rescaled_constant": 1, "edge_popup": 1}
    for method in CONFIG.methods:
        here = statistics.select(rows, method=method, treatment="ticket")
        found = {(row["seed"], row["round"]) for row in here}
        assert found == {
            (seed, 1 + i) for seed in (0, 1) for i in range(numbers.get(method, 2))
        }
    searched = statistics.select(rows, method="edge_popup")
    assert {row["search_epochs"] for row in searched} == {4.0}
    free = statistics.select(rows, method="random")
    assert {row["search_epochs"] for row in free} == {0.0}


@pytest.mark.parametrize(
    "method", ["learned", "large_final_same_sign", "random", "edge_popup"]
)
def test_no_weight_is_trained(run, method):
    """Found are the initial weights, or with edge-popup their signs and a constant."""
    for seed, initial in enumerate(run[2]):
        found = ticket(run, method, seed, 1)
        mask = kernels(found.mask)
        for name, values in kept_values(found).items():
            expected = kernels(initial)[name]
            if method == "edge_popup":
                size = np.sqrt(2 / expected.shape[0], dtype=np.float32)
                expected = np.sign(expected) * size
                np.testing.assert_allclose(values, expected[mask[name]], rtol=1e-6)
            else:
                np.testing.assert_array_equal(values, expected[mask[name]])
        for layer in found.weights.values():
            assert not layer["bias"].any()


def test_signed_constants_keep_signs_and_nothing_else(run):
    for seed, initial in enumerate(run[2]):
        found = ticket(run, "large_final_same_sign_constant", seed, 1)
        plain = ticket(run, "large_final_same_sign", seed, 1)
        jax.tree.map(np.testing.assert_array_equal, found.mask, plain.mask)
        for name, values in kept_values(found).items():
            w = kernels(initial)[name]
            expected = (np.sign(w) * w.std())[kernels(found.mask)[name]]
            np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_rescaled_weights_make_up_for_those_that_are_masked(run):
    for seed, initial in enumerate(run[2]):
        found = ticket(run, "rescaled_constant", seed, 1)
        for name, values in kept_values(found).items():
            w, mask = kernels(initial)[name], kernels(found.mask)[name]
            expected = w.std() * mask.size / mask.sum()
            np.testing.assert_allclose(np.abs(values), expected, rtol=1e-5)


def test_criteria_prune_by_layer_and_the_output_at_half_the_rate(run):
    for density, number in zip(DENSITIES, (1, 2), strict=True):
        mask = kernels(ticket(run, "large_final_same_sign", 0, number).mask)
        for name, leaf in mask.items():
            rate = 0.5 if name == "output" else 1
            removed = np.floor(leaf.size * rate * (1 - density) + 0.5)
            assert leaf.sum() == leaf.size - removed, name


def test_what_kept_its_sign_and_grew_large_is_kept(run):
    """The mask by hand, from the anchor of the dense training."""
    _, folder, (initial, _) = run
    (trained, _), _ = files.load(
        folder / "work" / "anchors" / "dense-seed-0.npz", (initial, {})
    )
    mask = kernels(ticket(run, "large_final_same_sign", 0, 2).mask)
    for name, w in kernels(jax.tree.map(np.asarray, trained)).items():
        score = np.where(np.sign(w) == np.sign(kernels(initial)[name]), np.abs(w), 0)
        if (score > 0).sum() >= mask[name].sum():  # chance decides nothing
            assert score[mask[name]].min() >= score[~mask[name]].max(), name
        else:
            assert mask[name][score > 0].all(), name
    other = kernels(ticket(run, "random", 0, 2).mask)
    assert {n: m.sum() for n, m in mask.items()} == {
        n: m.sum() for n, m in other.items()
    }
    assert any((mask[name] != other[name]).any() for name in mask)


def test_snip_looks_at_the_gradient_before_training(run):
    """`|g w|` of the mean loss on all training images, by layer."""
    _, _, (initial, _) = run
    digits = data.load("digits")
    prepare = data.normalizer("standard", digits.train.images, name="digits")
    model = models.create("lenet_300_100")
    loss = classification.cross_entropy(model, prepare=prepare, train=False)
    rows = len(digits.train.labels) // 100 * 100  # in whole batches
    batch = data.Split(digits.train.images[:rows], digits.train.labels[:rows])
    grads = jax.grad(lambda w: loss(w, {}, batch, jax.random.key(0))[0])(initial)
    mask = kernels(ticket(run, "snip", 0, 2).mask)
    for name, g in kernels(grads).items():
        score = np.abs(g * kernels(initial)[name])
        agree = mask[name] == (score >= np.sort(score.ravel())[-mask[name].sum()])
        assert agree.mean() > 0.999, name  # all but what rounding decides


def test_a_soft_search_is_tested_as_the_ticket_that_it_leaves(run):
    rows, _, initial = run
    here = statistics.select(rows, method="continuous_sparsification")
    assert {row["treatment"] for row in here} == {"ticket"}
    for row in here:
        found = ticket(run, "continuous_sparsification", row["seed"], row["round"])
        assert row["steps"] == 0
        assert row["search_epochs"] == 4
        assert row["density"] == pytest.approx(float(masks.density(found.mask)))
        factor = 1 + np.exp(-float(row["setting"].removeprefix("s0=")))
        for name, values in kept_values(found).items():
            w = kernels(initial[row["seed"]])[name][kernels(found.mask)[name]]
            np.testing.assert_allclose(values, w * factor, rtol=1e-5)


def test_learned_masks_beat_random_ones_and_the_same_command_changes_nothing(run):
    rows, folder, _ = run

    def accuracy(method):
        here = statistics.select(rows, method=method, treatment="ticket")
        return np.mean([row["test_accuracy"] for row in here])

    for method in ("learned", "edge_popup", "continuous_sparsification"):
        assert accuracy(method) > accuracy("random") + 0.2
    again = supermasks.experiment(dataclasses.replace(CONFIG, output_dir=str(folder)))
    assert again == rows


def test_a_mask_may_be_read_by_its_threshold(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        methods=("learned",),
        read="threshold",
        output_dir=str(tmp_path),
        seeds=1,
    )
    (row,) = statistics.select(supermasks.experiment(config), treatment="ticket")
    assert row["steps"] == 0
    assert row["search_epochs"] == 4
    assert 0.3 < row["density"] < 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"densities": (1.3,)}, "--densities.*got 1.3"),
        ({"popup_densities": (0.5, 0.5)}, "--popup_densities: given twice"),
        ({"methods": ("learnt",)}, "unknown method 'learnt'"),
        ({"read": "mean"}, "unknown read 'mean'"),
        ({"scale_fan": "fan"}, "unknown scale_fan 'fan'"),
        ({"scale_fan": "code", "popup_densities": (1.0,)}, "below 1, not .1.0"),
        ({"mask_schedule": "linear"}, "unknown mask_schedule 'linear'"),
        ({"mask_learning_rate": 0.0}, "--mask_learning_rate must be above 0"),
        ({"search_epochs": 0}, "--search_epochs must be at least 1"),
        ({"search_epochs": 3, "search_steps": 4}, "not both"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        resolve(dataclasses.replace(CONFIG, **change))
