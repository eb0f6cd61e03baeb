"""Every search in a table, and all states of each in a toy problem.

A name of `searches.__all__` has a case without any line here: the factory with its
default hyper-parameters. A row takes its place where defaults decide nothing in a few
steps, or where more can be said than the search promises.
"""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import toy

from jaxticket import (
    Evidence,
    Gated,
    Search,
    Ticket,
    hyperparameters,
    masks,
    searches,
    selection,
)

ROUNDS, STEPS = 3, 4
ROWS = 26


def data():
    """Rows of the precision that is on: numpy's would not follow when it changes."""
    return {
        "x": jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, 5))),
        "y": jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, 4))),
    }


def forward(params, x):
    """A network of two layers."""
    dense, head = params["dense"], params["head"]
    hidden = jnp.tanh(x @ dense["kernel"] + dense["bias"][None])
    return hidden @ head["kernel"] + head["bias"][None]


def loss(params, model_state, batch, key):
    """The mean squared error, and a model state that counts."""
    del key
    error = forward(params, batch["x"]) - batch["y"]
    return jnp.mean(error**2), {"seen": model_state["seen"] + 1}


UNSEEN = {"seen": np.zeros((), np.int32)}


@jax.jit
def gradient(params):
    return jax.grad(lambda p: loss(p, UNSEEN, data(), None)[0])(params)


def evidence(model_state=UNSEEN):
    """Of the full batch."""
    return Evidence(
        loss=lambda params: loss(params, model_state, data(), None)[0],
        forward=lambda params: forward(params, jnp.ones((1, 5))),
        curvature=lambda params: jax.tree.map(jnp.square, params),
    )


# What trains them: with momentum and decay, which move what is not held back.

ADAMW = optax.adamw(0.05, weight_decay=0.1)
MOMENTUM = optax.chain(
    optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9, nesterov=True)
)
NOISY = optax.chain(optax.add_noise(0.1, 0.5, 0), MOMENTUM)
GATED = optax.chain(
    optax.add_decayed_weights(0.1, mask=Gated(True, False)),
    optax.partition(
        {"weights": optax.sgd(0.1, momentum=0.9), "logits": optax.adam(0.1)},
        Gated("weights", "logits"),
    ),
)
OPTIMIZERS = {
    "weights": ADAMW,
    "factors": ADAMW,
    "gates": GATED,
    "scores": MOMENTUM,
}


def make(method: str, **options: Any) -> Callable[..., Search]:
    """The factory of a method, given an optimiser of the kind that it asks for."""
    factory = getattr(searches, method)
    (kind,) = get_type_hints(factory, include_extras=True)["optimizer"].__metadata__
    given = {"optimizer": OPTIMIZERS[kind], "steps": STEPS} | options
    takes = hyperparameters.arguments(factory) | {"optimizer"}
    return functools.partial(factory, **{k: x for k, x in given.items() if k in takes})


class Case(NamedTuple):
    """A search, and what is true of it that it does not promise.

    Attributes:
      make: the factory; takes other hyper-parameters in place of its own.
      course: counts when a round opens, of what it may keep -> those before every step
        and after the last, by layer or in all; None: not known.
      resets: a ticket that is read when a round opens is empty.
      returns: weights that the given mask has lost come back, or were never gone.
      optimizer: its state is kept when a round opens, or fresh; None: not known.
      decides: in a few steps it prunes something and not everything.
    """

    make: Callable[..., Search]
    course: Callable[[list[int]], list] | None = None
    resets: bool = False
    returns: bool = False
    optimizer: Literal["kept", "fresh"] | None = None
    decides: bool = True


def at_densities(*densities):
    """A course of layers that all have these densities, in exact fractions."""
    return lambda alive: [[survivors(n, d) for n in alive] for d in densities]


def all_at_densities(*densities):
    """The same, of all layers together."""
    return lambda alive: [survivors(sum(alive), d) for d in densities]


def survivors(alive: int, density: Fraction | float | str) -> int:
    """`alive - round((1 - density) * alive)`, halves up."""
    return alive - int(alive * (1 - Fraction(density)) + Fraction(1, 2))


def gated(method: str, **options: Any) -> Case:
    """A search over gates; at these numbers a few steps close some."""
    lively = {
        "continuous_sparsification": {
            "temperature": lambda step: 1.0 + 4.0 * step,  # same bits however computed
            "initial_logit": -0.05,
        },
        "iss": {"initial_logit": -0.05},
        "l0": {"initial_logit": -2.2},  # near log(1 / 11), where a gate is off
    }
    options = {"penalty": 0.001, **lively[method], **options}
    fresh = not options.get("keep_momentum", True)
    return Case(
        make(method, **options),
        resets=method != "l0",
        optimizer="fresh" if fresh else "kept",
    )


def frozen(method: str, course: Callable | None = None, **options: Any) -> Case:
    """A search over scores of frozen weights."""
    return Case(
        make(method, **options),
        course=course,
        returns=method == "jackpot",
        optimizer="kept",
    )


def biases_as_scales(params: Any) -> list[tuple[str, str]]:
    """Channels for a network without normalisation: a kernel, and as many biases."""
    leaves = dict(zip(masks.names(params), jax.tree.leaves(params), strict=True))
    biases = {x.size: name for name, x in leaves.items() if x.ndim == 1}
    kernels = {name: x.shape[-1] for name, x in leaves.items() if x.ndim == 2}
    return [(name, biases[n]) for name, n in kernels.items() if n in biases]


ROWS_OF_OUR_OWN = {
    "ac_dc": Case(
        make("ac_dc", density=0.5, start=2, phase=1, stop=3, final=4),
        course=all_at_densities(1, 1, "1/2", 1, "1/2"),
        optimizer="kept",
    ),
    "fixed": Case(make("fixed"), optimizer="kept", decides=False),
    "factored": Case(make("factored", decay=0.01, threshold=0.3), optimizer="kept"),
    "imp": Case(make("imp"), optimizer="fresh"),
    "continuous_sparsification": gated("continuous_sparsification"),
    "iss": gated("iss"),
    "l0": gated("l0"),
    "gradual": Case(
        make("gradual", final_density=0.5, every=2),
        course=at_densities(1, 1, "9/16", "9/16", "1/2"),
        optimizer="kept",
    ),
    "one_shot": Case(make("one_shot"), optimizer="kept"),
    "rigl": Case(
        make("rigl", density=0.5, every=2, select="equal"),
        course=at_densities(*["1/2"] * (STEPS + 1)),
    ),
    "set": Case(
        make("set", density=0.5, every=2, select="equal"),
        course=at_densities(*["1/2"] * (STEPS + 1)),
    ),
    "snfs": Case(
        make("snfs", density=0.5, every=2, select="equal"),
        course=at_densities(*["1/2"] * (STEPS + 1)),
    ),
    "dnw": Case(
        make("dnw", density=0.5),
        course=at_densities(*["1/2"] * (STEPS + 1)),
        optimizer="kept",
    ),
    "static": Case(
        make("static", density=0.5, select="equal"),
        course=at_densities(*["1/2"] * (STEPS + 1)),
        optimizer="kept",
    ),
    "slimming": Case(
        make("slimming", layers=biases_as_scales, penalty=0.1), optimizer="kept"
    ),
    "soft_threshold": Case(
        make("soft_threshold", optimizer=MOMENTUM, initial_logit=-1.0), optimizer="kept"
    ),
    "jackpot": frozen("jackpot", at_densities(*[1] * (STEPS + 1))),
    "edge_popup": frozen("edge_popup", at_densities(*["1/2"] * (STEPS + 1))),
    "supermask": frozen("supermask"),
}
HELD = {"penalty": None, "density": 0.5, "dual_learning_rate": 0.1}
VARIATIONS = {
    "fixed, noisy": Case(
        make("fixed", optimizer=NOISY), optimizer="kept", decides=False
    ),
    "fixed, multiplied": Case(
        make("fixed", multiplier=1.7), optimizer="kept", decides=False
    ),
    "fixed, frozen": Case(
        make("fixed", pruned="frozen"), optimizer="kept", decides=False, returns=True
    ),
    **{
        f"imp, {retrain}": Case(
            make("imp", optimizer=MOMENTUM, retrain=retrain, rewind_step=rewind_step),
            optimizer="fresh",
        )
        for retrain, rewind_step in (
            ("rewind", 2),
            ("continue", 2),
            ("finetune", 0),
        )
    },
    "imp, at random": Case(
        make("imp", score="random", select="erk", rewind_step=2), optimizer="fresh"
    ),
    "imp, by the loss": Case(
        make("imp", score="snip", select="lottery"), optimizer="fresh"
    ),
    "continuous_sparsification, as code": gated(
        "continuous_sparsification",
        between="code",
        scaling=False,
        keep_momentum=False,
        rewind_step=2,
    ),
    "continuous_sparsification, trained": gated(
        "continuous_sparsification", weights="trained"
    ),
    "iss, rewound": gated("iss", keep_momentum=False, rewind_step=2),
    "l0, trained": gated("l0", weights="trained"),
    "l0, held, of inputs": gated("l0", groups="inputs", **HELD),
    "continuous_sparsification, held": gated(
        "continuous_sparsification", density_of="gates", density_within="layer", **HELD
    ),
    "factored, counted": Case(
        make("factored", decay=0.01, density=0.5), optimizer="kept"
    ),
    "gradual, late": Case(
        make(
            "gradual",
            final_density=0.5,
            initial_density=0.75,
            start=1,
            every=3,
            select=selection.global_top,
        ),
        course=all_at_densities(1, "3/4", "3/4", "3/4", "1/2"),
        optimizer="kept",
    ),
    "jackpot, restricted": frozen(
        "jackpot",
        at_densities(*[1] * (STEPS + 1)),
        absolute=False,
        pruned_score=0.99,
        restriction="quartic",
    ),
    "supermask, rescaled": frozen("supermask", rescale=True),
}
METHODS = {
    name: ROWS_OF_OUR_OWN.get(name) or Case(make(name), decides=False)
    for name in searches.__all__
}
CASES = METHODS | VARIATIONS


def numbers(name: str) -> dict[str, float]:
    """What may be swept of the case of a method, with its values there."""
    bound = METHODS[name].make.keywords
    known = hyperparameters.of(getattr(searches, name)).values()
    values = {
        hyper.name: bound.get(hyper.name, hyper.default)
        for hyper in known
        if hyper.swept
    }
    return {n: x for n, x in values.items() if x is not None and not callable(x)}


# The lanes that every search runs in: (seed of the ticket, key, which gradients are
# wrong): none, those of what the given ticket has pruned, or of what is pruned now.
NONE, OF_GIVEN, OF_NOW = range(3)
LANES = [(0, 1, NONE), (1, 2, NONE), (0, 3, NONE), (0, 1, OF_GIVEN), (0, 1, OF_NOW)]
TICKETS, KEYS, MISLED = zip(*LANES, strict=True)
GIVEN = [24, 18]  # how many weights of each layer the tickets keep


def start(lane: int) -> tuple[jax.Array, Ticket]:
    """The key of a search, and a ticket that has lost six weights in each layer."""
    key, _ = jax.random.split(jax.random.key(KEYS[lane]))  # as `run` does
    return key, toy.ticket(TICKETS[lane], lost=6)


def starts() -> tuple[jax.Array, Ticket]:
    """All lanes of `start` together."""
    return jax.tree.map(lambda *x: jnp.stack(x), *map(start, range(len(LANES))))


@functools.cache
def given() -> Ticket:
    """The tickets of all lanes, in numpy and double precision."""
    return jax.device_get(starts()[1])


class Story(NamedTuple):
    """All states of a search and what they show, `[lanes, ROUNDS, STEPS + 1, ...]`.

    Of every round: before the first step and after every step. Keys are their data.
    """

    states: Any
    params: Any
    ticket: Ticket


def told(case: Case, key: jax.Array, ticket: Ticket, misled: jax.Array) -> Story:
    """The story of one lane, on the full batch."""
    search = case.make()

    def gradients(seen):
        """With large ones where they are wrong, or such as might be right."""

        def of_layer(g, given, now):
            if given is None:
                return g
            lost = ~given & (misled == OF_GIVEN) & (not case.returns)
            pruned = ~now & (misled == OF_NOW) & search.promises.hard
            return jnp.where(lost, 1e3, jnp.where(pruned, g + 0.5, g))

        pruned = ticket.mask, seen.ticket.mask
        return jax.tree.map(of_layer, gradient(seen.params), *pruned)

    def step(state, at):
        seen = Story(state, search.params(state), search.ticket(state))
        new = jax.lax.cond(
            at < STEPS,
            lambda: search.update(gradients(seen), state, at),
            lambda: state,
        )
        return new, seen

    def round_(state, index):
        state = jax.lax.cond(
            index > 0,
            lambda state: search.advance(state, evidence()),
            lambda state: state,
            state,
        )
        return jax.lax.scan(step, state, jnp.arange(STEPS + 1))

    opened = search.init(key, ticket)
    _, seen = jax.lax.scan(round_, opened, jnp.arange(ROUNDS))
    return jax.tree.map(plain, seen)


def plain(leaf):
    """A leaf as numbers: the data of keys."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


@functools.cache
def story(name: str) -> Story:
    """Runs a search in all lanes at once, compiled; needs double precision."""
    assert jax.config.jax_enable_x64
    one = functools.partial(told, CASES[name])
    mapped = toy.hurried(jax.vmap(one))
    return jax.device_get(mapped(*starts(), np.array(MISLED)))


def at(tree, *place):
    """The leaves of a tree, indexed."""
    return jax.tree.map(lambda x: x[place], tree)


def assert_same(ours, theirs, rtol=0.0):
    """Equal trees: bit for bit, or floats as near as their precision allows."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        a, b = (np.asarray(plain(x)) for x in (a, b))
        name = jax.tree_util.keystr(path)
        assert a.dtype == b.dtype, name
        if rtol and np.issubdtype(a.dtype, np.floating):
            near = max(rtol, 8 * np.finfo(a.dtype).eps)
            np.testing.assert_allclose(a, b, rtol=near, atol=near, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)
