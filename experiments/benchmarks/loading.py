"""Images that stream: how fast they are decoded, beside the step that takes them."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from experiments.benchmarks import measure, trainer
from experiments.benchmarks.bench import Bench
from jaxticket import machine
from jaxticket.data import pictures, streams

SIZE = (375, 500)  # the usual image of ImageNet; of 110 kB as JPEG
NUMBER = 16  # different ones


class Files:
    """A source of JPEG files, decoded as those of a prepared data set are.

    Args:
      count: how many; they repeat.
      side: of the squares that they become.
    """

    def __init__(self, count: int, side: int):
        self._count, self._side = count, side
        draw = np.random.default_rng(0)
        self._files = [_jpeg(draw) for _ in range(NUMBER)]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> np.ndarray:
        image = np.asarray(Image.open(io.BytesIO(self._files[row % NUMBER])))
        return pictures.square(image, self._side)


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Images a second: read from memory by one thread, and by all; and trained on.

    `of step` is how many times as many are read as a step takes: below 1 devices wait.
    """
    model, side = bench.sizes.loaded
    batch_size = bench.sizes.large_batch
    step = f"{model}'s step, batch {batch_size}"
    works, counts = {}, {}
    works[step], counts[step] = trainer.epoch(
        model, "fixed", images=2 * batch_size, batch_size=batch_size
    )
    cores = machine.cores()
    for workers in sorted({1, cores}):
        name = f"JPEG to {side}x{side}, workers {workers}"
        works[name] = _reading(4 * batch_size * cores, side, batch_size, workers)
        counts[name] = 4 * batch_size * cores
    times = bench.together(works)
    for name, count in counts.items():
        more = count / counts[step] / measure.ratio(times[name], times[step])
        also = {"of step": more, "workers": float(name.rpartition(" ")[2])}
        also = {} if name == step else also
        yield measure.rate(name, times[name], "images/s", count, also)


def _reading(count, side, batch_size, workers) -> measure.Work:
    train = streams.stream(streams.Rows(Files(count, side)), workers=workers)
    order = np.arange(count).reshape(1, -1, batch_size)

    def work():
        for window in train.reader.windows(order, streams.window(train, batch_size)):
            last = window
        return last

    return work


def _jpeg(draw: np.random.Generator) -> bytes:
    """A file whose size is usual: noise that is coarse, with a little that is fine."""
    height, width = SIZE
    coarse = draw.integers(0, 256, (height // 25, width // 25, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    fine = draw.normal(scale=20, size=(height, width, 3))
    noisy = np.clip(np.asarray(image) + fine, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "jpeg", quality=90)
    return file.getvalue()
