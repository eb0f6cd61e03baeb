"""Supermasks through their experiment: what each method keeps, and of which weights."""

import jax
import numpy as np
import pytest
import studies

from experiments.study import records
from experiments.study.records import Lane
from jaxticket import data, masks, supervised
from jaxticket.engine import keys

pytestmark = pytest.mark.usefixtures("toy_study")
CS = "continuous_sparsification"
DENSITIES = (0.8, 0.2)
METHODS = (
    "learned",
    "rescaled_constant",
    "edge_popup",
    CS,
    "large_final_same_sign",
    "large_final_same_sign_constant",
    "snip",
    "random",
)
SEVERAL = {CS: ("initial_logit=0.1", "initial_logit=-0.02")}
SEVERAL |= dict.fromkeys(METHODS[4:], ("density=0.8", "density=0.2"))
ALL = {
    "methods": METHODS,
    "search_epochs": 4,
    "hyper": {
        "large_final.density": DENSITIES,
        f"{CS}.initial_logit": (0.1, -0.02),
        f"{CS}.logit_learning_rate": 0.03,
    },
}


@pytest.fixture(scope="module")
def done(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("supermasks")
    return folder, studies.run("supermasks", folder, **ALL)


@pytest.fixture(scope="module")
def initial(toy_study):
    """The weights of both seeds before training."""
    images = np.zeros((1, 8, 8, 1), np.float32)
    init = jax.jit(lambda key: studies.narrow("").init(key, images)[0])
    weights = [init(keys.of_seed(seed).init) for seed in (0, 1)]
    return [jax.tree.map(np.asarray, w) for w in weights]


@pytest.fixture(scope="module")
def ticket(done):
    shelf = studies.network(done[0])
    return lambda method, seed, setting="": shelf.ticket(
        Lane(method, "ticket", seed, 1, setting)
    )


def kernels(tree):
    return {name: np.asarray(layer["kernel"]) for name, layer in tree.items()}


def kept_values(found):
    """Layer -> the values that a ticket keeps."""
    mask = kernels(found.mask)
    return {name: w[mask[name]] for name, w in kernels(found.weights).items()}


def test_every_method_has_a_row_for_every_seed_and_setting(done):
    folder, rows = done
    tickets = studies.select(rows, treatment="ticket")
    names = ["method", "setting", "seed", "prunings"]
    expected = [(m, setting, seed, 1) for m in METHODS
                for setting in SEVERAL.get(m, ("",)) for seed in (0, 1)]  # fmt: skip
    assert sorted(tickets[names].itertuples(index=False, name=None)) == sorted(expected)
    searched = tickets.method.isin(METHODS[:4])
    assert (tickets.search_epochs == np.where(searched, 4, 0)).all()
    assert (tickets[tickets.method == CS].steps == 0).all()
    assert (folder / "results.csv").exists()


@pytest.mark.parametrize(
    "method", ["learned", "edge_popup", "large_final_same_sign", "random"]
)
def test_no_weight_is_trained(ticket, initial, method):
    """Found are the initial weights, or with edge-popup their signs and a constant."""
    setting = SEVERAL.get(method, ("",))[0]
    for seed in (0, 1):
        found = ticket(method, seed, setting)
        mask = kernels(found.mask)
        for name, values in kept_values(found).items():
            expected = kernels(initial[seed])[name]
            if method == "edge_popup":
                size = np.sqrt(2 / expected.shape[0], dtype=np.float32)
                expected = np.sign(expected) * size
                np.testing.assert_allclose(values, expected[mask[name]], rtol=1e-6)
            else:
                np.testing.assert_array_equal(values, expected[mask[name]])
        assert not any(layer["bias"].any() for layer in found.weights.values())


def test_signed_constants_keep_signs_and_nothing_else(ticket, initial):
    for seed in (0, 1):
        found = ticket("large_final_same_sign_constant", seed, "density=0.8")
        for name, values in kept_values(found).items():
            w = kernels(initial[seed])[name]
            expected = (np.sign(w) * w.std())[kernels(found.mask)[name]]
            np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_rescaled_weights_make_up_for_those_that_are_masked(ticket, initial):
    for seed in (0, 1):
        found = ticket("rescaled_constant", seed)
        for name, values in kept_values(found).items():
            w, mask = kernels(initial[seed])[name], kernels(found.mask)[name]
            expected = w.std() * mask.size / mask.sum()
            np.testing.assert_allclose(np.abs(values), expected, rtol=1e-5)


def test_criteria_prune_in_one_shot_what_rounds_of_four_fifths_would(ticket):
    """The output layer at half the rate: (1 - 0.2 / 2) ** n where 0.8 ** n is due."""
    for density in DENSITIES:
        rounds = np.log(density) / np.log(0.8)
        for method in ("large_final_same_sign", "snip", "random"):
            mask = kernels(ticket(method, 0, f"density={density}").mask)
            for name, leaf in mask.items():
                rate = 0.5 if name == "output" else 1
                wanted = leaf.size * (1 - 0.2 * rate) ** rounds
                assert abs(leaf.sum() - wanted) <= 0.5 + 1e-3, name


def test_what_kept_its_sign_and_grew_large_is_kept(done, ticket, initial):
    """The mask by hand, from the anchor of the dense training."""
    trained = studies.network(done[0]).anchor(records.dense(0)).weights
    mask = kernels(ticket("large_final_same_sign", 0, "density=0.2").mask)
    for name, w in kernels(trained).items():
        score = np.where(np.sign(w) == np.sign(kernels(initial[0])[name]), np.abs(w), 0)
        assert (score > 0).sum() >= mask[name].sum()  # chance decides nothing
        assert score[mask[name]].min() >= score[~mask[name]].max(), name
    other = kernels(ticket("random", 0, "density=0.2").mask)
    assert any((mask[name] != other[name]).any() for name in mask)


def test_snip_looks_at_the_gradient_before_training(ticket, initial):
    """`|g w|` of the mean loss on training images, by layer."""
    digits = data.load("digits")
    prepare = data.normalizer("standard", digits.train.images, name="digits")
    evidence = supervised.evidence(studies.narrow(""), digits.train, prepare=prepare)(
        {}
    )
    grads = jax.grad(evidence.loss)(initial[0])
    mask = kernels(ticket("snip", 0, "density=0.2").mask)
    for name, g in kernels(grads).items():
        score = np.abs(g * kernels(initial[0])[name])
        agree = mask[name] == (score >= np.sort(score.ravel())[-mask[name].sum()])
        assert agree.mean() > 0.99, name  # all but what rounding decides


def test_a_soft_search_is_tested_as_the_ticket_that_it_leaves(done, ticket, initial):
    here = studies.select(done[1], method=CS)
    assert set(here.treatment) == {"ticket"}
    for row in here.itertuples():
        found = ticket(CS, row.seed, row.setting)
        assert row.density == pytest.approx(float(masks.density(found.mask)))
        factor = 1 + np.exp(-float(row.setting.removeprefix("initial_logit=")))
        for name, values in kept_values(found).items():
            w = kernels(initial[row.seed])[name][kernels(found.mask)[name]]
            np.testing.assert_allclose(values, w * factor, rtol=1e-5)


def test_learned_masks_beat_random_ones_and_the_same_command_changes_nothing(done):
    folder, rows = done
    accuracy = rows.groupby("method").test_accuracy.mean()
    for method in ("edge_popup", CS, "learned"):
        assert accuracy[method] > accuracy["random"] + 0.1, method
    assert studies.run("supermasks", folder, **ALL).equals(rows)
