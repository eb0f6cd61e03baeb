"""Ticket files taken apart and put together: their bytes, members, arrays and index."""

import functools
import io
import json
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import archive, files, masks

INDEX = f"{archive.INDEX}.npy"
Member = tuple[str, bytes]  # its name and what it holds, unpacked


class Field(NamedTuple):
    """A number in the headers of a member: its places in the two, and its format."""

    central: int
    local: int | None
    form: str


FIELDS = {
    "flags": Field(8, 6, "<H"),
    "method": Field(10, 8, "<H"),
    "checksum": Field(16, 14, "<I"),
    "packed size": Field(20, 18, "<I"),
    "size": Field(24, 22, "<I"),
    "place": Field(42, None, "<I"),
}


def first_version(tree: Any, about: dict) -> bytes:
    """A file as version 1 of the format had it: no digest of the index, zeros."""
    arrays, leaves = {}, []
    for name, leaf in zip(masks.names(tree), jax.tree.leaves(tree), strict=True):
        said, stored = files._stored(name, leaf)
        digest = archive.sha256(stored.tobytes())
        arrays[digest] = stored
        leaves.append([*said[:3], digest])
    index = json.dumps({"leaves": leaves, "about": about})
    arrays[archive.INDEX] = np.frombuffer(index.encode(), np.uint8)
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def second_version(tree: Any, about: dict) -> bytes:
    """A file as it is written of a tree: every leaf whole."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.npz"
        files.save(path, tree, **about)
        return path.read_bytes()


def third_version(tree: Any, about: dict) -> bytes:
    """The same, that says so of every leaf."""
    given = members(second_version(tree, about))
    found = index(given) | {"version": 3}
    for entry in found["leaves"]:
        entry.append(archive.WHOLE)
    return packed(with_text(given, text(found, True)))


def members(content: bytes) -> list[Member]:
    return [*_members(content)]


@functools.lru_cache(2)
def _members(content: bytes) -> list[Member]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def packed(
    given: Iterable[Member],
    method: int = zipfile.ZIP_STORED,
    extra: bytes = b"",
    comment: bytes = b"",
) -> bytes:
    """A zip of members, with checksums that are right."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as file:
        warnings.simplefilter("ignore", UserWarning)  # of names that come twice
        file.comment = comment
        for name, content in given:
            info = zipfile.ZipInfo(name)
            info.extra = extra
            file.writestr(info, content, compress_type=method)
    return out.getvalue()


def headers(content: bytes) -> list[tuple[int, int]]:
    """Where the two headers of each member are: in the directory, and before it."""
    number, _, at = struct.unpack_from("<HII", content, len(content) - 12)
    found = []
    for _ in range(number):
        name, extra, comment = struct.unpack_from("<HHH", content, at + 28)
        found.append((at, struct.unpack_from("<I", content, at + 42)[0]))
        at += 46 + name + extra + comment
    return found


def declared(
    content: bytes, member: int, field: Field, value: int, both: bool
) -> bytes:
    """The zip with another number in the header of a member, or in both of them."""
    changed = bytearray(content)
    central, local = headers(content)[member]
    struct.pack_into(field.form, changed, central + field.central, value)
    if both and field.local is not None:
        struct.pack_into(field.form, changed, local + field.local, value)
    return bytes(changed)


def array(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)


def npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=True)
    return out.getvalue()


def with_header(header: str | bytes, payload: bytes, version: int = 1) -> bytes:
    """An array with any header."""
    header = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version == 1 else "<I", len(header) % 2**16)
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + payload


def index(given: Sequence[Member]) -> dict:
    """The index among members."""
    return json.loads(array(dict(given)[INDEX]).tobytes())


def with_text(given: Sequence[Member], text: str | bytes) -> list[Member]:
    """The members with another text of the index."""
    text = text.encode() if isinstance(text, str) else text
    others = [member for member in given if member[0] != INDEX]
    return [*others, (INDEX, npy(np.frombuffer(text, np.uint8)))]


def text(given: dict, sealed: bool) -> str:
    """An index as text; if it has a digest, that is made right or left as it is."""
    if "sha256" not in given:
        return json.dumps(given)
    body = json.dumps({k: v for k, v in given.items() if k != "sha256"})[:-1]
    old = f'{body}, "sha256": {json.dumps(given["sha256"])}}}'
    return archive.seal(body) if sealed else old
