"""What the state of every search takes, in multiples of the network's weights."""

import inspect
from collections.abc import Iterator

import jax

from experiments import ticket_search
from experiments.benchmarks import measure, tasks
from experiments.benchmarks.bench import Bench
from experiments.study import methods
from experiments.study.settings import resolve
from jaxticket import hyperparameters, searches

LIKELY = 0.1  # of a hyper-parameter that must be given: a density
NORMALISED = ("slimming",)  # searches that prune by the scales of normalisations


class Config(ticket_search.Config):
    """Every search as the library has it."""

    METHODS = methods.registry()


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Bytes of the state over bytes of the parameters, from shapes alone.

    LeNet's optimiser is Adam, which has two numbers a weight of its own; that of gates
    has two more, and that of scores one.
    """
    for name in searches.__all__:
        model = "resnet_20" if name in NORMALISED else "lenet_300_100"
        task = tasks.on_noise(model, bench.sizes.batch_size, bench.sizes.batch_size)
        hypers = hyperparameters.of(getattr(searches, name)).values()
        given = {
            f"{name}.{hyper.name}": LIKELY
            for hyper in hypers
            if hyper.default is inspect.Parameter.empty
        }
        config = resolve(
            Config(
                dataset=tasks.dataset_of(model),
                model=model,
                methods=(name,),
                **tasks.PLAIN,
                rewind_step=0,
                hyper=given,
            )
        )
        planned = methods.plan(config, name)
        search = planned.search(planned.settings[0].swept)
        ticket = jax.eval_shape(task.init, jax.random.key(0))
        state = jax.eval_shape(search.init, jax.random.key(0), ticket)
        size = _bytes(state) / _bytes(ticket.weights)
        yield measure.number("states", f"{name}, {model}", "x", size)


def _bytes(tree) -> int:
    leaves = (x for x in jax.tree.leaves(tree) if hasattr(x, "dtype"))
    return sum(x.size * x.dtype.itemsize for x in leaves)
