"""The same LeNet in a plain PyTorch loop, where PyTorch is installed; never needed."""

import importlib.util
import sys
from collections.abc import Iterator

import numpy as np

from experiments.benchmarks import lenet, measure, tasks
from experiments.benchmarks.bench import Bench


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Images a second of PyTorch, and of this library beside it."""
    if importlib.util.find_spec("torch") is None:
        print("pytorch: not installed, left out", file=sys.stderr)
        return
    images, batch_size = bench.sizes.images, bench.sizes.batch_size
    ours, counted = {}, {}
    for seeds in (1, bench.sizes.many):
        name = f"jaxticket, seeds {seeds}"
        ours[name], counted[name], _ = lenet.throughput(bench, seeds=seeds)
    counted["PyTorch, eager"] = images // batch_size * batch_size
    times = bench.together({"PyTorch, eager": _loop(images, batch_size), **ours})
    for name, count in counted.items():
        faster = measure.ratio(times["PyTorch, eager"], times[name])
        yield measure.rate(
            "pytorch",
            name,
            times[name],
            "images/s",
            count,
            also={"of PyTorch": faster * count / counted["PyTorch, eager"]},
        )


def _loop(images, batch_size) -> measure.Work:
    """An epoch: images in memory, normalised in the step, shuffled, Adam."""
    import torch

    train = tasks.random_images("mnist", images)
    pixels = torch.from_numpy(train.images.reshape(images, -1))
    labels = torch.from_numpy(train.labels.astype(np.int64))
    network = torch.nn.Sequential(
        torch.nn.Linear(784, 300),
        torch.nn.ReLU(),
        torch.nn.Linear(300, 100),
        torch.nn.ReLU(),
        torch.nn.Linear(100, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1.2e-3)

    def work():
        order = torch.randperm(images)
        for begin in range(0, images - batch_size + 1, batch_size):
            rows = order[begin : begin + batch_size]
            logits = network((pixels[rows].float() / 255 - 0.1307) / 0.3081)
            loss = torch.nn.functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return work
