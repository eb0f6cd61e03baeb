"""The same training in a plain PyTorch loop, where that is installed; never needed."""

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from experiments.benchmarks import lenet, measure, tasks, trainer
from experiments.benchmarks.bench import Bench, place

PYTORCH = "PyTorch, eager"
PROCESSES = 2  # beside one that has all cores


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Images a second of PyTorch, and of this library beside it."""
    if importlib.util.find_spec("torch") is None:
        print("pytorch: not installed, left out", file=sys.stderr)
        return
    yield from _lenet(bench)
    yield from _resnet(bench)


def _lenet(bench):
    images, batch_size = bench.sizes.images, bench.sizes.batch_size
    count = images // batch_size * batch_size
    works = {PYTORCH: (_lenet_loop(images, batch_size), count)}
    for seeds in (1, bench.sizes.many):
        name = f"jaxticket, seeds {seeds}"
        works[name] = lenet.throughput(bench, seeds=seeds)[:2]
    cores = _cores()
    if len(cores) < PROCESSES:
        print("pytorch: too few cores for two processes, left out", file=sys.stderr)
        yield from _compare(bench, works)
        return
    with _pinned(cores, images, batch_size) as work:
        works[f"PyTorch, {PROCESSES} processes of a core each"] = (
            work,
            PROCESSES * count,
        )
        yield from _compare(bench, works)


def _cores() -> list[int]:
    """What `PROCESSES` may be pinned to; none where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[:PROCESSES]


@contextlib.contextmanager
def _pinned(cores: list[int], images: int, batch_size: int) -> Iterator[measure.Work]:
    """An epoch of LeNet on each of some cores at once, by a process of its own.

    The processes wait between epochs: their start is not part of the work, and what
    runs by turns with it has the machine for itself.
    """
    line = [sys.executable, "-m", __name__, str(images), str(batch_size)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*line, str(core)], **pipes) for core in cores]

    def work():
        for process in processes:
            print(file=process.stdin, flush=True)
        if not all([process.stdout.readline() for process in processes]):
            raise ChildProcessError("a process of PyTorch has ended")

    try:
        yield work
    finally:
        for process in processes:
            process.communicate()  # ends it, as its input does


def _serve(images: int, batch_size: int, core: int) -> None:
    """Trains an epoch for every line of the input, and says when it has."""
    import torch

    os.sched_setaffinity(0, [core])
    torch.set_num_threads(1)
    work = _lenet_loop(images, batch_size)
    for _ in sys.stdin:
        print(work(), flush=True)


def _resnet(bench):
    """Nesterov, weight decay and batch statistics; PyTorch in both of its layouts."""
    images, batch_size = bench.sizes.resnet_images, bench.sizes.resnet_batch
    works = {}
    for layout in ("default", "channels_last"):
        work = _resnet_loop(images, batch_size, layout)
        works[f"ResNet-20: {PYTORCH}, {layout}"] = work, images
    for seeds in (1, 2):
        devices, _ = place(seeds)
        name = f"ResNet-20: jaxticket, seeds {seeds}, devices {devices}"
        works[name] = trainer.epoch(
            "resnet_20", "nesterov", images=images, batch_size=batch_size, seeds=seeds
        )
    yield from _compare(bench, works)


def _compare(bench, works):
    """Each beside the first, of pairs `(work, images)`."""
    times = bench.together({name: work for name, (work, _) in works.items()})
    first = next(iter(works))
    for name, (_, count) in works.items():
        faster = measure.ratio(times[first], times[name])
        yield measure.rate(
            name,
            times[name],
            "images/s",
            count,
            also={"of PyTorch": faster * count / works[first][1]},
        )


def _lenet_loop(images, batch_size) -> measure.Work:
    """LeNet with Adam."""
    import torch
    from torch import nn

    train = tasks.random_images("mnist", images)
    pixels = torch.from_numpy(train.images.reshape(images, -1))
    layers = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(100, 10)).to(_device())
    optimizer = torch.optim.Adam(network.parameters(), lr=1.2e-3)
    return _epoch(network, optimizer, pixels, train.labels, batch_size)


def _resnet_loop(images, batch_size, layout) -> measure.Work:
    """ResNet-20 with Nesterov's momentum and weight decay."""
    import torch

    last = torch.channels_last
    form = last if layout == "channels_last" else torch.contiguous_format
    train = tasks.random_images("cifar10", images)
    pixels = torch.from_numpy(train.images).permute(0, 3, 1, 2)
    pixels = pixels.contiguous(memory_format=form)
    network = resnet_20().to(_device(), memory_format=form)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    return _epoch(network, optimizer, pixels, train.labels, batch_size)


def _epoch(network, optimizer, pixels, labels, batch_size) -> measure.Work:
    """Images in memory, in random order, normalised in the step."""
    import torch

    pixels = pixels.to(_device())
    labels = torch.from_numpy(labels.astype(np.int64)).to(_device())

    def work():
        order = torch.randperm(len(labels), device=_device())
        for begin in range(0, len(labels) - batch_size + 1, batch_size):
            rows = order[begin : begin + batch_size]
            logits = network((pixels[rows].float() / 255 - 0.5) / 0.25)
            loss = torch.nn.functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return work


def _device():
    """Where JAX computes too: on a GPU, if PyTorch sees one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resnet_20():
    """ResNet-20 as `models.create` makes it, as a `torch.nn.Module`."""
    from torch import nn

    def normed(ins, out, stride=1):
        conv = nn.Conv2d(ins, out, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(out)]

    class Block(nn.Module):
        def __init__(self, ins, out):
            super().__init__()
            stride = 1 if ins == out else 2
            layers = [*normed(ins, out, stride), nn.ReLU(), *normed(out, out)]
            self.layers = nn.Sequential(*layers)
            same = nn.Identity()
            project = nn.Conv2d(ins, out, 1, stride, bias=False)
            self.shortcut = same if ins == out else project

        def forward(self, x):
            return nn.functional.relu(self.layers(x) + self.shortcut(x))

    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(*pair) for pair in zip(widths, widths[1:], strict=False)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*normed(3, 16), nn.ReLU(), *blocks, *head)


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))
