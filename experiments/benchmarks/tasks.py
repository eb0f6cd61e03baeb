"""What is trained: a model of the zoo on a data set, as the experiments set it up."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from experiments import ticket_search
from experiments.study import methods, optimizers
from experiments.study.settings import resolve
from jaxticket import (
    data,
    hyperparameters,
    masks,
    models,
    prune,
    searches,
    supervised,
    training,
)
from jaxticket.base import Search, Ticket

DATASETS = {
    "mnist1d": (40,),
    "mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "imagenet": (224, 224, 3),  # of noise: no such data set is read
}
CLASSES = {"imagenet": 1000}
DENSITY = 0.1  # of a jackpot, and of whatever must be told one
NORMALISED = ("slimming",)  # searches that prune by the scales of normalisations


class Task(NamedTuple):
    """A network, its data and how it is trained.

    Attributes:
      config: the settings of a run on this data set and model.
      init: `key -> ticket`, which keeps everything.
      loss_fn: see `training.LossFn`.
      metrics_of: see `supervised.evaluator`.
      train: the training images.
      searches: the name of a method -> the setting of a lane -> its search; those of
        the library, and others. The setting is (), but of "many values of s0".
    """

    config: ticket_search.Config
    init: Callable
    loss_fn: training.LossFn
    metrics_of: Callable
    train: data.Split
    searches: dict[str, Callable[[Any], Search]]


class Every(ticket_search.Config):
    """Every search as the library has it."""

    METHODS = methods.registry()


def listed(name: str, model: str, per_epoch: int) -> Search:
    """A search of the public list, with its defaults, as the experiments build it."""
    hypers = hyperparameters.of(getattr(searches, name)).values()
    given = {
        f"{name}.{hyper.name}": DENSITY
        for hyper in hypers
        if hyper.default is inspect.Parameter.empty
    }
    config = resolve(
        Every(
            dataset=dataset_of(model),
            model=model,
            methods=(name,),
            **PLAIN,
            epochs=1,
            rewind_step=0,
            hyper=given,
        )
    )
    planned = methods.plan(config.in_steps(per_epoch), name, per_epoch)
    return planned.search(planned.settings[0].swept)


def random_images(dataset: str, count: int, seed: int = 0) -> data.Split:
    """Noise of the shape of a data set: speed does not depend on what is shown."""
    draw = np.random.default_rng(seed)
    shape = (count, *DATASETS[dataset])
    if dataset == "mnist1d":
        images = draw.standard_normal(shape, np.float32)
    else:
        images = draw.integers(0, 256, shape, np.uint8)
    return data.Split(images, draw.integers(0, 10, count, np.int32))


@functools.cache
def on_noise(model: str, images: int, batch_size: int) -> Task:
    """The training of a model of the zoo, on noise."""
    dataset = dataset_of(model)
    return on(random_images(dataset, images), dataset, model, batch_size)


# Of every model, whatever its preset is: what is timed is one optimiser's step.
PLAIN = {
    "optimizer": "adam",
    "learning_rate_drops": (),
    "warmup_steps": 0,
    "weight_decay": 0.0,
}


def dataset_of(model: str) -> str:
    """The data set whose images a model of the zoo is made for."""
    if model == "mlp_1d":
        return "mnist1d"
    if model in ("mlp", "lenet_300_100", "lenet_5"):
        return "mnist"
    return "imagenet" if model in ("resnet_50", "vgg_19_bn") else "cifar10"


def on(train: data.Split, dataset: str, model: str, batch_size: int) -> Task:
    """The training of a model of the zoo on given images."""
    config = resolve(
        ticket_search.Config(
            dataset=dataset,
            model=model,
            batch_size=batch_size,
            epochs=1,
            **PLAIN,
            hyper={"imp.select": "global_top", "imp.density": 0.8},
        )
    )
    per_epoch = len(train.labels) // batch_size
    config = config.in_steps(per_epoch)
    network = models.create(model, num_classes=CLASSES.get(dataset, 10))
    prepare = data.normalizer("standard", train.images, name=dataset)
    example = prepare(jnp.asarray(train.images[:1]))

    def init(key):
        weights, state = network.init(key, example)
        return Ticket(weights, masks.full(weights), state)

    def trained(**changes):
        ours = dataclasses.replace(config, **changes)
        search = searches.fixed(optimizers.of_weights(ours))
        return lambda _: search

    def many_values(s0):
        return searches.continuous_sparsification(
            optimizers.of_gates(config),
            steps=per_epoch,
            epoch_steps=per_epoch,
            initial_logit=s0,
        )

    def jackpot(_):
        search = searches.jackpot(optax.sgd(0.1, momentum=0.9))

        def init(key, ticket):
            return search.init(key, prune(ticket, "magnitude", DENSITY))

        return search._replace(init=init)

    return Task(
        config,
        init,
        supervised.objective(network, prepare=prepare),
        supervised.evaluator(network, prepare=prepare),
        train,
        {
            name: lambda _, name=name: listed(name, model, per_epoch)
            for name in searches.__all__
        }
        | {
            "fixed": trained(),
            "sgd": trained(optimizer="sgd"),
            "nesterov": trained(
                optimizer="nesterov", learning_rate=0.1, weight_decay=1e-4
            ),
            "imp": lambda _: methods.plan(config, "imp", per_epoch).search({}),
            "many values of s0": many_values,
            "jackpot": jackpot,
        },
    )
