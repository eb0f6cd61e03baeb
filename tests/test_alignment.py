"""Masks that go with their units: found again where these were permuted."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pandas as pd
import pytest
import studies

import jaxticket as jt
from experiments import alignment
from experiments.reports import permuted as words
from experiments.reports import reading
from experiments.study import beside, own, settings, study
from jaxticket import masks, matching, units
from jaxticket.engine import keys, lanes

IMAGES = np.random.default_rng(1).random((60, 12, 12, 3), np.float32)


def outputs(model):
    return lambda variables, x: model.apply(*variables, x)[0]


def permuted(tree, layers, rng):
    """The leaves of a tree, with the units of some layers in another order each."""
    found = masks.named(jax.tree.map(np.array, tree))
    for layer in layers:
        size = found[layer.kernel].shape[layer.axis]
        order = rng.permutation(size)
        for name, axis, outside, inside in (
            (layer.kernel, layer.axis, 1, 1),
            *layer.places,
        ):
            # Entry by entry, and not as the library does it.
            index = np.arange(found[name].shape[axis])
            for o, u, i in itertools.product(*map(range, (outside, size, inside))):
                index[(o * size + u) * inside + i] = (o * size + order[u]) * inside + i
            found[name] = np.take(found[name], index, axis)
        bias = layer.kernel.replace("kernel", "bias")
        if bias in found:
            found[bias] = found[bias][order]
    return jax.tree.structure(tree).unflatten(found.values())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lenet_300_100", {"hidden": (20, 10)}),
        ("lenet_5", {"widths": (6, 8), "hidden": (20, 10)}),
    ],
)
def test_a_network_whose_units_were_permuted_gets_the_mask_permuted(name, options):
    model = jt.models.create(name, **options)
    ticket = networks.sparse(model, IMAGES, 0.3)
    # No unit is never active: one of those is as good as another.
    ticket = ticket._replace(weights=jax.tree.map(np.abs, ticket.weights))
    layers = units.filters(outputs(model), ticket, IMAGES[:1])
    other = permuted(ticket.weights, layers, np.random.default_rng(2))
    expected = permuted(ticket.mask, layers, np.random.default_rng(2))
    # It is the same network, though no layer has the weights that it had.
    ours, theirs = (
        model.apply(w, ticket.model_state, IMAGES)[0] for w in (ticket.weights, other)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    there = ticket._replace(weights=other)
    matches = matching.matches(outputs(model), ticket, there, IMAGES)
    found = matching.permuted(ticket.mask, matches)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert masks.layer_counts(found) == masks.layer_counts(ticket.mask)
    assert float(masks.density(jax.tree.map(np.logical_and, found, ticket.mask))) < 0.2
    # Under both masks the two compute the same.
    ours, theirs = (
        model.apply(masks.apply(m, w), ticket.model_state, IMAGES)[0]
        for m, w in ((ticket.mask, ticket.weights), (found, other))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_of_a_residual_network_units_within_a_block_alone_can_move():
    model = jt.models.create("resnet_20", width=4, blocks=(2,))
    ticket = networks.sparse(model, IMAGES, 0.3)
    weights = jax.tree.map(lambda w: np.flip(w, -1), ticket.weights)
    there = ticket._replace(weights=weights)
    matches = matching.matches(outputs(model), ticket, there, IMAGES)
    found = matching.permuted(ticket.mask, matches)
    moved = {
        name
        for name, m in masks.named(found).items()
        if (m != masks.named(ticket.mask)[name]).any()
    }
    layers = units.filters(outputs(model), ticket, IMAGES[:1])
    may = {name for x in layers for name in (x.kernel, *(p[0] for p in x.places))}
    assert moved <= may
    assert moved


def test_the_match_is_the_best_of_all_permutations():
    rng = np.random.default_rng(3)
    own, other = rng.normal(size=(2, 5, 30))
    order = matching.matched(own, other)

    def total(order):
        return sum(other[i] @ own[j] for i, j in enumerate(order))

    best = max(itertools.permutations(range(5)), key=total)
    np.testing.assert_array_equal(order, best)


OPTIONS = {"rounds": 3, "hyper": {"imp.density": 0.5}}


def run(folder, **changes):
    studies.run("alignment", folder, **OPTIONS, **changes)
    return reading.table(folder / words.FILE, words.COLUMNS)


def test_the_experiment_trains_both_masks_from_another_start(toy_study, tmp_path):
    found = run(tmp_path)
    assert len(found) == 2 * 2 * len(words.ARMS)  # prunings, seeds, arms
    wide = words.compared(found)
    # By chance as many would be in both as the layer is dense.
    assert (wide["overlap"].between(wide["density"] / 2, 0.95)).all()
    for one, other in itertools.combinations(words.ARMS, 2):
        assert (wide[one] != wide[other]).any(), (one, other)
    assert (wide[[*words.ARMS]] > 0.15).all(axis=None)
    assert len(words.headlines(found)) == 2
    assert len(words.sections(found)[0].lines) == 2
    (drawing, _) = words.drawn(found)["alignment"]
    first, last = drawing.axes[0].get_xlim()
    assert first > last  # the densest first, as in other figures
    # What is missing is done again, and nothing else.
    left = found[(found["seed"] == 0) | (found["prunings"] == 1)]
    left.to_csv(tmp_path / words.FILE, index=False)
    names = ["seed", "prunings", "arm"]
    pd.testing.assert_frame_equal(
        run(tmp_path).sort_values(names, ignore_index=True),
        found.sort_values(names, ignore_index=True),
    )


def test_a_network_that_diverges_is_left_out_and_the_others_go_on(
    toy_study, tmp_path, monkeypatch, capsys
):
    real = alignment.beside.trained

    def trained(study, config, model):
        train = real(study, config, model)

        def some(key, ticket, data):
            found, *accuracies = train(key, ticket, data)
            lost = (key == keys.named(keys.of_seed(1).data, "aligned")).all()
            return found, *(jnp.where(lost, jnp.nan, x) for x in accuracies)

        return some

    monkeypatch.setattr(alignment.beside, "trained", trained)
    run(tmp_path)
    said = "dense, another network of seed 1 has diverged in round 0 before step 40"
    assert f"note: {said}: it is left out" in capsys.readouterr().err
    assert {*pd.read_csv(tmp_path / words.FILE)["seed"]} == {0}
    (row,) = pd.read_csv(tmp_path / "divergence.csv").to_dict("records")
    assert (row["treatment"], row["seed"]) == ("another network", 1)
    (tmp_path / words.FILE).unlink()
    with pytest.raises(FloatingPointError, match=f"{said}: lower the learning rate"):
        run(tmp_path, on_divergence="stop")
    assert {*pd.read_csv(tmp_path / words.FILE)["seed"]} == {0}


def test_a_training_beside_a_study_that_diverges_has_no_accuracy(toy_study):
    given = alignment.Config(dataset="digits", steps=3, batch_size=20, epochs=None)
    config = settings.resolve(given)
    one, dataset = lanes.layout(devices=jax.devices()[:1]), own.dataset(config)
    for rate, sound in ((1e-3, True), (1e30, False)):
        config = dataclasses.replace(config, learning_rate=rate)
        made = study.Study(config, dataset, one)
        train = jax.jit(beside.trained(made, made.config, made.model))
        ticket = made.network(jax.random.key(0))
        _, *accuracies = train(jax.random.key(1), ticket, made.data)
        assert np.isfinite(accuracies).tolist() == [sound] * 2


def test_a_ticket_that_is_not_of_its_initialisation_has_no_other_start(
    toy_study, tmp_path
):
    with pytest.raises(ValueError, match="--rewind_step must be 0 here, got 3"):
        run(tmp_path, rewind_step=3)
    with pytest.raises(ValueError, match="--methods=fine_tuning has tickets of train"):
        run(tmp_path, methods=("imp", "fine_tuning"))
