"""The same sparse training by jaxpruner, from a checkout of it; never needed.

LeNet-300-100 with Adam. jaxpruner wraps an optimiser, and leaves the loop to its user:
a jitted step, called from Python for every batch, as in its examples. Its data are on
the device, and the rows of a batch are taken within the step, as ours are.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import lenet, measure, tasks, trainer
from experiments.benchmarks.bench import Bench

PAIRS = {  # a search of ours -> their algorithm
    "fixed": "no_prune",
    "static": "static_sparse",
    "gradual": "magnitude",
}
EVERY = 100  # steps between updates of masks, as ours


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Images a second of one seed, and how many times theirs that is."""
    if bench.jaxpruner is None:
        print("jaxpruner: no --jaxpruner, left out", file=sys.stderr)
        return
    create = _created(bench.jaxpruner)
    batch_size = bench.sizes.batch_size
    images = max(bench.sizes.images, 2 * EVERY * batch_size)  # masks do change
    works, counts = {}, {}
    for ours, theirs in PAIRS.items():
        works[_name(theirs)], counts[_name(theirs)] = _loop(
            create, theirs, images, batch_size
        )
        works[ours], counts[ours] = trainer.epoch(
            lenet.MODEL, ours, images=images, batch_size=batch_size
        )
    times = bench.together(works)
    for ours, theirs in PAIRS.items():
        their = _name(theirs)
        yield measure.rate(their, times[their], "images/s", counts[their])
        also = {"times jaxpruner": measure.ratio(times[their], times[ours])}
        yield measure.rate(ours, times[ours], "images/s", counts[ours], also)


def _name(theirs: str) -> str:
    return f"jaxpruner's {theirs}"


def _created(folder: str) -> Callable[..., Any]:
    """What makes their updaters, which call `jax.tree_map`: JAX took it away."""
    jax.tree_map = jax.tree.map
    sys.path.insert(0, str(Path(folder).resolve()))
    try:
        from jaxpruner import create_updater_from_config
        from ml_collections import ConfigDict
    except ImportError as error:
        raise ImportError(
            f"{folder} cannot be imported as jaxpruner ({error}): give --jaxpruner a "
            "checkout of it, and install chex and ml_collections"
        ) from error
    finally:
        sys.path.pop(0)
    return lambda **settings: create_updater_from_config(ConfigDict(settings))


def _loop(create, algorithm, images, batch_size) -> tuple[measure.Work, int]:
    """An epoch of their training, and how many images that is."""
    what = tasks.on_noise(lenet.MODEL, images, batch_size)
    steps = images // batch_size
    updater = create(
        algorithm=algorithm,
        sparsity=1 - tasks.DENSITY,
        dist_type="erk",
        update_start_step=0,
        update_end_step=steps,
        update_freq=EVERY,
    )
    optimizer = updater.wrap_optax(optax.adam(what.config.learning_rate))
    ticket = what.init(jax.random.key(0))
    data = jax.tree.map(jnp.asarray, what.train)

    def step(params, state, data, rows, key):
        def loss(params):
            batch = jax.tree.map(lambda x: x[rows], data)
            return what.loss_fn(params, ticket.model_state, batch, key)[0]

        forward = updater.pre_forward_update(params, state)
        grads = jax.grad(loss)(forward)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return updater.post_gradient_update(params, state), state

    step = jax.jit(step, donate_argnums=(0, 1))
    now = [ticket.weights, optimizer.init(ticket.weights)]
    draw, key = np.random.default_rng(0), jax.random.key(1)

    def work():
        order = draw.permutation(images)[: steps * batch_size].astype(np.int32)
        for rows in order.reshape(steps, batch_size):
            now[:] = step(*now, data, rows, key)
        return now

    return work, steps * batch_size
