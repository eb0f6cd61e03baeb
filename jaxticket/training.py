"""The loop: one function takes the steps, whatever runs around it.

`steps` is a stretch of training inside one round. `run` strings stretches together into
a whole search, one pure function for `jit` and `vmap`; `resumable.run` calls them one
after another from the host, where they can be watched, saved and resumed.

Everything is written for one search; seeds and hyper-parameters are batch axes that
`vmap` adds. Round, epoch and step are not batched, so that what happens now and then is
a branch.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import calls, checks, masks, meshes, order
from jaxticket.base import (
    NO_EVIDENCE,
    Evidence,
    ModelState,
    Params,
    PRNGKey,
    Search,
    State,
    Ticket,
    check_round,
    owned,
)
from jaxticket.data import streams

Batch = Any  # what one row of the data is, with a leading axis
# What a score may look at, given the model state of the moment; see `Evidence`.
EvidenceFn = Callable[[ModelState], Evidence]
# An attribute `check`, `((params, model_state), data) -> None`, says what is wrong with
# data whose values are known; params and model state are shapes.
LossFn = Callable[[Params, ModelState, Batch, PRNGKey], tuple[jax.Array, ModelState]]


class Carry(NamedTuple):
    """What one search takes from step to step."""

    search: State
    model: ModelState  # beside the parameters: the search never sees it
    model_anchor: ModelState  # that of the rewinding step
    diverged: Any = None  # of a `run` that has ended: see `Result`


class Window(NamedTuple):
    """Batches of steps that come one after another, of data that stream."""

    batches: Batch  # `[steps, batch, ...]`
    first: jax.Array  # int32: the step of the first


class Result(NamedTuple):
    """What `run` returns.

    Attributes:
      ticket: read after the last round, with the model state of its weights.
      carry: the trained state; `search.params(carry.search)` are the parameters.
      losses: mean training loss of every epoch, `[rounds, epochs]`.
      records: what `record` returned, each leaf `[rounds, epochs, ...]`.
      epochs: how many each round took, int32 `[rounds]`: all, unless `stop` ended it.
      diverged: int32 `(round, epoch)`: the first after which the loss, a parameter or
        the model state was not finite, or `(-1, -1)`. The weights of the ticket are
        then NaN: it is none.
    """

    ticket: Ticket
    carry: Carry
    losses: jax.Array
    records: Any
    epochs: jax.Array
    diverged: tuple[jax.Array, jax.Array]


def start(search: Search, key: PRNGKey, ticket: Ticket) -> Carry:
    """Opens a search, with the model state of its ticket.

    Raises:
      ValueError: no `Ticket`, weights of which there is no gradient, or complex ones.
    """
    if not isinstance(ticket, Ticket):
        raise checks.Refused(
            "ticket",
            "must be a Ticket, as Ticket(weights, masks.full(weights)); got "
            f"{type(ticket).__name__}",
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(ticket.weights):
        name, kind = masks.name(path), jnp.result_type(leaf)
        if jnp.issubdtype(kind, jnp.complexfloating):
            raise ValueError(
                f"{name!r} in the weights is {kind}, whose gradient does not point "
                "where the loss falls: keep real and imaginary parts as two leaves"
            )
        if not jnp.issubdtype(kind, jnp.inexact):
            raise ValueError(
                f"{name!r} in the weights is {kind}, of which there is no gradient: "
                "put it into the model state, or the loss"
            )
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
    batch_size: int | None = None,
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
      data: pytree of arrays with one leading axis of `n` rows, on the device. `None`:
        the loss draws what it needs from its key, and its batch is `None`.
      first: int32 scalar, unbatched.
      last: int32 scalar, unbatched.
      round: int32 scalar, unbatched: whether this is the first round.
      batch_size: rows per step; `None` without data.
      observe: `(search_state, next_search_state) -> numbers` of every step.

    Returns:
      `(carry, loss, observed)`: the state before step `last`, and the means over the
      steps of the loss and of what was observed (NaN without any).
    """
    carry, totals = sums(
        search,
        loss_fn,
        carry,
        None,
        key,
        data,
        first=first,
        last=last,
        round=round,
        batch_size=batch_size,
        observe=observe,
    )
    loss, observed = means(totals, first, last)
    return carry, loss, observed


def nothing(
    search: Search,
    carry: Carry,
    observe: Callable[[State, State], Any] = lambda before, after: (),
) -> tuple[jax.Array, Any]:
    """The sums of no steps, see `sums`."""
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    shapes = jax.eval_shape(observe, carry.search, carry.search)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (scalar, shapes))


def means(totals: Any, first: ArrayLike, last: ArrayLike) -> Any:
    """The means over the steps `first, ..., last - 1`, of their sums."""
    first, last = (jnp.asarray(x, jnp.int32) for x in (first, last))
    number = (last - first).astype(jnp.float32)
    return jax.tree.map(lambda total: total / number, totals)


def sums(
    search: Search,
    loss_fn: LossFn,
    carry: Carry,
    totals: tuple[jax.Array, Any] | None,
    key: PRNGKey,
    data: Batch | Window,
    *,
    first: ArrayLike,
    last: ArrayLike,
    round: ArrayLike,
    batch_size: int | None = None,
    observe: Callable[[State, State], Any] = lambda before, after: (),
) -> tuple[Carry, tuple[jax.Array, Any]]:
    """`steps` that adds up: what several windows of one stretch are taken by.

    Args:
      search, loss_fn, carry, key, first, last, round, batch_size, observe: as there.
      totals: of the steps before, if there are any.
      data: as there, or the batches of these steps in a `Window`.

    Returns:
      `(carry, totals)`: sums of the loss and of what was observed.
    """
    ready = isinstance(data, Window)
    size = None if data is None or ready else rows(data)
    totals = nothing(search, carry, observe) if totals is None else totals
    order_key, noise_key = _order_and_noise(key)
    first, last, round = (jnp.asarray(x, jnp.int32) for x in (first, last, round))
    gradient = jax.value_and_grad(_held_to_its_form(loss_fn), has_aux=True)
    rewind_step = search.promises.rewind_step

    def step(position, batch, carry, totals):
        params = search.params(carry.search)
        noise = jax.random.fold_in(noise_key, position)
        (loss, model), grads = gradient(params, carry.model, batch, noise)
        anchor = carry.model_anchor
        if rewind_step > 0:
            now = (round == 0) & (position == rewind_step)
            anchor = jax.lax.cond(now, lambda: carry.model, lambda: carry.model_anchor)
        state = calls.told(
            search.update,
            grads,
            carry.search,
            position,
            value=loss,
            value_fn=lambda params: loss_fn(params, carry.model, batch, noise)[0],
        )
        seen = loss, observe(carry.search, state)
        totals = jax.tree.map(lambda t, x: t + x.astype(jnp.float32), totals, seen)
        return Carry(state, model, anchor), totals

    if data is None:
        return jax.lax.fori_loop(
            first, last, lambda at, loop: step(at, None, *loop), (carry, totals)
        )
    if ready:
        take = jax.lax.dynamic_index_in_dim

        def visit_next(position, loop):
            at = position - data.first
            batch = jax.tree.map(lambda x: take(x, at, keepdims=False), data.batches)
            return step(position, batch, *loop)

        return jax.lax.fori_loop(first, last, visit_next, (carry, totals))
    per_epoch = _per_epoch(size, batch_size)

    def visit(position, permutation, carry, totals):
        taken = order.rows(permutation, _places(position, per_epoch, batch_size), size)
        batch = jax.tree.map(lambda x: meshes.rows(x, taken), data)
        return step(position, batch, carry, totals)

    def epoch(index, loop):
        permutation = order.draw(jax.random.fold_in(order_key, index), size)
        return jax.lax.fori_loop(
            jnp.maximum(first, index * per_epoch),
            jnp.minimum(last, (index + 1) * per_epoch),
            lambda position, loop: visit(position, permutation, *loop),
            loop,
        )

    return jax.lax.fori_loop(
        first // per_epoch, -(-last // per_epoch), epoch, (carry, totals)
    )


def visits(
    key: PRNGKey, positions: jax.Array, *, size: int, batch_size: int
) -> jax.Array:
    """The rows that `steps` takes at some steps of a round.

    They hang on the round's key and the step alone: where a run was stopped, its data
    go on at the same row.

    Args:
      key: the round's key.
      positions: int32 `[steps]`.
      size: rows of the data.
      batch_size: rows per step.

    Returns:
      int32 `[steps, batch_size]`.
    """
    order_key, _ = _order_and_noise(key)
    per_epoch = _per_epoch(size, batch_size)

    def at(position):
        epoch = jax.random.fold_in(order_key, position // per_epoch)
        places = _places(position, per_epoch, batch_size)
        return order.rows(order.draw(epoch, size), places, size)

    return jax.vmap(at)(positions)


def _order_and_noise(key: PRNGKey) -> jax.Array:
    """Two keys of a round: every stretch of it asks for them anew, and has the same."""
    return jax.random.split(jax.random.clone(key))  # no reuse for JAX's key checker


def _per_epoch(size: int, batch_size: int | None) -> int:
    """The steps of an epoch, at least one.

    Raises:
      ValueError: no batch size, or one that is more than the data.
    """
    if batch_size is None:
        raise ValueError("data need a batch_size, the rows of a step")
    checks.whole(1)(batch_size=batch_size)
    if batch_size > size:
        raise ValueError(
            f"batch_size {batch_size} is more than the {size} rows of data"
        )
    return size // batch_size


def _places(position, per_epoch, batch_size):
    """Where in its epoch the rows of a step stand."""
    return position % per_epoch * batch_size + jnp.arange(batch_size)


def _held_to_its_form(loss_fn: LossFn) -> LossFn:
    """The loss function, which must return a scalar and a model state like its own."""

    def checked(params, model_state, batch, key):
        found = loss_fn(params, model_state, batch, key)
        if not isinstance(found, tuple) or len(found) != 2:
            raise ValueError(
                "the loss function must return (loss, model_state); got "
                f"{_form(found)}: return the model state that came where it has none"
            )
        loss, new = found
        if _form(loss) != "float[]":
            raise ValueError(
                f"the loss must be one float; got {_form(loss)}: take its mean"
            )
        ours, theirs = (jax.tree.map(_form, state) for state in (new, model_state))
        if jax.tree.flatten(ours) != jax.tree.flatten(theirs):
            raise ValueError(
                "the loss function must return a model state like the one that came; "
                f"got {ours} for {theirs}"
            )
        return found

    return checked


def _form(x: Any) -> str:
    """An array by its kind and shape, anything else by its type."""
    if not hasattr(x, "dtype") and not isinstance(x, bool | int | float):
        return type(x).__name__
    kind = getattr(x, "dtype", None) or jnp.result_type(x)
    kind = "float" if jnp.issubdtype(kind, jnp.floating) else str(kind)
    return f"{kind}{[*jnp.shape(x)]}"


def run(
    search: Search,
    loss_fn: LossFn,
    key: PRNGKey,
    ticket: Ticket | None,
    data: Batch = None,
    *,
    rounds: int,
    epochs: int | None = None,
    steps: int | None = None,
    every: int | None = None,
    batch_size: int | None = None,
    resume_schedule: bool = False,
    evidence: EvidenceFn | None = None,
    record: Callable[..., Any] = lambda state, model_state: (),
    progress: Callable[..., None] | None = None,
    stop: Callable[..., jax.Array] | None = None,
    carry: Carry | None = None,
    first_round: int = 0,
) -> Result:
    """A whole search as one pure function of its key, ticket and numbers.

    Made for `jit(vmap(...))` over seeds and hyper-parameters: build the search inside
    the mapped function, and its numbers may be batched.

    Args:
      search: the search.
      loss_fn: `(params, model_state, batch, key) -> (loss, model_state)`.
      key: the seed's key.
      ticket: where the search starts, with the model state of its weights if the
        network has one; `None` where a `carry` is given.
      data: pytree of arrays with one leading axis, the same for all seeds. `None`: the
        loss draws what it learns from, by its key, and its batch is `None`.
      rounds: how many times to train; `search.advance` runs between rounds.
      epochs: passes over the data in a round.
      steps: of a round, in place of `epochs`.
      every: steps of what counts as an epoch in all that follows: by default a pass
        over the data, and without data the whole round.
      batch_size: rows per step; `None` without data.
      resume_schedule: whether later rounds begin at the search's rewinding step (and
        so are shorter by that), or at step 0.
      evidence: `model_state -> Evidence`: the loss on fixed data and the like, for
        scores that need them, see `supervised.evidence`.
      record: `(search_state, model_state) -> values`, called after every epoch. It is
        told `round`, `epoch` and `loss` if it takes arguments of these names.
      progress: called on the host after every epoch, with those of `round`, `epoch` and
        `loss` that it takes, in Python's numbers; under `vmap` once for each lane.
      stop: whether a round is over after this epoch, traced: of what it takes of
        `round`, `epoch`, `losses` `[epochs]`, NaN where they are still to come, and
        `records` `[epochs, ...]`. See `patience`. The epochs that are left out have the
        loss NaN and the last record again.
      carry: of the `Result` of a run that goes on: with the same search, key and
        numbers the two are one longer run, to the last bit.
      first_round: rounds that the carry has been through.

    Returns:
      A `Result`.

    Raises:
      ValueError: numbers that cannot be, `epochs` and `steps` both or neither, a
        `batch_size` without data or data without one, data whose leaves differ in their
        rows, a batch larger than the data, no `Ticket`, weights of which there is no
        gradient, or that are complex, labels that the loss cannot take, or a round that
        is too short for what the search promises, or never reaches its rewinding step.
    """
    checks.whole(1)(rounds=rounds)
    checks.whole(0)(first_round=first_round)
    length, every = _length(data, epochs, steps, every, batch_size)
    check_round(search.promises, length, first_round + rounds)
    search_key, data_key = jax.random.split(key)

    def round_(carry, index):
        carry = jax.lax.cond(
            index > 0,
            lambda carry: next_round(search, carry, evidence),
            lambda carry: carry,
            carry,
        )
        return _round(
            search,
            loss_fn,
            carry,
            jax.random.fold_in(data_key, index),
            data,
            round=index,
            length=length,
            every=every,
            batch_size=batch_size,
            resume_schedule=resume_schedule,
            record=record,
            progress=progress,
            stop=stop,
        )

    carry = start(search, search_key, ticket) if carry is None else carry
    before = carry.diverged
    carry = carry._replace(diverged=None)
    if hasattr(loss_fn, "check"):
        loss_fn.check(_network_of(search, carry), data)
    carry, (losses, records, taken, finite) = jax.lax.scan(
        round_,
        carry,
        jnp.arange(first_round, first_round + rounds, dtype=jnp.int32),
    )
    where = jnp.argmin(finite)  # the first that was not
    round_and_epoch = first_round + where // finite.shape[1], where % finite.shape[1]
    whole = jnp.all(finite)
    diverged = tuple(jnp.where(whole, -1, x.astype(jnp.int32)) for x in round_and_epoch)
    if before is not None:  # a run that goes on goes on from there
        earlier = before[0] >= 0
        diverged = tuple(map(functools.partial(jnp.where, earlier), before, diverged))
        whole &= ~earlier
    ticket = found(search, carry)
    if search.promises.hard:  # others say it of themselves
        masks.warn_if_empty(ticket.mask, "take fewer rounds, or prune less in each")
    one = whole.astype(jnp.float32)
    known = one / one  # 1, or NaN
    weights = jax.tree.map(
        lambda w: w * known.astype(w.dtype) if _floats(w) else w, ticket.weights
    )
    ticket = ticket._replace(weights=weights)
    carry = carry._replace(diverged=diverged)
    return Result(ticket, carry, losses, records, taken, diverged)


def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a pytree is finite."""
    found = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if _floats(x)]
    return functools.reduce(jnp.logical_and, found, jnp.asarray(True))


def _floats(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _network_of(search: Search, carry: Carry) -> tuple[Params, ModelState]:
    """The shapes of what the network runs with."""
    return jax.eval_shape(lambda c: (search.params(c.search), c.model), carry)


def _length(data, epochs, steps, every, batch_size) -> tuple[int, int]:
    """The steps of a round, and of what counts as an epoch."""
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"a round has epochs or steps, got epochs={epochs} and steps={steps}"
        )
    numbers = dict(epochs=epochs, steps=steps, every=every, batch_size=batch_size)
    checks.whole(1)(**{name: n for name, n in numbers.items() if n is not None})
    if data is None:
        if epochs is not None or batch_size is not None:
            raise ValueError(
                "without data a round has steps, and no epochs and no batch_size; got "
                f"epochs={epochs}, batch_size={batch_size}"
            )
        return steps, every or steps
    per_epoch = _per_epoch(rows(data), batch_size)
    length = steps or epochs * per_epoch
    checks.whole(1)(**{f"epochs={epochs}, in steps,": length})
    return length, every or per_epoch


def _round(
    search,
    loss_fn,
    carry,
    key,
    data,
    *,
    round,
    length,
    every,
    batch_size,
    resume_schedule,
    record,
    progress,
    stop,
):
    """The epochs of a round: `(carry, (losses, records, number of epochs, finite))`."""
    rewind_step = search.promises.rewind_step
    begin = jnp.where(round > 0, rewind_step, 0) if resume_schedule else 0
    epochs = -(-length // every)

    def bounds(epoch):
        end = (epoch + 1) * every
        end = end if length % every == 0 else jnp.minimum(end, length)
        return jnp.maximum(begin, epoch * every), jnp.maximum(begin, end)

    def train(carry, epoch):
        first, last = bounds(epoch)
        carry, loss, _ = steps(
            search,
            loss_fn,
            carry,
            key,
            data,
            first=first,
            last=last,
            round=round,
            batch_size=batch_size,
        )
        return carry, loss

    def look(carry, epoch, loss):
        at = {"round": round, "epoch": epoch, "loss": loss}
        return calls.told(record, carry.search, carry.model, **at)

    def tell(epoch, loss):
        if progress is not None:
            told = functools.partial(_tell, progress)
            jax.debug.callback(told, round=round, epoch=epoch, loss=loss)

    def finite(carry, epoch, loss):
        first, last = bounds(epoch)
        params = search.params(carry.search)
        good = (first == last) | jnp.isfinite(loss)  # no steps have no loss
        return good & all_finite((params, carry.model))

    def train_epoch(carry, epoch):
        carry, loss = train(carry, epoch)
        tell(epoch, loss)
        return carry, (loss, look(carry, epoch, loss), finite(carry, epoch, loss))

    numbers = jnp.arange(epochs, dtype=jnp.int32)
    if stop is None:
        carry, (losses, records, good) = jax.lax.scan(train_epoch, carry, numbers)
        return carry, (losses, records, jnp.int32(epochs), good)

    def train_unless_over(loop, epoch):
        carry, seen, over, taken = loop
        carry, loss = jax.lax.cond(
            over,
            lambda carry: (carry, jnp.full((), jnp.nan, jnp.float32)),
            lambda carry: train(carry, epoch),
            carry,
        )
        good = over | finite(carry, epoch, loss)
        tell(epoch, loss)
        new = loss, look(carry, epoch, loss)
        seen = jax.tree.map(lambda all_, x: all_.at[epoch].set(x), seen, new)
        losses, records = seen
        taken += jnp.where(over, 0, 1)
        over |= calls.told(
            stop, round=round, epoch=epoch, losses=losses, records=records
        )
        return (carry, seen, over, taken), good

    unknown = jnp.full((epochs,), jnp.nan, jnp.float32)
    shapes = jax.eval_shape(look, carry, numbers[0], unknown[0])
    empty = jax.tree.map(lambda x: jnp.zeros((epochs, *x.shape), x.dtype), shapes)
    unseen = unknown, empty
    loop = carry, unseen, jnp.asarray(False), jnp.int32(0)
    (carry, (losses, records), _, taken), good = jax.lax.scan(
        train_unless_over, loop, numbers
    )
    return carry, (losses, records, taken, good)


def _tell(progress, *, round, epoch, loss):
    calls.told(progress, round=int(round), epoch=int(epoch), loss=float(loss))


def patience(epochs: int, *, tolerance: float = 0.0) -> Callable[..., jax.Array]:
    """Ends a round when the loss has not improved for a number of epochs.

    For `run(..., stop=patience(3))`. A loss of what is held out is a record: give a
    `stop` of one's own that calls this with the losses recorded.

    Args:
      epochs: how many without a loss below the best before.
      tolerance: what a loss must be lower by to count as better.

    Raises:
      ValueError: `epochs` below 1, or a negative tolerance.
    """
    checks.whole(1)(epochs=epochs)
    checks.not_negative(tolerance=tolerance)

    def stop(epoch, losses):
        place = jnp.arange(len(losses), dtype=jnp.int32)
        known = jnp.where((place <= epoch) & ~jnp.isnan(losses), losses, jnp.inf)
        before = jnp.min(jnp.where(place <= epoch - epochs, known, jnp.inf))
        since = jnp.min(jnp.where(place > epoch - epochs, known, jnp.inf))
        return (epoch >= epochs) & ~(since < before - tolerance)

    return stop


def rows(data: Batch) -> int:
    """How many rows all leaves of the data have.

    Raises:
      ValueError: there are none, or a leaf has another number; it is named.
    """
    if isinstance(data, streams.Stream):
        raise ValueError(
            "data that stream are no arrays: engine.programs.program(..., "
            "streams=True) trains on windows of them"
        )
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
