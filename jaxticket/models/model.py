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


def from_linen(module) -> Model:
    """Adapts a `flax.linen` module.

    Args:
      module: called as `module(x, train=...)`; draws dropout from the "dropout" stream.

    Returns:
      A `Model` whose params are the "params" collection and whose state holds all
      other collections.
    """

    def init(key, x):
        variables = dict(module.init({"params": key}, x, train=False))
        return variables.pop("params"), variables

    def apply(params, state, x, *, train=False, key=None):
        variables = {"params": params, **state}
        rngs = None if key is None else {"dropout": key}
        if train and state:  # mutable only when there is something to update
            return module.apply(
                variables, x, train=True, rngs=rngs, mutable=list(state)
            )
        return module.apply(variables, x, train=train, rngs=rngs), state

    return Model(init, apply)


def from_nnx(constructor: Callable) -> Model:
    """Adapts a `flax.nnx` module.

    Args:
      constructor: `(*, rngs) -> nnx.Module`, called as `module(x)`.

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
            return module(x), state
        module.train()
        logits = module(x)
        return logits, nnx.to_pure_dict(nnx.split(module, nnx.Param, ...)[2])

    return Model(init, apply)


def from_equinox(constructor: Callable) -> Model:
    """Adapts an `equinox` module without state.

    Args:
      constructor: `key -> eqx.Module`, which is called on one example.

    Returns:
      A `Model` whose params are the module with `None` for what is no inexact array.
      Its kernels are `[out, in]` and `[out, in, height, width]`; ``apply`` ignores
      ``train`` and ``key``.
    """
    import equinox as eqx

    static = eqx.partition(constructor(jax.random.key(0)), eqx.is_inexact_array)[1]

    def init(key, x):
        del x
        return eqx.filter(constructor(key), eqx.is_inexact_array), {}

    def apply(params, state, x, *, train=False, key=None):
        del train, key
        return jax.vmap(eqx.combine(params, static))(x), state

    return Model(init, apply)


def from_haiku(transformed) -> Model:
    """Adapts a `haiku` function.

    Args:
      transformed: from `hk.transform_with_state(lambda x, train: ...)`.

    Returns:
      A `Model` of haiku's plain dicts.
    """

    def init(key, x):
        return transformed.init(key, x, True)  # else batch norm makes no state

    def apply(params, state, x, *, train=False, key=None):
        logits, new_state = transformed.apply(params, state, key, x, train)
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
    if hasattr(network, "init") and hasattr(network, "apply"):
        is_haiku = isinstance(network, tuple)
        return from_haiku(network) if is_haiku else from_linen(network)
    called = network.__init__ if isinstance(network, type) else network
    takes = inspect.signature(called).parameters if callable(called) else ()
    if "rngs" in takes:
        return from_nnx(network)
    if "key" in takes:
        return from_equinox(network)
    raise ValueError(
        f"no network: {network!r}; give a jaxticket.models.Model, a linen module, a "
        "haiku transform, or a constructor of an nnx module (rngs) or an equinox "
        "module (key)"
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
