"""Pytrees of arrays in npz files: what is read is checked, and never executed.

Every array is stored under the sha256 of its contents, so a damaged file is noticed and
equal arrays are stored once. Bool arrays are bit-packed. A file is written beside its
place and moved there when it is complete.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import masks
from jaxticket.base import Ticket

_INDEX = "index.json"
_KEY = "key of "  # begins the dtype of random keys, before their kind


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when it is whole."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
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
      **about: JSON values to keep with it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays, leaves = {}, []
    for name, leaf in zip(masks.names(tree), jax.tree.leaves(tree), strict=True):
        stored, dtype, shape = _stored(name, leaf)
        digest = hashlib.sha256(stored.tobytes()).hexdigest()
        arrays[digest] = stored
        leaves.append([name, dtype, list(shape), digest])
    index = json.dumps({"leaves": leaves, "about": about}, allow_nan=False)
    arrays[_INDEX] = np.frombuffer(index.encode(), np.uint8)
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)


def _stored(name: str, leaf: Any) -> tuple[np.ndarray, str, tuple[int, ...]]:
    """What stands in the file for a leaf, and its dtype and shape."""
    if _is_key(leaf):
        impl = jax.random.key_impl(leaf)
        return np.asarray(jax.random.key_data(leaf)), f"{_KEY}{impl}", leaf.shape
    array = np.asarray(leaf)
    # Of this machine's byte order and in order, or its bytes could not be viewed.
    array = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    stored = np.packbits(array) if array.dtype == bool else array
    if stored.dtype.kind not in "biufcV" or stored.dtype.hasobject:
        raise TypeError(f"{name} is {array.dtype}: only arrays of numbers are stored")
    if stored.dtype.kind == "V":  # bfloat16 and its kin: numpy files do not know them
        stored = stored.reshape(-1).view(np.uint8)
    return stored, array.dtype.name, array.shape


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)


def load(path: str | Path, like: Any) -> tuple[Any, dict]:
    """Reads a pytree, checked against its checksums and against what is expected.

    Args:
      path: the file.
      like: a pytree of that structure, with arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      `(tree, about)` with numpy arrays, and random keys, in the structure of `like`.

    Raises:
      ValueError: the file is damaged, or its first leaf that does not fit is named.
    """
    leaves, about = _read(path)
    expected = zip(masks.names(like), jax.tree.leaves(like), strict=True)
    found = []
    for (name, leaf), (there, array) in zip(expected, leaves, strict=False):
        if name != there or array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(
                f"{path} does not fit: expected {name} {leaf.dtype}{list(leaf.shape)}, "
                f"found {there} {array.dtype}{list(array.shape)}"
            )
        found.append(array)
    tree = jax.tree.structure(like)
    if len(leaves) != tree.num_leaves:
        raise ValueError(
            f"{path} does not fit: expected {tree.num_leaves} arrays, "
            f"found {len(leaves)}"
        )
    return tree.unflatten(found), about


def about(path: str | Path) -> dict:
    """The facts that a file holds about its pytree.

    Raises:
      ValueError: the file is damaged.
    """
    return _read(path)[1]


def save_ticket(path: str | Path, ticket: Ticket, **about: Any) -> None:
    """Writes a ticket: its packed mask, the values it keeps, and its model state.

    The values that the mask prunes are not stored; they come back as zeros.
    """
    masks.check(ticket.mask, ticket.weights)
    kept = masks.apply(ticket.mask, ticket.weights)
    save(path, ticket._replace(weights=kept), **about)


def load_ticket(path: str | Path, like: Ticket) -> tuple[Ticket, dict]:
    """Reads a ticket.

    Args:
      path: the file.
      like: a ticket of the same network, with arrays or `jax.ShapeDtypeStruct`s. What
        it prunes does not matter: which leaves have a mask is the file's to say.

    Returns:
      `(ticket, about)`. Where the file was written without a model state, the ticket
      has none, whatever `like` has.

    Raises:
      ValueError: the file is damaged or its first leaf that does not fit is named; it
        does not fit if it has a model state and `like` has none.
    """
    there = {name for name, _ in _read(path)[0]}

    def shape_of_mask(where, w):
        found = f"mask/{masks.name(where)}".rstrip("/") in there
        return jax.ShapeDtypeStruct(w.shape, bool) if found else None

    mask = jax.tree_util.tree_map_with_path(shape_of_mask, like.weights)
    state = like.model_state
    if not any(name.split("/")[0] == "model_state" for name in there):
        state = None if jax.tree.leaves(state) else state
    ticket, about = load(path, Ticket(like.weights, mask, state))
    return jax.tree.map(jnp.asarray, ticket), about


def _read(path: str | Path) -> tuple[list[tuple[str, np.ndarray]], dict]:
    """All leaves of a file, `(name, array)`, after their checksums."""
    try:
        with np.load(path, allow_pickle=False) as file:
            index = json.loads(file[_INDEX].tobytes())
            stored = {name: file[name] for name in file.files if name != _INDEX}
            leaves = [
                (name, _restored(stored[digest], digest, dtype, tuple(shape)))
                for name, dtype, shape, digest in index["leaves"]
            ]
            return leaves, index["about"]
    except FileNotFoundError:
        raise
    except Exception as e:  # zipfile, zlib, numpy and json raise many types
        raise ValueError(f"{path} is damaged or is no jaxticket file: {e}") from e


def _restored(stored, digest, dtype, shape):
    if hashlib.sha256(stored.tobytes()).hexdigest() != digest:
        raise ValueError(f"checksum differs for {digest[:12]}")
    if dtype == "bool":
        size = int(np.prod(shape))
        return np.unpackbits(stored, count=size).astype(bool).reshape(shape)
    if dtype.startswith(_KEY):
        return jax.random.wrap_key_data(stored, impl=dtype.removeprefix(_KEY))
    return stored.view(jnp.dtype(dtype)).reshape(shape)
