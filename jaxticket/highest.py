"""The k highest of all leaves, counted where they lie.

The k-th largest is found byte by byte, and each byte by eight passes over bytes that
only count. Of a leaf in shards every device counts its own, and nothing but counts is
added across devices: no leaf is gathered, nor put behind another.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxticket import counts, meshes

_LINES = 32  # that are counted in bytes; of more XLA makes two sweeps on CPU
_COLUMNS = 64  # of a line, or a multiple: what vectorises
_SMALL = 2**16  # smaller leaves are put together on one device: less to compile
_GUESSES = 8  # by the density of ties, before halving


@jax.jit  # called by itself it is one program, and not one for every operation
def highest(
    scores: Sequence[jax.Array], alive: Sequence[jax.Array], k: counts.Count
) -> list[jax.Array]:
    """Masks of the `k` highest; of equals the first, in order of leaf and position.

    Args:
      scores: arrays of one dtype; NaN is lowest.
      alive: which there are to choose from, bool arrays of the same shapes.
      k: how many, at most as many as there are.
    """
    whole = not any(map(meshes.divisible, (*scores, *alive)))
    blocks = _together(alive) if whole else [[i] for i in range(len(alive))]
    keys = [_keys([scores[i] for i in b], [alive[i] for i in b]) for b in blocks]
    layouts = [_layout(key) for key in keys]
    keys = [at.lay(key) for at, key in zip(layouts, keys, strict=True)]

    kth, above, reached = _kth(keys, layouts, k)
    tied = [key == kth for key in keys]
    cuts = _cuts(tied, layouts, k - above, reached - above)
    found: list[jax.Array] = []
    for n, (at, block) in enumerate(zip(layouts, blocks, strict=True)):
        kept = at.lift((keys[n] > kth) | (tied[n] & at.before(cuts[n])))
        ends = np.cumsum([alive[i].size for i in block])[:-1]
        parts = jnp.split(kept, ends) if len(block) > 1 else [kept]
        found += [x.reshape(alive[i].shape) for x, i in zip(parts, block, strict=True)]
    return found


def count(flags: jax.Array) -> jax.Array:
    """How many are true, fewer than 2**31: int32 scalar."""
    if flags.size <= _SMALL:
        return jnp.sum(flags, dtype=jnp.int32)
    # By itself XLA makes whole numbers of all flags first, on CPU.
    layout = _layout(flags)
    return layout.count(layout.lay(flags))


def _together(leaves: Sequence[jax.Array]) -> list[list[int]]:
    """The places of all leaves, in order; small ones in a row are one block."""
    blocks: list[list[int]] = []
    for i, leaf in enumerate(leaves):
        if i == 0 or max(leaf.size, leaves[i - 1].size) > _SMALL:
            blocks.append([])
        blocks[-1].append(i)
    return blocks


def _keys(scores: Sequence[jax.Array], alive: Sequence[jax.Array]) -> jax.Array:
    """What stands for the scores of a block; of several leaves one after another."""
    keys = [_ordered(s, m) for s, m in zip(scores, alive, strict=True)]
    if len(keys) == 1:
        return jnp.atleast_1d(keys[0])
    return jnp.concatenate([key.ravel() for key in keys])


def _ordered(scores: jax.Array, alive: jax.Array) -> jax.Array:
    """Unsigned integers in the order of the scores: 0 for pruned weights, 1 for NaN."""
    whole, size = jnp.issubdtype(scores.dtype, jnp.integer), scores.dtype.itemsize
    if whole and size >= 4:  # smaller ones float32 has all of
        return jnp.where(alive, _of_integers(scores), 0)
    if size < 2 or not jnp.issubdtype(scores.dtype, jnp.floating):
        scores = scores.astype(jnp.float32)
    kind, sign = _unsigned(scores)
    scores = jnp.where(scores == 0, 0, scores)  # -0.0 and 0.0 are a tie
    bits = jax.lax.bitcast_convert_type(scores, kind)
    ordered = jnp.where(bits >= sign, ~bits, bits | sign)
    return jnp.where(alive, jnp.where(jnp.isnan(scores), kind(1), ordered), kind(0))


def _of_integers(scores: jax.Array) -> jax.Array:
    """The same of integers, from 1 on: the two highest of their type are a tie."""
    kind, sign = _unsigned(scores)
    ordered = jax.lax.bitcast_convert_type(scores, kind)
    if jnp.issubdtype(scores.dtype, jnp.signedinteger):
        ordered ^= sign
    return jnp.minimum(ordered, ~kind(1)) + kind(1)


def _unsigned(scores: jax.Array) -> tuple[type, np.unsignedinteger]:
    """The unsigned integers of as many bits, and the highest of these bits."""
    kind = jnp.dtype(f"uint{8 * scores.dtype.itemsize}").type
    return kind, kind(1) << kind(scores.dtype.itemsize * 8 - 1)


class _Layout(NamedTuple):
    """How a leaf lies to be counted: `[..., parts, blocks, lines, columns, ...]`.

    That is one axis of it, filled up. No shard has less than a part, so all that
    follows is done within a device; the lines of a block are counted in bytes.

    Attributes:
      shape: of the leaf.
      axis: which axis of it.
      inner: the length of a part before it is filled up.
    """

    shape: tuple[int, ...]
    axis: int
    parts: int
    inner: int
    blocks: int
    lines: int
    columns: int

    @property
    def laid(self) -> tuple[int, ...]:
        split = (self.parts, self.blocks, self.lines, self.columns)
        return (*self.shape[: self.axis], *split, *self.shape[self.axis + 1 :])

    def lay(self, x: jax.Array) -> jax.Array:
        before, after = self.shape[: self.axis], self.shape[self.axis + 1 :]
        x = x.reshape(*before, self.parts, self.inner, *after)
        fill = self.blocks * self.lines * self.columns - self.inner
        if fill:
            fills = [(0, 0, 0)] * x.ndim
            fills[self.axis + 1] = (0, fill, 0)
            x = jax.lax.pad(x, jnp.zeros((), x.dtype), fills)
        return x.reshape(self.laid)

    def lift(self, x: jax.Array) -> jax.Array:
        """A leaf that was laid out, in its own shape."""
        before, after = self.shape[: self.axis], self.shape[self.axis + 1 :]
        x = x.reshape(*before, self.parts, -1, *after)
        x = jax.lax.slice_in_dim(x, 0, self.inner, axis=self.axis + 1)
        return x.reshape(self.shape)

    def count(self, flags: jax.Array) -> jax.Array:
        """How many are true of flags that are laid out: int32 scalar."""
        of_blocks = jnp.sum(flags, axis=self.axis + 2, dtype=jnp.uint8)
        return jnp.sum(of_blocks, dtype=jnp.int32)

    def before(self, place: jax.Array) -> jax.Array:
        """Which of what is laid out comes before a place in the leaf."""
        index = _unravelled(place, self.shape)
        part, rest = jnp.divmod(index[self.axis], jnp.uint32(max(self.inner, 1)))
        within = _unravelled(rest, (self.blocks, self.lines, self.columns))
        index = (*index[: self.axis], part, *within, *index[self.axis + 1 :])
        return _before(index, self.laid)


def _layout(leaf: jax.Array) -> _Layout:
    """Along the axis of which a part has most, but for the last if there are others."""
    cut = [meshes.shards(leaf, axis) for axis in range(leaf.ndim)]
    most = meshes.devices(leaf)  # what an axis is cut into divides both
    parts = [
        n if n > 1 else math.gcd(length, most)
        for n, length in zip(cut, leaf.shape, strict=True)
    ]
    inner = [length // n for n, length in zip(parts, leaf.shape, strict=True)]
    axis = max(range(max(leaf.ndim - 1, 1)), key=inner.__getitem__)
    length, after = inner[axis], max(math.prod(leaf.shape[axis + 1 :]), 1)
    columns = -(-_COLUMNS // after) if after < _COLUMNS else 1
    # Lines a multiple of 4096 bytes apart share the eight places of one cache set.
    most = min(_LINES, 8 * 4096 // math.gcd(4096, columns * after))
    for lines in range(most, most // 5, -1):
        blocks, rest = divmod(length, lines * columns)
        if rest == 0:  # nothing to fill up
            break
    else:
        blocks = -(-length // (most * columns))
        lines = -(-length // max(blocks * columns, 1))
    return _Layout(leaf.shape, axis, parts[axis], length, blocks, lines, columns)


def _unravelled(place: jax.Array, shape: Sequence[int]) -> tuple[jax.Array, ...]:
    """The index of a place; of the one behind all it is `shape[0]` and zeros."""
    index = []
    for length in reversed(shape[1:]):
        place, within = jnp.divmod(place, jnp.uint32(max(length, 1)))
        index.append(within)
    return (place, *reversed(index))


def _before(index: Sequence[jax.Array], shape: Sequence[int]) -> jax.Array:
    """Which elements of an array come before an index, in order of position."""
    found: ArrayLike = False
    for axis in reversed(range(len(shape))):
        here = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        found = (here < index[axis]) | ((here == index[axis]) & found)
    return found


def _counted(layouts: Sequence[_Layout], flags: Sequence[jax.Array]) -> jax.Array:
    """How many are true of every block: int32 `[blocks]`."""
    return jnp.stack([at.count(x) for at, x in zip(layouts, flags, strict=True)])


def _kth(
    keys: Sequence[jax.Array], layouts: Sequence[_Layout], k: counts.Count
) -> tuple[jax.Array, counts.Count, counts.Count]:
    """The k-th largest of the keys, how many are above it, and how many reach it.

    The passes that count run over single bytes: the key's next one where the bytes
    before are those found, 255 where they are higher, 0 where they are lower.
    """
    kind, size = keys[0].dtype.type, keys[0].dtype.itemsize

    def byte(i, state):
        found, above, reached = state
        found = found << kind(8)
        shift = jnp.asarray((size - 1 - i) * 8, kind)
        heads = [jnp.maximum(key >> shift, found) - found for key in keys]
        digits = [jnp.minimum(head, kind(255)).astype(jnp.uint8) for head in heads]

        def bit(j, state):
            low, above, reached = state
            higher = low | jnp.asarray(128 >> j, jnp.uint8)
            there = counts.total(_counted(layouts, [x >= higher for x in digits]))
            enough = there >= k
            return jax.tree.map(
                lambda one, other: jnp.where(enough, one, other),
                (higher, above, there),
                (low, there, reached),
            )

        low, *both = jax.lax.fori_loop(0, 8, bit, (jnp.uint8(0), above, reached))
        return found | low.astype(kind), *both

    none = counts.of(0)
    found, above, reached = jax.lax.fori_loop(0, size, byte, (kind(0), none, none))
    return jnp.maximum(found, kind(1)), above, reached  # never what is pruned


class _Cut(NamedTuple):
    """Where ties are cut off: between two places in one of the blocks.

    Attributes:
      step: how many times ties were counted.
      block: which one is not taken whole.
      want: how many ties of it are.
      low: a place that no more come before.
      high: one that more come before.
      below: the ties before `low`.
      upto: the ties before `high`.
      open: whether `low` is not the cut yet.
    """

    step: jax.Array
    block: jax.Array
    want: jax.Array
    low: jax.Array
    high: jax.Array
    below: jax.Array
    upto: jax.Array
    open: jax.Array

    def guess(self) -> jax.Array:
        """A place between, where the cut is if ties lie equally dense."""
        width = self.high - self.low
        share = (self.want - self.below) / jnp.maximum(self.upto - self.below, 1)
        there = (share * width.astype(jnp.float32)).astype(jnp.uint32)
        there = jnp.where(self.step <= _GUESSES, there, width // 2)
        return self.low + jnp.clip(there, 1, jnp.maximum(width, 2) - 1)


def _cuts(
    tied: Sequence[jax.Array],
    layouts: Sequence[_Layout],
    left: counts.Count,
    ties: counts.Count,
) -> jax.Array:
    """The places before which `left` of all `ties` are taken: uint32 `[blocks]`."""
    sizes = jnp.asarray([math.prod(at.shape) for at in layouts], jnp.uint32)
    order = jnp.arange(len(tied), dtype=jnp.int32)

    def at_block(values, block):
        return jnp.sum(jnp.where(order == block, values, 0), dtype=values.dtype)

    def narrow(cut):
        guess = cut.guess()
        opens = cut.step == 0
        places = jnp.where(opens, sizes, guess)
        before = [at.before(places[n]) for n, at in enumerate(layouts)]
        found = _counted(layouts, [x & b for x, b in zip(tied, before, strict=True)])

        ends = counts.cumulated(found)
        block = jnp.sum(left >= ends, dtype=jnp.int32)
        here = at_block(found, block)
        want = left.low - (at_block(ends.low, block) - here.astype(jnp.uint32))
        want = want.astype(jnp.int32)
        none = jnp.zeros_like(cut.low)
        size = at_block(sizes, block)
        opened = _Cut(
            cut.step, block, want, none, size, none.astype(jnp.int32), here, want > 0
        )

        there = at_block(found, cut.block)
        fewer = there <= cut.want
        nearer = cut._replace(
            low=jnp.where(fewer, guess, cut.low),
            high=jnp.where(fewer, cut.high, guess),
            below=jnp.where(fewer, there, cut.below),
            upto=jnp.where(fewer, cut.upto, there),
            open=there != cut.want,
        )
        cut = jax.tree.map(lambda a, b: jnp.where(opens, a, b), opened, nearer)
        return cut._replace(step=cut.step + 1)

    zero, place = jnp.int32(0), jnp.uint32(0)
    everything = jnp.int32(len(tied))
    cut = _Cut(zero, everything, zero, place, place, zero, zero, ~(left >= ties))
    cut = jax.lax.while_loop(lambda cut: cut.open, narrow, cut)
    return jnp.where(
        order == cut.block, cut.low, jnp.where(order < cut.block, sizes, 0)
    )
