"""From stored bytes to the network's input: pure functions for use inside the step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

NORMALIZATIONS = ("standard", "unit", "l2")

# Mean and standard deviation by channel, of pixels in [0, 1], as the papers' code has
# them: computed afresh they would depend on the split and on the JPEG re-encoding.
PUBLISHED = {
    "mnist": ([0.1307], [0.3081]),
    "cifar10": (
        np.array([125.3, 123.0, 113.9]) / 255,
        np.array([63.0, 62.1, 66.7]) / 255,
    ),
}


def normalizer(
    kind: str, train_images: np.ndarray, *, name: str = ""
) -> Callable[[ArrayLike], jax.Array]:
    """Makes the function that turns stored images into the network's input.

    Results on MNIST are sensitive to this choice, which the papers leave open: record
    it with every result.

    Args:
      kind: "standard" shifts and scales each channel to mean 0, deviation 1, with the
        published constants where `name` has some and else those of `train_images`.
        "unit" divides by the largest value of `train_images`, 255 or, for digits, 16.
        "l2" divides every image by its Euclidean norm, as `keras.utils.normalize`.
      train_images: uint8 `[n, h, w, c]`, concrete.
      name: of the data set.

    Returns:
      uint8 `[b, h, w, c]` -> float32 `[b, h, w, c]`.
    """
    if kind not in NORMALIZATIONS:
        raise ValueError(f"no normalization {kind!r}: one of {NORMALIZATIONS}")
    if kind == "l2":
        return _unit_norm
    largest = max(float(np.max(train_images)), 1.0)
    if kind == "unit":
        mean, deviation = np.zeros(1), np.full(1, largest)
    elif name in PUBLISHED:
        mean, deviation = (255 * np.asarray(x) for x in PUBLISHED[name])
    else:
        mean, deviation = _statistics(np.asarray(train_images))
    # One multiplication and one addition a pixel, in every step: two divisions would
    # take LeNet twice as long.
    scale = np.float32(1 / deviation).reshape(1, 1, 1, -1)
    shift = np.float32(-mean / deviation).reshape(1, 1, 1, -1)
    return lambda images: jnp.asarray(images, jnp.float32) * scale + shift


def augment(
    key: jax.Array, images: ArrayLike, *, pad: int = 4, flip: bool = True
) -> jax.Array:
    """Shifts every image by up to `pad` pixels, and mirrors half of them.

    The usual CIFAR-10 augmentation: a random crop of the zero-padded image, then a
    random horizontal flip. It works on stored images, before normalisation, so what is
    padded is black (raw 0), not the mean.

    Args:
      key: of this batch.
      images: uint8 `[b, h, w, c]`.
      pad: pixels on every side, at least 0.
      flip: whether to mirror.

    Returns:
      As `images`: same shape and dtype.
    """
    images = jnp.asarray(images)
    count, height, width, _ = images.shape
    row_key, column_key, flip_key = jax.random.split(key, 3)
    top = jax.random.randint(row_key, (count,), 0, 2 * pad + 1)
    left = jax.random.randint(column_key, (count,), 0, 2 * pad + 1)
    mirrored = jax.random.bernoulli(flip_key, 0.5, (count,)) & flip

    # One gather of pixels serves crop and flip. Milliseconds for 128 images of 32x32x3
    # in a scan on 2 CPU cores, one seed / each of 4 under vmap: this 0.7 / 0.6, two
    # `take_along_axis` 1.0 / 1.0, one-hot products 1.4 / 1.8, `lax.map` over images
    # 0.3 / 1.5, vmapped `dynamic_slice` 2.9 / 5.3 (with no augmentation 0.2 / 0.1).
    def crop(padded, top, left, mirrored):
        rows = top + jnp.arange(height)
        columns = jnp.arange(width)
        columns = left + jnp.where(mirrored, columns[::-1], columns)
        return padded.at[rows[:, None], columns].get(mode="promise_in_bounds")

    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return jax.vmap(crop)(padded, top, left, mirrored)


def _unit_norm(images: ArrayLike) -> jax.Array:
    pixels = jnp.asarray(images, jnp.float32)
    norm = jnp.sqrt(jnp.sum(pixels**2, axis=(1, 2, 3), keepdims=True))
    return pixels / jnp.where(norm == 0, 1, norm)  # a black image stays black


def _statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, without a float copy of the data."""
    mean = images.mean((0, 1, 2), dtype=np.float64)
    squares = np.square(images, dtype=np.uint16).mean((0, 1, 2), dtype=np.float64)
    deviation = np.sqrt(squares - mean**2)
    return mean, np.where(deviation > 0, deviation, 1)
