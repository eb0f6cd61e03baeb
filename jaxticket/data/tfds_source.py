"""Prepared TFDS data sets as arrays, read without TensorFlow."""

import difflib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 1024  # examples a call; one at a time is several times slower


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
        raise FileNotFoundError(
            f"no prepared {builder.info.full_name} in {builder.data_dir}: pass the "
            "folder that holds it as --data_dir (data_dir=), or prepare it where "
            f'TensorFlow and a network are: tfds.builder("{name}", data_dir="{root}", '
            'file_format="array_record").download_and_prepare()'
        )
    return builder


def folder(builder: Any) -> Path:
    """The resolved folder with the files of one version: `data_dir/name/version`."""
    return Path(builder.data_dir).resolve()


def read(
    name: str, split: str, data_dir: str | os.PathLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split whole: about 15 s for MNIST, so keep the result (`cache`).

    Returns:
      uint8 images `[n, h, w, c]` and int32 labels `[n]`.
    """
    builder = find(name, data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features.keys()):
        raise ValueError(f"{name} has {sorted(features)}; 'image', 'label' are needed")
    if split not in builder.info.splits:
        raise ValueError(f"{name} has no {split!r}, only {sorted(builder.info.splits)}")
    images, labels = [], []
    for example in _examples(builder, split):
        images.append(example["image"])
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


def _examples(builder: Any, split: str) -> Iterator[dict[str, np.ndarray]]:
    """The decoded examples of a split, as its file format allows."""
    import tensorflow_datasets as tfds

    formats = {fmt.value for fmt in builder.info.available_file_formats()}
    if "array_record" in formats:
        source = builder.as_data_source(split=split)
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
