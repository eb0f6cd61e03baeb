"""The two types that everything here is made of, and the bridge to optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Params = Any  # a pytree of arrays
Mask = Any  # the same tree: a bool leaf, or None where a leaf is never pruned
Scores = Any  # a mask tree of numbers
State = Any
PRNGKey = jax.Array
Step = jax.Array | int
Schedule = Callable[[Step], jax.Array]


class Ticket(NamedTuple):
    """A sub-network: the values that training starts from, and which of them survive.

    Attributes:
      weights: dense pytree of any structure. Values where the mask is false are kept
        for the controls; the network runs with `masks.apply(mask, weights)`.
      mask: the same tree with `bool` leaves, `None` for a leaf that is never pruned.
    """

    weights: Params
    mask: Mask


class Search(NamedTuple):
    """A ticket search as five pure functions: three moves and two views.

    A search is an optimiser that owns its parameters. Ask it which parameters to run
    the network with, hand it the gradient with respect to those, and say when a round
    ends.

    Attributes:
      init: `(key, ticket) -> state`. Opens the search.
      update: `(grads, state, step) -> state`. One step, given the gradient of the loss
        with respect to `params(state)`. `step` (int32 scalar, unbatched under `vmap`)
        is the position in the round's schedule. It counts from 0, or from the rewinding
        step in a round that resumes the schedule there.
      advance: `state -> state`. Closes a round and opens the next.
      params: `state -> params`. What to run the network with now.
      ticket: `state -> Ticket`. What has been found so far.
    """

    init: Callable[[PRNGKey, Ticket], State]
    update: Callable[[Params, State, Step], State]
    advance: Callable[[State], State]
    params: Callable[[State], Params]
    ticket: Callable[[State], Ticket]


class OptaxState(NamedTuple):
    """State of `as_optax`: the search's own, and how many updates it has had."""

    search: State
    count: jax.Array


def as_optax(
    search: Search,
    ticket: Ticket,
    key: PRNGKey,
    *,
    rounds: int = 1,
    round_steps: int | None = None,
) -> optax.GradientTransformation:
    """A search for a training loop that knows only optax.

    The transformation owns the parameters: its updates move whatever the loop holds to
    `search.params(state)`. Start the loop from `search.params(search.init(key,
    ticket))`.

    Args:
      search: the search to run.
      ticket: what it starts from.
      key: consumed by `search.init`.
      rounds: `search.advance` runs between rounds, `rounds - 1` times in all, so that
        the ticket of the last round can be read whenever the loop ends.
      round_steps: updates per round; needed for more than one round.

    Returns:
      An `optax.GradientTransformation` whose `update` needs `params`. The ticket found
      is `search.ticket(state.search)`.

    Raises:
      ValueError: several rounds without `round_steps`, a number below 1, or `update`
        called without `params`.
    """
    unknown = round_steps is None
    if rounds < 1 or (rounds > 1 if unknown else round_steps < 1):
        raise ValueError(
            "as_optax needs rounds >= 1 and, for more than one, round_steps >= 1; "
            f"got rounds={rounds}, round_steps={round_steps}"
        )

    def init(params):
        del params
        return OptaxState(search.init(key, ticket), jnp.zeros((), jnp.int32))

    def update(grads, state, params=None):
        if params is None:
            raise ValueError("as_optax needs params: call update(grads, state, params)")
        inner, count = state
        if rounds == 1:
            inner = search.update(grads, inner, count)
        else:
            round_ = jnp.minimum(count // round_steps, rounds - 1)
            inner = search.update(grads, inner, count - round_ * round_steps)
            # The next gradient is taken at the parameters handed out now, so the next
            # round is opened now and not before its first update.
            over = ((count + 1) % round_steps == 0) & (round_ < rounds - 1)
            inner = jax.lax.cond(over, search.advance, lambda state: state, inner)
        updates = jax.tree.map(jnp.subtract, search.params(inner), params)
        return updates, OptaxState(inner, count + 1)

    return optax.GradientTransformation(init, update)
