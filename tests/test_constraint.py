"""Densities held to by a constraint: every step against plain numpy; they are met."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from references import (
    KERNELS,
    SHAPES,
    batch,
    close,
    descend_all,
    draw,
    drawn,
    gradient,
    mask_tree,
    masked,
    ones,
    optimizer,
    sigmoid,
    some,
)

from jaxticket import Gated, Ticket, continuous_sparsification, l0, masks
from jaxticket.searches import gates

pytestmark = pytest.mark.usefixtures("x64")
LONG = 14


class Sigmoid:
    """Continuous Sparsification: the gate and its slope, the mean's, what is kept."""

    s0 = 0.02

    def __init__(self):
        self.scale = 1 / sigmoid(self.s0)

    def __call__(self, s, step, u):
        beta = 1 + step
        g = sigmoid(beta * s)
        slope = beta * g * (1 - g)
        return self.scale * g, self.scale * slope, g, slope, s > 0

    def search(self, **options):
        return continuous_sparsification(
            optimizer(decayed=Gated(True, False)),
            temperature=lambda step: 1.0 + step,
            initial_logit=self.s0,
            **options,
        )


class HardConcrete:
    """L0, alike; the mean is of how likely gates are not to be zero."""

    def __call__(self, s, step, u):
        soft = sigmoid((np.log(u) - np.log(1 - u) + s) * 1.5)
        z = np.clip(1.2 * soft - 0.1, 0, 1)
        inside = (z > 0) & (z < 1)
        d = sigmoid(s - 2 / 3 * np.log(0.1 / 1.1))
        kept = 1.2 * sigmoid(s) - 0.1 > 0
        return z, inside * 1.2 * 1.5 * soft * (1 - soft), d, d * (1 - d), kept

    def search(self, **options):
        return l0(optimizer(decayed=Gated(True, False)), initial_logit=-2.39, **options)


def lagrangian(kind, state, alive, *, target, of, within, rate, restarts):
    """Gallego-Posada et al. 2022, and our form, `of` the ticket: descent and ascent.

    Yields parameters, logits, multipliers and the ticket's mask.
    """
    w, key = draw(), state.key
    s = {n: np.asarray(state.gated.logits[n]) for n in KERNELS}
    groups = [KERNELS] if within == "network" else [[n] for n in KERNELS]
    price = [0.0 for _ in groups]
    vw, vs = dict.fromkeys(SHAPES, 0.0), dict.fromkeys(KERNELS, 0.0)
    for step in range(LONG + 1):
        u = drawn(key, step, 1e-6, 1 - 1e-6)
        gate = {n: kind(s[n], step, u[n]) for n in KERNELS}
        run = masked(alive, w | {n: gate[n][0] * w[n] for n in KERNELS})
        kept = {n: alive[n] & gate[n][4] for n in KERNELS}
        yield run, s, price, kept
        dw, ds = gradient(run, *batch(0, step)), {}
        for names, cost in zip(groups, price, strict=True):
            size = sum(alive[n].sum() for n in names)
            for n in names:
                z, slope, _, mean_slope, _ = gate[n]
                pull = slope * w[n] * dw[n] + cost / size * mean_slope
                ds[n], dw[n] = alive[n] * pull, alive[n] * z * dw[n]
        w, vw = descend_all(w, dw, vw, step)
        s, vs = descend_all(s, ds, vs, step, decay=0)
        s = {n: np.clip(s[n], np.log(1e-2), np.log(1e2)) for n in KERNELS}
        for i, names in enumerate(groups):
            size = sum(alive[n].sum() for n in names)
            open_ = kept if of == "ticket" else {n: alive[n] * gate[n][2] for n in kept}
            over = sum(open_[n].sum() for n in names) / size - target
            price[i] += rate * over
            if of == "gates":
                price[i] = max(0.0, price[i])
                ended = over <= 0
            else:
                ended = price[i] * over <= 0
            price[i] = 0.0 if ended and restarts else price[i]
        price = [*price]


@pytest.mark.filterwarnings("ignore:the ticket keeps no weight")
@pytest.mark.parametrize("kind", [Sigmoid(), HardConcrete()], ids=["cs", "l0"])
@pytest.mark.parametrize(
    ("of", "within", "restarts", "alive"),
    [
        ("ticket", "network", True, some()),
        ("ticket", "layer", False, ones()),
        ("gates", "layer", True, some()),
        ("gates", "network", False, ones()),
    ],
    ids=lambda x: str(x) if isinstance(x, str | bool) else "",
)
def test_every_step_is_that_of_the_equations(kind, of, within, restarts, alive):
    target = 0.3 if of == "gates" and isinstance(kind, HardConcrete) else 0.5
    options = {"density_of": of, "density_within": within, "dual_restarts": restarts}
    search = kind.search(density=target, dual_learning_rate=2.0, **options)
    state = search.init(jax.random.key(0), Ticket(draw(), mask_tree(alive)))
    update, signs = jax.jit(search.update), set()
    for step, (run, s, price, kept) in enumerate(
        lagrangian(
            kind, state, alive, target=target, of=of, within=within, rate=2.0,
            restarts=restarts,
        )
    ):  # fmt: skip
        close(search.params(state), run, 1e-6)
        for n in KERNELS:
            np.testing.assert_allclose(state.gated.logits[n], s[n], atol=1e-6)
            np.testing.assert_array_equal(search.ticket(state).mask[n], kept[n])
        np.testing.assert_allclose(state.multipliers, price, atol=1e-6)
        signs |= {np.sign(x) for x in price}
        grads = gradient(jax.tree.map(np.asarray, run), *batch(0, step))
        state = update(grads, state, step)
    expected = {0, 1, -1} if of == "ticket" else {0, 1}
    assert signs == expected, "a reference that decides nothing"


OF_LOGITS = gates.optimizer(optax.sgd(0.1), optax.adam(0.003))


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(
            continuous_sparsification, temperature=200.0, steps=1000, initial_logit=0.1
        ),
        l0,
    ],
    ids=["cs", "l0"],
)
def test_targets_are_lanes_and_each_is_reached(make):
    """With a noisy loss that wants a tenth of the weights as they are."""
    key = jax.random.key(0)
    weights = {"w": jax.random.normal(key, (40, 50))}
    given = Ticket(weights, masks.full(weights))
    needed = (jnp.arange(2000) < 200).reshape(40, 50)

    def density(target):
        search = make(OF_LOGITS, density=target, dual_learning_rate=0.03)

        def step(state, at):
            params = search.params(state)
            noise = jax.random.normal(jax.random.fold_in(key, at), needed.shape)
            pull = jnp.where(needed, params["w"] - weights["w"], 0)
            grads = {"w": (pull + noise) / 2000}
            return search.update(grads, state, at), ()

        state = search.init(jax.random.key(1), given)
        state, _ = jax.lax.scan(step, state, jnp.arange(1000))
        return masks.density(search.ticket(state).mask)

    targets = np.array([0.2, 0.5, 0.8])
    np.testing.assert_allclose(
        toy.hurried(jax.vmap(density))(targets), targets, atol=0.02
    )
