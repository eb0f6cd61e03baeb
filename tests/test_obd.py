"""Optimal Brain Damage against whole matrices, in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.flatten_util import ravel_pytree

from jaxticket import Evidence, Ticket, masks, prune, scores, supervised
from jaxticket.data import Split
from jaxticket.models import create, from_linen
from jaxticket.models.model import Model

pytestmark = pytest.mark.usefixtures("unoptimised")

KEY = jax.random.key(3)


def images(count=7):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 3, 2, 1)).astype(np.float32)


LABELS = {
    "cross_entropy": np.arange(7, dtype=np.int32) % 4,
    "squared_error": np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32),
    "binary_cross_entropy": np.arange(28).reshape(7, 4) % 3 == 0,
}


class Normalised(linen.Module):
    """Statistics that stay as they are in evaluation."""

    @linen.compact
    def __call__(self, x, *, train=False):
        x = jnp.tanh(linen.Dense(5, name="hidden")(x.reshape(len(x), -1)))
        x = linen.BatchNorm(use_running_average=not train, name="norm")(x)
        return linen.Dense(4, name="output")(x)


class Everywhere(linen.Module):
    """Outputs at several places of an example, as a language model has."""

    @linen.compact
    def __call__(self, x, *, train=False):
        del train
        return linen.Dense(3, name="output")(jnp.tanh(linen.Dense(4)(x[..., 0])))


NETWORKS = {
    "mlp": lambda: create("mlp", 4, hidden=(5,)),
    "batch norm": lambda: from_linen(Normalised()),
}


def drawn(model: Model, example, dtype=jnp.float64):
    """Weights away from where they are initialised, and statistics of some data."""
    params, state = model.init(KEY, example)
    rng = np.random.default_rng(2)

    def moved(x):
        return jnp.asarray(x + 0.5 * rng.uniform(size=x.shape), dtype)

    return jax.tree.map(moved, params), jax.tree.map(moved, state)


def gauss_newton(model, state, params, split, loss):
    """`mean(J^T H J)` as a whole matrix, in numpy."""
    flat, unravel = ravel_pytree(params)
    total = np.zeros((flat.size, flat.size))
    for image, label in zip(*split, strict=True):

        def outputs(flat, image=image):
            return model.apply(unravel(flat), state, image[None], train=False)[0]

        def of_outputs(x, shape, label=label):
            return loss(x.reshape(shape), label[None])[0].mean()

        found = outputs(flat)
        j = np.asarray(jax.jacobian(outputs)(flat), float).reshape(-1, flat.size)
        curve = jax.hessian(functools.partial(of_outputs, shape=found.shape))
        total += j.T @ np.asarray(curve(found.ravel()), float) @ j
    return total / len(split.images)


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0], float)


def close(found, expected):
    """As close as outputs in single precision allow."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6 * expected.max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", LABELS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_curvature_is_the_diagonal_of_the_gauss_newton_matrix(network, loss):
    model, split = NETWORKS[network](), Split(images(), LABELS[loss])
    params, state = drawn(model, split.images[:1])
    loss = getattr(supervised, loss)
    matrix = gauss_newton(model, state, params, split, loss)
    known = supervised.evidence(model, split, loss)(state)
    close(flat(jax.jit(known.curvature)(params)), np.diag(matrix))
    saliency = np.diag(matrix) * flat(params) ** 2 / 2
    close(flat(scores.obd(params, known)), saliency)


@pytest.mark.usefixtures("x64")
def test_so_it_is_where_an_example_has_outputs_at_several_places():
    model = from_linen(Everywhere())
    split = Split(images(4), np.arange(12, dtype=np.int32).reshape(4, 3) % 3)
    params, state = drawn(model, split.images[:1])
    matrix = gauss_newton(model, state, params, split, supervised.cross_entropy)
    known = supervised.evidence(model, split)(state)
    close(flat(known.curvature(params)), np.diag(matrix))


@pytest.mark.usefixtures("x64")
def test_of_cross_entropy_it_is_a_variance_over_the_classes():
    """E[sum_c p_c (dz_c/dw)^2] - E[(sum_c p_c dz_c/dw)^2]."""
    model, split = NETWORKS["mlp"](), Split(images(), LABELS["cross_entropy"])
    params, state = drawn(model, split.images[:1])

    def logits(params):
        return model.apply(params, state, split.images)[0]

    z = np.asarray(logits(params), float)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    j = jax.tree.leaves(jax.jacobian(logits)(params))
    j = np.concatenate([np.reshape(x, (7, 4, -1)) for x in j], axis=2)
    expected = np.einsum("nc,ncw->nw", p, j**2) - np.einsum("nc,ncw->nw", p, j) ** 2
    known = supervised.evidence(model, split)(state)
    close(flat(known.curvature(params)), expected.mean(0))


@pytest.mark.usefixtures("x64")
def test_a_temperature_and_fewer_images():
    """The first of them; logits and so their derivatives are divided."""
    model, split = NETWORKS["mlp"](), Split(images(), LABELS["cross_entropy"])
    params, state = drawn(model, split.images[:1])
    some = Split(*(x[:3] for x in split))
    cool = model._replace(
        apply=lambda *args, **options: (model.apply(*args, **options)[0] / 5, state)
    )
    matrix = gauss_newton(cool, state, params, some, supervised.cross_entropy)
    known = supervised.evidence(model, split, curved=3)(state, 5.0)
    close(flat(known.curvature(params)), np.diag(matrix))


@pytest.mark.usefixtures("x64")
def test_of_halves_it_is_summed_in_floats():
    model, split = NETWORKS["mlp"](), Split(images(), LABELS["cross_entropy"])
    params, state = drawn(model, split.images[:1])
    halves = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    floats = jax.tree.map(lambda w: w.astype(jnp.float32), halves)
    of = supervised.evidence(model, split)(state).curvature
    ours, exact = of(halves), of(floats)
    assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {jnp.dtype("float32")}
    largest = np.abs(flat(exact)).max()
    np.testing.assert_allclose(flat(ours), flat(exact), atol=0.03 * largest)
    known = supervised.evidence(model, split)(state)._replace(key=KEY)
    found = scores.hutchinson(200)(halves, known)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def test_its_memory_does_not_depend_on_the_number_of_images():
    model = create("mlp", 10, hidden=(200,))

    def needed(count):
        split = Split(np.zeros((count, 20), np.float32), np.zeros(count, np.int32))
        params, state = jax.eval_shape(model.init, KEY, split.images[:1])
        of = supervised.evidence(model, split, curved=count)(state).curvature
        memory = jax.jit(of).lower(params).compile().memory_analysis()
        return memory.temp_size_in_bytes

    assert needed(400) < 1.1 * needed(40)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_computes_in_the_network_s_type_and_is_single_precision(dtype):
    model = create("mlp", 4, hidden=(5,), dtype=dtype)
    split = Split(images(), LABELS["cross_entropy"])
    params, state = drawn(model, split.images[:1], jnp.float32)
    found = supervised.evidence(model, split)(state).curvature(params)
    exact = supervised.evidence(create("mlp", 4, hidden=(5,)), split)(state)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    ours, theirs = flat(found), flat(exact.curvature(params))
    np.testing.assert_allclose(ours, theirs, rtol=0.1, atol=0.05 * theirs.max())


def quadratic(matrix):
    """A loss whose Hessian is the matrix; weights in two leaves."""

    def loss(params):
        w = jnp.concatenate([params["a"].ravel(), params["b"]])
        return w @ matrix @ w / 2

    return loss


def weights():
    rng = np.random.default_rng(4)
    return {"a": jnp.asarray(rng.normal(size=(2, 3))), "b": jnp.asarray([1.0, -2.0])}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("draws", [1, 7])
def test_one_draw_is_exact_for_a_hessian_that_is_diagonal(draws):
    diagonal = np.arange(-3.0, 5.0)
    known = Evidence(key=KEY, loss=quadratic(np.diag(diagonal)))
    found = flat(scores.hutchinson(draws)(weights(), known))
    np.testing.assert_allclose(found, diagonal * flat(weights()) ** 2 / 2, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_of_any_other_it_is_an_estimate_with_the_error_that_it_states():
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(8, 8))
    matrix += matrix.T
    known = Evidence(loss=quadratic(matrix))
    square, draws = flat(weights()) ** 2 / 2, 20

    @jax.jit
    @jax.vmap
    def estimates(key):
        return scores.hutchinson(draws)(weights(), known._replace(key=key))

    keys = jax.random.split(KEY, 400)
    found = jax.vmap(lambda tree: ravel_pytree(tree)[0])(estimates(keys))
    found = np.asarray(found) / square
    away = matrix - np.diag(np.diag(matrix))
    deviation = np.sqrt((away**2).sum(1) / draws)
    np.testing.assert_allclose(found.std(0), deviation, rtol=0.2)
    error = np.abs(found.mean(0) - np.diag(matrix))
    assert (error < 4.5 * deviation / np.sqrt(400)).all()


@pytest.mark.usefixtures("x64")
def test_it_estimates_the_hessian_of_a_network():
    model, split = NETWORKS["mlp"](), Split(images(), LABELS["squared_error"])
    params, state = drawn(model, split.images[:1])
    known = supervised.evidence(model, split, supervised.squared_error)(state)
    start, unravel = ravel_pytree(params)
    hessian = np.asarray(jax.hessian(lambda w: known.loss(unravel(w)))(start), float)
    found = flat(scores.hutchinson(2000)(params, known._replace(key=KEY)))
    away = hessian - np.diag(np.diag(hessian))
    square = np.asarray(start, float) ** 2 / 2
    deviation = square * np.sqrt((away**2).sum(1) / 2000)
    wrong = np.abs(found - np.diag(hessian) * square)
    assert (wrong < 5 * deviation + 1e-5 * wrong.max()).all()
    assert deviation.max() < 0.1 * np.abs(np.diag(hessian) * square).max()


@pytest.mark.usefixtures("x64")
def test_iterations_take_the_curvature_of_the_pruned_weights():
    """Pruned, the network is another one, and so are its best weights."""
    model, split = NETWORKS["mlp"](), Split(images(), LABELS["cross_entropy"])
    params, state = drawn(model, split.images[:1])
    known = supervised.evidence(model, split)(state)
    seen = []

    def watching(weights):
        jax.debug.callback(lambda w: seen.append(flat(w)), weights)
        return known.curvature(weights)

    ticket = Ticket(params, masks.full(params))
    watched = known._replace(curvature=watching)
    found = prune(ticket, "obd", 0.2, evidence=watched, iterations=2)
    jax.effects_barrier()
    kernels = 6 * 5 + 5 * 4
    zeros = [int((w == 0).sum()) for w in seen]
    assert zeros == [0, round(kernels * (1 - 0.2**0.5))]
    assert int(masks.count(found.mask)) == round(0.2 * kernels)


def test_a_search_by_an_estimate_says_that_it_is_random():
    assert scores.needed(scores.obd) == ("curvature",)
    assert scores.needed(scores.hutchinson(3)) == ("loss", "key")
    with pytest.raises(ValueError, match="draws must be"):
        scores.hutchinson(0)
