"""The types that everything here is made of, and the bridge to optax."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import calls, checks, meshes

Params = Any  # a pytree of arrays
Mask = Any  # the same tree: a bool leaf, or None where a leaf is never pruned
Scores = Any  # a mask tree of numbers
State = Any
ModelState = Any  # batch statistics and the like; an empty dict where there are none
PRNGKey = jax.Array
Step = jax.Array | int
Schedule = Callable[[Step], jax.Array]
Kept = Callable[[Mask], dict[str, int] | int]  # how many weights: by layer, or in all
# What the optimiser of a search is handed: the weights, the pair `Gated(weights,
# logits)`, the pair `Factors(m, u)`, or scores of weights that are frozen. Programs
# that build one read this.
OfWeights = Annotated[optax.GradientTransformation, "weights"]
OfGates = Annotated[optax.GradientTransformation, "gates"]
OfFactors = Annotated[optax.GradientTransformation, "factors"]
OfScores = Annotated[optax.GradientTransformation, "scores"]


class Ticket(NamedTuple):
    """A sub-network: the values that training starts from, and which of them survive.

    Attributes:
      weights: dense pytree of any structure. Values where the mask is false are kept
        for the controls; the network runs with `masks.apply(mask, weights)`. NaN there
        is a value that is not known, see `files.save_ticket`.
      mask: the same tree with `bool` leaves, `None` for a leaf that is never pruned.
      model_state: what goes with these weights beside them: the batch statistics of
        the same step, say. `None` for a network that has none, or where the loop has
        not put it there yet: searches never look at it.
    """

    weights: Params
    mask: Mask
    model_state: ModelState = None


class Evidence(NamedTuple):
    """What a score may look at besides the weights; `None` where there is none.

    Attributes:
      initial: the weights before training.
      key: for random draws.
      loss: `params -> scalar`, on fixed data, the network in evaluation mode.
      forward: `params -> outputs`, of one input that is all ones, in evaluation mode.
      curvature: `params ->` a tree like them: the diagonal of the Gauss-Newton matrix
        of the loss, `mean(diag(J^T H J))` over examples, with `J` the derivative of an
        example's outputs and `H` the Hessian of its loss with respect to these.
    """

    initial: Params | None = None
    key: PRNGKey | None = None
    loss: Callable[[Params], jax.Array] | None = None
    forward: Callable[[Params], Any] | None = None
    curvature: Callable[[Params], Params] | None = None


NO_EVIDENCE = Evidence()


class Promises(NamedTuple):
    """What a search may be held to: `run`, the audit and the contract tests read it.

    Attributes:
      hard: the network runs with exact zeros where the ticket's mask is false.
      nested: what the ticket of one round has pruned stays so in the next.
      weights: whose the ticket's are. `anchor`: those of `rewind_step`; `trained`:
        those of now; `given`: those that the search was opened with, never trained.
      rewind_step: step of the first round at which the anchor is taken, and with it
        the model state; 0 is what the search was opened with.
      rewinds: a round opens with the ticket's weights and model state.
      rounds: a further round prunes on; otherwise `advance` only goes on.
      opens_given: the first round trains the given ticket: only `advance` prunes.
      random: the key decides.
      kept: mask of the ticket before -> `{layer: count}` of the ticket after one
        pruning, or their sum; exact, in Python's numbers. The ticket before is the last
        round's, or the given one in the first round and where there are no `rounds`.
        `None`: the counts are an outcome.
      least_steps: how many a round must have, or what is promised of its ticket does
        not hold.
      scale: what the ticket's prunable weights are times those that `weights` says;
        `None`: each has a factor of its own.
      running: step -> how much of what it may keep the network runs with at most, at
        that step of a round, and exactly where the counts are `kept`; of arrays of
        steps too. `None`: what its ticket keeps, which only changes between rounds.
        Searches that are not `hard` run with everything.
      dense_gradient: step -> whether it looks at the gradient of what is pruned, of
        arrays too; `None`: at no step.
    """

    hard: bool = True
    nested: bool = True
    weights: Literal["anchor", "trained", "given"] = "trained"
    rewind_step: int = 0
    rewinds: bool = False
    rounds: bool = False
    opens_given: bool = False
    random: bool = False
    kept: Kept | None = None
    least_steps: int = 1
    scale: ArrayLike | None = 1.0
    running: Callable[[ArrayLike], ArrayLike] | None = None
    dense_gradient: Callable[[ArrayLike], ArrayLike] | None = None


class Search(NamedTuple):
    """A ticket search as five pure functions, three moves and two views, and promises.

    A search is an optimiser that owns its parameters. Ask it which parameters to run
    the network with, hand it the gradient with respect to those, and say when a round
    ends.

    The arrays that `init` and `advance` return are the state's alone, so a program may
    be given its memory (`donate_argnums`). What the views return may share memory with
    the state: copy what is to outlive one that is given away.

    Attributes:
      init: `(key, ticket) -> state`. Opens the search.
      update: `(grads, state, step, **told) -> state`. One step, given the gradient of
        the loss with respect to `params(state)`. `step` (int32 scalar, unbatched under
        `vmap`) is the position in the round's schedule. It counts from 0, or from the
        rewinding step in a round that resumes the schedule there. What else is told
        reaches the optimiser, see `trained_by`.
      advance: `(state, evidence=NO_EVIDENCE) -> state`. Closes a round and opens the
        next. The evidence is what the loop knows of the data; `initial` and `key` are
        the search's own.
      params: `state -> params`. What to run the network with now.
      ticket: `state -> Ticket`. What has been found so far, without a model state.
      promises: what the search may be held to.
    """

    init: Callable[[PRNGKey, Ticket], State]
    update: Callable[..., State]
    advance: Callable[..., State]
    params: Callable[[State], Params]
    ticket: Callable[[State], Ticket]
    promises: Promises = Promises()


def going_on(state: State, evidence: Evidence = NO_EVIDENCE) -> State:
    """`Search.advance` where there are no rounds: a further one goes on."""
    del evidence
    return state


def optimizing(
    optimizer: optax.GradientTransformation, form: str = "a tree like the parameters"
) -> optax.GradientTransformationExtraArgs:
    """An optimiser that says what it trains where its masks or labels do not fit that.

    Args:
      optimizer: of a search.
      form: of what the search has it train.

    Raises:
      ValueError: it is no optimiser; in `init`, one that does not fit.
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise checks.Refused(
            "optimizer",
            f"must be an optax.GradientTransformation, as optax.adam(1e-3); got "
            f"{optimizer!r}",
        )

    def update(grads, state, params=None, **told):
        # Not as optax extends it: of `optax.MultiSteps` it would hand nothing on.
        return calls.told(optimizer.update, grads, state, params, **told)

    extended = optax.GradientTransformationExtraArgs(optimizer.init, update)

    def init(params):
        try:
            return _laid_out(extended, extended.init(params), params)
        except ValueError as error:
            raise checks.Refused(
                "optimizer",
                f"has a mask or labels that do not fit what it trains, {form}: "
                + " ".join(str(error).split()),
            ) from error

    return extended._replace(init=init)


def _laid_out(optimizer: OfWeights, state: State, params: Params) -> State:
    """An optimiser's state whose copies of the parameters lie where these do."""
    if not any(map(meshes.divisible, jax.tree.leaves(params))):
        return state

    return of_each(optimizer, meshes.alike, state, params)


def of_each(
    optimizer: OfWeights,
    change: Callable[[jax.Array, jax.Array], jax.Array],
    state: State,
    tree: Any,
) -> State:
    """An optimiser's state in which what belongs to single weights is changed.

    Those are the copies of the parameter tree, as optax knows them, in leaves of the
    shapes that `tree` has.

    Args:
      optimizer: whose state it is.
      change: `(leaf of the state, leaf of the tree) -> leaf`.
      state: of the optimiser.
      tree: like the parameters; where it is `None` nothing is changed.

    Raises:
      ValueError: optax does not know what of the state belongs to single weights.
    """

    def own(leaf, of_tree):
        shape = getattr(leaf, "shape", None)  # a part that is masked has none
        same = shape is not None and shape == getattr(of_tree, "shape", None)
        return change(leaf, of_tree) if same else leaf

    try:
        return optax.tree_map_params(
            optimizer,
            own,
            state,
            tree,
            is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
        )
    except (ValueError, TypeError, IndexError) as error:
        raise checks.Refused(
            "optimizer",
            "must have a state of which optax.tree_map_params finds what belongs to "
            f"single weights, which is changed here: {' '.join(str(error).split())}",
        ) from error


def trained_by(
    optimizer: optax.GradientTransformationExtraArgs,
    grads: Params,
    state: State,
    trained: Params,
    *,
    step: Step,
    told: Mapping[str, Any],
    realise: Callable[[Params], Params] | None = None,
    added: Callable[[Params], jax.Array] = lambda trained: 0.0,
) -> tuple[Params, State]:
    """`optimizer.update`, told of the loss as a function of what it trains.

    Args:
      optimizer: what of `step`, `value`, `grad` and `value_fn` its update takes, as
        optax names them, it is given.
      grads: with respect to `trained`.
      state: of the optimiser.
      trained: what it trains, of which the network's parameters are a function.
      step: see `Search.update`.
      told: what the loop knows: `value`, the loss; `value_fn`, parameters of the
        network -> loss; and whatever else an optimiser may ask for.
      realise: `trained -> params`. Without it there is no `value_fn`: a search whose
        parameters do not follow smoothly cannot be searched along a line.
      added: `trained ->` what the search adds to the loss.

    Returns:
      `(updates, state)`.

    Raises:
      ValueError: it needs a `value_fn`, and there is none.
    """
    known = dict(told)
    loss = known.pop("value_fn", None)
    if loss is not None and realise is not None:

        def of_trained(trained, **others):
            return calls.told(loss, realise(trained), **others) + added(trained)

        known["value_fn"] = calls.naming(of_trained, "step", *sorted(known))
    if "value" in known:
        known |= {"value": known["value"] + added(trained), "grad": grads}
    try:
        return calls.told(optimizer.update, grads, state, trained, step=step, **known)
    except TypeError as error:
        if "value_fn" in known or "value_fn" not in str(error):
            raise
        raise checks.Refused(
            "optimizer",
            "asks for value_fn, as line searches do: "
            + (
                "this search has none, since what the network runs with does not "
                "follow smoothly what is trained"
                if realise is None
                else "pass the loss, a function of the network's parameters"
            ),
        ) from error


def owned(state: State) -> State:
    """A state whose arrays are nobody else's: not the caller's, nor twice in it.

    In a program that is traced nothing is copied: its results are new arrays anyway.
    """
    return jax.tree.map(
        lambda x: x if isinstance(x, jax.core.Tracer) else jnp.copy(x), state
    )


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
    evidence: Evidence = NO_EVIDENCE,
) -> optax.GradientTransformationExtraArgs:
    """A search for a training loop that knows only optax.

    The transformation owns the parameters: its updates move whatever the loop holds to
    `search.params(state)`. Start the loop from `search.params(search.init(key,
    ticket))`.

    In `optax.chain` it comes last. What comes after it would change the step to those
    parameters: scaled by a half, say, a pruned weight goes half of the way to zero.

    Args:
      search: the search to run.
      ticket: what it starts from.
      key: consumed by `search.init`.
      rounds: `search.advance` runs between rounds, `rounds - 1` times in all, so that
        the ticket of the last round can be read whenever the loop ends.
      round_steps: updates per round; needed for more than one round.
      evidence: what `search.advance` is given, for scores that need a loss.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose `update` needs `params`; what
      else it is told, as `value=loss`, reaches the optimiser of the search. The ticket
      found is `search.ticket(state.search)`: evaluate that, `masks.apply(mask,
      weights)`, since the parameters of a search with soft or drawn gates are not its
      ticket's.

    Raises:
      ValueError: several rounds without `round_steps`, a number below 1, a rewinding
        step that a round never reaches, or `update` called without `params`.
    """
    checks.whole(1)(rounds=rounds)
    if round_steps is not None or rounds > 1:
        checks.whole(1)(round_steps=round_steps)
        check_round(search.promises, round_steps, rounds)

    def init(params):
        del params
        return owned(OptaxState(search.init(key, ticket), jnp.zeros((), jnp.int32)))

    def update(grads, state, params=None, **told):
        if params is None:
            raise ValueError("as_optax needs params: call update(grads, state, params)")
        told.pop("step", None)  # what others in a chain are told; this one counts
        inner, count = state
        if rounds == 1:
            inner = calls.told(search.update, grads, inner, count, **told)
        else:
            round_ = jnp.minimum(count // round_steps, rounds - 1)
            step = count - round_ * round_steps
            inner = calls.told(search.update, grads, inner, step, **told)
            # The next gradient is taken at the parameters handed out now, so the next
            # round is opened now and not before its first update.
            over = ((count + 1) % round_steps == 0) & (round_ < rounds - 1)
            inner = jax.lax.cond(
                over,
                lambda state: search.advance(state, evidence),
                lambda state: state,
                inner,
            )
        updates = jax.tree.map(jnp.subtract, search.params(inner), params)
        return updates, OptaxState(inner, count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def check_round(promises: Promises, steps: int, rounds: int = 1) -> None:
    """Raises a `ValueError` where a round of `steps` steps is too short for a search.

    It would rewind to what it was opened with, or leave more weights than it promises,
    without a word. So would updates that are more than their count can hold.
    """
    checks.whole(1)(**{f"rounds={rounds} of {steps} steps, together,": rounds * steps})
    if promises.least_steps > steps:
        raise ValueError(
            f"steps {steps} are too few for a round: the search prunes up to step "
            f"{promises.least_steps}; take longer rounds, or an earlier stop"
        )
    if promises.rewind_step >= steps:
        raise ValueError(
            f"rewind_step {promises.rewind_step} is outside a round of {steps} steps: "
            "rewind to an earlier step or take longer rounds"
        )
