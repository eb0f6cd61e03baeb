"""The one protocol for networks, and adapters from four libraries to it."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxticket import stacks


class Model(NamedTuple):
    """A network as two pure functions of plain pytrees.

    Attributes:
      init: `(key, x) -> (params, state)`; ``x`` is a batch, of which only the shape
        and dtype matter. ``state`` is what training updates without a gradient, such
        as batch statistics, or `{}`.
      apply: `(params, state, x, *, train=False, key=None) -> (logits, new_state)`, with
        ``x`` `[batch, ...]` and ``logits`` `[batch, classes]`. ``new_state`` is
        ``state`` unless ``train``; ``key`` is for dropout.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[jax.Array, Any]]


# How a network may ask whether it trains: the name of its argument -> its value then.
_MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "inference": False,
    "use_running_average": False,
}


def _mode(call: Callable, train: bool) -> dict[str, bool]:
    """What a network is told of the mode: the argument of its own name, if any."""
    takes = inspect.signature(call).parameters
    kinds = {parameter.kind for parameter in takes.values()}
    told = {name: train == value for name, value in _MODES.items() if name in takes}
    passes_on = inspect.Parameter.VAR_POSITIONAL in kinds  # as nn.Sequential does
    if not told and inspect.Parameter.VAR_KEYWORD in kinds and not passes_on:
        told = {"train": train}
    return told


def from_linen(module) -> Model:
    """Adapts a `flax.linen` module.

    Args:
      module: called as `module(x)`, and with `train` or another word for it if it takes
        one (`training`, `is_training`, `deterministic`, `use_running_average`); draws
        dropout from the "dropout" stream.

    Returns:
      A `Model` whose params are the "params" collection and whose state holds all
      other collections.
    """

    def init(key, x):
        mode = _mode(module.__call__, False)
        variables = dict(module.init({"params": key}, x, **mode))
        return variables.pop("params", {}), variables

    def apply(params, state, x, *, train=False, key=None):
        variables = {"params": params, **state}
        rngs = None if key is None else {"dropout": key}
        mode = _mode(module.__call__, train)
        if train and state:  # mutable only when there is something to update
            return module.apply(variables, x, **mode, rngs=rngs, mutable=list(state))
        return module.apply(variables, x, **mode, rngs=rngs), state

    return Model(init, apply)


def from_nnx(constructor: Callable) -> Model:
    """Adapts a `flax.nnx` module.

    Args:
      constructor: `(*, rngs) -> nnx.Module`, called as `module(x)`, and with `train` or
        the like if it takes one, see `from_linen`.

    Returns:
      A `Model` of pure dicts. Its state holds batch statistics and the module's own
      random streams, which dropout draws from: ``apply`` ignores ``key``.
    """
    from flax import nnx

    abstract = nnx.eval_shape(lambda: constructor(rngs=nnx.Rngs(0)))
    graphdef, params_like, state_like = nnx.split(abstract, nnx.Param, ...)

    def fill(like, values):
        filled = jax.tree.map(lambda leaf: leaf, like)
        nnx.replace_by_pure_dict(filled, values)
        return filled

    def init(key, x):
        del x
        _, params, state = nnx.split(constructor(rngs=nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

    def apply(params, state, x, *, train=False, key=None):
        del key
        # Without a copy, `grad` may not update the batch statistics in place.
        module = nnx.merge(
            graphdef, fill(params_like, params), fill(state_like, state), copy=True
        )
        if not train:
            module.eval()
            return module(x, **_mode(module.__call__, train)), state
        module.train()
        logits = module(x, **_mode(module.__call__, train))
        return logits, nnx.to_pure_dict(nnx.split(module, nnx.Param, ...)[2])

    return Model(init, apply)


def from_equinox(constructor: Callable, *, axis_name: str = "batch") -> Model:
    """Adapts an `equinox` module, with its batch statistics if it has any.

    Args:
      constructor: `key -> eqx.Module`, given it by that name where it has it. The
        module is called on one example: `module(x)`, and with those of `state` and
        `key` that it takes; outside of training a `key` that it must have is `None`.
        One that keeps a state returns it too: `module(x, state) -> (y, state)`.
      axis_name: of the batch, as `eqx.nn.BatchNorm` in the module names it.

    Returns:
      A `Model` whose params are the module with `None` for what is no inexact array.
      Its kernels are `[out, in]` and `[out, in, height, width]`, its state the leaves
      of an `eqx.nn.State`. Dropout draws from ``key``, and is off unless ``train``.
    """
    import equinox as eqx

    named = "key" in inspect.signature(constructor).parameters
    stated = eqx.nn.make_with_state(constructor)

    def make(key):
        return stated(key=key) if named else stated(key)

    module, empty = make(jax.random.key(0))
    static = eqx.partition(module, eqx.is_inexact_array)[1]
    takes = inspect.signature(module.__call__).parameters
    must = "key" in takes and takes["key"].default is inspect.Parameter.empty
    tree = jax.tree.structure(empty)
    stateful = tree.num_leaves > 0

    def plain(state):
        # Equinox counts in numbers without a dtype of their own.
        leaves = [
            jax.lax.convert_element_type(x, x.dtype) for x in jax.tree.leaves(state)
        ]
        return tuple(leaves) if stateful else {}

    def init(key, x):
        del x
        module, state = make(key)
        return eqx.filter(module, eqx.is_inexact_array), plain(state)

    def apply(params, state, x, *, train=False, key=None):
        module = eqx.nn.inference_mode(eqx.combine(params, static), value=not train)
        draws = train and key is not None and "key" in takes
        keys = jax.random.split(key, len(x)) if draws else None

        def one(x, key):
            told = {} if key is None and not must else {"key": key}
            if stateful:
                return module(x, state=tree.unflatten(state), **told)
            return module(x, **told), ()

        batched = (0, None if keys is None else 0)
        y, new_state = jax.vmap(one, batched, (0, None), axis_name=axis_name)(x, keys)
        return y, plain(new_state) if train and stateful else state

    return Model(init, apply)


def from_haiku(transformed) -> Model:
    """Adapts a `haiku` function.

    Args:
      transformed: from `hk.transform` or `hk.transform_with_state`, of a function of
        `x` that may take a second argument, whether it trains, by any name.

    Returns:
      A `Model` of haiku's plain dicts.
    """
    _, *inputs = list(inspect.signature(transformed.init).parameters)[1:]
    stateful = "state" in inspect.signature(transformed.apply).parameters

    def mode(train):
        # Another name than the usual ones is that of whether it trains.
        return {name: train == _MODES.get(name, True) for name in inputs[:1]}

    def init(key, x):
        found = transformed.init(key, x, **mode(True))  # else batch norm has no state
        return found if stateful else (found, {})

    def apply(params, state, x, *, train=False, key=None):
        if not stateful:
            return transformed.apply(params, key, x, **mode(train)), state
        logits, new_state = transformed.apply(params, state, key, x, **mode(train))
        return logits, (new_state if train else state)

    return Model(init, apply)


def adapted(network) -> Model:
    """A `Model` of whatever network is given.

    Args:
      network: a `Model`, a `flax.linen` module, what haiku's `transform` or
        `transform_with_state` returns, or a constructor that takes `rngs` (`flax.nnx`)
        or `key` (`equinox`).

    Raises:
      ValueError: it is none of them.
    """
    if isinstance(network, Model):
        return network
    made = not isinstance(network, type)
    if made and hasattr(network, "init") and hasattr(network, "apply"):
        is_haiku = isinstance(network, tuple)
        return from_haiku(network) if is_haiku else from_linen(network)
    called = network.__init__ if isinstance(network, type) else network
    takes = inspect.signature(called).parameters if callable(called) else ()
    if "rngs" in takes:
        return from_nnx(network)
    if "key" in takes:
        return from_equinox(network)
    raise ValueError(
        f"no network: {network!r}; give a jaxticket.models.Model, a linen module (no "
        "class), a haiku transform, or a constructor of an nnx module (rngs) or an "
        "equinox module (key)"
    )


def unstacked(model: Model, axes: stacks.Axes) -> Model:
    """The same network with every layer of a stack as a leaf of its own.

    Args:
      model: whose parameters hold stacks, as of `scan` or `vmap` over layers.
      axes: where layers lie, see `stacks.apart`.
    """

    def init(key, x):
        params, state = model.init(key, x)
        return stacks.apart(params, axes), state

    def apply(params, state, x, **options):
        return model.apply(stacks.together(params), state, x, **options)

    return Model(init, apply)
