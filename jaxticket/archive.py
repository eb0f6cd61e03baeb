"""Arrays in one file that may come from anybody: named, sealed, and read with bounds.

A file is a zip that numpy opens: one `.npy` for each array, under the sha256 of its
contents, and an index in JSON, which lists name, dtype, shape and digest of every leaf
and ends with the digest of all that stands before. So damage anywhere is noticed, and
equal arrays are stored once.

A digest shows damage, no intention: who writes other arrays can write their digests
too. Such a file is still only data. Nothing in it is executed, nothing is read that the
index does not name, and whoever reads says what may be there at most, before anything
is unpacked: sizes are checked first and counted while they are read.

Files of version 1 have an index without a digest and arrays under that of their values
alone. Entries of such an index that were changed, and still fit, are not noticed. In
version 3 an entry also says in which form its leaf is stored; a file in which all are
whole is of version 2.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

VERSIONS = (1, 2, 3)
WHOLE, REBUILT = "whole", "rebuilt"  # forms: of every value, and of none
INDEX = "index.json"
ROOM = 2**20  # bytes of an index for the facts in it, besides its leaves
_HEADER = 2**11  # bytes of the header of an array
_ENTRY = 256  # bytes that the zip's own directory takes for a member
_TAIL = 2**17  # bytes at the end of a zip where its directory is looked for
_LOCAL = struct.Struct("<4s22xHH")  # before a member: magic, lengths of name and extra


class Leaf(NamedTuple):
    """What the index says of an array: how it is called, what it is, where it is.

    `form` is what of it is stored, for those who read it: `WHOLE`, a word of theirs, or
    `REBUILT`: nothing is, and the digest is that of the whole.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str = 64 * "0"
    form: str = WHOLE

    def __str__(self) -> str:
        # Cut, and without what a terminal obeys.
        name, dtype, form = (repr(x)[1:-1] for x in (self.name, self.dtype, self.form))
        said = f"{name:.80} {dtype:.40}{str(list(self.shape)):.80}"
        return said if self.form == WHOLE else f"{said} ({form:.40})"


def sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def seal(text: str) -> str:
    """An index with its digest: JSON that has lost its last brace, made whole."""
    return f'{text}, "sha256": "{sha256(text.encode())}"}}'


def digest(stored: np.ndarray) -> str:
    """What stands in an index for an array that is stored whole."""
    return sha256(_npy(stored))


def write(
    file: BinaryIO,
    arrays: Iterable[tuple[Leaf, np.ndarray | None]],
    about: dict[str, Any],
) -> None:
    """Writes arrays as they are stored, under the names of what they mean.

    Args:
      file: to write to.
      arrays: of each leaf, whose digest does not matter, what is stored for it;
        `None` for one that is rebuilt and has its digest.
      about: JSON values.

    Raises:
      ValueError: `about` is larger than a reader allows.
    """
    facts = json.dumps(about, allow_nan=False)
    if len(facts) > ROOM // 2:
        raise ValueError(f"facts of {len(facts)} bytes: at most {ROOM // 2} are kept")
    leaves, there = [], set()
    with zipfile.ZipFile(file, "w") as archive:

        def add(name, content):
            # Without a date, so that the same arrays are the same file.
            member = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(member, content, compress_type=zipfile.ZIP_DEFLATED)

        for leaf, stored in arrays:
            if stored is not None:
                content = _npy(stored)
                leaf = leaf._replace(digest=sha256(content))
                if leaf.digest not in there:
                    there.add(leaf.digest)
                    add(leaf.digest, content)
            leaves.append(leaf)
        version = 2 if all(leaf.form == WHOLE for leaf in leaves) else 3
        entries = [leaf[: 4 if version == 2 else 5] for leaf in leaves]
        index = {"version": version, "leaves": entries, "about": about}
        text = seal(json.dumps(index, allow_nan=False)[:-1])
        add(INDEX, _npy(np.frombuffer(text.encode(), np.uint8)))


def _npy(array: np.ndarray) -> memoryview:
    member = io.BytesIO()
    np.lib.format.write_array(member, array, allow_pickle=False)
    return member.getbuffer()


class Archive:
    """An open file whose index has been read, and nothing else.

    Attributes:
      version: of the format.
      leaves: what it holds, in the order of the index.
      about: the facts.
    """

    version: int
    leaves: list[Leaf]
    about: dict[str, Any]

    def __init__(self, path: str | Path, file: BinaryIO, expected: Sequence[Leaf]):
        self._path, self._file = path, file
        with refusing(path):
            self._members = _directory(file, _TAIL + _ENTRY * len(expected))
            most = len(json.dumps(expected)) + ROOM
            content = self._content(INDEX, most)
            dtype, shape, at = _header(content)
            if (dtype, shape) != (np.uint8, (len(content) - at,)):
                raise ValueError("its index is no text")
            self.version, self.leaves, self.about = _index(content[at:])
            stored = [leaf for leaf in self.leaves if leaf.form != REBUILT]
            named = {INDEX, *(leaf.digest for leaf in stored)}
            if unnamed := set(self._members) - named:
                raise ValueError(f"no leaf names the member {min(unnamed)!r:.80}")

    def array(self, leaf: Leaf, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """What is stored for a leaf of the index.

        Args:
          leaf: of `leaves`.
          dtype: what is stored must have this one.
          shape: and this one; in version 1 as many bytes.
        """
        with refusing(self._path, leaf):
            size = dtype.itemsize * math.prod(shape)
            content = self._content(leaf.digest, size + _HEADER)
            there, extents, at = _header(content)
            if self.version == 1:
                hashed = memoryview(content)[at:]
                fits = there.itemsize * math.prod(extents) == size == len(hashed)
            else:
                hashed = memoryview(content)
                fits = (there, extents, size) == (dtype, shape, len(content) - at)
            if not fits:
                raise ValueError(
                    f"{there}{list(extents)} is stored, expected {dtype}{list(shape)}"
                )
            if sha256(hashed) != leaf.digest:
                raise ValueError("its digest differs")
            return np.ndarray(shape, dtype, content, at).copy()

    def row(self, leaf: Leaf, most: int) -> np.ndarray:
        """The bytes that are stored for a leaf: how many, up to `most`, the file says.

        Args:
          leaf: of `leaves`, in a file of version 3.
          most: how many there may be.
        """
        with refusing(self._path, leaf):
            content = self._content(leaf.digest, most + _HEADER)
            there, extents, at = _header(content)
            size = len(content) - at
            if (there, extents) != (np.uint8, (size,)) or size > most:
                raise ValueError(f"at most {most} bytes in a row were expected")
            if sha256(content) != leaf.digest:
                raise ValueError("its digest differs")
            return np.frombuffer(content, np.uint8, size, at)

    def _content(self, name: str, most: int) -> bytes:
        """A member, unpacked: `most` bytes of it at most, and exactly as many as said.

        Deflate adds less than a thousandth to what cannot be packed.
        """
        if name not in self._members:
            raise ValueError(f"it has no member {name:.12}")
        info, start = self._members[name]
        if info.file_size > most or info.compress_size > most + most // 1000 + 64:
            raise ValueError(
                f"the member {name:.12} has {info.file_size} bytes, in "
                f"{info.compress_size}: at most {most} were expected"
            )
        self._file.seek(start)
        content = self._file.read(info.compress_size)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
            content = unpacking.decompress(content, info.file_size + 1)
            if not unpacking.eof or unpacking.unused_data:
                raise ValueError(f"the member {name:.12} is not as long as it says")
        if (len(content), zlib.crc32(content)) != (info.file_size, info.CRC):
            raise ValueError(f"the member {name:.12} is not what was written")
        return content


@contextlib.contextmanager
def opened(path: str | Path, expected: Sequence[Leaf]) -> Iterator[Archive]:
    """Opens a file and reads its index.

    Args:
      path: the file.
      expected: the most that it may hold; bounds what is read of it. That it holds
        just this is for the caller to check.

    Raises:
      FileNotFoundError: there is none.
      ValueError: what is there is no file, or none of ours, or damaged.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would keep us waiting
        raise ValueError(f"{path} is no file")
    with open(path, "rb") as file:
        yield Archive(path, file, expected)


@contextlib.contextmanager
def refusing(path: str | Path, leaf: Leaf | None = None) -> Iterator[None]:
    """Names the file, and the leaf, where anything goes wrong."""
    try:
        yield
    except Exception as error:  # zipfile, zlib, numpy and json raise many types
        where = "" if leaf is None else f"{leaf}: "
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path} is damaged or is no jaxticket file: {where}{reason:.300}"
        ) from error


class _Sparing:
    """A file of which no single read may take more than `most` bytes."""

    def __init__(self, file: BinaryIO, most: int):
        self.seek, self.tell = file.seek, file.tell
        self._file, self._most = file, most

    def read(self, size: int = -1) -> bytes:
        size = self._most + 1 if size < 0 else min(size, self._most + 1)
        found = self._file.read(size)
        if len(found) > self._most:
            raise ValueError(f"its directory takes more than {self._most} bytes")
        return found


def _directory(file: BinaryIO, most: int) -> dict[str, tuple[zipfile.ZipInfo, int]]:
    """Every member by its name without `.npy`, and where its bytes begin."""
    with zipfile.ZipFile(_Sparing(file, most)) as archive:  # type: ignore[arg-type]
        infos, end = archive.infolist(), archive.start_dir
    members, spans = {}, [(end, end)]
    for info in infos:
        name = info.orig_filename
        if info.flag_bits & 1:
            raise ValueError("it is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"it is compressed by method {info.compress_type}")
        file.seek(info.header_offset)
        magic, length, extra = _LOCAL.unpack(file.read(_LOCAL.size))
        if magic != b"PK\3\4" or file.read(length) != name.encode():
            raise ValueError("its members are not where its directory says")
        start = file.tell() + extra
        spans.append((info.header_offset, start + info.compress_size))
        if not name.endswith(".npy") or name.removesuffix(".npy") in members:
            raise ValueError("its directory names a member twice, or no array")
        members[name.removesuffix(".npy")] = info, start
    spans.sort()
    if any(
        stop > begin for (_, stop), (begin, _) in zip(spans, spans[1:], strict=False)
    ):
        raise ValueError("its members overlap")
    return members


def _header(content: bytes) -> tuple[np.dtype, tuple[int, ...], int]:
    """dtype and shape of an array in numpy's format, and where its bytes begin."""
    file = io.BytesIO(content[:_HEADER])
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    shape, by_columns, dtype = read(file, max_header_size=_HEADER)
    if by_columns or dtype.hasobject or any(size < 0 for size in shape):
        raise ValueError("an array is not stored as it is written here")
    return dtype, shape, file.tell()


def _index(content: bytes) -> tuple[int, list[Leaf], dict[str, Any]]:
    """Version, leaves and facts, as an index of either version says them."""
    text = content.decode()
    found = json.loads(text, parse_float=_finite, parse_constant=_finite)
    if not isinstance(found, dict):
        raise ValueError("its index is no object")
    version = found.get("version", 1)
    if version not in VERSIONS or type(version) is not int:
        raise ValueError(f"it has version {version!r:.40}, known are 1 to 3")
    keys = {"leaves", "about"} | ({"version", "sha256"} if version > 1 else set())
    if set(found) != keys:
        raise ValueError(f"its index is not of version {version}")
    if version != 1 and text != seal(text.rpartition(', "sha256": ')[0]):
        raise ValueError("the digest of its index differs")
    if not isinstance(found["leaves"], list) or not isinstance(found["about"], dict):
        raise ValueError("its index holds no leaves and facts")
    leaves = [_leaf(version, *entry) for entry in found["leaves"]]
    return version, leaves, found["about"]


def _leaf(
    version: int, name: Any, dtype: Any, shape: Any, digest: Any, *form: Any
) -> Leaf:
    words = all(isinstance(word, str) for word in (name, dtype, digest, *form))
    sizes = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if not words or not sizes or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError("an entry of its index is no name, dtype, shape and digest")
    if len(form) != (version == 3):
        raise ValueError("an entry of its index says a form, or none, against version")
    return Leaf(name, dtype, tuple(shape), digest, *form)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"its index holds a number that is {number}")
    return number
