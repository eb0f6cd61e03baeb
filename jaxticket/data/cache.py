"""Whole splits kept as `.npy`: CIFAR-10 takes 18 s to decode, 0.5 s from here.

An entry is a folder with `images.npy`, `labels.npy` and `sha256.json`. Every file is
written under another name and moved into place, the record last: a writer that is
killed, or a second one, leaves nothing that could be taken for a whole entry.
"""

import contextlib
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

_log = logging.getLogger(__name__)


RECORD = "sha256.json"
FILES = ("images.npy", "labels.npy")

Arrays = tuple[np.ndarray, np.ndarray]


def root(cache_dir: str | os.PathLike | None = None) -> Path:
    """The folder of all entries.

    Args:
      cache_dir: default `$JAXTICKET_CACHE`, else `~/.cache/jaxticket`.
    """
    cache_dir = cache_dir or os.environ.get("JAXTICKET_CACHE") or "~/.cache/jaxticket"
    return Path(cache_dir).expanduser().resolve()


def entry(
    full_name: str, source: Path, cache_dir: str | os.PathLike | None = None
) -> Path:
    """The folder for a data set: one for each name, version and place it came from.

    Args:
      full_name: name, configuration and version, such as `mnist/3.0.1`.
      source: resolved folder that holds the data set's files.
      cache_dir: see `root`.

    Raises:
      ValueError: the cache would lie inside the data folder, which is only ever read.
    """
    top = root(cache_dir)
    data_dir = source.parents[full_name.count("/")]
    if top.is_relative_to(data_dir):
        raise ValueError(
            f"cache {top} lies inside the data folder {data_dir}, which is read only: "
            "pass another cache_dir, or set JAXTICKET_CACHE"
        )
    identity = hashlib.sha256(os.fsencode(source))
    identity.update((source / "dataset_info.json").read_bytes())
    return top / full_name / identity.hexdigest()[:12]


def fetch(folder: Path, read: Callable[[], Arrays]) -> Arrays:
    """Images and labels from `folder`; from `read`, and kept there, where it has none.

    A damaged entry is read again. One that cannot be written costs a warning.
    """
    damage = None
    if (folder / RECORD).exists():
        try:
            return _load(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            damage = f"cache entry {folder} is damaged ({error})"
            _log.warning("%s: reading the source again", damage)
    try:
        arrays = read()
    except Exception as error:
        if damage is None:
            raise
        text = f"{damage} and its source cannot be read: {error}"
        raise RuntimeError(text) from error
    try:
        _save(folder, arrays)
    except OSError as error:
        _log.warning("%s cannot be written (%s): data are not kept", folder, error)
    return arrays


def _load(folder: Path) -> Arrays:
    record = json.loads((folder / RECORD).read_text())
    arrays = []
    for name in FILES:
        with open(folder / name, "rb") as file:
            # The file's bytes, not the array's: the header counts too. The same handle
            # serves both, so a file replaced meanwhile does no harm.
            if hashlib.file_digest(file, "sha256").hexdigest() != record[name]:
                raise ValueError(f"{name} does not match its sha256")
            file.seek(0)
            arrays.append(np.load(file, allow_pickle=False))
    return tuple(arrays)


def _save(folder: Path, arrays: Arrays) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {}
    for name, array in zip(FILES, arrays, strict=True):
        with _replacing(folder / name) as file:
            np.save(file, array, allow_pickle=False)
            file.seek(0)
            record[name] = hashlib.file_digest(file, "sha256").hexdigest()
    with _replacing(folder / RECORD) as file:
        file.write(json.dumps(record).encode())


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is whole, or else vanishes."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "x+b") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
