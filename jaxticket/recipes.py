"""What initial weights are made of: names, in place of the numbers.

A recipe of a file is checked before it is followed: it names a network of the zoo that
has the shapes that the reader expects.
"""

import contextlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import checks, models
from jaxticket.base import Params, PRNGKey

_LARGEST = 2**24  # numbers of an example
_WORDS = 64  # letters of a word


class Recipe(NamedTuple):
    """Initial weights: `models.create(model, num_classes, **options).init(key, x)`.

    Attributes:
      model: one of `models.NAMES`; or a word for a network of one's own, which whoever
        reads brings along.
      key: of the draw.
      shape: of one example, as `(28, 28, 1)`.
      num_classes: width of the output layer.
      options: further ones of the network: numbers, words, truths, tuples of them.
    """

    model: str
    key: PRNGKey
    shape: tuple[int, ...]
    num_classes: int = 10
    options: Mapping[str, Any] = {}

    @property
    def is_known(self) -> bool:
        """Whether it can be followed."""
        return self.model in models.NAMES

    def facts(self) -> dict[str, Any]:
        """The recipe in JSON; `read` is the way back."""
        kind, data = str(jax.random.key_impl(self.key)), jax.random.key_data(self.key)
        key = {"kind": kind, "data": np.asarray(data).tolist()}
        return {**self._asdict(), "options": dict(self.options), "key": key}


def read(facts: Any) -> Recipe:
    """The recipe that `Recipe.facts` has made, of a file that may come from anybody.

    Raises:
      ValueError: it is none.
    """
    try:
        kind, data = facts["key"]["kind"], facts["key"]["data"]
        key = jax.random.wrap_key_data(jnp.array(data, jnp.uint32), impl=kind)
        shape = tuple(facts["shape"])
        checks.whole(1)(num_classes=facts["num_classes"])
        for size in shape:
            checks.whole(1, _LARGEST)(shape=size)
        options = {name: _option(value) for name, value in facts["options"].items()}
        if {*facts} != {*Recipe._fields} or key.shape or not _is_word(facts["model"]):
            raise ValueError("its parts are others")
    except Exception as error:  # of whatever stands there
        raise ValueError(f"no recipe of initial weights: {error!s:.200}") from error
    return Recipe(facts["model"], key, shape, facts["num_classes"], options)


def rebuilt(recipe: Recipe, like: Params) -> Params:
    """The initial weights.

    Args:
      recipe: of a network of the zoo.
      like: arrays or `jax.ShapeDtypeStruct`s of the weights that are expected.

    Raises:
      ValueError: the recipe is of other weights, found before any is drawn.
    """
    large = math.prod(recipe.shape) > _LARGEST

    def init(key):
        images = jnp.zeros((1, *recipe.shape), jnp.float32)
        options = dict(recipe.options)
        model = models.create(recipe.model, recipe.num_classes, **options)
        return model.init(key, images)[0]

    try:
        with _few_layers(len(jax.tree.leaves(like))):
            found = None if large else jax.eval_shape(init, recipe.key)
    except Exception as error:  # of a network that its options do not make
        raise ValueError(f"its recipe makes no network: {error!s:.200}") from error
    if found is None or _shapes(found) != _shapes(like):
        raise ValueError("its recipe is of other weights than those expected")
    return jax.jit(init)(recipe.key)


def _few_layers(leaves: int) -> contextlib.AbstractContextManager:
    """Within it no flax network is tried that has many more layers than leaves."""
    from flax import linen as nn

    called: list[str] = []

    def count(call, args, kwargs, context):
        called.append(context.method_name)
        if len(called) > 4 + leaves:  # as few in every network of the zoo
            raise ValueError("it has more layers than those expected")
        return call(*args, **kwargs)

    return nn.intercept_methods(count)


def _option(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_option, value))
    if isinstance(value, bool | int | float) or _is_word(value):
        return value
    raise ValueError(f"an option is {value!r:.40}")


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _WORDS


def _shapes(tree: Params) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(tuple(x.shape), jnp.dtype(x.dtype)) for x in leaves]
