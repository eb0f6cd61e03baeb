"""A data set as arrays: training, validation and test images with their labels."""

import functools
import hashlib
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxticket.data import cache, digits, tfds_source

SEED = 2020  # of the held-out images: every run, of any method, shares one split


class Split(NamedTuple):
    """Images with their classes."""

    images: np.ndarray  # uint8 [n, h, w, c]
    labels: np.ndarray  # int32 [n]


class Dataset(NamedTuple):
    """Three splits; the validation images are held out from the training set."""

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    checksum: str  # sha256 over all arrays, first 16 hex digits


def load(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    validation: int | None = None,
) -> Dataset:
    """Loads a data set whole.

    The validation images are drawn by a fixed seed, each class in proportion to its
    count, so that all runs select on the same images and none on the test set.

    Args:
      name: "digits", which scikit-learn carries, or any TFDS data set of images of one
        size, such as "mnist" or "cifar10".
      data_dir: where TFDS data lie prepared; default `~/tensorflow_datasets`.
      cache_dir: where their arrays are kept; default `$JAXTICKET_CACHE`, else
        `~/.cache/jaxticket`.
      validation: number of training images to hold out. Default: 5,000 of 50,000 or
        more (MNIST 55,000/5,000/10,000, CIFAR-10 45,000/5,000/10,000), else a sixth
        (digits 1,200/237/360).
    """
    if name == "digits":
        train, test = (Split(*digits.arrays(split)) for split in ("train", "test"))
    else:
        train, test = _prepared(name, data_dir, cache_dir)
    if validation is None:
        validation = _default_validation(name, len(train.labels))
    held_out = _hold_out(train.labels, validation)
    splits = (
        Split(train.images[~held_out], train.labels[~held_out]),
        Split(train.images[held_out], train.labels[held_out]),
        test,
    )
    num_classes = 1 + int(max(train.labels.max(), test.labels.max()))
    checksum = _checksum(array for split in splits for array in split)
    return Dataset(name, *splits, num_classes, checksum)


def _prepared(name, data_dir, cache_dir) -> Iterable[Split]:
    """Training and test set of a TFDS data set, through the cache."""
    builder = tfds_source.find(name, data_dir)
    source = tfds_source.folder(builder)
    entry = cache.entry(builder.info.full_name, source, cache_dir)
    for split in ("train", "test"):
        read = functools.partial(tfds_source.read, name, split, data_dir)
        yield Split(*cache.fetch(entry / split, read))


def _default_validation(name: str, count: int) -> int:
    if name == "digits":
        return 237  # leaves 1,200
    return 5_000 if count >= 50_000 else count // 6


def _hold_out(labels: np.ndarray, count: int) -> np.ndarray:
    """Which `count` images to hold out, bool `[n]`: by class, largest remainder."""
    total = len(labels)
    if not (isinstance(count, int | np.integer) and 0 < count < total):
        raise ValueError(
            f"validation is the number of the {total} training images to hold out, "
            f"from 1 to {total - 1}; got {count!r}"
        )
    _, sizes = np.unique(labels, return_counts=True)
    quotas, remainders = np.divmod(sizes * int(count), total)
    largest = np.argsort(-remainders, kind="stable")
    quotas[largest[: count - quotas.sum()]] += 1
    # Uniform numbers rather than `permutation`, whose algorithm numpy may change.
    draw = np.random.default_rng(SEED).random(total)
    by_class = np.split(np.lexsort((draw, labels)), np.cumsum(sizes)[:-1])
    chosen = [rows[:quota] for rows, quota in zip(by_class, quotas, strict=True)]
    held_out = np.zeros(total, bool)
    held_out[np.concatenate(chosen)] = True
    return held_out


def _checksum(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]
