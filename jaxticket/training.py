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

from jaxticket import masks, meshes, order
from jaxticket.base import (
    NO_EVIDENCE,
    Evidence,
    ModelState,
    Params,
    PRNGKey,
    Search,
    State,
    Ticket,
    check_rewind,
    owned,
)

Batch = Any  # what one row of the data is, with a leading axis
# What a score may look at, given the model state of the moment; see `Evidence`.
EvidenceFn = Callable[[ModelState], Evidence]
LossFn = Callable[[Params, ModelState, Batch, PRNGKey], tuple[jax.Array, ModelState]]


class Carry(NamedTuple):
    """What one search takes from step to step."""

    search: State
    model: ModelState  # beside the parameters: the search never sees it
    model_anchor: ModelState  # that of the rewinding step


class Result(NamedTuple):
    """What `run` returns.

    Attributes:
      ticket: read after the last round, with the model state of its weights.
      carry: the trained state; `search.params(carry.search)` are the parameters.
      losses: mean training loss of every epoch, `[rounds, epochs]`.
      records: what `record` returned, each leaf `[rounds, epochs, ...]`.
    """

    ticket: Ticket
    carry: Carry
    losses: jax.Array
    records: Any


def start(search: Search, key: PRNGKey, ticket: Ticket) -> Carry:
    """Opens a search, with the model state of its ticket."""
    model = {} if ticket.model_state is None else ticket.model_state
    return Carry(search.init(key, ticket), *owned((model, model)))


def next_round(
    search: Search, carry: Carry, evidence: EvidenceFn | None = None
) -> Carry:
    """Closes a round and opens the next.

    The model state returns to the rewinding step if the weights do, as the search
    promises, and stays with them otherwise.

    Args:
      search: the search.
      carry: the state after the round's last step.
      evidence: what the search may look at when it prunes, with the model state and
        the weights of this moment.
    """
    known = NO_EVIDENCE if evidence is None else evidence(carry.model)
    state = search.advance(carry.search, known)
    rewinds = search.promises.rewinds
    return carry._replace(
        search=state, model=owned(carry.model_anchor) if rewinds else carry.model
    )


def found(search: Search, carry: Carry) -> Ticket:
    """The ticket of now, with the model state that goes with its weights."""
    early = search.promises.weights == "anchor"
    model = carry.model_anchor if early else carry.model
    return search.ticket(carry.search)._replace(model_state=model)


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
    observe: Callable[[State, State], Any] = lambda before, after: (),
) -> tuple[Carry, jax.Array, Any]:
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
      observe: `(search_state, next_search_state) -> numbers` of every step.

    Returns:
      `(carry, loss, observed)`: the state before step `last`, and the means over the
      steps of the loss and of what was observed (NaN without any).
    """
    size = rows(data)
    per_epoch = size // batch_size
    order_key, noise_key = jax.random.split(key)
    first, last, round = (jnp.asarray(x, jnp.int32) for x in (first, last, round))
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    rewind_step = search.promises.rewind_step

    def step(position, permutation, carry, totals):
        places = position % per_epoch * batch_size + jnp.arange(batch_size)
        taken = order.rows(permutation, places, size)
        batch = jax.tree.map(lambda x: meshes.rows(x, taken), data)
        params = search.params(carry.search)
        (loss, model), grads = gradient(
            params, carry.model, batch, jax.random.fold_in(noise_key, position)
        )
        anchor = carry.model_anchor
        if rewind_step > 0:
            now = (round == 0) & (position == rewind_step)
            anchor = jax.lax.cond(now, lambda: carry.model, lambda: carry.model_anchor)
        state = search.update(grads, carry.search, position)
        seen = loss, observe(carry.search, state)
        totals = jax.tree.map(lambda t, x: t + x.astype(jnp.float32), totals, seen)
        return Carry(state, model, anchor), totals

    def epoch(index, loop):
        permutation = order.draw(jax.random.fold_in(order_key, index), size)
        return jax.lax.fori_loop(
            jnp.maximum(first, index * per_epoch),
            jnp.minimum(last, (index + 1) * per_epoch),
            lambda position, loop: step(position, permutation, *loop),
            loop,
        )

    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    shapes = jax.eval_shape(observe, carry.search, carry.search)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (scalar, shapes))
    carry, totals = jax.lax.fori_loop(
        first // per_epoch,
        -(-last // per_epoch),
        epoch,
        (carry, zeros),
    )
    loss, observed = jax.tree.map(lambda total: total / (last - first), totals)
    return carry, loss, observed


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
    resume_schedule: bool = False,
    evidence: EvidenceFn | None = None,
    record: Callable[[State, ModelState], Any] = lambda state, model_state: (),
) -> Result:
    """A whole search as one pure function of its key, ticket and numbers.

    Made for `jit(vmap(...))` over seeds and hyper-parameters: build the search inside
    the mapped function, and its numbers may be batched.

    Args:
      search: the search.
      loss_fn: `(params, model_state, batch, key) -> (loss, model_state)`.
      key: the seed's key.
      ticket: where the search starts, with the model state of its weights if the
        network has one.
      data: pytree of arrays with one leading axis, the same for all seeds.
      rounds: how many times to train; `search.advance` runs between rounds.
      epochs: passes over the data in a round.
      batch_size: rows per step.
      resume_schedule: whether later rounds begin at the search's rewinding step (and
        so are shorter by that), or at step 0.
      evidence: `model_state -> Evidence`: the loss on fixed data and the like, for
        scores that need them, see `supervised.evidence`.
      record: `(search_state, model_state) -> values`, called after every epoch.

    Returns:
      A `Result`.

    Raises:
      ValueError: numbers below 1, data whose leaves differ in their rows, a batch
        larger than the data, or a rewinding step that a round never reaches.
    """
    size = rows(data)
    check_sizes(rounds=rounds, epochs=epochs, batch_size=batch_size)
    if batch_size > size:
        raise ValueError(
            f"batch_size {batch_size} is more than the {size} rows of data"
        )
    per_epoch = size // batch_size
    check_rewind(search.promises, epochs * per_epoch)
    rewind_step = search.promises.rewind_step
    search_key, data_key = jax.random.split(key)

    def train_round(carry, index):
        carry = jax.lax.cond(
            index > 0,
            lambda carry: next_round(search, carry, evidence),
            lambda carry: carry,
            carry,
        )
        begin = jnp.where(index > 0, rewind_step, 0) if resume_schedule else 0
        round_key = jax.random.fold_in(data_key, index)

        def train_epoch(carry, epoch):
            carry, loss, _ = steps(
                search,
                loss_fn,
                carry,
                round_key,
                data,
                first=jnp.maximum(begin, epoch * per_epoch),
                last=jnp.maximum(begin, (epoch + 1) * per_epoch),
                round=index,
                batch_size=batch_size,
            )
            return carry, (loss, record(carry.search, carry.model))

        return jax.lax.scan(train_epoch, carry, jnp.arange(epochs, dtype=jnp.int32))

    carry, (losses, records) = jax.lax.scan(
        train_round,
        start(search, search_key, ticket),
        jnp.arange(rounds, dtype=jnp.int32),
    )
    return Result(found(search, carry), carry, losses, records)


def rows(data: Batch) -> int:
    """How many rows all leaves of the data have.

    Raises:
      ValueError: there are none, or a leaf has another number; it is named.
    """
    leaves = jax.tree_util.tree_leaves_with_path(data)
    if not leaves:
        raise ValueError("the data hold no arrays: expected leaves `[rows, ...]`")
    sizes = {}
    for path, leaf in leaves:
        name = masks.name(path)
        if not jnp.shape(leaf):
            raise ValueError(f"leaf {name!r} of the data is a scalar, it has no rows")
        sizes[name] = jnp.shape(leaf)[0]
    first, size = next(iter(sizes.items()))
    for name, other in sizes.items():
        if other != size:
            raise ValueError(
                f"the data differ in their rows: {first!r} has {size}, {name!r} has "
                f"{other}; give every row of one its row of the other"
            )
    if size == 0:
        raise ValueError(f"the data have no rows: {first!r} is empty")
    return size


def check_sizes(**sizes: int) -> None:
    """Raises a `ValueError` that names the first of the numbers that is below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
