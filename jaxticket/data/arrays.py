"""Data of the user's: arrays from a file, and what they must be."""

import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxticket.data import streams

NAMES = (  # of the arrays in a file; the second are those of Keras
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)

UNREADABLE = (  # what numpy raises of a file of another kind, or a damaged one
    AttributeError,
    EOFError,
    NotImplementedError,
    OSError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def read(path: str | os.PathLike) -> tuple[np.ndarray, ...]:
    """Training images and labels, test images and labels, of an `.npz` file.

    They are called ``train_images``, ``train_labels``, ``test_images``, ``test_labels``
    or, as in Keras, ``x_train``, ``y_train``, ``x_test``, ``y_test``. Nothing in the
    file is executed.

    Raises:
      ValueError: it is no such file, or lacks an array.
    """
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as file:
            for names in NAMES:
                if {*names} <= {*file.files}:
                    return tuple(file[name] for name in names)
            there = ", ".join(file.files) or "nothing"
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except UNREADABLE as error:
        raise ValueError(f"{path} is no .npz file of arrays: {error}") from None
    wanted = " or ".join(", ".join(names) for names in NAMES)
    raise ValueError(f"{path} holds {there}; it must hold {wanted}")


def checked(where: str, images: np.ndarray, labels: np.ndarray) -> tuple:
    """One split, as it is trained on.

    Args:
      where: what messages call it.
      images: `[n, ...]`: uint8 images `[n, height, width]` or with channels, numbers of
        any other shape, or integers, which are tokens and stay so. Of `streams.Rows`
        none is read, and uint8 images have channels.
      labels: `[n]` classes from 0, `[n, ...]` tokens, bools where an example may have
        several labels at once, or numbers.

    Returns:
      Images, uint8, int32 or float32, and labels, int32, bool or float32.

    Raises:
      ValueError: shapes that do not fit, or a value that is no number.
    """
    labels = np.asarray(labels)
    lazy = isinstance(images, streams.Rows)
    images = images if lazy else np.asarray(images)
    if len({x.shape[:1] for x in (images, labels)}) > 1 or not images.size:
        raise ValueError(
            f"{where} needs as many labels as images, and some; got images "
            f"{list(images.shape)} and labels {list(labels.shape)}"
        )
    if images.dtype == np.uint8 and images.ndim == 3 and not lazy:
        images = images[..., None]
    stays = lazy or images.dtype == np.uint8
    return (
        images if stays else _number(f"{where} images", images),
        labels if labels.dtype == bool else _number(f"{where} labels", labels),
    )


def _number(what: str, values: np.ndarray) -> np.ndarray:
    """As int32 or float32."""
    if np.issubdtype(values.dtype, np.integer):
        found = values.astype(np.int32)
        if (found != values).any():
            raise ValueError(f"{what} do not fit into int32")
        if found.min() < 0:
            raise ValueError(f"{what} are classes or tokens from 0; got {found.min()}")
        return found
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{what} must be numbers, got {values.dtype}")
    if not np.isfinite(values).all():
        at = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
        raise ValueError(f"{what} must be finite, got {values[tuple(at)]} at {at}")
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{what} do not fit into float32")
    return found
