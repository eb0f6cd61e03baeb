"""What the state of every search takes, in multiples of the network's weights."""

from collections.abc import Iterator

import jax

from experiments.benchmarks import measure, tasks
from experiments.benchmarks.bench import Bench
from jaxticket import searches

STEPS = 200  # of an epoch: room for the schedules of all


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Bytes of the state over bytes of the parameters, from shapes alone.

    LeNet's optimiser is Adam, which has two numbers a weight of its own; that of gates
    has two more, and that of scores one.
    """
    for name in searches.__all__:
        model = "resnet_20" if name in tasks.NORMALISED else "lenet_300_100"
        batch = bench.sizes.batch_size
        task = tasks.on_noise(model, STEPS * batch, batch)
        search = task.searches[name](())
        ticket = jax.eval_shape(task.init, jax.random.key(0))
        state = jax.eval_shape(search.init, jax.random.key(0), ticket)
        size = _bytes(state) / _bytes(ticket.weights)
        yield measure.number(f"{name}, {model}", "x", size)


def _bytes(tree) -> int:
    leaves = (x for x in jax.tree.leaves(tree) if hasattr(x, "dtype"))
    return sum(x.size * x.dtype.itemsize for x in leaves)
