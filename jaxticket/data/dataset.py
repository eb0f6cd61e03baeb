"""A data set as arrays: what to train, to validate and to test on, with labels."""

import functools
import hashlib
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxticket import checks
from jaxticket.data import arrays, cache, digits, mnist1d, streams, tfds_source

MOST_MADE = 10**6  # test signals: 10 minutes
SEED = 2020  # of the held-out images: every run, of any method, shares one split
OPTIONS = {  # of `load`, by data set
    "mnist1d": {"test_size": mnist1d.TEST_SIZE},
    "imagenet2012": {"side": tfds_source.SIDE},
}
HELD_OUT = {"mnist1d": 500, "digits": 237}  # they leave 3,500 and 1,200


class Split(NamedTuple):
    """Images, or signals, with their classes."""

    images: np.ndarray  # uint8 [n, h, w, c], or float32 [n, length]; or `streams.Rows`
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
    test_size: int | None = None,
    side: int | None = None,
    stream: bool = False,
) -> Dataset:
    """Loads a data set whole, or opens it to be read while it is trained on.

    The validation images are drawn by a fixed seed, each class in proportion to its
    count, so that all runs select on the same images and none on the test set.

    Args:
      name: "mnist1d", signals which the package of that name makes, "digits", which
        scikit-learn carries, any TFDS data set of images, such as "mnist", "cifar10",
        "imagenet_resized/64x64" or "imagenet2012", or a file of arrays, see
        `arrays.read`.
      data_dir: where TFDS data lie prepared; default `~/tensorflow_datasets`.
      cache_dir: where arrays are kept that take long to read or to make; default
        `$JAXTICKET_CACHE`, else `~/.cache/jaxticket`.
      validation: number of training images to hold out, one of each class at least.
        Default: 5,000 of 50,000 or more (MNIST 55,000/5,000/10,000, CIFAR-10
        45,000/5,000/10,000), else what leaves a round number (MNIST-1D
        3,500/500/10,000, which as published has none held out; digits 1,200/237/360) or
        a sixth.
      test_size: number of test signals of "mnist1d"; other data have what they have.
      side: of TFDS images of many sizes, the pixels to which the shorter side is
        resized, before the middle square is cut out; default 256.
      stream: the training images are `streams.Rows`, read as they are needed; those
        held out, and the test images, are in memory all the same.

    Raises:
      ValueError: an unknown name, a number of images that there are not, or more of
        them than the memory holds.
    """
    if test_size is not None and name != "mnist1d":
        raise ValueError(
            f"test_size {test_size} is for 'mnist1d' alone, whose signals are made; "
            f"leave it out for {name!r}"
        )
    if test_size is not None:
        checks.whole(1, MOST_MADE)(test_size=test_size)
    if stream:
        streams.library()
    if name.endswith(".npz"):
        images, labels, *test = arrays.read(name)
        train, test = Split(images, labels), Split(*test)
    elif name == "mnist1d":
        size = test_size or mnist1d.TEST_SIZE
        make = functools.partial(mnist1d.arrays, test_size=size, cache_dir=cache_dir)
        train, test = (Split(*make(split)) for split in ("train", "test"))
    elif name == "digits":
        train, test = (Split(*digits.arrays(split)) for split in ("train", "test"))
    else:
        train, test = _prepared(name, data_dir, cache_dir, side, stream)
    return of_splits(name, train, test, validation=validation, stream=stream)


def of_splits(
    name: str,
    train: Split,
    test: Split,
    *,
    validation: int | None = None,
    stream: bool = False,
) -> Dataset:
    """A data set of arrays, with the same rule for what is held out.

    Args:
      name: what messages and results call it.
      train: images, of any shape, and labels: classes, tokens, or numbers. Numbers are
        shifted and scaled to mean 0 and deviation 1 in the training set, each by
        itself, so that losses do not depend on their unit.
      test: likewise.
      validation: number of training images to hold out, one of each class at least;
        default: see `load`.
      stream: see `load`; images may then be any source that `streams.Rows` takes.

    Raises:
      ValueError: arrays that do not fit together, or a value that is no number.
    """
    if stream:  # whatever is no array yet
        if not isinstance(train.images, np.ndarray):
            train = _opened(train, f"{name}, training")
        if not isinstance(test.images, np.ndarray):
            rows = _opened(test, f"{name}, test").images
            test = test._replace(images=streams.read(rows, slice(None)))
    train, test = (
        Split(*arrays.checked(f"{name}, {where}", *split))
        for where, split in (("training", train), ("test", test))
    )
    for what, ours, theirs in zip(Split._fields, train, test, strict=True):
        if (ours.shape[1:], ours.dtype) != (theirs.shape[1:], theirs.dtype):
            raise ValueError(
                f"{name}: training and test {what} must be of one kind; got "
                f"{ours.dtype} {list(ours.shape[1:])} and "
                f"{theirs.dtype} {list(theirs.shape[1:])}"
            )
    if np.issubdtype(train.labels.dtype, np.floating):
        # In float64: numpy adds up the rows of several columns one after another.
        mean, deviation = (
            f(train.labels, 0, dtype=np.float64) for f in (np.mean, np.std)
        )
        scale = np.where(deviation > 0, deviation, 1)
        train, test = (
            split._replace(labels=((split.labels - mean) / scale).astype(np.float32))
            for split in (train, test)
        )
    if len(train.labels) < 2:
        raise ValueError(
            f"{name}: of the training images one is held out; got 1 in all"
        )
    if validation is not None and _are_classes(train.labels):
        number = len(np.unique(train.labels))
        checks.whole(number, len(train.labels) - 1)(validation=validation)
    if validation is None:
        validation = _default_validation(name, len(train.labels))
    train = _opened(train, f"{name}, training") if stream else train
    held_out = _hold_out(train.labels, validation)
    kept = _without(train.images, held_out)
    splits = (
        Split(kept, train.labels[~held_out]),
        Split(streams.read(train.images, held_out), train.labels[held_out]),
        test,
    )
    num_classes = _outputs(train.labels, test.labels)
    checksum = _checksum(array for split in splits for array in split)
    return Dataset(name, *splits, num_classes, checksum)


def with_label_noise(dataset: Dataset, share: float) -> Dataset:
    """The same data, where a share of the training labels is of another class.

    Which, and of which other class, each as likely, is drawn by a fixed seed: every run
    has the same noise, and more noise has that of less among it. Validation and test
    labels stay.

    Args:
      dataset: of classes.
      share: of the training labels, in [0, 1], rounded to a whole number of them.

    Raises:
      ValueError: a share that cannot be, or labels that are no classes, or of one.
    """
    checks.share(share=share)
    if not share:
        return dataset
    labels = dataset.train.labels
    if not _are_classes(labels):
        raise checks.Refused(
            "label noise",
            f"needs classes; the labels are {labels.dtype}, {labels.ndim}-D",
        )
    if dataset.num_classes < 2:
        raise checks.Refused("label noise", "needs two classes; the labels are of one")
    rng = np.random.default_rng(SEED)
    order = np.argsort(rng.random(len(labels)), kind="stable")
    other = 1 + np.floor(rng.random(len(labels)) * (dataset.num_classes - 1))
    wrong = order[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + other[wrong].astype(labels.dtype)) % (
        dataset.num_classes
    )
    train = dataset.train._replace(labels=noisy)
    splits = train, dataset.validation, dataset.test
    checksum = _checksum(array for split in splits for array in split)
    return dataset._replace(train=train, checksum=checksum)


def _outputs(train: np.ndarray, test: np.ndarray) -> int:
    """Width of the output layer: of all classes, or of the numbers of an example."""
    if not np.issubdtype(train.dtype, np.integer):
        return int(np.prod(train.shape[1:], dtype=int))
    return 1 + int(max(train.max(), test.max()))


def _opened(split: Split, name: str) -> Split:
    """Images as rows that are read when they are needed."""
    if isinstance(split.images, streams.Rows):
        return split
    return split._replace(images=streams.Rows(split.images, name=f"{name} images"))


def _without(images, held_out: np.ndarray):
    """The rows that are not held out; of what streams none is read."""
    if isinstance(images, streams.Rows):
        return images.only(~held_out)
    return images[~held_out]


def _prepared(name, data_dir, cache_dir, side, stream) -> Iterable[Split]:
    """Training and test set of a TFDS data set, through the cache."""
    builder = tfds_source.find(name, data_dir)
    train, test = "train", tfds_source.test_split(builder)
    for split in (train, test):
        tfds_source.check(builder, name, split)
    side = tfds_source.resized(builder, side)
    source = tfds_source.folder(builder)
    entry = cache.entry(builder.info.full_name, source, cache_dir)
    if not stream:
        tfds_source.check_fits(builder, (train, test), side)
    for split in (train, test):
        if stream and split == train:
            images = tfds_source.Images(builder, split, side)
            read = functools.partial(tfds_source.labels, builder, split)
            _, labels = cache.fetch(entry / f"{split}-labels", read)
            yield Split(streams.Rows(images, name=f"{name}, {split}"), labels)
        else:
            read = functools.partial(tfds_source.read, name, split, data_dir, side)
            folder = split if side is None else f"{split}-{side}"
            yield Split(*cache.fetch(entry / folder, read))


def _default_validation(name: str, count: int) -> int:
    if name in HELD_OUT:
        return HELD_OUT[name]
    return 5_000 if count >= 50_000 else max(1, count // 6)


def _hold_out(labels: np.ndarray, count: int) -> np.ndarray:
    """Which `count` images to hold out, bool `[n]`: by class, largest remainder."""
    total = len(labels)
    checks.whole(1, total - 1)(validation=count)
    if not _are_classes(labels):
        labels = np.zeros(total, int)  # no classes to be fair to
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


def _are_classes(labels: np.ndarray) -> bool:
    return labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)


def _checksum(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        if isinstance(array, streams.Rows):  # by its ends: the labels are all here
            array = array[np.array([0, -1])]
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]
