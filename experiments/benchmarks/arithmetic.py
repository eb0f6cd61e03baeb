"""How much a training computes and moves, by XLA's own count."""

import functools

import jax

from experiments.benchmarks import tasks
from jaxticket import training


@functools.cache
def flops(model: str, batch_size: int) -> float:
    """FLOP to train on one image: the loss and its gradient, as XLA counts them."""
    gradient, _, carry, batch = _one_step(model, batch_size)
    lowered = jax.jit(gradient).lower(carry, batch)
    return lowered.cost_analysis()["flops"] / batch_size


@functools.cache
def traffic(model: str, batch_size: int) -> float:
    """Bytes that the operations of one step read and write, by the image.

    XLA's count, of the step outside its loop: every operation from and to memory.
    """
    _, step, carry, batch = _one_step(model, batch_size)
    compiled = jax.jit(step, donate_argnums=0).lower(carry, batch).compile()
    return compiled.cost_analysis()["bytes accessed"] / batch_size


def _one_step(model, batch_size):
    """The gradient, the step with its update, and what both take."""
    what = tasks.on_noise(model, batch_size, batch_size)
    search = what.searches["fixed"](())
    key = jax.random.key(0)
    batch = jax.tree.map(lambda x: x[:batch_size], what.train)
    carry = jax.eval_shape(lambda: training.start(search, key, what.init(key)))

    def gradient(carry, batch):
        params = search.params(carry.search)
        return jax.grad(what.loss_fn, has_aux=True)(params, carry.model, batch, key)

    def step(carry, batch):
        grads, model_state = gradient(carry, batch)
        state = search.update(grads, carry.search, 0)
        return carry._replace(search=state, model=model_state)

    return gradient, step, carry, batch
