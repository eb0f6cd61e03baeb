"""One-shot pruning: train the network, then prune it once."""

from typing import NamedTuple

from jax.typing import ArrayLike

from jaxticket import checks, pruners, scores, selection
from jaxticket.base import (
    Evidence,
    OfWeights,
    Params,
    PRNGKey,
    Promises,
    Search,
    going_on,
    owned,
)
from jaxticket.searches.fixed import FixedState, fixed


class OneShotState(NamedTuple):
    """State of `one_shot`."""

    training: FixedState
    initial: Params  # the weights before training, for scores that compare
    key: PRNGKey


def one_shot(
    optimizer: OfWeights,
    *,
    density: ArrayLike = 0.2,
    score: scores.Score | str = "magnitude",
    select: selection.Select | str = "global_top",
) -> Search:
    """Trains what it is given, and prunes what comes out whenever it is read.

    The network runs dense to the end. Its ticket is the trained weights under the mask
    of the highest scores; fine-tune it with `fixed`. There are no rounds.

    Args:
      optimizer: trains the weights. It is given `step`, see `schedules.scale_by_step`.
      density: the fraction of the given ticket's weights that is left. May be traced.
      score: which weights matter: a score or its name, see `scores`; one that looks at
        the weights, before training and after, or at a key, since a view of the state
        has no other evidence.
      select: how the layers share the density: a function or its name.

    Returns:
      A `Search` of one round without end.

    Raises:
      ValueError: density outside (0, 1], an unknown name, or a score that needs more.

    Reference:
      Han et al., "Learning both Weights and Connections for Efficient Neural Networks",
      2015; Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, section 2, which
      return to the initial weights instead.
    """
    checks.fraction(density=density)
    score, select = scores.named(score), selection.named(select)
    if missing := scores.RUNNING & set(scores.needed(score)):
        raise ValueError(
            f"one_shot prunes without {' or '.join(sorted(missing))}: give a score of "
            "the weights, or prune what `fixed` has trained"
        )
    train = fixed(optimizer)

    def init(key, ticket):
        return owned(OneShotState(train.init(key, ticket), ticket.weights, key))

    def update(grads, state, step, **told):
        training = train.update(grads, state.training, step, **told)
        return state._replace(training=training)

    def params(state):
        return train.params(state.training)

    def ticket(state):
        return pruners.prune(
            train.ticket(state.training),
            score,
            density,
            evidence=Evidence(initial=state.initial, key=state.key),
            select=select,
        )

    promises = Promises(
        hard=False,
        nested=False,  # a further round trains all weights on
        random="key" in scores.needed(score),
        kept=selection.kept(select, density),
    )
    return Search(init, update, going_on, params, ticket, promises)
