"""Data that do not fit: read while the device trains, batch after batch, through Grain.

The rows of every step are known from the seed's key, see `training.visits`. So there is
no iterator whose state would have to be saved: the host computes the rows of the steps
that come, threads read and decode them, one window of steps ahead, and the step
function is handed batches in place of the whole data set. The numbers are those of a
training from memory, to the last bit, and a killed run goes on at the same row.

A source is anything with a length and elements by number: a NumPy array, one that
`np.load(..., mmap_mode="r")` leaves on disk, a `grain.MapDataset` (before
`.to_iter_dataset()`), what `tfds.data_source` returns:

    source = grain.MapDataset.source(records).map(decode)
    train = streams.stream(streams.Rows(source))
    data = programs.Data(train, held_out)  # with programs.program(..., streams=True)

Each element is an array, or a pytree of arrays, all of one form. What training draws
anew in every visit, such as a part of an image, is `rows.varied(f)`, of
`f(element, generator)`: the generator is the visit's own, whoever reads it and when.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, Self

import jax
import numpy as np

from jaxticket import checks, machine

LOOKED_AT = 8  # elements whose form is compared with the first's before all else
CHUNK, PART = 1024, 32  # elements that `pieces` reads at once, and one thread of them
FIRST_BYTES = 2**28  # of the leading rows that stay on the device
WINDOW_BYTES, MOST_STEPS = 2**27, 64  # of a window of batches, of all lanes here
BITS = 4  # uint32, of which the generator of a visit is made

Vary = Callable[[Any, np.random.Generator], Any]


class Rows:
    """The elements of a source, read when they are asked for.

    Indexed with a slice, or with row numbers in an array of any shape, it gives what an
    array would: `rows[[3, 1]]` is `[2, ...]`, or a pytree of such arrays. Of elements
    that are single arrays it also has `shape`, `dtype`, `ndim` and `size`.

    Args:
      source: has a length and elements by number; `__getitems__`, of several numbers at
        once, is used where there is one. Where it brings elements of many sizes to one,
        `whole`, of several numbers, gives them as they were.
      name: what messages call it.

    Raises:
      ValueError: it has no length, no end, or no elements, or some of them are of
        another shape or dtype than the first.
    """

    def __init__(self, source: Any, *, name: str = "the source"):
        if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise ValueError(
                f"{name} must have a length and elements by number; got "
                f"{type(source).__name__}: give a grain.MapDataset before "
                ".to_iter_dataset(), or a RandomAccessDataSource; batches that only "
                "come one after another need a loop of your own, see "
                "experiments/examples/own_loop.py"
            )
        size = len(source)
        if not 0 < size <= checks.INT32:
            raise ValueError(
                f"{name} must have from 1 to {checks.INT32} elements; got {size}"
                + (": give it before .repeat()" if size else "")
            )
        self.name = name
        self._source = source
        self._rows = None  # all
        self._vary: Vary | None = None
        self._size = size
        [first] = self._elements(np.zeros(1, int))
        self._structure, self._forms = _form(first)
        if not self._forms:
            raise ValueError(f"{name} has elements without arrays: {first!r}")
        self[np.linspace(0, size - 1, min(size, LOOKED_AT)).astype(int)]

    def __len__(self) -> int:
        return self._size if self._rows is None else len(self._rows)

    def only(self, chosen: np.ndarray) -> Self:
        """Some of the rows, by their numbers, or by a bool each; nothing is read."""
        ours = copy.copy(self)
        ours._rows = self._all()[chosen]
        return ours

    @property
    def many_sizes(self) -> bool:
        """Whether the source brings elements of many sizes to one."""
        return hasattr(self._source, "whole")

    @property
    def varies(self) -> bool:
        """Whether training is given them `varied`."""
        return self._vary is not None

    def varied(self, vary: Vary) -> Self:
        """The rows, of which training is given `vary(element, generator)`.

        All else finds them as they are. Of many sizes, `vary` is given each as it was;
        what it returns is of one form.
        """
        ours = copy.copy(self)
        ours._vary = vary
        return ours

    def visited(self, index: np.ndarray, bits: np.ndarray) -> Any:
        """As `rows[index]`, each varied by its visit.

        Args:
          index: row numbers, of any shape.
          bits: uint32 `[*index.shape, BITS]`.
        """
        rows = self._all()[index]
        elements = self._elements(rows.ravel(), whole=self.many_sizes)
        bits = np.ascontiguousarray(bits.reshape(-1, BITS))
        found = []
        for element, key in zip(elements, bits.view(np.uint64), strict=True):
            generator = np.random.Generator(np.random.Philox(key=key))
            found.append(jax.tree.map(_array, self._vary(element, generator)))
        return self._together(rows, found, *_form(found[0]))

    def __getitem__(self, index: slice | Any) -> Any:
        rows = self._all()[index]
        if isinstance(self._source, np.ndarray):
            return _array(self._source[rows])
        if not rows.size:
            empty = [np.zeros((0, *shape), dtype) for shape, dtype in self._forms]
            return self._structure.unflatten(empty)
        elements = self._elements(rows.ravel())
        return self._together(rows, elements, self._structure, self._forms)

    def _together(self, rows, elements: Sequence[Any], structure, forms) -> Any:
        """The elements of rows `[...]`, each leaf `[..., ...]`: all must be alike."""
        columns = []
        for row, element in zip(rows.flat, elements, strict=True):
            if (found := _form(element)) != (structure, forms):
                raise ValueError(
                    f"{self.name}: element {row} is {_words(found[1])} and the first "
                    f"{_words(forms)}: all must be of one shape and dtype, so "
                    "resize, crop or pad them in the source"
                )
            columns.append(jax.tree.leaves(element))
        together = map(np.stack, zip(*columns, strict=True))
        shaped = (x.reshape(*rows.shape, *x.shape[1:]) for x in together)
        return structure.unflatten(shaped)

    def _all(self) -> np.ndarray:
        return np.arange(self._size) if self._rows is None else self._rows

    def _elements(self, rows: np.ndarray, *, whole: bool = False) -> list[Any]:
        source = self._source
        if whole:
            found = source.whole([int(row) for row in rows])
        elif hasattr(source, "__getitems__"):
            found = source.__getitems__([int(row) for row in rows])
        else:
            found = [source[int(row)] for row in rows]
        return [jax.tree.map(_array, element) for element in found]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._array_form[0])

    @property
    def dtype(self) -> np.dtype:
        return self._array_form[1]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def _array_form(self) -> tuple:
        if self._structure != jax.tree.structure(0):
            raise AttributeError(f"{self.name} has elements of {self._structure}")
        return self._forms[0]


def _array(leaf: Any) -> np.ndarray:
    """As a device will have it: 64 bits are 32 where JAX is told nothing else."""
    array = np.asarray(leaf)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _form(element: Any) -> tuple:
    leaves, structure = jax.tree.flatten(element)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _words(forms: list) -> str:
    return ", ".join(f"{dtype} {list(shape)}" for shape, dtype in forms) or "nothing"


def pieces(images: np.ndarray | Rows) -> Iterator[np.ndarray]:
    """Arrays that are all rows together: an array at once, a source in parts."""
    if isinstance(images, Rows):
        for first in range(0, len(images), CHUNK):
            yield read(images, slice(first, first + CHUNK))
    else:
        yield images


def read(rows: np.ndarray | Rows, index: slice | np.ndarray) -> Any:
    """`rows[index]`, with a thread for each core: of many rows at once."""
    if not isinstance(rows, Rows):
        return rows[index]
    places = np.arange(len(rows))[index]
    parts = np.array_split(places, max(1, len(places) // PART))
    with futures.ThreadPoolExecutor(machine.cores()) as pool:
        found = [*pool.map(rows.__getitem__, parts)]
    return jax.tree.map(lambda *each: np.concatenate(each), *found)


class Reader:
    """Reads rows with threads, in order.

    Attributes:
      source: pytree of `Rows` and arrays with as many rows.
      size: how many.
      workers: threads that read and decode.
      varies: whether visits draw, see `Rows.varied`.
    """

    def __init__(self, source: Any, workers: int):
        self.source, self.workers = source, workers
        sizes = {len(leaf) for leaf in jax.tree.leaves(source)}
        if len(sizes) != 1:
            raise ValueError(f"what streams must have as many rows each, got {sizes}")
        [self.size] = sizes
        self.varies = any(map(_varies, jax.tree.leaves(source)))

    def __call__(self, rows: np.ndarray, bits: np.ndarray | None = None) -> Any:
        """The rows of these numbers, each leaf `[*rows.shape, ...]`.

        Args:
          rows: their numbers.
          bits: of the visits that training pays them, where it `varies`.
        """

        def read(leaf):
            ours = bits is not None and _varies(leaf)
            return leaf.visited(rows, bits) if ours else leaf[rows]

        return jax.tree.map(read, self.source)

    @functools.cached_property
    def like(self) -> Any:
        """The shapes of one row, as training is given it."""
        bits = np.zeros((1, BITS), np.uint32) if self.varies else None
        one = self(np.zeros(1, int), bits)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), one)

    def windows(
        self, rows: np.ndarray, steps: int, bits: np.ndarray | None = None
    ) -> Iterator[Any]:
        """The batches of some steps, window after window.

        Args:
          rows: int `[lanes, steps, batch]`.
          steps: of a window.
          bits: uint32 `[lanes, steps, batch, BITS]`, where it `varies`.

        Yields:
          Each leaf `[lanes, steps, batch, ...]`; zeros where the last has fewer steps.
        """
        grain = library()
        length = rows.shape[1]
        batches = iter(
            grain.MapDataset.range(length)
            .map(lambda at: self(rows[:, at], None if bits is None else bits[:, at]))
            .to_iter_dataset(
                grain.ReadOptions(
                    num_threads=min(self.workers, length),
                    prefetch_buffer_size=min(max(self.workers, steps), length),
                )
            )
        )
        for begin in range(0, length, steps):
            here = [next(batches) for _ in range(min(steps, length - begin))]

            def window(*leaves):
                first = leaves[0]
                shape = (first.shape[0], steps, *first.shape[1:])
                found = np.zeros(shape, first.dtype)
                for at, leaf in enumerate(leaves):
                    found[:, at] = leaf
                return found

            yield jax.tree.map(window, *here)


def _varies(leaf: np.ndarray | Rows) -> bool:
    return isinstance(leaf, Rows) and leaf.varies


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stream:
    """Training data that stream, as a pytree: what the device holds of them.

    Attributes:
      first: the leading rows, for what looks at some data: scores and the like.
      reader: of all.
    """

    first: Any
    reader: Reader = dataclasses.field(metadata={"static": True})


def stream(source: Any, *, first: int = 1, workers: int | None = None) -> Stream:
    """Makes training data of a source.

    Args:
      source: `Rows`, or a pytree of `Rows` and arrays with as many rows.
      first: leading rows that stay on the device; fewer where they would take more than
        `FIRST_BYTES`.
      workers: threads that read and decode; default: one for each core.

    Raises:
      ImportError: Grain is not installed.
      ValueError: numbers below 1, or leaves of different lengths.
    """
    library()
    workers = workers or machine.cores()
    checks.whole(1)(first=first, workers=workers)
    reader = Reader(source, workers)
    row = sum(x.nbytes for x in jax.tree.leaves(reader(np.zeros(1, int))))
    first = min(first, reader.size, max(1, FIRST_BYTES // row))
    return Stream(jax.tree.map(lambda x: read(x, slice(first)), source), reader)


def leading(data: Any) -> Any:
    """Rows that are at hand: the first of what streams, else all."""
    return data.first if isinstance(data, Stream) else data


def window(stream: Stream, batch: int) -> int:
    """Steps of a window.

    Args:
      stream: whose rows they have.
      batch: rows of a step, of all lanes of this process together.
    """
    leaves = jax.tree.leaves(stream.reader.like)
    row = sum(x.size * x.dtype.itemsize for x in leaves)
    return max(1, min(MOST_STEPS, WINDOW_BYTES // (row * batch)))


def library() -> Any:
    """Grain.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import grain
    except ImportError:
        raise ImportError(
            "data that stream (--stream) need Grain: pip install grain"
        ) from None
    return grain
