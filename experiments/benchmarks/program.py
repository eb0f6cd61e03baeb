"""One compiled program of many steps, against a call from Python for every step."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from experiments.benchmarks import measure, tasks, trainer
from experiments.benchmarks.bench import Bench
from experiments.benchmarks.lenet import MODEL
from jaxticket import training


def rows(bench: Bench) -> Iterator[measure.Row]:
    """The same network, data and optimiser both times, one seed on one device."""
    images, batch_size = bench.sizes.images, bench.sizes.batch_size
    one, count = trainer.epoch(MODEL, "fixed", images=images, batch_size=batch_size)
    works = {
        "one program an epoch": one,
        "one call a step": _stepwise(images, batch_size),
    }
    times = bench.together(works)
    for name, timing in times.items():
        yield measure.rate(
            name,
            timing,
            "images/s",
            count,
            also={"of first": measure.ratio(times["one program an epoch"], timing)},
        )


def _stepwise(images, batch_size):
    what = tasks.on_noise(MODEL, images, batch_size)
    search = what.searches["fixed"](())
    rows = jax.device_put(what.train)
    key = jax.random.key(0)
    carry = [jax.jit(lambda key: training.start(search, key, what.init(key)))(key)]

    def step(carry, rows, order, key, position):
        chosen = jax.lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
        batch = jax.tree.map(lambda x: jnp.take(x, chosen, axis=0), rows)
        params = search.params(carry.search)
        (loss, model), grads = jax.value_and_grad(what.loss_fn, has_aux=True)(
            params, carry.model, batch, jax.random.fold_in(key, position)
        )
        state = search.update(grads, carry.search, position)
        return carry._replace(search=state, model=model), loss

    step = jax.jit(step, donate_argnums=0)
    shuffle = jax.jit(lambda key: jax.random.permutation(key, images))

    def work():
        order = shuffle(key)
        for position in range(images // batch_size):
            carry[0], loss = step(carry[0], rows, order, key, position)
        return carry, loss

    return work
