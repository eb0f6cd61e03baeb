"""Sparse training from the start: connections move, the counts of layers do not."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, draws, masks, meshes, schedules, selection
from jaxticket.base import (
    Mask,
    OfWeights,
    Params,
    PRNGKey,
    Promises,
    Scores,
    Search,
    State,
    going_on,
    of_each,
    optimizing,
    owned,
)
from jaxticket.searches.fixed import FixedState, fixed


class SparseState(NamedTuple):
    """State of sparse training.

    Attributes:
      training: the weights, the mask of now, and the optimiser.
      allowed: what masks are chosen from: the given one.
      key: for connections that are drawn.
      count: updates so far, int32: with the key, it decides what is drawn.
      average: of the gradients of all weights; `None` where growth needs none.
    """

    training: FixedState
    allowed: Mask
    key: PRNGKey
    count: jax.Array
    average: Scores | None = None


def rigl(
    optimizer: OfWeights,
    *,
    density: ArrayLike = 0.1,
    drop: ArrayLike = 0.3,
    every: int = 100,
    stop: int | float = 0.75,
    select: selection.Select | str = "erk",
    steps: int | None = None,
    also_train: bool = False,
) -> Search:
    """Trains a sparse network whose connections move to where the gradient is largest.

    The first mask is drawn at random. At the steps `t = 0, every, 2 every, ..., stop` a
    layer that keeps `n` weights exchanges

        k = floor(n * f(t)),   f(t) = drop / 2 * (1 + cos(pi * t / stop)):

    it drops its `k` lowest `|w|` and grows the `k` highest `|dL/dw|` of all that the
    given ticket keeps and it does not, what it has just dropped included. A weight that
    grows starts at 0 without momentum; one that is dropped and grown at once stays as
    it was.

    As in the released code, an exchange takes the place of the optimiser's step. There
    `f` is constant for ImageNet and CIFAR; the cosine is the paper's. And it breaks
    ties by noise on all `|mask * w|`, so that what is pruned can outrank what is kept:
    here the kept alone are ranked, and of equals the first in order are preferred.

    Args:
      optimizer: trains the weights. It is given `step`, see `schedules.scale_by_step`.
        What grows is new to all its copies of the parameter tree, as
        `optax.tree_map_params` finds them: they have what they open with, mostly 0.
        Leaves of other shapes stay (counts, keys, factored moments), and plain SGD has
        nothing to forget.
      density: the fraction of the given ticket's weights that is trained. May be
        traced.
      drop: the fraction of a layer's weights that the first exchange drops. May be
        traced.
      every: steps from one exchange to the next.
      stop: of the last exchange: a step, or as a float a fraction of the round.
      select: how the layers share the density, a function or a name of `selection`:
        in the proportions of Erdos-Renyi-Kernel by default.
      steps: of a round; needed where `stop` is a fraction of it.
      also_train: whether the optimiser takes its step as well, before an exchange.

    Returns:
      A `Search` of one round without end. Its ticket holds the trained weights.

    Raises:
      ValueError: a density outside (0, 1], a `drop` outside [0, 1], `every` or `stop`
        below one step, an unknown `select`, a fraction without `steps`.

    Reference:
      Evci et al., "Rigging the Lottery", 2020, section 3.
    """
    return _search(
        optimizer,
        lambda grads, state: jax.tree.map(jnp.abs, grads),
        density=density,
        drop=drop,
        every=every,
        stop=stop,
        select=select,
        steps=steps,
        also_train=also_train,
        by_gradient=True,
    )


def set(
    optimizer: OfWeights,
    *,
    density: ArrayLike = 0.1,
    drop: ArrayLike = 0.3,
    every: int = 100,
    stop: int | float = 0.75,
    select: selection.Select | str = "erk",
    steps: int | None = None,
    also_train: bool = True,
) -> Search:
    """Trains a sparse network whose connections move at random.

    As `rigl`, but the `k` weights that a layer grows are drawn, and the optimiser takes
    its step before an exchange too. This is SET as RigL's released code has it; the
    paper drops a fraction 0.3 after every epoch, of the smallest positive and of the
    largest negative weights.

    Args:
      optimizer: trains the weights, see `rigl`.
      density: the fraction of the given ticket's weights that is trained. May be
        traced.
      drop: the fraction of a layer's weights that the first exchange drops. May be
        traced.
      every: steps from one exchange to the next.
      stop: of the last exchange: a step, or as a float a fraction of the round.
      select: how the layers share the density, a function or a name of `selection`:
        in the proportions of Erdos-Renyi-Kernel by default.
      steps: of a round; needed where `stop` is a fraction of it.
      also_train: whether the optimiser takes its step as well, before an exchange.

    Returns:
      A `Search` of one round without end. Its ticket holds the trained weights.

    Raises:
      ValueError: see `rigl`.

    Reference:
      Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive
      Sparse Connectivity", 2018.
    """
    return _search(
        optimizer,
        lambda grads, state: draws.uniform(state.key, state.count, grads),
        density=density,
        drop=drop,
        every=every,
        stop=stop,
        select=select,
        steps=steps,
        also_train=also_train,
        by_gradient=False,
    )


def snfs(
    optimizer: OfWeights,
    *,
    density: ArrayLike = 0.1,
    drop: ArrayLike = 0.3,
    every: int = 100,
    stop: int | float = 0.75,
    select: selection.Select | str = "erk",
    steps: int | None = None,
    also_train: bool = True,
    momentum: ArrayLike = 0.9,
) -> Search:
    """Trains a sparse network whose connections move to where gradients agree.

    As `rigl`, but the `k` weights that a layer grows have the highest `|v|`, where `v
    <- momentum * v + (1 - momentum) * dL/dw` is an average of the gradients of all that
    the given ticket keeps, pruned now or not; and the optimiser takes its step before
    an exchange. This is SNFS as RigL's released code has it: the paper also moves
    weights between layers, to where `|v|` is largest on average.

    Args:
      optimizer: trains the weights, see `rigl`.
      density: the fraction of the given ticket's weights that is trained. May be
        traced.
      drop: the fraction of a layer's weights that the first exchange drops. May be
        traced.
      every: steps from one exchange to the next.
      stop: of the last exchange: a step, or as a float a fraction of the round.
      select: how the layers share the density, a function or a name of `selection`:
        in the proportions of Erdos-Renyi-Kernel by default.
      steps: of a round; needed where `stop` is a fraction of it.
      also_train: whether the optimiser takes its step as well, before an exchange.
      momentum: of the average. May be traced.

    Returns:
      A `Search` of one round without end. Its ticket holds the trained weights.

    Raises:
      ValueError: see `rigl`; a `momentum` outside [0, 1].

    Reference:
      Dettmers and Zettlemoyer, "Sparse Networks from Scratch: Faster Training without
      Losing Performance", 2019.
    """
    checks.share(momentum=momentum)
    return _search(
        optimizer,
        lambda grads, state: jax.tree.map(jnp.abs, state.average),
        density=density,
        drop=drop,
        every=every,
        stop=stop,
        select=select,
        steps=steps,
        also_train=also_train,
        by_gradient=True,
        momentum=momentum,
    )


def _search(
    optimizer: OfWeights,
    growth: Callable[[Scores, SparseState], Scores],
    *,
    density: ArrayLike,
    drop: ArrayLike,
    every: int,
    stop: int | float,
    select: selection.Select | str,
    steps: int | None,
    also_train: bool,
    by_gradient: bool,
    momentum: ArrayLike | None = None,
) -> Search:
    """Sparse training that grows what has the highest `growth(grads, state)`.

    With a `momentum` the state has an average of the gradients, this step's included.
    Whether growth is `by_gradient` decides what the search promises.
    """
    checks.fraction(density=density)
    checks.share(drop=drop)
    checks.whole(1)(every=every)
    last = schedules.position("stop", stop, steps)
    fraction = schedules.drop_fraction(jnp.clip(drop, 0, 1), last)
    select = selection.named(select)
    train, train_by = fixed(optimizer), optimizing(optimizer)

    def init(key, ticket):
        masks.check(ticket.mask, ticket.weights)
        selection.check_kept(select, density, ticket.mask)
        first, key = jax.random.split(key)
        zero = jnp.zeros((), jnp.int32)
        kernels = masks.prunable_like(ticket.weights, ticket.mask)
        mask = select(draws.uniform(first, zero, kernels), ticket.mask, density)
        training = train.init(key, ticket._replace(mask=mask))
        average = None
        if momentum is not None:
            average = jax.tree.map(lambda w: meshes.full_like(w, 0), kernels)
        return owned(SparseState(training, ticket.mask, key, zero, average))

    def due(step):
        return (step % every == 0) & (step <= last)

    def averaged(average, slopes):
        def mean(v, g):
            return (momentum * v + (1 - momentum) * g).astype(v.dtype)

        return jax.tree.map(mean, average, slopes)

    def update(grads, state, step, **told):
        step = jnp.asarray(step, jnp.int32)
        slopes = masks.prunable_like(grads, state.allowed)
        if momentum is not None:
            heard = masks.apply(state.allowed, slopes)
            state = state._replace(average=averaged(state.average, heard))

        def trained(training):
            return train.update(grads, training, step, **told)

        def exchanged(training):
            weights, mask, inner = training

            def layer(active, allowed, w, score):
                n = masks.count([active])
                k = (n.astype(jnp.float32) * fraction(step)).astype(jnp.int32)
                [left] = selection.top([jnp.abs(w)], [active], n - k)
                [grown] = selection.top([score], [allowed & ~left], k)
                return left | grown

            kernels, scores = masks.prunable_like(weights, mask), growth(slopes, state)
            new = jax.tree.map(layer, mask, state.allowed, kernels, scores)
            stayed = jax.tree.map(jnp.logical_and, mask, new)
            weights = masks.apply(new, weights)
            return FixedState(weights, new, _forget(train_by, inner, weights, stayed))

        training = trained(state.training) if also_train else state.training
        training = jax.lax.cond(
            due(step),
            exchanged,
            (lambda same: same) if also_train else trained,
            training,
        )
        return state._replace(training=training, count=state.count + 1)

    def params(state):
        return train.params(state.training)

    def ticket(state):
        return train.ticket(state.training)

    kept = selection.kept(select, density)
    dense = None if not by_gradient else due if momentum is None else jnp.ones_like
    promises = Promises(nested=False, random=True, kept=kept, dense_gradient=dense)
    return Search(init, update, going_on, params, ticket, promises)


def _forget(optimizer: OfWeights, state: State, weights: Params, mask: Mask) -> State:
    """The state of an optimiser, where it is new to each weight not kept by `mask`."""
    everywhere = jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf), bool), state)
    stays = of_each(optimizer, lambda _, m: m, everywhere, mask)
    return jax.tree.map(jnp.where, stays, state, optimizer.init(weights))
