"""scikit-learn's digits: always there, without a download and without TFDS."""

import numpy as np

TRAIN_SIZE = 1437


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
    """One split, in scikit-learn's order.

    Args:
      split: "train" (1,437 images) or "test" (360).

    Returns:
      uint8 images `[n, 8, 8, 1]` with values 0..16, and int32 labels `[n]`.
    """
    from sklearn.datasets import load_digits  # slow to import

    data = load_digits()
    rows = {"train": slice(None, TRAIN_SIZE), "test": slice(TRAIN_SIZE, None)}[split]
    images = data.images[rows].astype(np.uint8)[..., None]
    return images, data.target[rows].astype(np.int32)
