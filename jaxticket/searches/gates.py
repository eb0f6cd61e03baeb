"""What the searches with gates on weights share: all but the gates."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import GetAttrKey, tree_flatten_with_path, tree_map_with_path
from jax.typing import ArrayLike

from jaxticket import checks, masks
from jaxticket.base import (
    NO_EVIDENCE,
    Mask,
    OfGates,
    Params,
    PRNGKey,
    Promises,
    Schedule,
    Scores,
    Search,
    State,
    Ticket,
    optimizing,
    owned,
    trained_by,
)
from jaxticket.graphs import walking
from jaxticket.searches.constraint import Constraint, Multipliers
from jaxticket.searches.fixed import remember
from jaxticket.searches.groups import Groups, shaped

Weights = Literal["anchor", "trained"]
GATED = "the pair `Gated(weights, logits)`; `Gated(True, False)` is a mask of weights"
OPEN = (  # what leaves gates open
    "every gate is off. Read it before `advance`, which closes gates again; or start "
    "from a larger initial_logit, with a smaller penalty, or train the logits for "
    "longer or faster"
)


class Gated(NamedTuple):
    """What is trained: the weights, and a logit for the gate of each one.

    Of those that can be pruned; groups of weights may share a gate, see `groups`.

    Also the labels that optimisers need to treat the two differently, as `optimizer`
    does, or `optax.add_decayed_weights(1e-4, mask=Gated(True, False))`.
    """

    weights: Params
    logits: Scores


class GatedState(NamedTuple):
    """State of a search over gates.

    Attributes:
      gated: what is trained.
      optimizer: of the pair.
      temperature: of the gates of the next step; `None` where they have none.
      mask: what may be kept at all: the starting ticket's, less what was dropped for
        good.
      anchor: the weights of the rewinding step.
      round: rounds so far, int32.
      key: for gates that are drawn.
      count: updates so far, int32: with the key, it decides what is drawn.
      multipliers: of a constraint on the gates; `None` where there is none.
    """

    gated: Gated
    optimizer: State
    temperature: jax.Array | None
    mask: Mask
    anchor: Params
    round: jax.Array
    key: PRNGKey
    count: jax.Array
    multipliers: Multipliers | None = None


# The members that a search over gates is made of. `Open` takes the search's key and the
# arrays that the logits are to be like; what it returns with the logits is the key of
# the draws. `Gate` returns the gates and what is penalised, both zero where
# `state.mask` is false, and is differentiated in the logits. `Reset` gives the logits
# of the next round.
Open = Callable[[PRNGKey, Params], tuple[Scores, PRNGKey]]
Gate = Callable[[Scores, GatedState], tuple[Scores, Scores]]
Reset = Callable[[GatedState], Scores]


def optimizer(
    weights: optax.GradientTransformation, logits: optax.GradientTransformation
) -> optax.GradientTransformation:
    """One optimiser for the weights of a `Gated` pair, another for its logits.

    With `weights=optax.set_to_zero()` a gated search finds a mask over random weights
    that are never trained: a supermask.
    """
    return optax.partition(
        {"weights": weights, "logits": logits}, Gated("weights", "logits")
    )


def search(
    optimizer: OfGates,
    *,
    opened: Open,
    gate: Gate,
    kept: Callable[[jax.Array], jax.Array],
    reset: Reset | None = None,
    bound: Callable[[jax.Array], jax.Array] | None = None,
    temperature: Schedule | None = None,
    penalty: ArrayLike,
    rewind_step: int = 0,
    weights: Weights = "anchor",
    scale: ArrayLike = 1.0,
    keep_momentum: bool = True,
    nested: bool = False,
    random: bool = False,
    constraint: Constraint | None = None,
    groups: Groups = "weights",
) -> Search:
    """A search that trains weights `w` and the logits `s` of their gates together.

    The network runs with `w * gate(s)`, and the pair descends on

        loss(w * gate(s)) + penalty * sum(penalised(s)).

    A round that follows begins with other logits, and with the weights as they are:
    they are rewound in the ticket alone.

    Args:
      optimizer: trains the pair `Gated(weights, logits)`. It is given `step`, see
        `schedules.scale_by_step`.
      opened: `(key, like) -> (logits, key)`: the first logits, and the key of the
        gates that are drawn.
      gate: `(logits, state) -> (gates, penalised)`; the logits are those of the state.
      kept: logits of a leaf -> which of its gates stay in the ticket.
      reset: `state -> logits` between rounds; without it there are none, and `advance`
        only counts.
      bound: logits of a leaf -> the same within bounds, after every update.
      temperature: step within the round -> `state.temperature`.
      penalty: may be traced.
      rewind_step: at this step of the first round the weights become the anchor; at 0
        it is what the search was opened with.
      weights: the ticket's: those of the `anchor`, or the `trained` ones of now.
      scale: what the ticket's weights are multiplied by where there is a mask.
      keep_momentum: whether the optimiser's state outlives a round, see `restarted`.
      nested: whether what a round has not kept is dropped for good.
      random: whether the key decides.
      constraint: on what is penalised, in place of the penalty: its multipliers begin
        with the search, and outlive a round.
      groups: which weights share a gate, see `groups.shaped`.

    Returns:
      A `Search`. Its ticket is what to evaluate in the end: `params(state)` has gates
      that may be half open.

    Raises:
      ValueError: a negative penalty or `rewind_step`, an unknown `weights`.
    """
    checks.not_negative(penalty=penalty)
    checks.whole(0)(rewind_step=rewind_step)
    checks.one_of(get_args(Weights))(weights=weights)
    optimizer = optimizing(optimizer, GATED)

    def at(step):
        if temperature is None:
            return None
        return jnp.asarray(temperature(step), jnp.float32)

    def init(key, ticket):
        masks.check(ticket.mask, ticket.weights)
        # A gate of zero makes no zero of what is not finite.
        alive = masks.apply(ticket.mask, ticket.weights)
        logits, key = opened(key, shaped(groups, alive, ticket.mask))
        gated, zero = Gated(alive, logits), jnp.zeros((), jnp.int32)
        opened_state = GatedState(
            gated,
            optimizer.init(gated),
            at(0),
            ticket.mask,
            ticket.weights,
            zero,
            key,
            zero,
            None if constraint is None else constraint.opened(ticket.mask),
        )
        return owned(opened_state)

    def update(grads, state, step, **told):
        step = jnp.asarray(step, jnp.int32)
        anchor = state.anchor
        if rewind_step > 0:
            anchor = remember(
                anchor,
                state.gated.weights,
                now=step == rewind_step,
                first=state.round == 0,
            )

        def run_with(gated):
            gates, penalised = gate(gated.logits, state)
            return realise(gated.weights, gates), penalised

        def added(penalised):
            """What is added to the loss."""
            if constraint is None:
                return penalty * masks.total(penalised)
            return constraint.added(state.multipliers, penalised, state.mask)

        (_, penalised), pull_back = jax.vjp(run_with, state.gated)
        multipliers = state.multipliers
        if constraint is None:
            # d(penalty * sum(penalised)) / d(penalised) is the penalty itself.
            slope = jax.tree.map(lambda g: jnp.full_like(g, penalty), penalised)
        else:
            slope = jax.grad(added)(penalised)
            multipliers = constraint.ascended(
                multipliers, penalised, found(state), state.mask
            )
        (grads,) = pull_back((grads, slope))
        updates, inner = trained_by(
            optimizer,
            grads,
            state.optimizer,
            state.gated,
            step=step,
            told=told,
            realise=lambda gated: run_with(gated)[0],
            added=lambda gated: added(run_with(gated)[1]),
        )
        gated = optax.apply_updates(state.gated, updates)
        if bound is not None:
            gated = gated._replace(logits=jax.tree.map(bound, gated.logits))
        return state._replace(
            gated=gated,
            optimizer=inner,
            temperature=at(step + 1),
            anchor=anchor,
            count=state.count + 1,
            multipliers=multipliers,
        )

    def advance(state, evidence=NO_EVIDENCE):
        del evidence
        opening = state._replace(round=state.round + 1)
        if reset is None:
            return opening
        gated = state.gated._replace(logits=reset(state))
        if keep_momentum:
            inner = restarted(optimizer, state.optimizer, gated)
        else:
            inner = optimizer.init(gated)
        mask = found(state) if nested else state.mask
        return owned(
            opening._replace(gated=gated, optimizer=inner, temperature=at(0), mask=mask)
        )

    def params(state):
        gates, _ = gate(state.gated.logits, state)
        return realise(state.gated.weights, gates)

    def found(state):
        return jax.tree.map(lambda s, m: kept(s) & m, state.gated.logits, state.mask)

    def ticket(state):
        mask = found(state)
        masks.check_some(mask)
        masks.warn_if_empty(mask, OPEN)
        chosen = state.anchor if weights == "anchor" else state.gated.weights
        return Ticket(masks.scale(mask, chosen, scale), mask)

    promises = Promises(
        hard=False,
        nested=nested,
        weights=weights,
        rewind_step=rewind_step,
        rounds=reset is not None,
        random=random,
        scale=scale,
    )
    return Search(init, update, advance, params, ticket, promises)


def realise(weights: Params, gates: Scores) -> Params:
    """What the network runs with: `w * gate`, and `w` where there is no gate."""
    return jax.tree.map(lambda w, g: w if g is None else w * g, weights, gates)


@jax.custom_jvp
def soft(x: jax.Array, alive: jax.Array, scale: jax.Array) -> jax.Array:
    """The gates `g = scale * sigmoid(x)` where there may be one, 0 elsewhere.

    Their derivative is `g (1 - g / scale)`, of what they are themselves: the sigmoid is
    not kept beside them, which would be one more pass over all weights.
    """
    return jnp.where(alive, scale * jax.nn.sigmoid(x), 0)


soft.defjvps(
    lambda t, g, x, alive, scale: t * (g * (1 - g * (1 / scale))),
    None,
    lambda t, g, x, alive, scale: t * (g * (1 / scale)),
)


class _Depends:
    """Whether arrays depend on the inputs, for `walking.walk`."""

    def constant(self, array):
        del array
        return False

    def step(self, eqn, values):
        if eqn.primitive.name == "shard_alike":  # where they lie, and no numbers
            return values
        return [any(values)] * len(eqn.outvars)

    def row(self, value, index):
        del index
        return value

    def stack(self, values):
        return any(values)


def _copies(
    optimizer: optax.GradientTransformation, gated: Gated, fresh: State
) -> State:
    """Which leaves of an optimiser's opening state are made of what it trains.

    They are where it began, or a point beside it, and no moments. Bools, in a tree like
    the state; none of one that opens by a loop or a branch, which cannot be followed.
    """
    opened = walking.steps(optimizer.init, gated)
    try:
        made = walking.walk(opened, [True] * len(jax.tree.leaves(gated)), _Depends())
    except ValueError:
        made = [False] * len(jax.tree.leaves(fresh))
    return jax.tree.structure(fresh).unflatten(made)


def restarted(
    optimizer: optax.GradientTransformation, state: State, gated: Gated
) -> State:
    """An optimiser's state when a round opens: moments stay, schedules start again.

    A schedule of optax counts updates in a number of its own, so numbers become those
    that it opens with. A number in one state with moments is theirs, and stays as they
    do: Adam's count tells how far they still are from zero, where they began, and to
    start it again would divide full moments by small `1 - b ** count`. Random keys go
    on, so that no noise comes twice. A state that holds copies of what is trained is
    about those, and opens anew as a whole: it would draw logits back to where they
    were.

    Args:
      optimizer: of the pair.
      state: its state, as the round that ends has left it.
      gated: what it trains in the next round.

    Returns:
      The state that the next round begins with.
    """

    def is_pair(node):
        return isinstance(node, Gated)

    def is_moment(node):
        return is_pair(node) or (
            jnp.ndim(node) > 0 and jnp.issubdtype(node.dtype, jnp.inexact)
        )

    nodes, _ = tree_flatten_with_path(state, is_leaf=is_pair)
    # One state is a NamedTuple: `optax.chain` keeps those of its parts in a tuple.
    with_moments = {
        path[:-1]
        for path, node in nodes
        if path and isinstance(path[-1], GetAttrKey) and is_moment(node)
    }
    fresh = optimizer.init(gated)
    copies = _copies(optimizer, gated, fresh)
    copied, _ = tree_flatten_with_path(copies, is_leaf=is_pair)
    of_copies = [path[:-1] for path, node in copied if any(jax.tree.leaves(node))]

    def opening(path, old, new):
        if any(path[: len(outer)] == outer for outer in of_copies):
            return new
        if is_moment(old) or path[:-1] in with_moments:
            return old
        if jnp.ndim(old) > 0 or jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            return old
        return new

    return tree_map_with_path(opening, state, fresh, is_leaf=is_pair)
