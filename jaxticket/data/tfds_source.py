"""Prepared TFDS data sets as arrays, read without TensorFlow."""

import difflib
import importlib.util
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxticket import checks, machine
from jaxticket.data import pictures

CHUNK = 1024  # examples a call; one at a time is several times slower
SIDE = 256  # to which images of many sizes are brought: what ImageNet is tested at
# ImageNet's test images have no labels: published accuracies are of its validation set.
TESTED_ON = {"imagenet2012": "validation", "imagenet_resized": "validation"}
# What TFDS cannot download: the archives that it looks for.
BY_HAND = {"imagenet2012": "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar"}


def find(name: str, data_dir: str | os.PathLike | None) -> Any:
    """The TFDS builder of a data set that lies prepared under `data_dir`.

    Raises:
      ImportError: tensorflow-datasets is not installed.
      ValueError: TFDS knows no such data set.
      FileNotFoundError: it is not prepared under `data_dir`.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"data set {name!r} needs `pip install tensorflow-datasets array_record "
            "pillow`; 'mnist1d' and 'digits' work without"
        ) from error
    root = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        # Without a file format: TFDS takes it from the folder, and its complaints about
        # a missing folder would be misleading.
        builder = tfds.builder(name, data_dir=root)
    except (ValueError, AssertionError):
        known = tfds.list_builders(with_community_datasets=False)
        stem = re.split("[/:]", name)[0]  # without configuration and version
        close = difflib.get_close_matches(stem, ["mnist1d", "digits", *known], n=1)
        hint = "'mnist1d' and 'digits' are always there"
        if close:
            hint = f"did you mean {close[0]!r}?"
        raise ValueError(f"no data set {name!r}: {hint}") from None
    if not builder.is_prepared():
        root = folder(builder).parents[builder.info.full_name.count("/")]
        archives = BY_HAND.get(builder.name)
        raise FileNotFoundError(
            f"no prepared {builder.info.full_name} in {builder.data_dir}: pass the "
            "folder that holds it as --data_dir (data_dir=), or prepare it where "
            f'TensorFlow and a network are: tfds.builder("{name}", data_dir="{root}", '
            'file_format="array_record").download_and_prepare()'
            + (f", with {archives} in {root}/downloads/manual" if archives else "")
        )
    return builder


def folder(builder: Any) -> Path:
    """The resolved folder with the files of one version: `data_dir/name/version`."""
    return Path(builder.data_dir).resolve()


def test_split(builder: Any) -> str:
    """The split whose accuracies are published."""
    return TESTED_ON.get(builder.name, "test")


def resized(builder: Any, side: int | None) -> int | None:
    """The side of the squares that images of many sizes become; None of one size.

    Args:
      builder: from `find`.
      side: where it is not `SIDE`.

    Raises:
      ValueError: a side, of images that are of one size.
    """
    shape = builder.info.features["image"].shape
    if None in shape[:2]:
        checks.whole(1)(side=SIDE if side is None else side)
        return side or SIDE
    if side is not None:
        raise ValueError(
            f"side {side} is for images of many sizes; those of {builder.name} have "
            f"one, {shape}: leave it out"
        )
    return None


def check_fits(builder: Any, splits: Sequence[str], side: int | None) -> None:
    """Refuses what the memory does not hold, as bytes.

    Raises:
      ValueError: there is less memory.
    """
    shape = builder.info.features["image"].shape
    shape = shape if side is None else (side, side, shape[-1])
    number = sum(
        builder.info.splits[name].num_examples
        for name in splits
        if name in builder.info.splits
    )
    free = machine.memory()
    # Twice: as they are read, and without those held out.
    if free is not None and 2 * (needed := number * math.prod(shape)) > free:
        raise ValueError(
            f"{builder.name} takes {needed / 1e9:.1f} GB decoded, twice while it is "
            f"divided, and {free / 1e9:.1f} GB are free: give --stream (stream=True), "
            "which reads it while it trains"
        )


def read(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None,
    side: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split whole: about 15 s for MNIST, so keep the result (`cache`).

    Args:
      name: of the data set.
      split: of its splits.
      data_dir: see `find`.
      side: see `resized`.

    Returns:
      uint8 images `[n, h, w, c]` and int32 labels `[n]`.
    """
    builder = find(name, data_dir)
    check(builder, name, split)
    images, labels = [], []
    for example in _examples(builder, split):
        images.append(pictures.square(example["image"], side))
        labels.append(example["label"])
        if images[-1].shape != images[0].shape:
            sizes = f"{images[0].shape} and {images[-1].shape}"
            raise ValueError(f"{name} has images of varying size, such as {sizes}")
    images, labels = np.stack(images), np.stack(labels)
    if images.ndim == 3:  # grey without a channel axis
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4:
        got = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"{name} has images {got}; uint8 [n, h, w, c] is needed")
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        got = f"{labels.dtype} {list(labels.shape)}"
        raise ValueError(f"{name} has labels {got}; integers [n] are needed")
    return images, labels.astype(np.int32)


class Images:
    """The decoded images of a split, read when they are asked for: a source.

    Args:
      builder: from `find`.
      split: of its splits.
      side: see `resized`.

    Raises:
      RuntimeError: it is prepared in a format that is read from the front alone.
      ValueError: there is no such split, or it has no images and labels.
    """

    def __init__(self, builder: Any, split: str, side: int | None):
        self._source = _at_random(builder, split)
        self._side = side
        if side is not None:
            self.whole = self._decoded

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> np.ndarray:
        [image] = self.__getitems__([row])
        return image

    def __getitems__(self, rows: Sequence[int]) -> list[np.ndarray]:
        return [
            _with_channels(pictures.square(image, self._side))
            for image in self._decoded(rows)
        ]

    def _decoded(self, rows: Sequence[int]) -> list[np.ndarray]:
        return [example["image"] for example in self._source.__getitems__(rows)]


def labels(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels of a split, whose images are not decoded.

    Returns:
      No images, uint8 `[0]`, so that `cache` keeps it, and int32 labels `[n]`.
    """
    import tensorflow_datasets as tfds

    encoded = {"image": tfds.decode.SkipDecoding()}
    source = _at_random(builder, split, decoders=encoded)
    found = []
    for start in range(0, len(source), CHUNK):
        rows = list(range(start, min(start + CHUNK, len(source))))
        found += [example["label"] for example in source.__getitems__(rows)]
    return np.zeros(0, np.uint8), np.array(found, np.int32)


def _at_random(builder: Any, split: str, **options: Any) -> Any:
    """The examples of a split by number."""
    check(builder, builder.name, split)
    formats = {fmt.value for fmt in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise RuntimeError(
            f"{builder.data_dir} holds {sorted(formats)}, which cannot be read at "
            'random places: prepare it again with file_format="array_record"'
        )
    return _array_record(builder, split, **options)


def _array_record(builder: Any, split: str, **options: Any) -> Any:
    try:
        return builder.as_data_source(split=split, **options)
    except ImportError as error:
        raise ImportError(
            f"{builder.name} is read with array_record, which cannot be imported: pip "
            "install array_record"
        ) from error


def check(builder: Any, name: str, split: str) -> None:
    """Refuses a data set that has no such images and labels, as a `ValueError`."""
    features, splits = builder.info.features, builder.info.splits
    if not {"image", "label"} <= set(features.keys()):
        raise ValueError(f"{name} has {sorted(features)}; 'image', 'label' are needed")
    if split not in splits:
        raise ValueError(f"{name} has no {split!r}, only {sorted(splits)}")


def _with_channels(image: np.ndarray) -> np.ndarray:
    return image[..., None] if image.ndim == 2 else image


def _examples(builder: Any, split: str) -> Iterator[dict[str, np.ndarray]]:
    """The decoded examples of a split, as its file format allows."""
    import tensorflow_datasets as tfds

    formats = {fmt.value for fmt in builder.info.available_file_formats()}
    if "array_record" in formats:
        source = _array_record(builder, split)
        for start in range(0, len(source), CHUNK):
            stop = min(start + CHUNK, len(source))
            yield from source.__getitems__(list(range(start, stop)))
    elif "tfrecord" in formats and importlib.util.find_spec("tensorflow"):
        yield from tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
    else:
        # Parquet among them: TFDS 4.9.10 silently loses rows of it.
        raise RuntimeError(
            f"{builder.data_dir} holds {sorted(formats)}: install tensorflow to read "
            'tfrecord, or prepare it again with file_format="array_record"'
        )
