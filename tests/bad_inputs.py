"""Calls of the library that are refused, and words of the one message that says why.

`NUMBERS` lists the numbers that it takes with their kind, `KINDS` what none of a kind
can be; `CALLS` are all others.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import cases
import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import toy

from jaxticket import (
    Evidence,
    Gated,
    Promises,
    Ticket,
    analysis,
    as_optax,
    data,
    masks,
    models,
    prune,
    revalued,
    run,
    schedules,
    scores,
    searches,
    selection,
    stacks,
    starts,
    supervised,
    training,
)
from jaxticket.engine import keys, lanes, resumable

NAN, INF = float("nan"), float("inf")
SGD, LINE = optax.sgd(0.1), optax.lbfgs()
KEY = jax.random.key(0)


class Call(NamedTuple):
    """A call of the library, and words that its message must have."""

    name: str
    call: Callable[[], Any]
    says: tuple[str, ...]


# Numbers: of each kind what cannot be, in all the types that numbers have.

FRACTION = "must be the fraction kept, in (0, 1]; got"
KINDS = {
    "fraction": (FRACTION, (0.0, np.float32(2), jnp.array([0.5, 1.5]), NAN, "0.5")),
    "share": ("must be a share, in [0, 1]; got", (-0.1, np.float64(1.1), NAN)),
    "positive": ("must be above 0 and finite; got", (0, np.float32(-1), 1e39, NAN)),
    "not_negative": (
        "must be at least 0 and finite; got",
        (-0.1, jnp.float32(NAN), 1e39, None),
    ),
    "some_fraction": (FRACTION, (0.0, np.float32(2), NAN)),  # or none
    "some_penalty": ("must be at least 0 and finite; got", (-0.1, 1e39)),
    "finite": ("must be a finite number; got", (NAN, np.array([0.0, INF]), -1e39)),
    "count": ("must be a whole number from 1; got", (0, 1.5, True, 2**31)),
    "place": ("must be a whole number from 0; got", (-1, 2.0, np.int64(-3))),
}


def given(value: Any) -> str:
    """A bad value as messages show it: of an array the entry that is wrong."""
    if hasattr(value, "dtype"):
        return repr(np.asarray(value).ravel()[-1].item())
    return repr(value)


def of(make: Callable, argument: str, **others: Any) -> Callable:
    """`value -> make(argument=value)`."""
    return lambda value: make(**{**others, argument: value})


def search(name: str, argument: str, **others: Any) -> Callable:
    return of(functools.partial(getattr(searches, name), SGD), argument, **others)


def running(argument: str, **others: Any) -> Callable:
    """`value -> run(argument=value)`, of a search that needs nothing."""
    call = functools.partial(
        run, searches.fixed(SGD), cases.loss, KEY, ticket(), cases.data()
    )
    return of(call, argument, **{"rounds": 1, "epochs": 1, "batch_size": 2} | others)


def ticket(**changes: Any) -> Ticket:
    return toy.ticket(lost=6)._replace(model_state=cases.UNSEEN)._replace(**changes)


def classifier() -> models.Model:
    """A network without parameters, of three classes."""
    return models.Model(None, lambda params, state, x, **options: (x, state))


IMAGES, LABELS = np.ones((4, 3), np.float32), np.arange(4) % 3
NOISE = np.where(np.arange(3) == 2, NAN, IMAGES)


def split(images: Any = IMAGES, labels: Any = LABELS) -> data.Split:
    return data.Split(images, labels)


PRUNED = of(starts.pruned, "density")
NUMBERS = {  # (what makes it, its argument): the kind of number, and value -> call
    **{
        (name, "density"): ("fraction", search(name, "density"))
        for name in (
            "ac_dc",
            "imp",
            "one_shot",
            "rigl",
            "set",
            "static",
            "edge_popup",
            "slimming",
        )
    },
    ("gradual", "final_density"): ("fraction", search("gradual", "final_density")),
    ("gradual", "initial_density"): ("fraction", search("gradual", "initial_density")),
    ("gradual", "every"): ("count", search("gradual", "every")),
    ("gradual", "steps"): ("count", search("gradual", "steps")),
    **{
        (name, argument): (kind, search(name, argument, **others))
        for name, others in (
            ("l0", {"density": 0.5}),
            ("continuous_sparsification", {"density": 0.5, "steps": 9}),
        )
        for argument, kind in (
            ("density", "some_fraction"),
            ("dual_learning_rate", "positive"),
        )
    },
    ("factored", "decay"): ("not_negative", search("factored", "decay")),
    ("factored", "threshold"): ("not_negative", search("factored", "threshold")),
    ("rigl", "every"): ("count", search("rigl", "every")),
    ("snfs", "momentum"): ("share", search("snfs", "momentum", steps=9)),
    ("rigl", "drop"): ("share", search("rigl", "drop", steps=9)),
    ("fixed", "multiplier"): ("positive", search("fixed", "multiplier")),
    **{
        (name, "rewind_step"): ("place", search(name, "rewind_step", **others))
        for name, others in (
            ("imp", {}),
            ("iss", {}),
            ("l0", {}),
            ("continuous_sparsification", {"steps": 9}),
        )
    },
    **{
        (name, "penalty"): (kind, search(name, "penalty", **others))
        for name, kind, others in (
            ("iss", "not_negative", {}),
            ("l0", "some_penalty", {}),
            ("slimming", "not_negative", {}),
            ("continuous_sparsification", "some_penalty", {"steps": 9}),
        )
    },
    **{
        (name, "initial_logit"): ("finite", search(name, "initial_logit", **others))
        for name, others in (
            ("iss", {}),
            ("l0", {}),
            ("soft_threshold", {}),
            ("supermask", {}),
            ("continuous_sparsification", {"steps": 9}),
        )
    },
    ("continuous_sparsification", "temperature"): (
        "positive",
        search("continuous_sparsification", "temperature", steps=9),
    ),
    ("continuous_sparsification", "steps"): (
        "count",
        search("continuous_sparsification", "steps"),
    ),
    ("continuous_sparsification", "epoch_steps"): (
        "count",
        search("continuous_sparsification", "epoch_steps", steps=9),
    ),
    ("iss", "off"): ("share", search("iss", "off")),
    ("l0", "temperature"): ("positive", search("l0", "temperature")),
    ("jackpot", "steps"): ("count", search("jackpot", "steps", restriction="cosine")),
    ("prune", "density"): (
        "fraction",
        lambda value: prune(ticket(), "magnitude", value),
    ),
    ("prune", "iterations"): (
        "count",
        of(functools.partial(prune, ticket(), "magnitude", 0.5), "iterations"),
    ),
    ("keep", "density"): ("share", lambda x: selection.keep(jnp.int32(9), x)),
    ("schedules.temperature", "final"): (
        "positive",
        lambda value: schedules.temperature(value, 9),
    ),
    ("schedules.temperature", "steps"): (
        "count",
        lambda value: schedules.temperature(200.0, value),
    ),
    ("schedules.cubic_density", "final"): (
        "fraction",
        lambda value: schedules.cubic_density(1.0, value, 0, 5),
    ),
    ("schedules.cubic_density", "start"): (
        "place",
        lambda value: schedules.cubic_density(1.0, 0.5, value, 5),
    ),
    ("schedules.drop_fraction", "initial"): (
        "share",
        lambda value: schedules.drop_fraction(value, 5),
    ),
    ("schedules.drop_fraction", "stop"): (
        "count",
        lambda value: schedules.drop_fraction(0.3, value),
    ),
    ("schedules.cosine", "steps"): ("count", schedules.cosine),
    ("schedules.quartic", "epoch_steps"): (
        "count",
        lambda value: schedules.quartic(9, epoch_steps=value),
    ),
    ("starts.kaiming_constant", "density"): (
        "fraction",
        of(starts.kaiming_constant, "density", scale_fan="density"),
    ),
    ("starts.kaiming_normal", "density"): (
        "fraction",
        of(starts.kaiming_normal, "density"),
    ),
    ("starts.pruned", "density"): ("fraction", PRUNED),
    ("starts.pruned", "iterations"): (
        "count",
        of(starts.pruned, "iterations", density=0.5),
    ),
    ("starts.pruned", "temperature"): (
        "positive",
        of(starts.pruned, "temperature", density=0.5),
    ),
    ("revalued.kaiming_constant", "density"): (
        "fraction",
        of(functools.partial(revalued.kaiming_constant, ticket()), "density"),
    ),
    ("revalued.kaiming_normal", "density"): (
        "fraction",
        of(functools.partial(revalued.kaiming_normal, KEY, ticket()), "density"),
    ),
    **{
        ("run", name): ("count", running(name))
        for name in ("rounds", "epochs", "every", "batch_size")
    },
    ("run", "steps"): ("count", running("steps", epochs=None)),
    ("run", "first_round"): ("place", running("first_round")),
    ("patience", "epochs"): ("count", training.patience),
    ("patience", "tolerance"): (
        "not_negative",
        of(functools.partial(training.patience, 3), "tolerance"),
    ),
    ("as_optax", "rounds"): (
        "count",
        of(
            functools.partial(as_optax, searches.fixed(SGD), ticket(), KEY),
            "rounds",
            round_steps=3,
        ),
    ),
    ("as_optax", "round_steps"): (
        "count",
        of(
            functools.partial(as_optax, searches.fixed(SGD), ticket(), KEY),
            "round_steps",
            rounds=2,
        ),
    ),
    ("stretches", "rounds"): ("count", lambda x: resumable.stretches(x, 9, 3)),
    ("stretches", "steps"): ("count", lambda x: resumable.stretches(2, x, 3)),
    ("stretches", "every"): ("count", lambda x: resumable.stretches(2, 9, x)),
    ("lanes.layout", "per_device"): ("count", lanes.layout),
    ("lanes.layout", "turns"): ("count", of(lanes.layout, "turns")),
    ("evaluator", "batch_size"): (
        "count",
        of(functools.partial(supervised.evaluator, classifier()), "batch_size"),
    ),
    ("evidence", "images"): (
        "count",
        of(functools.partial(supervised.evidence, classifier(), split()), "images"),
    ),
    ("evidence", "batch_size"): (
        "count",
        of(functools.partial(supervised.evidence, classifier(), split()), "batch_size"),
    ),
    ("evidence", "temperature"): (
        "positive",
        lambda x: supervised.evidence(classifier(), split())({}, x),
    ),
    ("models.create", "num_classes"): (
        "count",
        lambda value: models.create("lenet_300_100", value),
    ),
    ("models.create", "width"): ("count", of(models.create, "width", name="mlp_1d")),
    ("data.augment", "pad"): (
        "place",
        of(functools.partial(data.augment, KEY, np.zeros((2, 4, 4, 1))), "pad"),
    ),
    ("data.random_resized_crop", "size"): (
        "count",
        of(
            functools.partial(data.random_resized_crop, KEY, np.zeros((2, 4, 4, 1))),
            "size",
        ),
    ),
    ("verdict", "margin"): (
        "positive",
        of(
            functools.partial(
                analysis.verdict, analysis.Interval(0.1, 0.0, 0.2), density=0.5
            ),
            "margin",
        ),
    ),
}

# All that is no number of these kinds.

CLASSES = "must be classes from 0 to 2, since the network has 3 outputs; got"
PAIR = "the loss function must return (loss, model_state); got"


def lossy(found: Callable) -> Callable[[], Any]:
    """A run with a loss function that returns what it should not."""

    def loss_fn(params, model_state, batch, key):
        return found(jnp.sum(params["head"]["bias"]), model_state)

    def call():
        run(
            searches.fixed(SGD), loss_fn, KEY, ticket(), cases.data(),
            rounds=1, epochs=1, batch_size=2,
        )  # fmt: skip

    return call


def trained(
    search: Any = None, given: Any = None, data: Any = None, **options: Any
) -> Callable[[], Any]:
    """A run that should not begin."""
    options = {"rounds": 1, "epochs": 1, "batch_size": 2} | options

    def call():
        run(
            searches.fixed(SGD) if search is None else search(),
            cases.loss,
            KEY,
            ticket() if given is None else given,
            cases.data() if data is None else data,
            **options,
        )

    return call


def on(
    images: Any = IMAGES, labels: Any = LABELS, loss: Any = supervised.cross_entropy
) -> list[Callable]:
    """All that looks at images and labels, given wrong ones."""
    wrong = split(images, labels)
    fixed, start = searches.fixed(SGD), ticket(model_state={})
    loss_fn = supervised.objective(classifier(), loss)
    return [
        lambda: run(
            fixed, loss_fn, KEY, start, wrong, rounds=1, epochs=1, batch_size=2
        ),
        lambda: supervised.evaluator(classifier(), loss)({}, {}, wrong),
    ]


def opened(name: str, optimizer: Any, **options: Any) -> Callable[[], Any]:
    """The state of a search whose optimiser does not fit."""
    return lambda: getattr(searches, name)(optimizer, **options).init(KEY, ticket())


def stepped(search: Any) -> None:
    """A step by hand, that tells nothing of the loss."""
    search.update(weights(), search.init(KEY, ticket()), 0)


def emptied(search: Any) -> None:
    """The ticket of a search over a network of which nothing can be pruned."""
    mask = jax.tree.map(lambda w: None, weights())
    search.ticket(search.init(KEY, ticket()._replace(mask=mask)))


def weights() -> Any:
    return toy.ticket().weights


NINE, THREE = np.ones((9, 1)), np.arange(9) % 3


def splits(
    images: Any = NINE, labels: Any = THREE, **options: Any
) -> Callable[[], Any]:
    test = data.Split(np.ones((2, 1)), np.arange(2))
    options = {"validation": 3} | options
    return lambda: data.of_splits("own", data.Split(images, labels), test, **options)


MASK = {"a/b": jnp.ones((2, 3)), "a": {"b": jnp.ones((2, 3))}}
OTHER = {"dense": {"kernel": jnp.ones((5, 7))}, "tail": {"kernel": jnp.ones((6, 4))}}
DECAY = optax.add_decayed_weights(0.1, mask=jax.tree.map(lambda w: True, weights()))
PAIRED = "optimizer has a mask or labels that do not fit what it trains"

CALLS = [
    # Words.
    ("imp", lambda: searches.imp(SGD, retrain="rewound"),
     "retrain must be one of rewind, continue", "'rewound'; did you mean 'rewind'?"),
    ("imp", lambda: searches.imp(SGD, select="globaltop"),
     "select must be one of global_top", "'globaltop'; did you mean 'global_top'?"),
    ("imp", lambda: searches.imp(SGD, score="snipp"),
     "score must be one of", "'snipp'; did you mean 'snip'?"),
    ("cs", lambda: searches.continuous_sparsification(SGD, steps=9, between="papers"),
     "between must be one of paper, code; got 'papers'; did you mean 'paper'?"),
    ("cs", lambda: searches.continuous_sparsification(SGD, steps=9, weights="late"),
     "weights must be one of anchor, trained; got 'late'"),
    ("iss", lambda: searches.iss(SGD, weights=None),
     "weights must be one of anchor, trained; got None"),
    ("l0", lambda: searches.l0(SGD, weights="train"), "did you mean 'trained'?"),
    ("supermask", lambda: searches.supermask(SGD, read="mean"),
     "read must be one of sample, threshold; got 'mean'"),
    ("supermask", lambda: searches.supermask(SGD, constant_factor=True),
     "constant_factor=True is for rescale=True alone"),
    ("jackpot", lambda: searches.jackpot(SGD, restriction="cubic"),
     "restriction must be one of none, quartic, cosine; got 'cubic'"),
    ("prune", lambda: prune(ticket(), "size", 0.5), "score must be one of", "'size'"),
    ("prune", lambda: prune(ticket(), "magnitude", 0.5, select="all"),
     "select must be one of", "'all'"),
    ("starts", lambda: starts.pruned(density=0.5, score="magnitud"),
     "score must be one of", "did you mean 'magnitude'?"),
    ("starts", lambda: starts.pruned(density=0.5, of="first"),
     "of must be one of initial, trained; got 'first'"),
    ("starts", lambda: starts.pruned(density=0.5, ties="last"),
     "ties must be one of first, random; got 'last'"),
    ("starts", lambda: starts.kaiming_normal(scale_fan="fan"),
     "scale_fan must be one of none, density, code; got 'fan'"),
    ("models", lambda: models.create("lenet300100"),
     "model must be one of", "'lenet300100'; did you mean 'lenet_300_100'?"),
    ("models", lambda: models.create("conv_2", width=3),
     "conv_2 has no width; it has hidden"),
    ("normalizer", lambda: data.normalizer("zca", np.ones((2, 2))),
     "kind must be one of standard, unit, l2; got 'zca'"),
    # Numbers that depend on others.
    ("l0", lambda: searches.l0(SGD, low=0.0), "low must be below 0 and finite; got 0"),
    ("l0", lambda: searches.l0(SGD, high=1), "high must be above 1 and finite; got 1"),
    *(
        ("jackpot", functools.partial(searches.jackpot, SGD, pruned_score=value),
         f"pruned_score must be between -1 and 1; got {given(value)}")
        for value in (1.0, np.float32(-1.5), NAN)
    ),
    ("jackpot", lambda: searches.jackpot(SGD, restriction="cosine"),
     "'cosine' needs steps"),
    ("jackpot", lambda: searches.jackpot(SGD).promises.kept(toy.ticket().mask),
     "as many weights in each layer as the mask it begins with", "prune the ticket"),
    ("cs", lambda: searches.continuous_sparsification(SGD, temperature=8.0),
     "temperature 8.0 needs steps"),
    *(
        ("gradual",
         functools.partial(searches.gradual, SGD, **{"every": 2, "steps": 4} | options),
         *says)
        for options, says in (
            ({"stop": 0.2}, ("stop must be at least every=2 steps after", "got 0.2")),
            ({"stop": 5}, ("stop must be a fraction of a round,", "to 4; got 5")),
            ({"stop": INF}, ("stop must be a fraction of a round,", "got inf")),
            ({"start": 2.5}, ("start must be a fraction of a round,", "got 2.5")),
            ({"start": np.int64(-1)}, ("start must be a fraction", "got -1")),
            ({"stop": NAN}, ("stop must be a fraction of a round,", "got nan")),
            ({"every": 5}, ("stop must be at least every=5 steps after",)),
            ({"steps": None}, ("stop 1.0 is a fraction of a round: give its steps",)),
        )
    ),
    ("rigl", lambda: searches.rigl(SGD, stop=0.0, steps=9),
     "stop must be a whole number from 1; got 0"),
    ("set", lambda: searches.set(SGD, steps=9, select="topmost"),
     "select must be one of", "got 'topmost'"),
    ("rigl", lambda: searches.rigl(SGD), "stop 0.75 is a fraction of a round: give"),
    ("cubic", lambda: schedules.cubic_density(1.0, 0.1, 5, 5),
     "stop must be a whole number from 6; got 5"),
    ("scale_fan", lambda: starts.kaiming_normal(density=1.0, scale_fan="code"),
     "density must be below 1 where scale_fan is code", "got 1.0"),
    ("top", lambda: selection.top(weights(), toy.ticket(lost=6).mask, 43),
     "k must be a whole number from 0 to 42; got 43"),
    ("top", lambda: selection.top(weights(), toy.ticket().mask, jnp.int32(-1)),
     "k must be a whole number from 0 to 54; got -1"),
    ("top", lambda: selection.top(weights(), jax.tree.map(lambda w: None, weights()),
     1),
     "the mask covers no leaf"),
    *(
        ("rates", functools.partial(selection.lottery, **options), *says)
        for options, says in (
            ({"per_round": 1.0}, ("per_round must be between 0 and 1; got 1.0",)),
            ({"per_round": NAN}, ("per_round must be between 0 and 1; got nan",)),
            ({"conv": -0.5}, ("rate must be at least 0 and below inf; got -0.5",)),
            ({"conv": 6, "per_round": 0.8}, ("rate must be at least 0 and below 5",)),
        )
    ),
    ("rates", lambda: selection.at_rates({"z": 0.5})(toy.ticket().mask, 0.8),
     "a name in rates must be one of dense/kernel, head/kernel; got 'z'"),
    ("uniform", lambda: selection.uniform(first="dens")(toy.ticket().mask, 0.8),
     "first must be one of dense/kernel, head/kernel; got 'dens'"),
    *(
        ("nothing", call, "density must keep a weight; 1e-09 keeps none of 42")
        for call in (
            lambda: prune(ticket(), "magnitude", 1e-9),
            lambda: searches.edge_popup(SGD, density=1e-9).init(KEY, ticket()),
            lambda: searches.gradual(
                SGD, final_density=1e-9, every=2, steps=4
            ).init(KEY, ticket()),
            lambda: searches.rigl(
                SGD, density=1e-9, select="equal", steps=4
            ).init(KEY, ticket()),
        )
    ),
    ("seed", lambda: keys.of_seed(2**32),
     "seed must be a whole number from 0 to 4294967295; got 4294967296"),
    ("seed", lambda: keys.of_seed(-1), "seed must be a whole number", "got -1"),
    ("seed", lambda: keys.of_seed(0.5), "seed must be a whole number", "got 0.5"),
    ("dropout", lambda: models.create("lenet_5", dropout=1.0),
     "dropout must be at least 0 and below 1; got 1.0"),
    ("hidden", lambda: models.create("mlp", hidden=(3, 0)),
     "hidden must be a whole number from 1; got 0"),
    ("hidden", lambda: models.create("mlp", hidden=30), "hidden must be", "got 30"),
    ("widths", lambda: models.create("vgg_19", widths=((8, 8.5),)),
     "widths must be a whole number from 1; got 8.5"),
    ("use_bias", lambda: models.create("vgg_16", use_bias="no"),
     "use_bias must be True or False; got 'no'"),
    ("shortcut", lambda: jax.eval_shape(
        models.create("resnet_20", shortcut="none").init, KEY, np.ones((1, 8, 8, 3))),
     "shortcut is 'none'; it must be 'projection'"),
    ("stacks", lambda: stacks.apart({"w": jnp.ones((3, 4))}, {"w": 2}),
     "the axis of 'w', of shape (3, 4), must be", "from -2 to 1; got 2"),
    ("stacks", lambda: stacks.apart({"w": jnp.ones((3, 4))}, {"w": 0.5}),
     "the axis of 'w'", "got 0.5"),
    ("stacks", lambda: stacks.apart({"w": jnp.ones((3, 4))}, {"v": 0}),
     "a name in axes must be one of w; got 'v'"),
    ("stretches", lambda: resumable.stretches(2, 10, 4, resume=10),
     "a round of 10 steps cannot begin at step 10"),
    # What a search promises and a round is too short for.
    ("short", trained(lambda: searches.gradual(SGD, every=2, stop=100), epochs=4),
     "steps 52 are too few for a round: the search prunes up to step 100"),
    ("short", lambda: as_optax(
        searches.gradual(SGD, stop=100), ticket(), KEY, round_steps=99),
     "steps 99 are too few for a round: the search prunes up to step 100"),
    ("short", lambda: resumable.stretches(
        2, 9, 3, promises=searches.gradual(SGD, stop=100).promises),
     "steps 9 are too few for a round"),
    ("short", trained(lambda: searches.imp(SGD, rewind_step=13)),
     "rewind_step 13 is outside a round of 13 steps: rewind to an earlier"),
    ("short", lambda: as_optax(
        searches.imp(SGD, rewind_step=9), ticket(), KEY, rounds=2, round_steps=4),
     "rewind_step 9 is outside a round of 4 steps"),
    ("short", lambda: resumable.stretches(
        2, 9, 3, promises=Promises(rewind_step=9)),
     "rewind_step 9 is outside a round of 9 steps"),
    ("long", trained(rounds=2**20, epochs=None, steps=2**12),
     "rounds=1048576 of 4096 steps, together, must be a whole number",
     "beyond 2147483647"),
    ("long", lambda: as_optax(
        searches.fixed(SGD), ticket(), KEY, rounds=2**16, round_steps=2**16),
     "beyond 2147483647"),
    # A run.
    ("run", trained(epochs=None), "a round has epochs or steps, got epochs=None"),
    ("run", trained(steps=3), "a round has epochs or steps, got epochs=1 and steps=3"),
    ("run", trained(batch_size=None), "data need a batch_size"),
    ("run", trained(batch_size=27), "batch_size 27 is more than the 26 rows of data"),
    ("run", trained(epochs=2**29), "epochs=536870912, in steps, must be", "beyond"),
    ("run", lambda: run(
        searches.fixed(SGD), cases.loss, KEY, ticket(), rounds=1, epochs=2),
     "without data a round has steps, and no epochs", "epochs=2"),
    ("run", trained(given=weights()), "ticket must be a Ticket", "got dict"),
    ("run", trained(lambda: searches.fixed(0.1)),
     "optimizer must be an optax.GradientTransformation", "got 0.1"),
    *(
        ("run", trained(functools.partial(cases.CASES[name].make, optimizer=LINE)),
         "optimizer asks for value_fn, as line searches do: this search has none")
        for name in ("dnw", "edge_popup", "jackpot", "supermask")
    ),
    ("run", trained(lambda: searches.rigl(LINE, every=1, stop=2)),
     "optimizer must have a state of which optax.tree_map_params finds"),
    ("update", lambda: stepped(searches.fixed(LINE)),
     "optimizer asks for value_fn, as line searches do: pass the loss"),
    *(
        ("empty", functools.partial(emptied, search), "the mask covers no leaf")
        for search in (
            searches.iss(SGD), searches.static(SGD, density=0.5),
            searches.rigl(SGD, density=0.5, every=1, stop=2),
        )
    ),
    ("run", trained(data={}), "the data hold no arrays"),
    ("run", trained(data=np.float32(1)), "leaf '' of the data is a scalar"),
    ("run", trained(data={"x": np.ones(26), "y": np.float32(1)}),
     "leaf 'y' of the data is a scalar"),
    ("run", trained(data={"x": np.ones(64), "y": np.ones(60)}),
     "differ in their rows: 'x' has 64, 'y' has 60"),
    ("run", trained(data={"x": np.ones(26), "deep": [np.ones(26), np.ones(25)]}),
     "'deep/1' has 25"),
    ("run", trained(data={"x": np.ones((0, 5)), "y": np.ones((0, 4))}),
     "the data have no rows: 'x' is empty"),
    ("steps", lambda: training.steps(
        searches.fixed(SGD), cases.loss, None, KEY, {"x": np.float32(1)},
        first=0, last=1, round=0, batch_size=2),
     "leaf 'x' of the data is a scalar"),
    ("loss", lossy(lambda loss, state: loss), PAIR, "float[]"),
    ("loss", lossy(lambda loss, state: (loss, state, 1)), PAIR, "tuple"),
    ("loss", lossy(lambda loss, state: None), PAIR, "NoneType"),
    ("loss", lossy(lambda loss, state: (jnp.ones(3) * loss, state)),
     "the loss must be one float; got float[3]: take its mean"),
    ("loss", lossy(lambda loss, state: (jnp.int32(loss), state)),
     "the loss must be one float; got int32[]"),
    ("loss", lossy(lambda loss, state: (loss, None)),
     "a model state like the one that came; got None for {'seen': 'int32[]'}"),
    ("integers", trained(given=ticket(
        weights={**weights(), "steps": jnp.arange(3)},
        mask={**toy.ticket().mask, "steps": None})),
     "'steps' in the weights is int32, of which there is no gradient: put it"),
    ("complex", trained(given=ticket(
        weights={**weights(), "wave": jnp.ones(3, jnp.complex64)},
        mask={**toy.ticket().mask, "wave": None})),
     "'wave' in the weights is complex64, whose gradient does not point"),
    # Optimisers for something else than the search trains.
    *(
        ("decay", opened(name, DECAY, **options), PAIRED, "Gated(weights, logits)")
        for name, options in (
            ("continuous_sparsification", {"steps": 4}),
            ("iss", {}),
            ("l0", {}),
            ("soft_threshold", {}),
        )
    ),
    *(
        ("decay",
         opened(name, optax.add_decayed_weights(0.1, mask={"x": True}), **options),
         PAIRED)
        for name, options in (
            ("fixed", {}), ("imp", {}), ("supermask", {}), ("edge_popup", {}),
            ("factored", {}), ("gradual", {"steps": 4, "every": 2}),
        )
    ),
    ("labels", opened("imp", optax.partition({"a": SGD}, Gated("a", "a"))), PAIRED),
    # Masks and trees of other networks.
    ("full", lambda: masks.full({"layers": [jnp.ones((2, 2)), 1.0]}),
     "'layers/1' is a float, expected an array"),
    ("full", lambda: masks.full(equinox.nn.MLP(2, 2, 2, 1, key=KEY)),
     "'activation' is a", "eqx.filter(module, eqx.is_inexact_array)"),
    ("full", lambda: masks.full({"b": jnp.ones(3)}),
     "none of the 1 leaves is prunable"),
    ("full", lambda: masks.full(MASK), "two leaves are called 'a/b': rename"),
    ("names", lambda: masks.names(MASK), "two leaves are called 'a/b': rename"),
    ("only", lambda: masks.only(toy.ticket().mask, lambda path, leaf: False),
     "none of ['dense/kernel', 'head/kernel'] is accepted"),
    ("apply", lambda: masks.apply(weights(), toy.ticket().mask),
     "'dense/bias', where the parameters have none; the mask comes first"),
    ("apply", lambda: masks.apply({"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2),
     bool)}),
     "mask at 'w' is float32, expected bool; the mask comes first"),
    ("apply", lambda: masks.apply(toy.ticket().mask, OTHER),
     "mask at 'dense/kernel' has shape (5, 6), the parameter has (5, 7)"),
    ("apply", lambda: masks.apply(
        {"w": np.ones((2, 3), bool)}, {"w": np.ones((3, 2), np.float32)}),
     "mask at 'w' has shape (2, 3), the parameter has (3, 2)"),
    ("scale", lambda: masks.scale({"v": np.ones(2, bool)}, {"w": np.ones(2)}, 2.0),
     "mask has no leaf 'w'"),
    ("init", lambda: searches.imp(SGD).init(KEY, ticket(mask=masks.full(OTHER))),
     "mask has no leaf 'dense/bias'"),
    *(
        ("together", call,
         "two trees are not of one network: 'dense/kernel' is (5, 7) in the first and")
        for call in (
            lambda: masks.overlap(masks.full(OTHER), toy.ticket().mask),
            lambda: masks.nested(masks.full(OTHER), toy.ticket().mask),
            lambda: analysis.overlap(masks.full(OTHER), toy.ticket().mask),
            lambda: selection.top(OTHER, toy.ticket().mask, 3),
        )
    ),
    ("together", lambda: selection.like({"w": np.ones((3, 2), bool)})(
        {"w": np.ones((2, 3))}, {"w": np.ones((2, 3), bool)}, 0.5),
     "'w' is (2, 3) in the first and (3, 2) in the second"),
    ("fan", lambda: revalued.kaiming_constant(
        Ticket(weights(), masks.full(weights(), lambda path, leaf: True))),
     "prunable leaf 'dense/bias' has shape (6,); a fan"),
    ("slimming", lambda: searches.slimming(SGD).init(KEY, ticket()),
     "slimming needs convolutions with batch normalisation"),
    ("one_shot", lambda: searches.one_shot(SGD, score="snip"),
     "one_shot prunes without loss"),
    ("evidence", lambda: prune(ticket(), "snip", 0.5),
     "the score snip needs evidence.loss: give"),
    ("evidence", lambda: scores.random(weights(), Evidence()), "needs evidence.key"),
    # Data.
    *(
        ("labels", call, f"labels {CLASSES} {value}")
        for value in (-5, 3, 9)
        for call in on(labels=np.array([0, value, 1, 2]))
    ),
    *(
        ("labels", call, "labels must be whole numbers, the classes; got float64")
        for call in on(labels=np.array([0.0, 1.0, 1.0, 2.0]))
    ),
    *(
        ("labels", call, "got [1]: take labels.squeeze(-1)")
        for call in on(labels=LABELS[:, None])
    ),
    *(
        ("images", call, "images must be finite numbers; got nan at [0, 2]")
        for f in on(images=NOISE)
        for call in (f, jax.jit(f))
    ),
    ("images", lambda: supervised.evidence(classifier(), split(NOISE)),
     "images must be finite numbers; got nan at [0, 2]"),
    *(
        ("several", call, "labels must be 0 or 1, or bools; got 2")
        for call in on(
            labels=np.array([[0, 1, 2]] * 4), loss=supervised.binary_cross_entropy)
    ),
    *(
        ("several", call, "labels must be as many of an example", "[3]; got [2]")
        for call in on(labels=np.ones((4, 2), bool),
        loss=supervised.binary_cross_entropy)
    ),
    *(
        ("numbers", call, "labels must be finite numbers; got inf at [3]")
        for call in on(labels=np.array([0, 1, 2, INF]), loss=supervised.squared_error)
    ),
    *(
        ("numbers", call, "labels must be as many of an example", "[3]; got []")
        for call in on(labels=np.ones(4), loss=supervised.squared_error)
    ),
    *(
        ("rows", call, f"'images' has 4, 'labels' has {len(labels)}")
        for labels in (np.zeros(3, int), np.zeros(5, int))
        for call in (
            *on(labels=labels),
            functools.partial(supervised.evidence, classifier(), split(labels=labels)),
        )
    ),
    ("splits", splits(labels=[0, 1]), "as many labels as images, and some; got images"),
    ("splits", splits(images=np.zeros((0, 2)), labels=[]),
     "and some; got images [0, 2]"),
    ("splits", splits(labels=np.arange(9) - 1), "classes or tokens from 0; got -1"),
    ("splits", splits(labels=[*"abcdefghi"]), "must be numbers, got <U1"),
    ("splits", splits(images=np.array([[1.0]] * 8 + [[NAN]])),
     "own, training images must be finite, got nan at [8, 0]"),
    ("splits", splits(images=np.full((9, 1), 1e300)), "do not fit into float32"),
    ("splits", splits(labels=np.arange(9) * 2**40), "do not fit into int32"),
    ("splits", splits(images=np.full((9, 1), None)), "must be numbers, got object"),
    ("splits", splits(images=np.zeros((9, 5))), "of one kind; got float32 [5] and"),
    ("splits", splits(labels=np.ones(9)), "training and test labels must be of one"),
    *(
        ("validation", splits(validation=value),
         f"validation must be a whole number from 3 to 8; got {given(value)}")
        for value in (0, 2, 9, 0.2, "3", True)
    ),
    ("load", lambda: data.load("digits", validation=3),
     "validation must be a whole number from 10 to 1436; got 3"),
    ("load", lambda: data.load("digits", test_size=100),
     "test_size 100 is for 'mnist1d'"),
    ("load", lambda: data.load("mnist1d", test_size=0),
     "test_size must be a whole number from 1 to 1000000; got 0"),
    ("load", lambda: data.load("nowhere.npz"), "nowhere.npz: there is no such file"),
    ("load", lambda: data.load("~/nowhere.npz"), "~/nowhere.npz: there is no such"),
    ("normalizer", lambda: data.normalizer("unit", np.ones((0, 3))),
     "train_images must be some; got shape [0, 3]"),
    ("augment", lambda: data.augment(KEY, np.ones((5, 40))),
     "these data are [5, 40]: leave --augment"),
    ("random_resized_crop", lambda: data.random_resized_crop(KEY, np.ones((5, 40)), 8),
     "these data are [5, 40]: leave --augment (augment=) and --crop out"),
    ("random_resized_crop",
     lambda: data.random_resized_crop(KEY, np.ones((2, 8, 8, 1)), 8, area=(0.5, 1.5)),
     "area must be (low, high), of at most 1; got (0.5, 1.5)"),
    ("random_resized_crop",
     lambda: data.random_resized_crop(KEY, np.ones((2, 8, 8, 1)), 8, aspect=(2, 1)),
     "aspect must be (low, high); got (2, 1)"),
    ("centre_crop", lambda: data.centre_crop(np.ones((2, 8, 9, 1)), 9),
     "size must be a whole number from 1 to 8; got 9"),
]  # fmt: skip
API = [
    *(
        Call(name, functools.partial(call, value),
             (f"{argument} {KINDS[kind][0]} {given(value)}",))
        for (name, argument), (kind, call) in NUMBERS.items()
        for value in KINDS[kind][1]
    ),
    *(Call(name, call, says) for name, call, *says in CALLS),
]  # fmt: skip
