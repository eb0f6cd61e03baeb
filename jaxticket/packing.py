"""Masks and kept values in few bytes.

A mask is stored as bits or as *gaps*, in whichever deflate makes smaller. Its gaps are
bytes: each says how many weights lie between a kept one and the kept one before it, and
255 says that 255 weights are passed and none of them is kept.
"""

import math
import zlib

import numpy as np

PACKED, GAPS = "whole", "gaps"  # how a mask is stored
_SKIP = 255
_AT_ONCE = 2**20  # bytes of gaps that are added up in one piece


def of_mask(mask: np.ndarray) -> tuple[str, np.ndarray]:
    """How a mask takes fewest bytes, and these: `PACKED` or `GAPS`."""
    found = {PACKED: np.packbits(mask), GAPS: gaps(mask)}
    return min(found.items(), key=lambda item: len(zlib.compress(item[1].tobytes())))


def gaps(mask: np.ndarray) -> np.ndarray:
    """The gaps of a mask, `uint8[n]`: `n` is at most its size."""
    between = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    skips, rest = between // _SKIP, between % _SKIP
    places = np.cumsum(skips + 1)
    found = np.full(places[-1] if len(places) else 0, _SKIP, np.uint8)
    found[places - 1] = rest
    return found


def mask_of(gaps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of such gaps.

    Raises:
      ValueError: they reach beyond its last weight.
    """
    size = math.prod(shape)
    reach = int(gaps.sum(dtype=np.int64)) + int(np.count_nonzero(gaps < _SKIP))
    if reach > size:
        raise ValueError(f"its gaps reach to {reach} of {size} weights")
    found, at = np.zeros(size, bool), -1
    for begin in range(0, len(gaps), _AT_ONCE):
        part = gaps[begin : begin + _AT_ONCE]
        keeps = part < _SKIP
        places = at + np.cumsum(part + keeps.astype(np.int64))
        found[places[keeps]] = True
        at = places[-1]
    return found.reshape(shape)


def rounded(values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, float]:
    """Values in another dtype, and by how much the worst of them is off.

    Raises:
      ValueError: one has no finite number there.
    """
    with np.errstate(over="ignore"):  # it is said below
        found = values.astype(dtype)
    finite = np.isfinite(values)
    if (lost := finite & ~np.isfinite(found)).any():
        raise ValueError(f"{values[lost][0]:g} is beyond {dtype.name}: take bfloat16")
    off = np.abs(found[finite].astype(np.float64) - values[finite].astype(np.float64))
    return found, float(off.max(initial=0.0))
