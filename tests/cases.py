"""Every search in a table, with what it promises, and its states in a toy problem."""

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import toy

from jaxticket import (
    Gated,
    Search,
    Ticket,
    continuous_sparsification,
    edge_popup,
    fixed,
    gradual,
    imp,
    iss,
    jackpot,
    l0,
    schedules,
    scores,
    selection,
    soft_threshold,
    supermask,
)

ROUNDS, STEPS, DENSITY, LOGIT = 3, 4, 13 / 16, -0.05
ROWS = 26


def data():
    """Rows of the precision that is on: numpy's would not follow when it changes."""
    return {
        "x": jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, 5))),
        "y": jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, 4))),
    }


def loss(params, model_state, batch, key):
    """A network of two layers, and a model state that counts."""
    del key
    dense, head = params["dense"], params["head"]
    hidden = jnp.tanh(batch["x"] @ dense["kernel"] + dense["bias"][None])
    error = hidden @ head["kernel"] + head["bias"][None] - batch["y"]
    return jnp.mean(error**2), {"seen": model_state["seen"] + 1}


UNSEEN = {"seen": np.zeros((), np.int32)}
ADAMW = optax.adamw(0.05, weight_decay=0.1)
MOMENTUM = optax.chain(
    optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9, nesterov=True)
)
NOISY = optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1))
GATED = optax.chain(
    optax.add_decayed_weights(0.1, mask=Gated(True, False)),
    optax.partition(
        {"weights": optax.sgd(0.1, momentum=0.9), "logits": optax.adam(0.1)},
        Gated("weights", "logits"),
    ),
)


# How many weights each layer keeps, in exact fractions.


def survivors(alive: int, density: Fraction) -> int:
    return alive - math.floor(alive * (1 - Fraction(density)) + Fraction(1, 2))


def at_densities(alive: list[int], densities: list[Fraction]) -> list[int]:
    return [survivors(*layer) for layer in zip(alive, densities, strict=True)]


def proportional(alive: list[int], shares: list[int], dense: set[int]) -> list[int]:
    """Layers in proportion to `shares`, those in `dense` or above their size whole."""
    rest = [i for i in range(len(alive)) if i not in dense]
    left = Fraction(DENSITY) * sum(alive) - sum(alive[i] for i in dense)
    factor = max(left, 0) / sum(shares[i] for i in rest)
    if more := {i for i in rest if factor * shares[i] > alive[i]}:
        return proportional(alive, shares, dense | more)
    densities = [
        Fraction(1) if i in dense else factor * shares[i] / alive[i]
        for i in range(len(alive))
    ]
    return at_densities(alive, densities)


class Case(NamedTuple):
    """A search and its promises.

    Attributes:
      make: the factory, without arguments.
      kept: counts per layer -> those a round later, or their sum; None: no promise. The
        masks are nested and change in `advance` only.
      course: counts per layer when a round opens, of what it may keep -> those before
        every step and after the last; None: no promise.
      nested: what is pruned when a round ends stays so.
      resets: a ticket that is read when a round opens is empty.
      hard: the parameters are zero where the ticket's mask is.
      stores: the state keeps weights that the parameters hide.
      straight: the gradient of a weight that is not kept moves its score.
      returns: weights that the given mask has lost may come back.
      random: the ticket depends on the key.
      rewinds: a round starts from the weights of the ticket.
      anchor: step of the first round whose weights are the ticket's; None: the trained.
      scale: what the ticket multiplies prunable weights with; None: not a number.
      keeps_momentum: the optimiser's state outlives a round.
      weights, optimizer: where they are in the state.
    """

    make: Callable[[], Search]
    kept: Callable[[list[int]], list[int] | int] | None = None
    course: Callable[[list[int]], list] | None = None
    nested: bool = True
    resets: bool = False
    hard: bool = True
    stores: bool = False
    straight: bool = False
    returns: bool = False
    random: bool = False
    rewinds: bool = False
    anchor: int | None = None
    scale: float | None = 1.0
    keeps_momentum: bool = False
    weights: Callable[[Any], Any] = lambda state: state.training.weights
    optimizer: Callable[[Any], Any] = lambda state: state.training.optimizer


def training(optimizer, **options):
    return Case(
        functools.partial(fixed, optimizer, **options),
        kept=lambda alive: alive,
        keeps_momentum=True,
        weights=lambda state: state.weights,
        optimizer=lambda state: state.optimizer,
    )


def pruning(
    optimizer=ADAMW,
    kept=lambda alive: survivors(sum(alive), DENSITY),
    retrain="rewind",
    rewind_step=0,
    random=False,
    **options,
):
    options |= {"retrain": retrain, "rewind_step": rewind_step}
    return Case(
        functools.partial(imp, optimizer, density=DENSITY, **options),
        kept=kept,
        random=random,
        rewinds=retrain == "rewind",
        anchor=rewind_step if retrain in ("rewind", "continue") else None,
    )


def gated(make, *, rewind_step=0, weights="early", **promises):
    """A search over weights and their gates."""
    return Case(
        functools.partial(make, rewind_step=rewind_step, weights=weights),
        hard=False,
        anchor=rewind_step if weights == "early" else None,
        weights=lambda state: state.gated.weights,
        optimizer=lambda state: state.optimizer,
        **promises,
    )


def gating(scaling=True, keep_momentum=True, rewind_step=0, weights="early", **options):
    make = functools.partial(
        continuous_sparsification,
        GATED,
        temperature=lambda step: 1.0 + 4.0 * step,  # the same bits however computed
        initial_logit=LOGIT,
        penalty=0.001,
        scaling=scaling,
        keep_momentum=keep_momentum,
        **options,
    )
    return gated(
        make,
        rewind_step=rewind_step,
        weights=weights,
        nested=False,  # logits of nearly 0 return
        resets=True,
        scale=1 + math.exp(-LOGIT) if scaling else 1.0,
        keeps_momentum=keep_momentum,
    )


def drawing(keep_momentum=True, **options):
    make = functools.partial(
        iss, GATED, initial_logit=LOGIT, penalty=0.001, keep_momentum=keep_momentum
    )
    return gated(
        make, random=True, resets=True, keeps_momentum=keep_momentum, **options
    )


def rectifying(weights="early", **options):
    return gated(
        # Near log(1 / 11), where a gate is off in a test.
        functools.partial(l0, GATED, initial_logit=-2.2, penalty=0.001),
        nested=False,
        random=True,
        weights=weights,
        scale=1.0 if weights == "early" else None,  # each weight has its own
        keeps_momentum=True,
        **options,
    )


def thinning(course, **options):
    return Case(
        functools.partial(gradual, ADAMW, final_density=0.5, stop=STEPS, **options),
        course=course,
        stores=True,
        keeps_momentum=True,
        weights=lambda state: state.weights,
        optimizer=lambda state: state.optimizer,
    )


def freezing(make, **options):
    """A search over frozen weights."""
    promises = {"nested": False, "anchor": 0} | options
    return Case(
        make,
        **promises,
        stores=True,
        straight=True,
        keeps_momentum=True,
        weights=lambda state: state.weights,
        optimizer=lambda state: state.optimizer,
    )


def winning(**options):
    return freezing(
        functools.partial(jackpot, MOMENTUM, **options),
        course=lambda alive: [alive] * (STEPS + 1),
        returns=True,
    )


CASES = {
    "fixed-adamw": training(ADAMW),
    "fixed-momentum": training(MOMENTUM),
    "fixed-noise": training(NOISY),
    "fixed-multiplier": training(ADAMW, multiplier=1.7),
    **{
        f"imp-{retrain}-{step}": pruning(optimizer, retrain=retrain, rewind_step=step)
        for retrain in ("rewind", "continue", "learning_rate", "finetune")
        for step, optimizer in ((0, ADAMW), (2, MOMENTUM))
    },
    "imp-random": pruning(score=scores.random, random=True),
    "imp-movement": pruning(MOMENTUM, score=scores.movement, rewind_step=2),
    "imp-increase": pruning(score=scores.magnitude_increase),
    "imp-equal": pruning(
        select=selection.per_layer(selection.equal),
        kept=lambda alive: at_densities(alive, [DENSITY, DENSITY]),
    ),
    "imp-rates": pruning(
        select=selection.per_layer(selection.at_rates({"head/kernel": 0.5})),
        kept=lambda alive: at_densities(alive, [DENSITY, (1 + DENSITY) / 2]),
    ),
    "imp-uniform": pruning(
        select=selection.per_layer(selection.uniform),
        kept=lambda alive: proportional(alive, [1, 1], dense={0}),
    ),
    "imp-erk": pruning(
        select=selection.per_layer(selection.erk),
        kept=lambda alive: proportional(alive, [5 + 6, 6 + 4], dense=set()),
    ),
    **{
        f"cs-{between}-{'scaled' if scaling else 'plain'}": gating(
            between=between, scaling=scaling
        )
        for between in ("paper", "code")
        for scaling in (True, False)
    },
    "cs-fresh": gating(keep_momentum=False),
    "cs-rewind-2": gating(rewind_step=2),
    "cs-trained": gating(weights="trained"),
    "iss": drawing(),
    "iss-fresh": drawing(keep_momentum=False),
    "iss-rewind-2": drawing(rewind_step=2),
    "iss-trained": drawing(weights="trained"),
    "l0": rectifying(),
    "l0-rewind-2": rectifying(rewind_step=2),
    "l0-trained": rectifying(weights="trained"),
    "gradual": thinning(
        lambda alive: [
            at_densities(alive, [d, d])
            for d in (1, 1, Fraction(9, 16), Fraction(9, 16), Fraction(1, 2))
        ],
        every=2,
    ),
    "gradual-late": thinning(
        lambda alive: [
            sum(alive),
            *(survivors(sum(alive), d) for d in (Fraction(3, 4), Fraction(3, 4))),
            *(survivors(sum(alive), d) for d in (Fraction(3, 4), Fraction(1, 2))),
        ],
        start=1,
        every=3,
        initial_density=0.75,
        select=selection.global_top,
    ),
    "soft-threshold": Case(
        functools.partial(soft_threshold, MOMENTUM, initial_logit=-1.0),
        nested=False,
        stores=True,
        keeps_momentum=True,
        weights=lambda state: state.gated.weights,
        optimizer=lambda state: state.optimizer,
    ),
    "jackpot": winning(),
    "jackpot-restricted": winning(
        absolute=False,
        pruned_score=0.99,
        restriction=schedules.quartic(STEPS),
    ),
    "edge-popup": freezing(
        functools.partial(edge_popup, MOMENTUM, density=0.5),
        course=lambda alive: [[12, 9]] * (STEPS + 1),
        random=True,
    ),
    "supermask": freezing(functools.partial(supermask, MOMENTUM), random=True),
    "supermask-rescaled": freezing(
        functools.partial(supermask, MOMENTUM, rescale=True),
        anchor=None,
        scale=None,
        random=True,
    ),
}

# The lanes that every search runs in: (seed of the ticket, key).
LANES = [(0, 1), (1, 2), (0, 3), (0, 1)]
TICKETS, KEYS = zip(*LANES, strict=True)


def start(lane: int) -> tuple[jax.Array, Ticket]:
    """A key, and a ticket that has lost six weights in each layer."""
    return jax.random.key(KEYS[lane]), toy.ticket(TICKETS[lane], lost=6)


def starts() -> tuple[jax.Array, Ticket]:
    """All lanes of `start` together."""
    return jax.tree.map(lambda *x: jnp.stack(x), *map(start, range(len(LANES))))


@jax.jit
def gradient(params):
    return jax.grad(lambda p: loss(p, UNSEEN, data(), None)[0])(params)


class Story(NamedTuple):
    """All states of a search and what they show, `[lanes, ROUNDS, STEPS + 1, ...]`.

    Of every round: before the first step and after every step.
    """

    states: Any
    params: Any
    ticket: Ticket


@functools.cache
def story(name: str) -> Story:
    """Runs a search in all lanes at once, compiled, on the full batch."""
    search = CASES[name].make()

    def walk(state):
        def step(state, at):
            new = search.update(gradient(search.params(state)), state, at)
            return new, new

        last, states = jax.lax.scan(step, state, jnp.arange(STEPS))
        return last, jax.tree.map(
            lambda x, xs: jnp.concatenate([x[None], xs]), state, states
        )

    @jax.jit
    def look(rounds):
        states = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *rounds)
        shape = len(LANES), ROUNDS, STEPS + 1
        # One batch axis: three take several times as long to compile.
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), states)
        views = jax.vmap(lambda state: (search.params(state), search.ticket(state)))
        views = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), views(flat))
        return states, *views

    opened, walk, advance = (
        jax.jit(jax.vmap(f)) for f in (search.init, walk, search.advance)
    )
    last, rounds = None, []
    for round_ in range(ROUNDS):
        last, states = walk(advance(last) if round_ else opened(*starts()))
        rounds.append(states)
    states, *views = look(rounds)
    return Story(states, *jax.device_get(views))


def at(tree, *place):
    """The leaves of a tree, indexed."""
    return jax.tree.map(lambda x: x[place], tree)


def assert_same(ours, theirs, rtol=0.0):
    """Equal trees: bit for bit, or floats as near as their precision allows."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        a, b = (
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else np.asarray(x)
            for x in (a, b)
        )
        name = jax.tree_util.keystr(path)
        assert a.dtype == b.dtype, name
        if rtol and np.issubdtype(a.dtype, np.floating):
            near = max(rtol, 8 * np.finfo(a.dtype).eps)
            np.testing.assert_allclose(a, b, rtol=near, atol=near, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)
