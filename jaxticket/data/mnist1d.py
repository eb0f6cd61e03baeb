"""MNIST-1D: signals of 40 numbers in ten classes, made on the spot, without a download.

The package `mnist1d` makes 5,000 signals of a seed, 500 of each class in random order,
and standardises them together. Those of its own seed, 42, are the published data set:
4,000 to train on and 1,000 to test on. Further test signals are all of seed 43, then of
44, and so on: all signals differ, and what is trained on does not depend on how many
there are to test on.

Reference:
  Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", 2024.
"""

import contextlib
import functools
import importlib.metadata
import os
import random
from collections.abc import Iterator

import numpy as np

from jaxticket.data import cache

PUBLISHED_SEED = 42
TRAIN_SIZE = 4000
TEST_SIZE = 10_000  # published: 1,000, of which a point of accuracy is ten signals


def arrays(
    split: str,
    *,
    test_size: int = TEST_SIZE,
    cache_dir: str | os.PathLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One split. A seed takes about three seconds to make, and is kept.

    Args:
      split: "train" (4,000 signals) or "test".
      test_size: number of test signals, at least 1.
      cache_dir: see `cache.root`.

    Returns:
      float32 signals `[n, 40]` and int32 labels `[n]`.
    """
    kept = cache.root(cache_dir) / "mnist1d" / importlib.metadata.version("mnist1d")

    def of_seed(seed):
        return cache.fetch(kept / f"seed_{seed}", functools.partial(made, seed))

    signals, labels = of_seed(PUBLISHED_SEED)
    if split == "train":
        return signals[:TRAIN_SIZE], labels[:TRAIN_SIZE]
    seed, tests = PUBLISHED_SEED, [(signals[TRAIN_SIZE:], labels[TRAIN_SIZE:])]
    while sum(len(labels) for _, labels in tests) < test_size:
        seed += 1
        tests.append(of_seed(seed))
    signals, labels = map(np.concatenate, zip(*tests, strict=True))
    return signals[:test_size], labels[:test_size]


def made(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All signals of a seed of the package, with their labels."""
    from mnist1d.data import get_dataset_args, make_dataset  # imports matplotlib

    arguments = get_dataset_args()
    arguments.seed = seed
    with _global_draws_restored():
        data = make_dataset(arguments)
    signals, labels = (np.concatenate([data[k], data[f"{k}_test"]]) for k in "xy")
    return signals.astype(np.float32), labels.astype(np.int32)


@contextlib.contextmanager
def _global_draws_restored() -> Iterator[None]:
    """The package seeds the random states that numpy and Python share with all code."""
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])
