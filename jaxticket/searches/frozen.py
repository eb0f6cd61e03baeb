"""What the searches over frozen weights share: only a score for each weight moves."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxticket import masks
from jaxticket.base import (
    Kept,
    Mask,
    OfScores,
    Params,
    PRNGKey,
    Promises,
    Scores,
    Search,
    State,
    Step,
    Ticket,
    going_on,
    optimizing,
    owned,
    trained_by,
)
from jaxticket.thresholds import Cuts


class FrozenState(NamedTuple):
    """State of a search over frozen weights.

    Attributes:
      weights: the given ticket's; they never change.
      scores: what is trained, one for each weight that can be kept.
      mask: what the network runs with.
      allowed: what the mask is chosen from.
      optimizer: of the scores.
      key: for masks that are drawn.
      count: updates so far, int32.
      cuts: where the layers were cut last; `None` where masks are drawn.
    """

    weights: Params
    scores: Scores
    mask: Mask
    allowed: Mask
    optimizer: State
    key: PRNGKey
    count: jax.Array
    cuts: Cuts | None = None


def search(
    optimizer: OfScores,
    *,
    opened: Callable[[PRNGKey, Ticket], tuple[Scores, Mask, Mask, Cuts | None]],
    choose: Callable[[FrozenState, Step], tuple[Mask, Cuts | None]],
    slope: Callable[[jax.Array], jax.Array],
    gain: Callable[[FrozenState], Scores] | None = None,
    through_gain: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    random: bool = False,
    kept: Kept | None = None,
) -> Search:
    """A search that trains scores `s` through a hard mask `h(s)`, straight through.

    The network runs with `w * h(s)`. The mask `h` has no useful gradient in `s`, so the
    slope of a smooth function stands for it: `ds = dL/dh * slope(s)`, with `dL/dh =
    dL/d(w h) * w`, for all scores, of weights that are kept and of those that are not.

    Args:
      optimizer: trains the scores. It is given `step`, see `schedules.scale_by_step`.
      opened: `(key, ticket) -> (scores, mask, allowed, cuts)`: what the search begins
        with.
      choose: `(state, step) -> (mask, cuts)`, after every update of the scores; the
        state holds those before it, and the key that `opened` was given.
      slope: derivative of the smooth function.
      gain: `state -> factors` that the weights of each leaf are multiplied by: a mask
        tree of scalars.
      through_gain: `(dL/dh with a constant gain, h) -> dL/dh`, leaf by leaf, where the
        gain depends on the mask; without it the gain is a constant in the gradient.
      random: whether the key decides.
      kept: what the search promises of its counts, see `Promises`.

    Returns:
      A `Search` of one round without end. Its ticket holds the given weights, times the
      gain, and the mask.
    """
    optimizer = optimizing(
        optimizer, "a tree of scores: `None` where nothing is pruned"
    )

    def init(key, ticket):
        masks.check(ticket.mask, ticket.weights)
        scores, mask, allowed, cuts = opened(key, ticket)
        inner, zero = optimizer.init(scores), jnp.zeros((), jnp.int32)
        return owned(
            FrozenState(ticket.weights, scores, mask, allowed, inner, key, zero, cuts)
        )

    def update(grads, state, step, **told):
        def straight_through(s, g, w, m, allowed):
            of_mask = g * w if through_gain is None else through_gain(g * w, m)
            return jnp.where(allowed, of_mask * slope(s), 0).astype(s.dtype)

        grads = jax.tree.map(
            straight_through,
            state.scores,
            masks.prunable_like(grads, state.mask),
            masks.prunable_like(weights(state), state.mask),
            state.mask,
            state.allowed,
        )
        updates, inner = trained_by(
            optimizer, grads, state.optimizer, state.scores, step=step, told=told
        )
        moved = state._replace(
            scores=optax.apply_updates(state.scores, updates),
            optimizer=inner,
            count=state.count + 1,
        )
        mask, cuts = choose(moved, step)
        return moved._replace(mask=mask, cuts=cuts)

    def weights(state):
        if gain is None:
            return state.weights
        return jax.tree.map(
            lambda w, c: w if c is None else w * c.astype(w.dtype),
            state.weights,
            gain(state),
        )

    def params(state):
        return masks.apply(state.mask, weights(state))

    def ticket(state):
        return Ticket(weights(state), state.mask)

    promises = Promises(
        nested=False,
        weights="given",
        random=random,
        kept=kept,
        scale=1.0 if gain is None else None,
        running=None if kept else jnp.ones_like,
        dense_gradient=jnp.ones_like,
    )
    return Search(init, update, going_on, params, ticket, promises)
