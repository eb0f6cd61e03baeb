"""Lottery jackpots: a better mask over pre-trained weights that stay as they are."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxticket import checks, masks, meshes, schedules, selection, thresholds
from jaxticket.base import Mask, OfScores, Schedule, Scores, Search
from jaxticket.searches import frozen

Restriction = Literal["none", "quartic", "cosine"]


def jackpot(
    optimizer: OfScores,
    *,
    pruned_score: ArrayLike = 0.95,
    absolute: bool = True,
    restriction: Schedule | Restriction = "none",
    steps: int | None = None,
    epoch_steps: int = 1,
) -> Search:
    """Searches a mask over frozen weights, from a mask that is good already.

    The ticket's mask is where the search begins, and says how many weights each layer
    keeps, at all times. For the paper's start prune trained weights by magnitude:

        masks.full(weights, ...)  # without the classifier, which stays whole
        prune(Ticket(weights, mask), scores.magnitude, density)  # one threshold for all
        jackpot(optimizer)

    Every weight has a score `s`: 1 where the mask keeps it, `pruned_score` elsewhere.
    The network runs with `w * h(s)`, where `h` keeps the highest `|s|` of each layer,
    and `ds = dL/d(w h) * w * sign(s)`, straight through `h`.

    With a `restriction` only part of what the scores ask for is done (*short
    restriction*): of `n` weights of a layer that would enter the mask, and as many that
    would leave it, the best `ceil(rate n)` enter and the worst `ceil(rate n)` leave. At
    rate 1 that is all of them.

    ==================  ===========  ================  ===========================
    released code       `absolute`   `pruned_score`    `restriction`
    ==================  ===========  ================  ===========================
    2021 (its tables)   yes          0.95              none
    2023, as meant      no           0.99              quartic (CIFAR),
                                                       cosine (ImageNet)
    2023, as released   no           0.99              none: its rate is always 1
    ==================  ===========  ================  ===========================

    Args:
      optimizer: trains the scores; the paper's is SGD at 0.1 with momentum 0.9, cosine
        schedule, and weight decay 5e-4 of the scores that goes through the momentum.
        It is given `step`, see `schedules.scale_by_step`.
      pruned_score: first score of what the mask leaves out, below the 1 of what it
        keeps. May be traced.
      absolute: rank by `|s|`; otherwise by `s`, and `ds` has no `sign(s)`.
      restriction: how the rate falls from 1 to 0 over `steps`: `quartic` or `cosine`,
        see `schedules`, or `none`. Or a schedule: step -> rate, in [0, 1].
      steps: of the search; needed for a restriction by its name.
      epoch_steps: steps that share one rate, for a restriction by its name.

    Returns:
      A `Search` of one round without end. Its ticket holds the given weights under the
      mask found. Ties go to the first weight, as everywhere here, so as many enter as
      leave; where the released code of 2023 finds ties at its threshold, it changes
      nothing in that layer.

    Raises:
      ValueError: a `pruned_score` that is not below 1, an unknown restriction, or one
        by its name without `steps`; in `init`, a ticket from a file without what it
        prunes, which is searched too; from its promise of counts, a mask that keeps
        all.

    Reference:
      Zhang et al., "Lottery Jackpots Exist in Pre-trained Models", 2023, and its code.
    """
    checks.between(-1, 1)(pruned_score=pruned_score)  # the scores of what is kept: 1
    if not callable(restriction):
        checks.one_of(get_args(Restriction))(restriction=restriction)
        if restriction != "none":
            if steps is None:
                raise ValueError(
                    f"restriction {restriction!r} needs steps, the number of them in "
                    "the search; or give a schedule, step -> rate"
                )
            falling = getattr(schedules, restriction)
            restriction = falling(steps, epoch_steps=epoch_steps)

    def opened(key, ticket):
        del key

        def first(m, w):
            # Of a type of few numbers the nearest to it may be 1.
            below = jnp.minimum(pruned_score, 1 - jnp.finfo(w.dtype).epsneg)
            return jnp.where(m, 1, below).astype(w.dtype)

        kernels = masks.prunable_like(ticket.weights, ticket.mask)
        scores = jax.tree.map(first, ticket.mask, kernels)
        everywhere = jax.tree.map(lambda m: meshes.full_like(m, True), ticket.mask)
        cuts = thresholds.like(scores, ticket.mask, everywhere)
        return scores, ticket.mask, everywhere, cuts

    def choose(state, step):
        ranks = jax.tree.map(jnp.abs, state.scores) if absolute else state.scores
        wanted, cuts = thresholds.highest_of_each(ranks, state.allowed, state.cuts)
        if restriction == "none":
            return wanted, cuts
        return swap(ranks, state.mask, wanted, restriction(step)), cuts

    search = frozen.search(
        optimizer,
        opened=opened,
        choose=choose,
        slope=jnp.sign if absolute else jnp.ones_like,
        kept=_counts,
    )

    def init(key, ticket):
        masks.check(ticket.mask, ticket.weights)
        weights = masks.known(ticket.mask, ticket.weights, "the search jackpot")
        return search.init(key, ticket._replace(weights=weights))

    return search._replace(init=init)


def _counts(mask: Mask) -> dict[str, int]:
    """`masks.layer_counts` of a mask beside which there is another one."""
    if all(np.asarray(leaf).all() for leaf in jax.tree.leaves(mask)):
        raise ValueError(
            "a jackpot has as many weights in each layer as the mask it begins with, "
            "and that keeps all: prune the ticket first"
        )
    return masks.layer_counts(mask)


def swap(scores: Scores, mask: Mask, wanted: Mask, rate: ArrayLike) -> Mask:
    """Goes part of the way from `mask` to `wanted`: in each layer the best swaps.

    Args:
      scores: mask tree of numbers.
      mask: what is kept now.
      wanted: as many in each layer, by the same scores.
      rate: of the `n` entries of a layer that would enter, and the `n` that would
        leave, `ceil(rate n)` do: those of the highest and of the lowest scores. May be
        traced.

    Returns:
      The mask after the swaps, of the same counts.
    """

    def layer(scores, mask, wanted):
        enters, leaves = wanted & ~mask, mask & ~wanted
        pending = masks.count([enters])
        number = jnp.ceil(rate * pending).astype(jnp.int32)
        number = jnp.clip(number, 0, pending)
        (entering,) = selection.top([scores], [enters], number)
        (leaving,) = selection.top([-scores], [leaves], number)
        return (mask | entering) & ~leaving

    return jax.tree.map(layer, scores, mask, wanted)
