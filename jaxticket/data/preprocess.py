"""From stored bytes to the network's input: pure functions for use inside the step."""

import math
import re
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxticket import checks
from jaxticket.data import pictures, streams
from jaxticket.data.dataset import Split

Corruption = Literal["labels", "pixels"]
NORMALIZATIONS = ("standard", "unit", "l2")

# Mean and standard deviation by channel, of what is stored, as the papers' code has
# them: computed afresh they would depend on the split and on the JPEG re-encoding.
PUBLISHED = {
    "mnist": (255 * np.array([0.1307]), 255 * np.array([0.3081])),
    "cifar10": (np.array([125.3, 123.0, 113.9]), np.array([63.0, 62.1, 66.7])),
    "mnist1d": (np.zeros(1), np.ones(1)),  # standardised where it is made
    **dict.fromkeys(
        ("imagenet2012", "imagenet_resized"),
        (255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])),
    ),
}


def normalizer(
    kind: str, train_images: np.ndarray, *, name: str = ""
) -> Callable[[ArrayLike], jax.Array]:
    """Makes the function that turns stored images or signals into the network's input.

    Results on MNIST are sensitive to this choice, which the papers leave open: record
    it with every result. A signal is of one channel.

    Args:
      kind: "standard" shifts and scales each channel to mean 0, deviation 1, with the
        published constants where `name` has some and else those of `train_images`;
        MNIST-1D, published standardised, stays as it is. "unit" divides by the largest
        magnitude in `train_images`, 255 or, for digits, 16. "l2" divides every image by
        its Euclidean norm, as `keras.utils.normalize`.
      train_images: uint8 `[n, h, w, c]` or float32 `[n, length]`, concrete. What
        streams is read once, unless there are published constants.
      name: of the data set.

    Returns:
      `[b, ...]` as stored -> float32 of the same shape.
    """
    checks.one_of(NORMALIZATIONS)(kind=kind)
    lazy = isinstance(train_images, streams.Rows)
    stored = train_images if lazy else np.asarray(train_images)
    # Without configuration and version; a file is none, whatever its folder is called.
    name = "" if name.endswith(".npz") else re.split("[/:]", name)[0]
    if not stored.size:
        raise ValueError(f"train_images must be some; got shape {[*stored.shape]}")
    if stored.dtype == np.int32:
        return jnp.asarray  # tokens
    if kind == "l2":
        return _unit_norm
    if kind == "unit":
        largest = float(max(np.abs(x).max() for x in streams.pieces(stored)))
        mean, deviation = np.zeros(1), np.full(1, largest or 1.0)
    elif name in PUBLISHED:
        mean, deviation = PUBLISHED[name]
    else:
        mean, deviation = _statistics(stored)
    # One multiplication and one addition a pixel, in every step: two divisions would
    # take LeNet twice as long.
    by_channel = (1,) * (stored.ndim - 1) + (-1,)
    scale = np.float32(1 / deviation).reshape(by_channel)
    shift = np.float32(-mean / deviation).reshape(by_channel)
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

    Raises:
      ValueError: signals, which can be neither cropped nor mirrored.
    """
    checks.whole(0)(pad=pad)
    images = _images(images)
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


def random_resized_crop(
    key: jax.Array,
    images: ArrayLike,
    size: int,
    *,
    area: tuple[float, float] = pictures.AREA,
    aspect: tuple[float, float] = pictures.ASPECT,
    flip: bool = True,
) -> jax.Array:
    """Cuts a part out of every image, brings it to one size, and mirrors half of them.

    The usual ImageNet augmentation, with torchvision's defaults: the part has a share
    of the image's area, drawn evenly, and a ratio of width to height, drawn evenly on a
    logarithmic scale; of ten draws the first that lies within the image is taken, else
    the middle square. It is resized linearly, each pixel from all that it covers; at
    the edges of the part those beside it count too.

    Args:
      key: of this batch.
      images: `[b, h, w, c]` as stored.
      size: pixels of each side of the result.
      area: shares, the lowest and the highest.
      aspect: ratios, likewise.
      flip: whether to mirror.

    Returns:
      float32 `[b, size, size, c]` in the units of `images`.

    Raises:
      ValueError: signals, or bounds that are none.

    Reference:
      Szegedy et al., "Going Deeper with Convolutions", 2015, section 6.
    """
    checks.whole(1)(size=size)
    for name, bounds in (("area", area), ("aspect", aspect)):
        checks.each(checks.positive)(**{name: bounds})
        if bounds[0] > bounds[1] or (name == "area" and bounds[1] > 1):
            highest = ", of at most 1" if name == "area" else ""
            raise checks.Refused(name, f"must be (low, high){highest}; got {bounds}")
    images = _images(images)
    count, height, width, channels = images.shape
    area_key, aspect_key, row_key, column_key, flip_key = jax.random.split(key, 5)
    shape = (count, pictures.TRIALS)
    areas = jax.random.uniform(area_key, shape, minval=area[0], maxval=area[1])
    low, high = (math.log(x) for x in aspect)
    ratios = jnp.exp(jax.random.uniform(aspect_key, shape, minval=low, maxval=high))
    pixels = areas * (height * width)
    tall, wide = (jnp.round(jnp.sqrt(x)) for x in (pixels / ratios, pixels * ratios))
    fits = (tall <= height) & (wide <= width) & (tall >= 1) & (wide >= 1)
    first, found = jnp.argmax(fits, axis=1), fits.any(axis=1)
    square = min(height, width)

    def chosen(key, lengths, whole):
        taken = jnp.take_along_axis(lengths, first[:, None], axis=1)[:, 0]
        taken = jnp.where(found, taken, square)
        place = jnp.floor(jax.random.uniform(key, (count,)) * (whole - taken + 1))
        return taken, jnp.where(found, place, (whole - square) // 2)

    tall, top = chosen(row_key, tall, height)
    wide, left = chosen(column_key, wide, width)
    mirrored = jax.random.bernoulli(flip_key, 0.5, (count,)) & flip

    def resized(image, top, left, tall, wide, mirrored):
        scale = jnp.stack([size / tall, size / wide])
        part = jax.image.scale_and_translate(
            image.astype(jnp.float32),
            (size, size, channels),
            (0, 1),
            scale,
            -scale * jnp.stack([top, left]),
            "linear",
        )
        return jnp.where(mirrored, part[:, ::-1], part)

    return jax.vmap(resized)(images, top, left, tall, wide, mirrored)


def centre_crop(images: ArrayLike, size: int) -> jax.Array:
    """The middle square of every image: what is tested after `random_resized_crop`.

    Args:
      images: `[b, h, w, c]`.
      size: pixels of each side, no more than there are.

    Raises:
      ValueError: signals, or smaller images.
    """
    images = _images(images)
    checks.whole(1, min(images.shape[1:3]))(size=size)
    top, left = ((x - size) // 2 for x in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def _images(images: ArrayLike) -> jax.Array:
    """Raises a `ValueError` for what can be neither cropped nor mirrored: signals."""
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            f"augmentation crops and mirrors images [batch, height, width, channels]; "
            f"these data are {list(images.shape)}: leave --augment (augment=) and "
            "--crop out"
        )
    return images


def _unit_norm(images: ArrayLike) -> jax.Array:
    pixels = jnp.asarray(images, jnp.float32)
    every = tuple(range(1, pixels.ndim))
    norm = jnp.sqrt(jnp.sum(pixels**2, axis=every, keepdims=True))
    return pixels / jnp.where(norm == 0, 1, norm)  # a black image stays black


def _statistics(images: np.ndarray | streams.Rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, without a float copy of bytes.

    Sums of bytes are exact: what is read in parts has the same.
    """
    wide = np.uint16 if images.dtype == np.uint8 else np.float64
    count, total, squares = 0, 0.0, 0.0
    for part in streams.pieces(images):
        part = part if part.ndim == 4 else part[..., None]
        every = tuple(range(part.ndim - 1))
        count += part.size // part.shape[-1]
        total = total + part.sum(every, dtype=np.float64)
        squares = squares + np.square(part, dtype=wide).sum(every, dtype=np.float64)
    mean = total / count
    deviation = np.sqrt(squares / count - mean**2)
    return mean, np.where(deviation > 0, deviation, 1)


def corrupted(key: jax.Array, split: Split, kind: Corruption) -> Split:
    """Data that say less than they seem to: labels or pixels in an order at random.

    What pruning at initialisation finds from them should be worse, if it looks at them.

    Args:
      key: for the draws.
      split: arrays; may be traced.
      kind: `labels`: the labels are permuted among the examples, so that as many are of
        each class; `pixels`: the numbers of each image are permuted, of each in an
        order of its own.

    Reference:
      Su et al., "Sanity-Checking Pruning Methods", 2020, section 3.
    """
    checks.one_of(get_args(Corruption))(kind=kind)
    if kind == "labels":
        return split._replace(labels=jax.random.permutation(key, split.labels))
    rows = split.images.reshape(len(split.images), -1)
    mixed = jax.random.permutation(key, rows, axis=1, independent=True)
    return split._replace(images=mixed.reshape(split.images.shape))
