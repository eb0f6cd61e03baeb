"""Pytrees of arrays, and tickets, in npz files: checked when read, never executed.

The reader says what to expect, and a file that does not hold just that is refused
before its arrays are touched: see `archive`. Bool arrays are bit-packed, and of a
ticket only the values that it keeps are stored: see `packing`. A file is written beside
its place and moved there when it is complete.
"""

import contextlib
import functools
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import archive, checks, masks, meshes, packing, recipes
from jaxticket.archive import REBUILT, WHOLE, Archive, Leaf
from jaxticket.base import Params, Ticket
from jaxticket.recipes import Recipe

Pruned = Literal["drop", "keep"]
Values = Literal["float16", "bfloat16"]

_KEPT = "kept"  # the form of the values under a mask that is true
_ROUNDED = {f"{_KEPT} as {name}": name for name in get_args(Values)}
_FORMS = {"weights": (_KEPT, *_ROUNDED, REBUILT), "mask": (packing.GAPS,)}

_KEY = "key of "  # begins the dtype of random keys, before their kind


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when it is whole."""
    path = Path(path)
    # Of threads, and of processes on several machines, each has a file of its own.
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        if error.errno and not error.filename:  # a full disk does not say where
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def write(path: str | Path, content: str | bytes) -> None:
    """Replaces a file in one move: a half-written one never takes its place."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def save(path: str | Path, tree: Any, **about: Any) -> None:
    """Writes a pytree of arrays, and facts about it as JSON.

    Args:
      path: the file, by custom ending in `.npz`. Its folder is made where there is
        none.
      tree: pytree of arrays, random keys among them; `None` leaves stay `None`.
      **about: JSON values to keep with it; numbers of numpy and jax become Python's.

    Raises:
      TypeError: a leaf is no array of numbers, or a fact no JSON value: it is named.
      ValueError: a fact is a number that is not finite, or they take more than half a
        megabyte.
    """
    leaves = zip(masks.names(tree), jax.tree.leaves(tree), strict=True)
    _write(path, [_stored(name, leaf) for name, leaf in leaves], about)


def _write(path: str | Path, arrays: list, about: dict[str, Any]) -> None:
    facts = {key: _plain(key, value) for key, value in about.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        archive.write(file, arrays, facts)


def load(path: str | Path, like: Any) -> tuple[Any, dict]:
    """Reads a pytree, checked against its digests and against what is expected.

    Args:
      path: the file, of this version of the format or one before.
      like: a pytree of that structure, with arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      `(tree, about)` with numpy arrays, and random keys, in the structure of `like`.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: it is damaged, or its first leaf that does not fit is named.
    """
    with archive.opened(path, _expected(like)) as file:
        return _fitting(path, file, like), file.about


def about(path: str | Path, like: Any) -> dict:
    """The facts that a file holds about its pytree, whose arrays are not looked at.

    Args:
      path: see `load`.
      like: a pytree of as many leaves.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: it is damaged.
    """
    with archive.opened(path, _expected(like)) as file:
        return file.about


def save_ticket(
    path: str | Path,
    ticket: Ticket,
    *,
    pruned: Pruned = "drop",
    values: Values | None = None,
    recipe: Recipe | None = None,
    **about: Any,
) -> float:
    """Writes a ticket: its mask in few bytes, its weights, and its model state.

    What is in shards, on the devices of a mesh, comes to the host leaf by leaf: there
    is no more there at once than the largest, and what the file is to hold. Where other
    processes have some of the shards, all of them call this, and the first writes.

    Args:
      path: the file, see `save`.
      ticket: what to write.
      pruned: what becomes of the values that the mask prunes. `drop` leaves them out,
        and they come back as NaN: what reads them, as a shuffled control does, refuses
        such a ticket, see `masks.known`. `keep` writes them too. Leaves of a
        dtype without NaN, as integers, are always written whole.
      values: a shorter dtype for the values that the mask keeps; they come back in the
        dtype that they had. The facts `values` and `largest_error` say so.
      recipe: what the weights are made of. Then none is written, and all come back,
        pruned ones too; the fact `recipe` has it, and a digest of every leaf is kept.
      **about: JSON values to keep with it, see `save`. Those of a file that was read
        may be handed on.

    Returns:
      By how much a value is off at most; 0 without `values`.

    Raises:
      TypeError: see `save`.
      ValueError: an unknown `pruned` or `values`, or one that does not go with the
        others; a value that the shorter dtype does not reach; weights that are not
        those of the recipe; a mask that does not fit the weights, two leaves of one
        name; and see `save`.
    """
    checks.one_of(get_args(Pruned))(pruned=pruned)
    if values is not None:
        checks.one_of(get_args(Values))(values=values)
    if [pruned == "keep", values is not None, recipe is not None].count(True) > 1:
        raise ValueError("give one of pruned='keep', values and recipe, not two")
    masks.check(ticket.mask, ticket.weights)
    masks.names(ticket.weights)  # refuses two of one name
    names, pairs, error = masks.names(ticket), _pairs(ticket), 0.0
    arrays: list[tuple[Leaf, np.ndarray | None]]
    if recipe is not None:
        recipe = recipe if isinstance(recipe, Recipe) else recipes.read(recipe)
        initial = _initial(ticket, recipe)
        arrays = [_rebuilt(*leaf) for leaf in zip(names, initial, strict=False)]
        about |= {"recipe": recipe.facts()}
    else:
        leaves = zip(names, pairs, strict=False)
        found = [
            _kept(name, meshes.on_host(w), meshes.on_host(m), pruned, values)
            for name, (w, m) in leaves
        ]
        arrays, errors = map(list, zip(*found, strict=True))
        error = max(errors)
    if values is not None:
        error += about.get("largest_error", 0.0)
        about |= {"values": values, "largest_error": error}
    kept = jax.tree.leaves(ticket.mask)
    arrays += map(_mask, names[len(pairs) :], kept)
    state = jax.tree.leaves(ticket.model_state)
    state = map(meshes.on_host, state)
    arrays += map(_stored, names[len(pairs) + len(kept) :], state)
    if _is_first_of(ticket):
        _write(path, arrays, about)
    return error


def _is_first_of(ticket: Ticket) -> bool:
    """Whether this process is to write a ticket: one of those that have it is."""
    arrays = [leaf for leaf in jax.tree.leaves(ticket) if isinstance(leaf, jax.Array)]
    return all(leaf.is_fully_addressable for leaf in arrays) or not jax.process_index()


def load_ticket(
    path: str | Path, like: Ticket, *, initial: Params | None = None
) -> tuple[Ticket, dict]:
    """Reads a ticket.

    Args:
      path: the file.
      like: a ticket of the same network, with arrays or `jax.ShapeDtypeStruct`s. What
        it prunes does not matter: which leaves have a mask is the file's to say.
      initial: the weights, for a file that has a recipe in their place; by default they
        are rebuilt, which takes a network of the zoo.

    Returns:
      `(ticket, about)`. Where the file was written without a model state, the ticket
      has none, whatever `like` has. Pruned values that the file does not have are NaN,
      see `save_ticket`; no file of version 1 has them.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: the file is damaged or its first leaf that does not fit is named; it
        does not fit if it has a model state and `like` has none, or if the weights of
        its recipe are not those that it was written of, bit for bit.
    """
    masked = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, bool), like.weights)
    most = Ticket(like.weights, masked, like.model_state)
    with archive.opened(path, _expected(most)) as file:
        there = {leaf.name for leaf in file.leaves}

        def found(where, leaf):
            name = f"mask/{masks.name(where)}" if where else "mask"
            return leaf if name in there else None

        mask = jax.tree_util.tree_map_with_path(found, masked)
        state = like.model_state
        if not any(name.split("/")[0] == "model_state" for name in there):
            state = None if jax.tree.leaves(state) else state
        ticket = _ticket(path, file, Ticket(like.weights, mask, state), initial)
    if file.version == 1:  # which has zeros there
        _check_nan(path, ticket)
        ticket = _without_pruned(ticket)
    return jax.device_put(ticket), file.about


def _pairs(ticket: Ticket) -> list[tuple[Any, Any]]:
    """Every leaf of the weights with its mask, or with `None`."""
    pairs: list[tuple[Any, Any]] = []
    jax.tree.map(lambda w, m: pairs.append((w, m)), ticket.weights, ticket.mask)
    return pairs


def _kept(name: str, w: Any, m: Any, pruned: Pruned, values: Values | None) -> tuple:
    """What is stored of a leaf of the weights, and by how much it is off."""
    said, whole = _stored(name, w)
    if m is None or pruned == "keep" or not _has_nan(w.dtype):
        return (said, whole), 0.0
    kept, form, error = np.asarray(w)[np.asarray(m)], _KEPT, 0.0
    if values and jnp.issubdtype(kept.dtype, jnp.floating) and kept.dtype.itemsize > 2:
        try:
            kept, error = packing.rounded(kept, jnp.dtype(values))
        except ValueError as reason:
            raise ValueError(f"{name}: {reason}") from None
        form = f"{_KEPT} as {values}"
    return (said._replace(form=form), _stored(name, kept)[1]), error


def _mask(name: str, mask: Any) -> tuple[Leaf, np.ndarray]:
    form, stored = packing.of_mask(np.asarray(meshes.on_host(mask)))
    return Leaf(name, "bool", mask.shape, form=form), stored


def _rebuilt(name: str, leaf: Any) -> tuple[Leaf, None]:
    said, stored = _stored(name, leaf)
    return said._replace(digest=archive.digest(stored), form=REBUILT), None


def _initial(ticket: Ticket, recipe: Recipe) -> list[Any]:
    """The leaves that a recipe makes.

    Raises:
      ValueError: those that the ticket keeps are others.
    """
    if not recipe.is_known:
        masks.known(ticket.mask, ticket.weights, "a recipe of a network of one's own")
        return jax.tree.leaves(ticket.weights)
    made = jax.tree.leaves(recipes.rebuilt(recipe, ticket.weights))
    names = masks.names(ticket.weights)
    for name, (w, m), new in zip(names, _pairs(ticket), made, strict=True):
        ours, theirs = (np.asarray(x)[... if m is None else m] for x in (w, new))
        if ours.tobytes() != theirs.tobytes():
            raise ValueError(
                f"the weights {name} are not those of the recipe: only a ticket of "
                "initial weights has one"
            )
    return made


def _without_pruned(ticket: Ticket) -> Ticket:
    """The ticket with NaN for every value that it prunes, where the dtype has it."""

    def forget(w, m):
        if m is None or not _has_nan(w.dtype):
            return w
        return np.where(m, w, np.full((), np.nan).astype(w.dtype))

    return ticket._replace(weights=jax.tree.map(forget, ticket.weights, ticket.mask))


def _check_nan(path: str | Path, ticket: Ticket) -> None:
    """Raises a `ValueError` where zeros of a file would be taken for values."""
    prunable = masks.prunable_like(ticket.weights, ticket.mask)
    for leaf, m in zip(_expected(prunable), jax.tree.leaves(ticket.mask), strict=True):
        if not m.all() and not _has_nan(jnp.dtype(leaf.dtype)):
            raise ValueError(
                f"{path} lacks what the mask of {leaf.name} prunes, and {leaf.dtype} "
                "has no NaN to say so"
            )


def _has_nan(dtype: Any) -> bool:
    if not jnp.issubdtype(dtype, jnp.inexact):
        return False
    return bool(np.isnan(np.full((), np.nan).astype(dtype)))


def _ticket(
    path: str | Path, file: Archive, like: Ticket, initial: Params | None
) -> Ticket:
    """The ticket in a file, which holds just the leaves of `like`: the mask first."""
    with_forms = _check_fits(path, file, like, forms=True)
    mask = jax.tree.map(lambda ours, leaf: _bits(path, file, leaf, ours),
                        like.mask, with_forms.mask)  # fmt: skip
    if any(leaf.form == REBUILT for leaf in file.leaves):
        initial = _made(path, file.about, like.weights, initial)

    def read(ours, m, leaf, made):
        if leaf.form == WHOLE:
            return _restored(file.array(leaf, *_layout(ours)), ours)
        if leaf.form == REBUILT:
            return _checked(path, leaf, made)
        with archive.refusing(path, leaf):
            if m is None or not _has_nan(ours.dtype):
                raise ValueError("only what a mask prunes may be left out")
            dtype = jnp.dtype(_ROUNDED.get(leaf.form, ours.dtype))
            kept = jax.ShapeDtypeStruct((int(np.count_nonzero(m)),), dtype)
        values = _restored(file.array(leaf, *_layout(kept)), kept)
        found = np.full(ours.shape, np.full((), np.nan).astype(ours.dtype))
        found[m] = values.astype(ours.dtype)
        return found

    made = like.weights if initial is None else initial
    weights = jax.tree.map(read, like.weights, mask, with_forms.weights, made)
    state = jax.tree.map(
        lambda ours, leaf: _restored(file.array(leaf, *_layout(ours)), ours),
        like.model_state,
        with_forms.model_state,
    )
    return Ticket(weights, mask, state)


def _bits(path: str | Path, file: Archive, leaf: Leaf, like: Any) -> np.ndarray:
    """A mask, from what is stored of it."""
    if leaf.form == WHOLE:
        return _restored(file.array(leaf, *_layout(like)), like)
    size = math.prod(like.shape)
    gaps = file.row(leaf, size)
    with archive.refusing(path, leaf):
        return packing.mask_of(gaps, like.shape)


def _made(
    path: str | Path, about: dict, like: Params, initial: Params | None
) -> Params:
    """The weights that a file has a recipe for: those given, or made by it."""
    if initial is not None:
        masks.together(lambda ours, theirs: None, initial, like)
        return initial
    try:
        recipe = recipes.read(about.get("recipe"))
        if recipe.is_known:
            return recipes.rebuilt(recipe, like)
        raise ValueError(f"the weights of {recipe.model!r} must be given as `initial`")
    except ValueError as error:
        raise ValueError(f"{path} has no weights, and {error}") from error


def _checked(path: str | Path, leaf: Leaf, made: Any) -> np.ndarray:
    """A leaf of weights given, or made by a recipe, if it is the one of the file."""
    made = np.asarray(made)
    if archive.digest(_stored(leaf.name, made)[1]) != leaf.digest:
        raise ValueError(
            f"{path} has no weights, and those that were given or that its recipe "
            f"makes, as by another version of JAX, are others: {leaf}"
        )
    return made


def _fitting(path: str | Path, file: Archive, like: Any) -> Any:
    """The tree in a file, which holds just the leaves of `like`, whole."""
    leaves = _check_fits(path, file, like, forms=False)
    return jax.tree.map(
        lambda ours, leaf: _restored(file.array(leaf, *_layout(ours)), ours),
        like,
        leaves,
    )


def _check_fits(path: str | Path, file: Archive, like: Any, *, forms: bool) -> Any:
    """The leaves of a file in the structure of `like`, which has just these.

    Raises:
      ValueError: it does not; or a leaf has a form that its place may not have.
    """
    expected = _expected(like)
    for ours, theirs in zip(expected, file.leaves, strict=False):
        may = _FORMS.get(ours.name.partition("/")[0], ()) if forms else ()
        if ours[:3] != theirs[:3] or theirs.form not in (WHOLE, *may):
            raise ValueError(f"{path} does not fit: expected {ours}, found {theirs}")
    if len(expected) != len(file.leaves):
        raise ValueError(
            f"{path} does not fit: expected {len(expected)} arrays, "
            f"found {len(file.leaves)}"
        )
    return jax.tree.structure(like).unflatten(file.leaves)


def _expected(like: Any) -> list[Leaf]:
    """What the index says of a file that fits."""
    return [
        Leaf(name, _dtype(leaf), tuple(leaf.shape))
        for name, leaf in zip(masks.names(like), jax.tree.leaves(like), strict=True)
    ]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)


def _dtype(leaf: Any) -> str:
    """What files call the dtype of a leaf."""
    if not _is_key(leaf):
        return jnp.dtype(leaf.dtype).name
    return f"{_KEY}{_kind(leaf.dtype)[0]}"


@functools.cache
def _kind(dtype: Any) -> tuple[str, Any]:
    """The kind of random keys of a dtype, and the shape and dtype of one's data."""
    kinds: list[str] = []  # it is known of an array alone: a traced one will do

    def data(key):
        kinds.append(jax.random.key_impl(key))
        return jax.random.key_data(key)

    shaped = jax.eval_shape(data, jax.ShapeDtypeStruct((), dtype))
    return kinds[0], shaped


def _is_stored_as_bytes(dtype: np.dtype) -> bool:
    return dtype.kind == "V"  # bfloat16 and its kin: numpy files do not know them


def _stored(name: str, leaf: Any) -> tuple[Leaf, np.ndarray]:
    """What a file says of a leaf, and what stands there for it."""
    if _is_key(leaf):
        data = np.asarray(jax.random.key_data(leaf))
        return Leaf(name, _dtype(leaf), leaf.shape), data
    array = np.asarray(leaf)
    if array.dtype != bool and not jnp.issubdtype(array.dtype, jnp.number):
        raise TypeError(f"{name} is {array.dtype}: only arrays of numbers are stored")
    # Of this machine's byte order and in order, or its bytes could not be viewed.
    array = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    stored = np.packbits(array) if array.dtype == bool else array
    if _is_stored_as_bytes(stored.dtype):
        stored = stored.reshape(-1).view(np.uint8)
    return Leaf(name, _dtype(array), array.shape), stored


def _layout(like: Any) -> tuple[np.dtype, tuple[int, ...]]:
    """dtype and shape of what stands in a file for such a leaf."""
    if _is_key(like):
        _, data = _kind(like.dtype)
        return np.dtype(data.dtype), (*like.shape, *data.shape)
    dtype, size = np.dtype(like.dtype).newbyteorder("="), math.prod(like.shape)
    if dtype.kind == "b":
        return np.dtype(np.uint8), (-(-size // 8),)
    if _is_stored_as_bytes(dtype):
        return np.dtype(np.uint8), (size * dtype.itemsize,)
    return dtype, tuple(like.shape)


def _restored(stored: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(stored, impl=_kind(like.dtype)[0])
    dtype = np.dtype(like.dtype).newbyteorder("=")
    if dtype.kind == "b":
        bits = np.unpackbits(stored, count=math.prod(like.shape))
        return bits.view(bool).reshape(like.shape)
    return stored.view(dtype).reshape(like.shape)


def _plain(key: str, value: Any) -> Any:
    """A fact as JSON has it; `key` says where it stands."""
    if isinstance(value, np.generic | np.ndarray | jax.Array) and not _is_key(value):
        value = np.asarray(value).tolist()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} is {value}: only finite numbers are kept")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(f"{key}[{i}]", x) for i, x in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _plain(f"{key}[{name!r}]", x) for name, x in value.items()}
    raise TypeError(
        f"{key} is a {type(value).__name__}: a fact about a file is a JSON value, of "
        "numbers, words, lists and dicts with words as keys"
    )
