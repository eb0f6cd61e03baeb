"""Tickets from their files without JAX: with numpy, and scipy where that is faster.

This file imports nothing of jaxticket: copy it to where it is needed, or run it. It
reads what `files.save_ticket` writes, checks all digests, executes nothing, and takes
no more memory than it is told.

    import export
    ticket = export.read("ticket.npz")
    network = export.chain(ticket)
    logits = network(images)  # prepared as those that the ticket was trained on

    python export.py ticket.npz  # what it keeps of every layer
"""

import hashlib
import io
import json
import math
import re
import sys
import time
import zipfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MOST = 2**30  # bytes
_ROOM = 2**21  # bytes of an index
_HEADER = 2**11  # bytes of the header of an array
_AT_ONCE = 2**20  # gaps that are added up in one piece


class Ticket(NamedTuple):
    """What a file holds, by the names of its leaves, as "fc_0/kernel".

    Attributes:
      weights: with zeros for what is pruned; bfloat16 has become float32. Leaves that
        the file has a recipe for are not there.
      masks: of the leaves that can be pruned, bool.
      state: batch statistics and the like; of a random key its data.
      about: the facts.
      kinds: dtype and shape of all leaves, as "weights/fc_0/kernel".
    """

    weights: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    about: dict[str, Any]
    kinds: dict[str, tuple[str, tuple[int, ...]]]


def read(path: str | Path, *, most: int = MOST) -> Ticket:
    """Reads a ticket's file of any version.

    Args:
      path: the file.
      most: bytes that its arrays may take; a file with more is refused unread.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, is no ticket, or has more than `most` bytes.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file")
    try:
        with zipfile.ZipFile(path) as file:
            return _ticket(file, most)
    except Exception as error:  # zipfile, zlib, numpy and json raise many types
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path} is damaged or is no ticket of jaxticket: {reason:.300}"
        ) from error


class Layer(NamedTuple):
    """A dense layer on columns of examples.

    Attributes:
      kernel: `[out, in]`, an array or a sparse matrix.
      bias: `[out, 1]`, or None.
      skips: whether what goes in is added to what comes out.
    """

    kernel: Any
    bias: np.ndarray | None
    skips: bool

    def __call__(self, columns: np.ndarray) -> np.ndarray:
        found = self.kernel @ columns
        return found if self.bias is None else found + self.bias


class Chain(NamedTuple):
    """Dense layers one after another, with ReLU between them.

    Attributes:
      layers: by name, in order.
    """

    layers: dict[str, Layer]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Maps `[batch, ...]` to outputs `[batch, classes]`."""
        columns = np.ascontiguousarray(np.reshape(x, (len(x), -1)).T)
        *hidden, last = self.layers.values()
        for layer in hidden:
            found = np.maximum(layer(columns), 0)
            columns = columns + found if layer.skips else found
        return last(columns).T


def chain(
    ticket: Ticket,
    *,
    layers: Sequence[str] | None = None,
    skips: Collection[str] = (),
    sparse: bool | None = None,
    batch: int = 100,
) -> Chain:
    """The network of a ticket whose layers are dense and follow each other.

    So are "lenet_300_100" and "mlp"; "mlp_1d" with `skips=("fc_1",)`.

    Args:
      ticket: from `read`.
      layers: their names in order; by default as their numbers are, "output" the last.
      skips: those which add what goes in to what comes out of their ReLU.
      sparse: whether kernels are `scipy.sparse.csr_matrix`; by default each is what
        takes less time here, tried on a batch.
      batch: how many examples are tried.

    Raises:
      ValueError: the leaf that does not belong to such a network is named.
    """
    known = {f"weights/{name}" for name in ticket.weights}
    if lost := {name for name in ticket.kinds if name.startswith("weights/")} - known:
        raise ValueError(
            f"{min(lost)} is not in the file, which has a recipe for it: convert it "
            "where JAX is"
        )
    names = _order(ticket.weights) if layers is None else list(layers)
    used, found, width = set(), {}, None
    for name in names:
        kernel = ticket.weights.get(f"{name}/kernel")
        if kernel is None or kernel.ndim != 2 or width not in (None, len(kernel)):
            there = None if kernel is None else list(kernel.shape)
            raise ValueError(
                f"{name}/kernel is {there}: no dense layer for {width} inputs"
            )
        bias = ticket.weights.get(f"{name}/bias")
        used |= {f"{name}/kernel", *(() if bias is None else (f"{name}/bias",))}
        width = kernel.shape[1]
        dense = np.ascontiguousarray(kernel.T)
        found[name] = Layer(
            _fastest(dense, sparse, batch),
            None if bias is None else bias[:, None],
            name in skips,
        )
    if odd := {*ticket.weights} - used:
        raise ValueError(f"{min(odd)} is of no dense layer: the network is no chain")
    return Chain(found)


def _order(weights: Collection[str]) -> list[str]:
    """Layers by the numbers in their names; those without one come last."""
    names = {name.removesuffix("/kernel") for name in weights if "/kernel" in name}

    def place(name):
        numbers = [int(x) for x in re.findall(r"\d+", name)]
        return not numbers, numbers, name

    return sorted(names, key=place)


def _fastest(dense: np.ndarray, sparse: bool | None, batch: int) -> Any:
    """The kernel in the form that is wanted, or that takes less time."""
    if sparse is False:
        return dense
    try:
        from scipy.sparse import csr_matrix
    except ImportError:
        if sparse:
            raise
        return dense
    forms = dense, csr_matrix(dense)
    if sparse:
        return forms[1]
    columns = np.ones((dense.shape[1], batch), dense.dtype)
    return min(forms, key=lambda form: _seconds(lambda: form @ columns))


def _seconds(f: Callable[[], Any]) -> float:
    """What the shortest of a few calls takes, after one."""
    f()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        f()
        times.append(time.perf_counter() - begun)
    return min(times)


def _ticket(file: zipfile.ZipFile, most: int) -> Ticket:
    version, leaves, about = _index(_member(file, "index.json", _ROOM))
    sizes = [math.prod(shape) * _itemsize(dtype) for _, dtype, shape, *_ in leaves]
    if sum(sizes) > most:
        raise ValueError(f"its arrays take {sum(sizes)} bytes, allowed are {most}")
    found: dict[str, dict] = {"weights": {}, "mask": {}, "model_state": {}}
    # Masks first: they say where the values of weights are.
    for name, dtype, shape, digest, form in sorted(
        leaves, key=lambda leaf: not leaf[0].startswith("mask")
    ):
        part, _, leaf = name.partition("/")
        if part not in found or leaf in found[part]:
            raise ValueError(f"it holds {name!r:.80}, which is of no ticket, or twice")
        if form == "rebuilt":
            continue
        size = math.prod(shape) * _itemsize(dtype)
        stored = _array(_member(file, digest, size + _HEADER), digest, version)
        mask = found["mask"].get(leaf) if part == "weights" else None
        found[part][leaf] = _restored(stored, dtype, shape, form, mask)
    kinds = {name: (dtype, shape) for name, dtype, shape, *_ in leaves}
    return Ticket(found["weights"], found["mask"], found["model_state"], about, kinds)


def _index(content: bytes) -> tuple[int, list, dict]:
    """Version, leaves and facts, whose digest is right."""
    text = _rows(content).tobytes().decode()
    index = json.loads(text)
    version = index.get("version", 1)
    if version not in (1, 2, 3):
        raise ValueError(f"it has version {version!r:.40}, known are 1 to 3")
    body, _, rest = text.rpartition(', "sha256": ')
    if version > 1 and rest != f'"{hashlib.sha256(body.encode()).hexdigest()}"}}':
        raise ValueError("the digest of its index differs")
    leaves = []
    for name, dtype, shape, digest, *form in index["leaves"]:
        if not all(isinstance(x, str) for x in (name, dtype, digest, *form)):
            raise ValueError("an entry of its index is no name and dtype")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"{name!r:.80} has no shape")
        leaves.append((name, dtype, tuple(shape), digest, *(form or ["whole"])))
    if not isinstance(index["about"], dict):
        raise ValueError("its facts are none")
    return version, leaves, index["about"]


def _member(file: zipfile.ZipFile, name: str, most: int) -> bytes:
    """What a member holds, of `most` bytes."""
    info = file.getinfo(f"{name}.npy")
    if info.file_size > most or info.compress_size > 2 * most + 64:
        raise ValueError(f"a member has {info.file_size} bytes, allowed are {most}")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"it is compressed by method {info.compress_type}")
    with file.open(info) as member:
        content = member.read(most + 1)
    if len(content) != info.file_size:
        raise ValueError("a member is not as long as it says")
    return content


def _array(content: bytes, digest: str, version: int) -> np.ndarray:
    """The array of a member, whose digest is right."""
    array = _rows(content)
    hashed = array.tobytes() if version == 1 else content
    if hashlib.sha256(hashed).hexdigest() != digest:
        raise ValueError("the digest of an array differs")
    return array


def _rows(content: bytes) -> np.ndarray:
    """An array in numpy's format: of numbers, row after row, and nothing behind it."""
    stream = io.BytesIO(content)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(stream)]
    shape, by_columns, dtype = read(stream, max_header_size=_HEADER)
    if by_columns or dtype.kind not in "biufc":
        raise ValueError("an array is not stored as tickets have it")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape)


def _itemsize(dtype: str) -> int:
    """Bytes of a number, which is at least what is stored of it."""
    if dtype.startswith("key of "):
        return 32
    return 4 if dtype == "bfloat16" else _plain(dtype).itemsize


def _plain(name: str) -> np.dtype:
    dtype = np.dtype(name)
    if dtype.kind not in "biufc" or dtype.name != name:
        raise ValueError(f"numpy has no numbers {name!r:.40}")
    return dtype


def _restored(
    stored: np.ndarray,
    dtype: str,
    shape: tuple[int, ...],
    form: str,
    mask: np.ndarray | None,
) -> np.ndarray:
    """A leaf, from what is stored of it."""
    if dtype.startswith("key of ") and form == "whole":
        return stored.copy()
    if dtype == "bool":
        return _mask(stored, shape, form)
    if mask is not None and mask.shape != shape:
        raise ValueError(f"a mask is {mask.shape}, its weights are {shape}")
    if form == "whole":
        values = _numbers(stored, dtype, shape)
        return values.copy() if mask is None else np.where(mask, values, 0)
    word, _, shorter = form.partition(" as ")
    if word != "kept" or shorter not in ("", "float16", "bfloat16") or mask is None:
        raise ValueError(f"an array is stored as {form!r:.40}")
    kept = _numbers(stored, shorter or dtype, (int(np.count_nonzero(mask)),))
    found = np.zeros(shape, np.float32 if dtype == "bfloat16" else _plain(dtype))
    found[mask] = kept
    return found


def _numbers(stored: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers as they are, those of bfloat16 as float32."""
    if dtype != "bfloat16":
        if stored.dtype != _plain(dtype) or stored.shape != shape:
            raise ValueError(f"{stored.dtype}{list(stored.shape)} is stored, expected "
                             f"{dtype}{list(shape)}")  # fmt: skip
        return stored
    if stored.dtype != np.uint8 or stored.shape != (2 * math.prod(shape),):
        raise ValueError(f"bfloat16{list(shape)} is not stored as its bytes")
    return (stored.view(np.uint16).astype(np.uint32) << 16).view("f4").reshape(shape)


def _mask(stored: np.ndarray, shape: tuple[int, ...], form: str) -> np.ndarray:
    """A mask from its bits, or from its gaps: 255 passes 255 weights and keeps none."""
    size = math.prod(shape)
    if stored.dtype != np.uint8 or stored.ndim != 1 or form not in ("whole", "gaps"):
        raise ValueError("a mask is stored neither by bits nor by gaps")
    if form == "whole":
        if len(stored) != -(-size // 8):
            raise ValueError(f"{8 * len(stored)} bits are stored, expected {size}")
        return np.unpackbits(stored, count=size).view(bool).reshape(shape)
    reach = int(stored.sum(dtype=np.int64)) + int(np.count_nonzero(stored < 255))
    if reach > size:
        raise ValueError(f"gaps reach to {reach} of {size} weights")
    found, at = np.zeros(size, bool), -1
    for begin in range(0, len(stored), _AT_ONCE):
        part = stored[begin : begin + _AT_ONCE]
        places = at + np.cumsum(part + (part < 255).astype(np.int64))
        found[places[part < 255]] = True
        at = places[-1]
    return found.reshape(shape)


def main(arguments: Sequence[str]) -> None:
    """Prints what a file keeps of every layer, and its facts."""
    try:
        if len(arguments) != 1:
            raise ValueError("give the file of a ticket")
        ticket = read(arguments[0])
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    for name, mask in ticket.masks.items():
        kept, shape = np.count_nonzero(mask), "x".join(map(str, mask.shape))
        print(f"{name}  {shape}  {kept:,} of {mask.size:,}  {kept / mask.size:.2%}")
    print(json.dumps(ticket.about))


if __name__ == "__main__":
    main(sys.argv[1:])
