"""Searches over frozen weights against plain-numpy transcriptions of their equations.

The network, its gradient and the optimiser by hand are those of `references`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references import (
    KERNELS,
    ROUNDS,
    SHAPES,
    STEPS,
    batch,
    check,
    descend_all,
    draw,
    drawn,
    follow,
    gradient,
    mask_tree,
    masked,
    ones,
    optimizer,
    some,
)

from jaxticket import Ticket, edge_popup, jackpot, supermask

pytestmark = pytest.mark.usefixtures("x64", "unoptimised")


def learn(
    s,
    mask,
    *,
    slope,
    choose,
    weights=lambda mask: draw(),
    through=lambda d, m: d,
    read=lambda s, mask: mask,
):
    """Scores by momentum SGD under masks that `choose` makes of them, by hand.

    Returns the parameters before and after every step, and a ticket a round.
    """
    velocity, path, tickets, count = dict.fromkeys(KERNELS, 0.0), [], [], 0
    for round_ in range(ROUNDS):
        for step in range(STEPS + 1):
            w = weights(mask)
            path.append(masked(mask, w))
            if step == STEPS:
                break
            dw, count = gradient(path[-1], *batch(round_, step)), count + 1
            dm = {name: through(dw[name] * w[name], mask[name]) for name in KERNELS}
            ds = {name: dm[name] * slope(s[name]) for name in KERNELS}
            s, velocity = descend_all(s, ds, velocity, step)
            mask = {
                name: choose(name, s[name], mask[name], step, count) for name in KERNELS
            }
        found = read(s, mask)
        tickets.append((weights(found), found))
    return path, tickets


def highest(score, kept):
    """The `kept` highest of a layer, the first of equal ones."""
    mask = np.zeros(score.size, bool)
    mask[np.argsort(-score.ravel(), kind="stable")[:kept]] = True
    return mask.reshape(score.shape)


def half():
    """The larger half of the weights of each layer."""
    w = draw()
    return {name: highest(np.abs(w[name]), w[name].size // 2) for name in KERNELS}


def test_jackpot_of_2021():
    """`h = 0` for the `prune_num` lowest `|s|`; `ds = dh sign(s)`."""
    s = {name: np.where(m, 1.0, 0.95) for name, m in half().items()}
    kept = {name: m.sum() for name, m in half().items()}
    expected = learn(
        s,
        half(),
        slope=np.sign,
        choose=lambda name, s, m, *_: highest(np.abs(s), kept[name]),
    )
    check(follow(jackpot(optimizer()), half()), expected, rtol=1e-11)
    assert moved(expected), "a reference that decides nothing"


def swapped(rate):
    """The buffer `b` of the code of 2023 after a step."""

    def choose(name, s, b, step, count):
        del name, count
        s, b = s.ravel(), b.ravel().copy()
        thr = np.sort(s)[(~b).sum() - 1]
        into, out = np.flatnonzero(~b & (s > thr)), np.flatnonzero(b & (s <= thr))
        assert len(into) == len(out), "no ties in this test"
        q = math.ceil(len(into) * rate(step))
        b[into[np.argsort(-s[into])[:q]]] = True
        b[out[np.argsort(s[out])[:q]]] = False
        return b.reshape(SHAPES["w1"] if b.size == 12 else SHAPES["w2"])

    return choose


# How the rate is said, and what it is; "none" of the swaps is a restriction to zero.
RATES = {
    "full": ({"restriction": lambda step: 1.0}, lambda step: 1.0),
    "unrestricted": ({}, lambda step: 1.0),
    "quartic": (
        {"restriction": "quartic", "steps": STEPS},
        lambda step: (1 - step / STEPS) ** 4,
    ),
    "quartic by epochs": (
        {"restriction": "quartic", "steps": STEPS, "epoch_steps": 2},
        lambda step: (1 - step // 2 / 3) ** 4,
    ),
    "cosine": (
        {"restriction": "cosine", "steps": STEPS},
        lambda step: (1 + math.cos(math.pi * step / STEPS)) / 2,
    ),
    "none": ({"restriction": lambda step: 0.0}, lambda step: 0.0),
}


def of_2023(rate):
    s = {name: np.where(m, 1.0, 0.95) for name, m in half().items()}
    return learn(s, half(), slope=np.ones_like, choose=swapped(rate))


@pytest.mark.parametrize("name", RATES)
def test_jackpot_of_2023(name):
    """Short restriction: of `n` swaps the best `ceil(rate n)`."""
    ours, rate = RATES[name]
    search = jackpot(optimizer(), pruned_score=0.95, absolute=False, **ours)
    expected = of_2023(rate)
    check(follow(search, half()), expected, rtol=1e-11)
    assert moved(expected) == (name != "none")
    if name == "quartic":  # else the restriction decides nothing
        free, bound = (path for path, _ in (of_2023(RATES["full"][1]), expected))
        assert any((a["w1"] != b["w1"]).any() for a, b in zip(free, bound, strict=True))


@pytest.mark.parametrize("alive", [ones(), some()], ids=["all", "some"])
def test_edge_popup(alive):
    search = edge_popup(optimizer(), density=0.4)
    state = search.init(jax.random.key(0), Ticket(draw(), mask_tree(alive)))
    u = drawn(state.key, 0, -1.0, 1.0)
    s = {name: u[name] / np.sqrt(SHAPES[name][0]) for name in KERNELS}
    kept = {name: round(0.4 * alive[name].sum()) for name in KERNELS}

    def choose(name, s, *_):
        return highest(np.where(alive[name], np.abs(s), -1), kept[name])

    first = {name: choose(name, s[name]) for name in KERNELS}
    expected = learn(s, first, slope=np.sign, choose=choose)
    check(follow(search, alive), expected, rtol=1e-11)
    assert moved(expected), "a reference that decides nothing"


@pytest.mark.parametrize(
    "options",
    [{}, {"rescale": True}, {"rescale": True, "constant_factor": True}],
    ids=["plain", "rescaled", "constant"],
)
@pytest.mark.parametrize("read", ["sample", "threshold"])
@pytest.mark.parametrize("alive", [ones(), some()], ids=["all", "some"])
def test_supermask(options, read, alive):
    search = supermask(optimizer(), initial_logit=0.1, read=read, **options)
    state = search.init(jax.random.key(0), Ticket(draw(), mask_tree(alive)))

    def sigmoid(s):
        return 1 / (1 + np.exp(-s))

    def choose(name, s, _mask, _step, count):
        return alive[name] & (drawn(state.key, count)[name] < sigmoid(s))

    def weights(mask):
        if not options:
            return draw()
        factors = {
            name: alive[name].sum() / max(mask[name].sum(), 1) for name in KERNELS
        }
        return {name: w * factors.get(name, 1.0) for name, w in draw().items()}

    def through(d, m):
        """`dm_j = c g_j w_j - c / ones * sum_i g_i w_i m_i`; `d` has `c g w`."""
        if options != {"rescale": True}:
            return d
        return d - (d * m).sum() / max(m.sum(), 1)

    def likely(s, mask):
        return {name: alive[name] & (sigmoid(s[name]) > 0.5) for name in mask}

    s = {name: np.full(SHAPES[name], 0.1) for name in KERNELS}
    first = {name: choose(name, s[name], None, None, 0) for name in KERNELS}
    expected = learn(
        s,
        first,
        slope=lambda s: sigmoid(s) * (1 - sigmoid(s)),
        choose=choose,
        weights=weights,
        through=through,
        read=likely if read == "threshold" else lambda s, mask: mask,
    )
    check(follow(search, alive), expected, rtol=1e-11)
    kept, all_ = (
        sum(m.sum() for m in mask.values()) for mask in (expected[1][-1][1], alive)
    )
    assert 0 < kept < all_, "a reference that decides nothing"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, -5, -6, -2]),
        ({"constant_factor": True}, [3, -2, -3, 1]),
    ],
    ids=["differentiated", "constant"],
)
def test_the_gradient_of_a_rescaled_mask(options, expected):
    """One of four weights is kept, so `c = 4`; the loss is `sum((c m w - 1)^2) / 2`.

    With `r = c m w - 1` the factor's own part of `dL/dm_j` is `-c / 1 * sum(r w m)`,
    for all alike; `sigmoid'(0)` is a fourth.
    """
    search = supermask(optax.sgd(1.0), rescale=True, **options)
    w, m = np.array([[1.0, 2.0, 3.0, -1.0]]), np.array([[True, False, False, False]])
    state = search.init(
        jax.random.key(0), Ticket({"w": w}, {"w": np.ones((1, 4), bool)})
    )
    state = state._replace(mask={"w": jnp.asarray(m)})
    params = search.params(state)["w"]
    np.testing.assert_allclose(params, [[4, 0, 0, 0]], rtol=1e-14)
    after = search.update({"w": params - 1}, state, 0)
    step = state.scores["w"] - after.scores["w"]
    np.testing.assert_allclose(step, [expected], rtol=1e-14, atol=1e-14)


def moved(expected):
    """Whether the mask of the end is another than that of the start."""
    path, _ = expected
    return any(((path[0][n] != 0) != (path[-1][n] != 0)).any() for n in KERNELS)
