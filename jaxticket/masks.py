"""Mask trees: the parameters' structure, with None for every leaf that is never pruned.

`None` is JAX's empty subtree, so `jit`, `vmap`, `scan` and optax pass over it, and the
leaves of a mask are exactly the prunable weights. In `jax.tree.map` the parameters come
first: `tree.map(f, params, mask)` works, `tree.map(f, mask, params)` raises.
"""

import functools
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxticket import counts, highest, kernels, meshes
from jaxticket.base import Mask, Params, Scores

Predicate = Callable[[tuple, jax.Array], bool]
is_kernel = kernels.is_kernel


def full(params: Params, prunable: Predicate | None = None) -> Mask:
    """The mask that keeps everything: where it is decided which leaves can be pruned.

    By default kernels and embeddings can, in any library and in stacks of layers;
    biases and what normalises cannot: see `kernels.found`. To leave some of these out
    take `only` of the mask.

    Args:
      params: pytree of arrays.
      prunable: `(path, leaf) -> bool` with the key path of `jax.tree_util`, in place of
        the default.

    Returns:
      A mask tree, true everywhere.

    Raises:
      ValueError: a leaf is no array, two have one name, or none is prunable.
    """
    names(params)  # by which all else knows the leaves
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    for path, leaf in leaves:
        if not hasattr(leaf, "dtype"):
            raise ValueError(
                f"{name(path)!r} is a {type(leaf).__name__}, expected an array: of an "
                "equinox module take eqx.filter(module, eqx.is_inexact_array)"
            )
    if prunable is None:
        chosen = jax.tree.leaves(kernels.found(params))
    else:
        chosen = [prunable(path, leaf) for path, leaf in leaves]
    if not any(chosen):
        raise ValueError(
            f"none of the {len(leaves)} leaves is prunable: "
            "give a `prunable(path, leaf)` that accepts at least one"
        )
    _warn_if_tied([leaf for leaf, ok in zip(leaves, chosen, strict=True) if ok])
    return tree.unflatten(
        meshes.full_like(leaf, True, bool) if ok else None
        for (_, leaf), ok in zip(leaves, chosen, strict=True)
    )


def _warn_if_tied(leaves: list[tuple[tuple, jax.Array]]) -> None:
    """Warns of one array in two places: they train and are pruned as two."""
    places: dict[int, str] = {}
    for path, leaf in leaves:
        first = places.setdefault(id(leaf), name(path))
        if first != name(path):
            warnings.warn(
                f"{first!r} and {name(path)!r} are one array, and become two that are "
                "trained and pruned apart: to tie them keep one in the parameters and "
                "use it twice in the network",
                stacklevel=3,
            )


def only(mask: Mask, prunable: Predicate) -> Mask:
    """`mask` without the leaves that `prunable(path, leaf)` does not accept.

    The default without the output layer:

        masks.only(masks.full(params), lambda path, _: "head" not in masks.name(path))

    Raises:
      ValueError: no leaf is left.
    """
    left = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if prunable(path, leaf) else None, mask
    )
    if not jax.tree.leaves(left):
        raise ValueError(f"none of {names(mask)} is accepted: nothing is prunable")
    return left


def prunable_like(tree: Params, mask: Mask) -> Params:
    """The leaves of `tree` that `mask` covers, `None` in place of the others."""
    try:
        return jax.tree.map(lambda leaf, m: None if m is None else leaf, tree, mask)
    except ValueError:
        _check_alike(tree, mask)
        raise


def together(f: Callable, tree: Params, other: Params) -> Params:
    """`jax.tree.map(f, tree, other)` of arrays of the same shapes.

    Raises:
      ValueError: the trees are of two networks; it names the first leaf that differs.
    """

    def fitting(x, y):
        if x is not None and y is not None and jnp.shape(x) != jnp.shape(y):
            raise ValueError
        return f(x, y)

    try:
        return jax.tree.map(fitting, tree, other)
    except ValueError:
        _check_alike(tree, other)
        raise


def _check_alike(tree: Params, other: Params) -> None:
    """Raises a `ValueError` for the first leaf that two trees do not have alike."""
    ours, theirs = (
        dict(zip(names(each), map(jnp.shape, jax.tree.leaves(each)), strict=True))
        for each in (tree, other)
    )
    for name_ in [*theirs, *ours]:
        if ours.get(name_) != theirs.get(name_):
            one, two = (x.get(name_, "missing") for x in (ours, theirs))
            raise ValueError(
                f"two trees are not of one network: {name_!r} is {one} in the first "
                f"and {two} in the second; take both from the same parameters"
            )


def apply(mask: Mask, params: Params) -> Params:
    """`params` with a true zero wherever the mask is false, whatever stood there."""
    return _under(
        lambda w, m: w if m is None else jnp.where(m, w, jnp.zeros((), w.dtype)),
        params,
        mask,
    )


def either(mask: Mask, params: Params, other: Params) -> Params:
    """`params` where the mask is true, and in leaves without one; else `other`."""
    return _under(
        lambda w, m, o: w if m is None else jnp.where(m, w, o), params, mask, other
    )


def known(mask: Mask, params: Params, reader: str) -> Params:
    """`params`, for what reads the values that `mask` prunes too.

    In a ticket from a file that was written without them they are NaN.

    Args:
      mask: a mask tree.
      params: what is read.
      reader: what reads it, for the message.

    Returns:
      `params`. In a program that is traced, a leaf that lacks a value is NaN
      altogether: what comes of it is no number, and not a wrong one.

    Raises:
      ValueError: a value is not there. The leaf is named.
    """

    def of_leaf(path, w, m):
        if m is None or not jnp.issubdtype(w.dtype, jnp.inexact):
            return w
        if isinstance(w, jax.core.Tracer) or isinstance(m, jax.core.Tracer):
            return jnp.where(jnp.any(jnp.isnan(w) & ~m), jnp.nan, w)
        with jax.ensure_compile_time_eval():  # a trace may be under way
            lacking = bool(jnp.any(jnp.isnan(w) & ~m))
        if lacking:
            raise ValueError(
                f"{reader} reads what the mask prunes, and of {name(path)!r} that is "
                "not there (NaN): a file keeps it if it was written by "
                "save_ticket(..., pruned='keep')"
            )
        return w

    return jax.tree_util.tree_map_with_path(of_leaf, params, mask)


def scale(mask: Mask, params: Params, factor: ArrayLike) -> Params:
    """`params` with every leaf that `mask` covers multiplied by `factor`."""
    return _under(
        lambda w, m: w if m is None else w * jnp.asarray(factor, w.dtype), params, mask
    )


def _under(f: Callable, params: Params, mask: Mask, *others: Params) -> Params:
    """`f(weights, mask, ...)` of every leaf; the first that does not fit is named."""

    def fitting(w, m, *more):
        if m is not None and (not _is_bool(m) or m.shape != w.shape):
            raise ValueError
        return f(w, m, *more)

    try:
        return jax.tree.map(fitting, params, mask, *others)
    except (AttributeError, ValueError, TypeError):
        check(mask, params)
        raise


def count(mask: Mask) -> jax.Array | counts.Count:
    """How many weights are kept: int32 scalar.

    Of 2**31 weights or more a `counts.Count`, which JAX's whole numbers cannot hold.

    Raises:
      ValueError: a leaf of 2**31 weights or more, or one that is not bool.
    """
    _check_bools(mask)
    of_leaves = list(map(highest.count, jax.tree.leaves(mask)))
    if size(mask) < counts.ONE_WORD:
        return sum(of_leaves)
    check_sizes(mask)
    return counts.total(jnp.stack(of_leaves))


def _check_bools(mask: Mask) -> None:
    """Raises a `ValueError` for gates that are half open, and other numbers."""
    if all(map(_is_bool, jax.tree.leaves(mask))):
        return
    for name_, leaf in named(mask).items():
        if not _is_bool(leaf):
            raise ValueError(
                f"mask at {name_!r} is {jnp.result_type(leaf)}, expected bool: say "
                "which gates are open, as gates > 0"
            )


def warn_if_empty(mask: Mask, remedy: str) -> None:
    """Warns of a ticket that keeps nothing, where it can be seen: outside of `jit`."""
    some = [jnp.any(leaf) for leaf in jax.tree.leaves(mask)]
    known = not any(isinstance(one, jax.core.Tracer) for one in some)
    if some and known and not any(some):
        warnings.warn(f"the ticket keeps no weight: {remedy}", stacklevel=3)


def check_some(mask: Mask) -> None:
    """Raises a `ValueError` for a mask that covers no leaf."""
    if not jax.tree.leaves(mask):
        raise ValueError("the mask covers no leaf: there is nothing to keep")


def check_sizes(mask: Mask) -> None:
    """Raises a `ValueError` for a leaf that has more weights than can be counted."""
    if size(mask) < counts.ONE_WORD:
        return
    for name_, leaf in named(mask).items():
        if leaf.size >= counts.ONE_WORD:
            raise ValueError(
                f"{name_!r} has {leaf.size} weights, and a leaf can have at most "
                f"{counts.ONE_WORD - 1}: take a stack of layers apart, by stacks.apart"
            )


def layer_counts(mask: Mask) -> dict[str, int]:
    """How many weights each leaf of a mask that is not traced keeps, by its name."""
    counts = (int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(mask))
    return dict(zip(names(mask), counts, strict=True))


def total(scores: Scores) -> jax.Array:
    """The sum of all numbers of a mask tree, in float32 at least."""
    return sum(
        jnp.sum(leaf, dtype=leaf.dtype if leaf.dtype == jnp.float64 else jnp.float32)
        for leaf in jax.tree.leaves(scores)
    )


def size(mask: Mask) -> int:
    """How many weights are prunable."""
    return sum(leaf.size for leaf in jax.tree.leaves(mask))


def density(mask: Mask) -> jax.Array:
    """The fraction of prunable weights that is kept: float32 scalar in [0, 1].

    Raises:
      ValueError: there are none.
    """
    check_some(mask)
    return count(mask) / size(mask)


def layer_densities(mask: Mask) -> Scores:
    """The fraction kept of every leaf: a mask tree of scalars."""
    _check_bools(mask)
    return jax.tree.map(lambda leaf: jnp.mean(leaf, dtype=jnp.float32), mask)


def overlap(mask: Mask, other: Mask) -> jax.Array:
    """The fraction of the weights kept by `mask` that `other` keeps too, in [0, 1].

    Two independent masks overlap by about the density of `other`, layer by layer.
    """
    both = together(jnp.logical_and, mask, other)
    return count(both) / jnp.maximum(counts.as_float(count(mask)), 1)


def nested(inner: Mask, outer: Mask) -> jax.Array:
    """Whether `outer` keeps every weight that `inner` keeps: bool scalar."""
    beyond = together(lambda i, o: jnp.any(i & ~o), inner, outer)
    return ~functools.reduce(
        jnp.logical_or, jax.tree.leaves(beyond), jnp.asarray(False)
    )


def name(path: tuple) -> str:
    """A key path as `dense/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def names(tree: Params) -> list[str]:
    """The name of every leaf, in the order of `jax.tree.leaves`.

    Raises:
      ValueError: two have one name, as `{"a/b": w}` beside `{"a": {"b": w}}`.
    """
    found = [name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    if len(set(found)) < len(found):
        twice = next(each for each in found if found.count(each) > 1)
        raise ValueError(f"two leaves are called {twice!r}: rename one of their keys")
    return found


def named(tree: Params) -> dict[str, jax.Array]:
    """Every leaf by its name, in the order of `jax.tree.leaves`; see `names`."""
    return dict(zip(names(tree), jax.tree.leaves(tree), strict=True))


def check(mask: Mask, params: Params) -> None:
    """Raises a `ValueError` naming the first leaf where `mask` does not fit `params`.

    It fits when it is `None` or a bool array of the leaf's shape at every leaf.
    """
    ours, theirs = (
        {
            name(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(
                tree, is_leaf=lambda leaf: leaf is None
            )
        }
        for tree in (params, mask)
    )
    for path in [*ours, *theirs]:
        if path not in theirs:
            raise ValueError(f"mask has no leaf {path!r}: give a bool array or None")
        leaf = theirs[path]
        if path not in ours or (ours[path] is None and leaf is not None):
            swapped = path in ours and not _is_bool(leaf)
            hint = "; the mask comes first" if swapped else ""
            raise ValueError(
                f"mask has a leaf {path!r}, where the parameters have none{hint}"
            )
        if leaf is None:
            continue
        if jnp.shape(leaf) != jnp.shape(ours[path]):
            raise ValueError(
                f"mask at {path!r} has shape {jnp.shape(leaf)}, "
                f"the parameter has {jnp.shape(ours[path])}"
            )
        if not _is_bool(leaf):
            hint = "; the mask comes first" if _is_bool(ours[path]) else ""
            raise ValueError(
                f"mask at {path!r} is {jnp.result_type(leaf)}, expected bool{hint}"
            )


def _is_bool(leaf: jax.Array) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.bool_)
