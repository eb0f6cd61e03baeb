"""A search in a loop of one's own, over batches that come one after another.

Any iterable of batches will do: a PyTorch DataLoader (its tensors as `batch.numpy()`),
Grain, tf.data (`dataset.as_numpy_iterator()`). The three moves of a search are the
loop's: `init` once, `update` after every gradient, `advance` between rounds.

    python -m experiments.examples.own_loop
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxticket as jt


def found(
    search: jt.Search,
    loss_fn: Callable,
    key: jax.Array,
    ticket: jt.Ticket,
    batches: Callable[[], Iterable],
    *,
    rounds: int,
    steps: int,
) -> tuple[jt.Ticket, list[float]]:
    """The ticket of the last round, and the loss at the end of each.

    Args:
      search: the search.
      loss_fn: `(params, batch) -> loss`.
      key: of the search.
      ticket: where it starts.
      batches: makes the batches of a round, at least `steps` of one shape.
      rounds: how many.
      steps: of each.
    """

    # The memory of a state is given to the next; `at` is a number of the program, so
    # that one compilation serves every step.
    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch, at):
        params = search.params(state)
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        return search.update(grads, state, at, value=loss), loss

    advance = jax.jit(search.advance, donate_argnums=0)
    state, losses = search.init(key, ticket), []
    for round_ in range(rounds):
        state = advance(state) if round_ else state
        for at, batch in zip(range(steps), batches(), strict=False):
            state, loss = step(state, batch, at)
        losses.append(float(loss))
    return search.ticket(state), losses


def main() -> tuple[jt.Ticket, list[float]]:
    """A regression, whose batches a generator makes."""
    weights = {
        "hidden": {"w": jax.random.normal(jax.random.key(0), (4, 16)) / 2},
        "output": {"w": jax.random.normal(jax.random.key(1), (16, 1)) / 4},
    }

    def loss_fn(params, batch):
        x, y = batch
        hidden = jnp.tanh(x @ params["hidden"]["w"])
        return jnp.mean((hidden @ params["output"]["w"] - y) ** 2)

    def batches():
        rng = np.random.default_rng(0)
        while True:
            x = rng.normal(size=(32, 4)).astype(np.float32)
            yield x, np.sin(x[:, :1])

    return found(
        jt.imp(optax.adam(0.01), density=0.5),
        loss_fn,
        jax.random.key(2),
        jt.Ticket(weights, jt.masks.full(weights)),
        batches,
        rounds=3,
        steps=200,
    )


if __name__ == "__main__":
    ticket, losses = main()
    print(f"density {jt.masks.density(ticket.mask):.3f}, losses {losses}")
