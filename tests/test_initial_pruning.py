"""Pruning at initialisation through its experiment, and the checks that it has."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import studies

from experiments.study.records import Lane
from jaxticket import data, masks

pytestmark = pytest.mark.usefixtures("toy_study")
METHODS = (
    "snip",
    "snip_inverted",
    "snip_random_labels",
    "snip_random_pixels",
    "iterated_snip",
    "synflow",
    "random_erk",
    "random_smart",
    "one_shot",
)
OPTIONS = {
    "methods": METHODS,
    "controls": ("shuffle",),
    "hyper": {
        "iterated_snip.iterations": 5,
        "synflow.iterations": 5,
        **{f"{x}.density": 0.2 for x in ("snip", "synflow", "random", "one_shot")},
    },
}


@pytest.fixture(scope="module")
def done(toy_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("initial_pruning")
    return folder, studies.run("initial_pruning", folder, **OPTIONS)


def mask_of(folder, method, seed=0):
    shelf = studies.network(folder)
    ticket = shelf.ticket(Lane(method, "ticket", seed, 1, ""))
    return np.concatenate([m.ravel() for m in jax.tree.leaves(ticket.mask)])


def test_every_method_is_trained_at_its_density_beside_its_control(done):
    _, rows = done
    for method in METHODS:
        for treatment in ("ticket", "shuffle"):
            found = studies.select(rows, method=method, treatment=treatment)
            assert len(found) == 2
            np.testing.assert_allclose(found["density"], 0.2, atol=1e-3)
            assert found["test_accuracy"].notna().all()


def test_smart_ratios_take_the_layers_in_the_order_of_the_network(done):
    """Of two layers the last keeps 0.3, and the first what is left."""
    folder, rows = done
    ticket = studies.network(folder).ticket(Lane("random_smart", "ticket", 0, 1, ""))
    first, last = jax.tree.leaves(masks.layer_densities(ticket.mask))
    assert last == pytest.approx(0.3, abs=0.01)
    assert first < 0.2


def test_checks_keep_other_weights_than_what_they_check(done):
    folder, _ = done
    ours = mask_of(folder, "snip")
    for method in METHODS[1:5]:
        assert (mask_of(folder, method) != ours).any(), method
    # Of a fifth, the highest and the lowest have nothing in common.
    assert not (mask_of(folder, "snip_inverted") & ours).any()


def test_effective_densities_are_in_the_tables(done):
    layers = pd.read_csv(done[0] / "layers.csv")
    flows = layers[layers["method"] == "synflow"]
    assert (flows["effective_density"] > 0.9 * flows["layer_density"]).all()
    assert (layers["effective_density"] <= layers["layer_density"] + 1e-9).all()
    assert (layers["effective_density"] < layers["layer_density"]).any()


def test_corrupted_data_have_the_same_numbers_in_another_order():
    rng = np.random.default_rng(0)
    split = data.Split(rng.normal(size=(20, 4, 3, 1)), np.arange(20) % 4)
    key = jax.random.key(0)
    labels = data.corrupted(key, split, "labels")
    np.testing.assert_array_equal(labels.images, split.images)
    np.testing.assert_array_equal(np.sort(labels.labels), np.sort(split.labels))
    assert (np.asarray(labels.labels) != split.labels).any()
    pixels = data.corrupted(key, jax.tree.map(jnp.asarray, split), "pixels")
    np.testing.assert_array_equal(pixels.labels, split.labels)
    ours, theirs = (
        np.asarray(x.images, np.float32).reshape(20, -1) for x in (pixels, split)
    )
    np.testing.assert_array_equal(np.sort(ours), np.sort(theirs))
    places = np.argsort(np.argsort(ours, 1), 1) - np.argsort(np.argsort(theirs, 1), 1)
    assert len({tuple(row) for row in places}) == 20  # an order for each image
    with pytest.raises(ValueError, match="kind must be"):
        data.corrupted(key, split, "half")
