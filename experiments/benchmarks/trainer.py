"""Training as the experiments run it: the same searches, losses, steps and layouts."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as settings
from experiments import methods
from experiments.benchmarks import measure
from experiments.benchmarks.bench import layout
from jaxticket import classification, data, lanes, masks, models, resumable, training
from jaxticket.base import Search, Ticket

DATASETS = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


class Task(NamedTuple):
    """A network, its data and how it is trained.

    Attributes:
      config: the settings of a run on this data set and model.
      init: `key -> (ticket, model_state)`.
      loss_fn: see `training.LossFn`.
      metrics_of: see `classification.evaluator`.
      train: the training images.
      searches: the name of a method -> a search.
    """

    config: settings.Config
    init: Callable
    loss_fn: training.LossFn
    metrics_of: Callable
    train: data.Split
    searches: dict[str, Search]


def random_images(dataset: str, count: int, seed: int = 0) -> data.Split:
    """Noise of the shape of a data set: speed does not depend on what is shown."""
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (count, *DATASETS[dataset]), np.uint8)
    return data.Split(images, draw.integers(0, 10, count, np.int32))


@functools.cache
def task(model: str, images: int, batch_size: int) -> Task:
    """The training of a model of the zoo, on noise."""
    dataset = "cifar10" if model.startswith(("conv", "resnet")) else "mnist"
    return task_on(random_images(dataset, images), dataset, model, batch_size)


def task_on(train: data.Split, dataset: str, model: str, batch_size: int) -> Task:
    """The training of a model of the zoo on given images."""
    config = settings.resolve(
        settings.Config(
            dataset=dataset,
            model=model,
            batch_size=batch_size,
            scope="global",
            density=0.8,
            epochs=1,
        )
    )
    network = models.create(model, num_classes=10)
    prepare = data.normalizer("standard", train.images, name=dataset)
    example = prepare(jnp.asarray(train.images[:1]))

    def init(key):
        weights, state = network.init(key, example)
        return Ticket(weights, masks.full(weights)), state

    weights = jax.eval_shape(init, jax.random.key(0))[0].weights
    per_epoch = len(train.labels) // batch_size
    imp = methods.method(
        "imp", config, weights, steps=per_epoch, epoch_steps=per_epoch
    ).search
    return Task(
        config,
        init,
        classification.cross_entropy(network, prepare=prepare),
        classification.evaluator(network, prepare=prepare),
        train,
        {"fixed": methods.fixed(config), "imp": imp},
    )


class Program(NamedTuple):
    """A stretch of training, compiled for a layout.

    Attributes:
      start: `keys -> carry`.
      stretch: `(carry, keys, data, first, last, round) -> (carry, loss)`; donates.
      data: on every device.
      layout: where the lanes are.
    """

    start: Callable
    stretch: Callable
    data: Any
    layout: lanes.Layout


@functools.cache
def program(
    model: str, method: str, *, images: int, batch_size: int, devices: int, width: int
) -> Program:
    """Compiled as `resumable.program` does it, without the evaluation."""
    what = task(model, images, batch_size)
    where = layout(devices, width)
    search = what.searches[method]

    def start(key):
        return training.start(search, key, *what.init(key))

    def stretch(carry, key, rows, first, last, round):
        return training.steps(
            search,
            what.loss_fn,
            carry,
            key,
            rows,
            first=first,
            last=last,
            round=round,
            batch_size=batch_size,
        )

    return Program(
        lanes.mapped(where, start, (True,)),
        lanes.mapped(where, stretch, (True, True) + (False,) * 4, donate=(0,)),
        lanes.everywhere(where, what.train),
        where,
    )


def epoch(
    model: str,
    method: str,
    *,
    seeds: int,
    images: int,
    batch_size: int,
    devices: int,
    width: int = 1,
) -> tuple[measure.Work, int]:
    """An epoch of every seed, group after group; and how many images that is."""
    compiled = program(
        model,
        method,
        images=images,
        batch_size=batch_size,
        devices=devices,
        width=width,
    )
    steps = images // batch_size
    numbers = [np.int32(x) for x in (0, steps, 0)]
    groups = lanes.groups(range(seeds), compiled.layout.width)
    keys = [jnp.stack([jax.random.key(seed) for seed in group]) for group in groups]
    carries = [compiled.start(key) for key in keys]

    def work():
        losses = []
        for i, key in enumerate(keys):
            carries[i], loss = compiled.stretch(
                carries[i], key, compiled.data, *numbers
            )
            losses.append(jax.block_until_ready(loss))
        return losses, carries

    return work, seeds * steps * batch_size


@functools.cache
def flops(model: str, images: int, batch_size: int) -> float:
    """FLOP to train on one image: the loss and its gradient, as XLA counts them."""
    gradient, _, carry, batch = _one_step(model, images, batch_size)
    lowered = jax.jit(gradient).lower(carry, batch)
    return lowered.cost_analysis()["flops"] / batch_size


@functools.cache
def traffic(model: str, images: int, batch_size: int) -> float:
    """Bytes that the operations of one step read and write, by the image.

    XLA's count, of the step outside its loop: every operation from and to memory.
    """
    _, step, carry, batch = _one_step(model, images, batch_size)
    compiled = jax.jit(step, donate_argnums=0).lower(carry, batch).compile()
    return compiled.cost_analysis()["bytes accessed"] / batch_size


def _one_step(model, images, batch_size):
    """The gradient, the step with its update, and what both take."""
    what = task(model, images, batch_size)
    search = what.searches["fixed"]
    key = jax.random.key(0)
    batch = jax.tree.map(lambda x: x[:batch_size], what.train)
    carry = jax.eval_shape(lambda: training.start(search, key, *what.init(key)))

    def gradient(carry, batch):
        params = search.params(carry.search)
        return jax.grad(what.loss_fn, has_aux=True)(params, carry.model, batch, key)

    def step(carry, batch):
        grads, model_state = gradient(carry, batch)
        state = search.update(grads, carry.search, 0)
        return carry._replace(search=state, model=model_state)

    return gradient, step, carry, batch


def search_program(what: Task, where: lanes.Layout) -> resumable.Program:
    """IMP as the experiments compile it, with a test after every stretch."""

    def evaluate(params, model_state, held_out):
        return what.metrics_of(params, model_state, held_out)._asdict()

    return resumable.program(
        what.searches["imp"],
        what.loss_fn,
        evaluate,
        classification.Metrics._fields,
        where,
        batch_size=what.config.batch_size,
    )
