"""Pictures of many sizes, brought to one on the host, where they are decoded."""

import numpy as np

# Of a random part: the share of the image's area, drawn evenly, the ratio of width to
# height, evenly on a logarithmic scale, and how many are drawn until one lies within.
AREA, ASPECT, TRIALS = (0.08, 1.0), (3 / 4, 4 / 3), 10


def square(image: np.ndarray, side: int | None) -> np.ndarray:
    """The middle square of an image whose shorter side is resized to `side`."""
    if side is None:
        return image
    height, width = image.shape[:2]
    scale = side / min(height, width)
    tall, wide = (max(side, round(x * scale)) for x in (height, width))
    whole = _resized(image, tall, wide)
    top, left = ((x - side) // 2 for x in whole.shape[:2])
    return np.ascontiguousarray(whole[top : top + side, left : left + side])


def random_part(
    image: np.ndarray, generator: np.random.Generator, size: int
) -> np.ndarray:
    """A part of the whole image, resized, and mirrored half of the times.

    What `random_resized_crop` does on the device to images of one size, here of any.

    Args:
      image: uint8 `[h, w, c]`.
      generator: of this visit.
      size: pixels of each side of the result.

    Returns:
      uint8 `[size, size, c]`.
    """
    height, width = image.shape[:2]
    draws = generator.random(2 * TRIALS + 3)
    areas, ratios = draws[:TRIALS], draws[TRIALS : 2 * TRIALS]
    row, column, mirrored = draws[2 * TRIALS :]
    (least, most), (low, high) = AREA, np.log(ASPECT)
    pixels = (least + (most - least) * areas) * (height * width)
    ratios = np.exp(low + (high - low) * ratios)
    tall, wide = (np.round(np.sqrt(x)) for x in (pixels / ratios, pixels * ratios))
    fits = (tall <= height) & (wide <= width) & (tall >= 1) & (wide >= 1)
    if fits.any():
        tall, wide = (int(x[fits.argmax()]) for x in (tall, wide))
        top, left = int(row * (height - tall + 1)), int(column * (width - wide + 1))
    else:
        tall = wide = min(height, width)
        top, left = (height - tall) // 2, (width - wide) // 2
    part = _resized(image[top : top + tall, left : left + wide], size, size)
    return np.ascontiguousarray(part[:, ::-1]) if mirrored < 0.5 else part


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image  # only these need it here

    flat = image[..., 0] if image.shape[-1] == 1 else image
    flat = Image.fromarray(np.ascontiguousarray(flat))
    found = np.asarray(flat.resize((width, height), Image.Resampling.BILINEAR))
    return found.reshape(height, width, image.shape[-1])
