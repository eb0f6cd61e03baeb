"""Searches over gates that are drawn against plain numpy: ISS and L0."""

import jax
import numpy as np
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
    sigmoid,
    some,
)

from jaxticket import Gated, Ticket, iss, l0

pytestmark = pytest.mark.usefixtures("x64")


class Bernoulli:
    """ISS: `m ~ Bernoulli(sigmoid(s))`, straight-through."""

    def __init__(self, s0=0.0):
        self.s0 = s0

    def gate(self, s, u):
        """The gate, what the gradient takes for its slope, and the penalised slope."""
        p = sigmoid(s)
        return (u < p) * 1.0, p * (1 - p), p * (1 - p)

    def close_round(self, s, alive):
        mask = {name: self.test(s[name], alive[name])[1] for name in KERNELS}
        return {name: np.full(SHAPES[name], self.s0) for name in KERNELS}, mask

    def test(self, s, alive):
        """What a trained ticket multiplies its weights with, and the mask."""
        return 1.0, alive & (sigmoid(s) >= 0.5)

    def constrain(self, s):
        return s


class HardConcrete:
    """Louizos et al. 2018, eq. 10 to 13, with the constants of the released code."""

    beta, gamma, zeta = 2 / 3, -0.1, 1.1

    def gate(self, log_alpha, u):
        s = sigmoid((np.log(u) - np.log(1 - u) + log_alpha) / self.beta)
        stretched = s * (self.zeta - self.gamma) + self.gamma
        z = np.minimum(1, np.maximum(0, stretched))
        slope = (self.zeta - self.gamma) * s * (1 - s) / self.beta * (z == stretched)
        active = sigmoid(log_alpha - self.beta * np.log(-self.gamma / self.zeta))
        return z, slope, active * (1 - active)

    def close_round(self, s, alive):
        return s, alive

    def test(self, log_alpha, alive):
        stretched = sigmoid(log_alpha) * (self.zeta - self.gamma) + self.gamma
        z = alive * np.minimum(1, np.maximum(0, stretched))
        return z, z > 0

    def constrain(self, log_alpha):
        return np.clip(log_alpha, np.log(1e-2), np.log(1e2))


def stochastic(
    kind, key, s, *, ends, penalty, rewind_step=0, weights="anchor", fresh=False, alive
):
    """A search over gates that are drawn, from `u` between `ends`, at every step."""
    w, rest = draw(), (dict.fromkeys(SHAPES, 0.0), dict.fromkeys(KERNELS, 0.0))
    (vw, vs), count, path, tickets = rest, 0, [], []
    for round_ in range(ROUNDS):
        if round_:
            s, alive = kind.close_round(s, alive)
            vw, vs = rest if fresh else (vw, vs)
        for step in range(STEPS + 1):
            u = drawn(key, count, *ends)
            gate = {name: kind.gate(s[name], u[name]) for name in KERNELS}
            run = w | {name: gate[name][0] * w[name] for name in KERNELS}
            path.append(masked(alive, run))
            if round_ == 0 and step == rewind_step:
                anchor = w
            if step == STEPS:
                break
            dw, ds = gradient(path[-1], *batch(round_, step)), {}
            for name in KERNELS:
                m, slope, penalised = gate[name]
                ds[name] = slope * w[name] * dw[name] + penalty * penalised
                ds[name] = alive[name] * ds[name]
                dw[name] = alive[name] * m * dw[name]
            w, vw = descend_all(w, dw, vw, step)
            s, vs = descend_all(s, ds, vs, step, decay=0)
            s = {name: kind.constrain(s[name]) for name in KERNELS}
            count += 1
        test = {name: kind.test(s[name], alive[name]) for name in KERNELS}
        kernels = {name: test[name][0] * w[name] for name in KERNELS}
        found = anchor if weights == "anchor" else w | kernels
        tickets.append((found, {name: test[name][1] for name in KERNELS}))
    return path, tickets


def opening(search, alive):
    """The key of the gates, and the logits, with which `follow` opens a search."""
    state = search.init(jax.random.key(0), Ticket(draw(), mask_tree(alive)))
    return state.key, {name: np.asarray(state.gated.logits[name]) for name in KERNELS}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fresh": True},
        {"rewind_step": 2},
        {"alive": some()},
        {"weights": "trained"},
        {"penalty": 0.1, "s0": 0.06},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_iss(options):
    options = {"penalty": 0.02, "s0": 0.02, "alive": ones()} | options
    s0, alive = options.pop("s0"), options.pop("alive")
    search = iss(
        optimizer(decayed=Gated(True, False)),
        initial_logit=s0,
        keep_momentum=not options.get("fresh"),
        **{name: value for name, value in options.items() if name != "fresh"},
    )
    opened = opening(search, alive)
    expected = stochastic(Bernoulli(s0), *opened, ends=(0, 1), alive=alive, **options)
    check(follow(search, alive), expected, rtol=1e-11)
    kept = [sum(m.sum() for m in mask.values()) for _, mask in expected[1]]
    assert 20 > kept[0] > kept[-1] > 0, "a reference that decides nothing"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rewind_step": 2},
        {"alive": some()},
        {"weights": "trained"},
        {"penalty": 0.15},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_l0(options):
    options = {"penalty": 0.2, "alive": ones()} | options
    alive = options.pop("alive")
    search = l0(optimizer(decayed=Gated(True, False)), initial_logit=-2.35, **options)
    ends, opened = (1e-6, 1 - 1e-6), opening(search, alive)
    expected = stochastic(HardConcrete(), *opened, ends=ends, alive=alive, **options)
    check(follow(search, alive), expected, rtol=1e-11)
    kept = [sum(m.sum() for m in mask.values()) for _, mask in expected[1]]
    assert all(0 <= n < 20 for n in kept)
    assert kept[0] > 0, "a reference that decides nothing"
