"""The loop: one function takes the steps, whatever runs around it.

`steps` is a stretch of training inside one round. `run` strings stretches together into
a whole search, one pure function for `jit` and `vmap`; `resumable.run` calls them one
after another from the host, where they can be watched, saved and resumed.

Everything is written for one search; seeds and hyper-parameters are batch axes that
`vmap` adds. Round, epoch and step are not batched, so that what happens now and then is
a branch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import order
from jaxticket.base import Params, PRNGKey, Search, State, Ticket

Batch = Any  # what one row of the data is, with a leading axis
ModelState = Any  # batch statistics and the like; an empty dict where there are none
LossFn = Callable[[Params, ModelState, Batch, PRNGKey], tuple[jax.Array, ModelState]]


class Carry(NamedTuple):
    """What one search takes from step to step."""

    search: State
    model: ModelState  # beside the parameters: the search never sees it
    model_anchor: ModelState  # that of the rewinding step


class Result(NamedTuple):
    """What `run` returns.

    Attributes:
      ticket: read after the last round.
      carry: the trained state; `search.params(carry.search)` are the parameters.
      losses: mean training loss of every epoch, `[rounds, epochs]`.
      records: what `record` returned, each leaf `[rounds, epochs, ...]`.
    """

    ticket: Ticket
    carry: Carry
    losses: jax.Array
    records: Any


def start(
    search: Search, key: PRNGKey, ticket: Ticket, model_state: ModelState
) -> Carry:
    """Opens a search."""
    return Carry(search.init(key, ticket), model_state, model_state)


def next_round(search: Search, carry: Carry, *, rewind_model: bool) -> Carry:
    """Closes a round: batch statistics return with the weights, or stay with them."""
    model = carry.model_anchor if rewind_model else carry.model
    return carry._replace(search=search.advance(carry.search), model=model)


def steps(
    search: Search,
    loss_fn: LossFn,
    carry: Carry,
    key: PRNGKey,
    data: Batch,
    *,
    first: ArrayLike,
    last: ArrayLike,
    round: ArrayLike,
    batch_size: int,
    rewind_step: int = 0,
) -> tuple[Carry, jax.Array]:
    """Takes the steps `first, ..., last - 1` of a round.

    Every epoch visits the data in an order of its own, drawn from `key`; the rows that
    do not fill a batch are left out of that epoch. Any division of a round into
    stretches takes the same steps, since `key` and the position are all that randomness
    depends on.

    Args:
      search: the search.
      loss_fn: `(params, model_state, batch, key) -> (loss, model_state)`.
      carry: state before step `first`.
      key: the round's key.
      data: pytree of arrays with one leading axis of `n` rows, on the device.
      first: int32 scalar, unbatched.
      last: int32 scalar, unbatched.
      round: int32 scalar, unbatched: whether this is the first round.
      batch_size: rows per step.
      rewind_step: at this step of round 0 the model state is remembered.

    Returns:
      The state before step `last`, and the mean loss of the steps (NaN without any).
    """
    size = len(jax.tree.leaves(data)[0])
    per_epoch = size // batch_size
    order_key, noise_key = jax.random.split(key)
    first, last, round = (jnp.asarray(x, jnp.int32) for x in (first, last, round))
    gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def step(position, permutation, carry, total):
        places = position % per_epoch * batch_size + jnp.arange(batch_size)
        rows = order.rows(permutation, places, size)
        batch = jax.tree.map(lambda x: jnp.take(x, rows, axis=0), data)
        params = search.params(carry.search)
        (loss, model), grads = gradient(
            params, carry.model, batch, jax.random.fold_in(noise_key, position)
        )
        anchor = carry.model_anchor
        if rewind_step > 0:
            now = (round == 0) & (position == rewind_step)
            anchor = jax.lax.cond(now, lambda: carry.model, lambda: carry.model_anchor)
        state = search.update(grads, carry.search, position)
        return Carry(state, model, anchor), total + loss.astype(jnp.float32)

    def epoch(index, loop):
        permutation = order.draw(jax.random.fold_in(order_key, index), size)
        return jax.lax.fori_loop(
            jnp.maximum(first, index * per_epoch),
            jnp.minimum(last, (index + 1) * per_epoch),
            lambda position, loop: step(position, permutation, *loop),
            loop,
        )

    carry, total = jax.lax.fori_loop(
        first // per_epoch,
        -(-last // per_epoch),
        epoch,
        (carry, jnp.zeros((), jnp.float32)),
    )
    return carry, total / (last - first)


def run(
    search: Search,
    loss_fn: LossFn,
    key: PRNGKey,
    ticket: Ticket,
    data: Batch,
    *,
    rounds: int,
    epochs: int,
    batch_size: int,
    model_state: ModelState = None,
    rewind_step: int = 0,
    rewind_model: bool = True,
    resume_schedule: bool = False,
    record: Callable[[State, ModelState], Any] = lambda state, model_state: (),
) -> Result:
    """A whole search as one pure function of its key, ticket and numbers.

    Made for `jit(vmap(...))` over seeds and hyper-parameters: build the search inside
    the mapped function, and its numbers may be batched.

    Args:
      search: the search.
      loss_fn: `(params, model_state, batch, key) -> (loss, model_state)`.
      key: the seed's key.
      ticket: where the search starts.
      data: pytree of arrays with one leading axis, the same for all seeds.
      rounds: how many times to train; `search.advance` runs between rounds.
      epochs: passes over the data in a round.
      batch_size: rows per step.
      model_state: batch statistics and the like, of the same initialisation.
      rewind_step: the search's own: the step whose model state belongs to the ticket.
      rewind_model: whether the model state returns there when a round ends.
      resume_schedule: whether later rounds begin at `rewind_step` (and so are shorter
        by that), or at step 0.
      record: `(search_state, model_state) -> values`, called after every epoch.

    Returns:
      A `Result`.

    Raises:
      ValueError: numbers below 1, or a batch larger than the data.
    """
    size = len(jax.tree.leaves(data)[0])
    check_sizes(rounds=rounds, epochs=epochs, batch_size=batch_size)
    if batch_size > size:
        raise ValueError(
            f"batch_size {batch_size} is more than the {size} rows of data"
        )
    per_epoch = size // batch_size
    if not 0 <= rewind_step < epochs * per_epoch:
        raise ValueError(
            f"rewind_step {rewind_step} is outside a round of "
            f"{epochs * per_epoch} steps"
        )
    search_key, data_key = jax.random.split(key)
    model_state = {} if model_state is None else model_state

    def train_round(carry, index):
        carry = jax.lax.cond(
            index > 0,
            lambda carry: next_round(search, carry, rewind_model=rewind_model),
            lambda carry: carry,
            carry,
        )
        begin = jnp.where(index > 0, rewind_step, 0) if resume_schedule else 0
        round_key = jax.random.fold_in(data_key, index)

        def train_epoch(carry, epoch):
            carry, loss = steps(
                search,
                loss_fn,
                carry,
                round_key,
                data,
                first=jnp.maximum(begin, epoch * per_epoch),
                last=jnp.maximum(begin, (epoch + 1) * per_epoch),
                round=index,
                batch_size=batch_size,
                rewind_step=rewind_step,
            )
            return carry, (loss, record(carry.search, carry.model))

        return jax.lax.scan(train_epoch, carry, jnp.arange(epochs, dtype=jnp.int32))

    carry, (losses, records) = jax.lax.scan(
        train_round,
        start(search, search_key, ticket, model_state),
        jnp.arange(rounds, dtype=jnp.int32),
    )
    return Result(search.ticket(carry.search), carry, losses, records)


def check_sizes(**sizes: int) -> None:
    """Raises a `ValueError` that names the first of the numbers that is below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
