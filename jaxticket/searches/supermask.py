"""Supermasks: how likely each frozen weight is to be kept, learned by drawing masks."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, draws, masks, meshes
from jaxticket.base import OfScores, Search
from jaxticket.searches import frozen, gates

Read = Literal["sample", "threshold"]


def supermask(
    optimizer: OfScores,
    *,
    initial_logit: ArrayLike = 0.0,
    rescale: bool = False,
    constant_factor: bool = False,
    read: Read = "sample",
) -> Search:
    """Learns Bernoulli masks over frozen, usually random weights.

    Every weight `w` has a logit `s`. After each step a mask `m ~ Bernoulli(sigmoid(s))`
    is drawn, the network runs with `w * m`, and `ds = dL/d(w m) * w * sigmoid'(s)`,
    straight through the draw. So it is in tests: a test sees the mask last drawn.

    Args:
      optimizer: trains the logits; the paper's is SGD at 100 with momentum 0.9: the
        gradient is small, with `w` and `sigmoid' <= 1/4` in it. It is given `step`, see
        `schedules.scale_by_step`.
      initial_logit: the first `s`; at 0 half of the weights are kept. May be traced.
      rescale: dynamic weight rescaling: the network runs with `c w m`, where `c` is how
        many weights a layer has over how many its mask keeps. Every weight that is kept
        lowers `c`, which the released code differentiates too: from `d = dL/d(c w m) c
        w` the mean of what the mask keeps of `d` is subtracted.
      constant_factor: with `rescale`, take `c` for a constant in the gradient.
      read: the ticket's mask: `sample` is the one last drawn, as published, and
        `threshold` keeps what is more likely kept than not, `sigmoid(s) > 1/2`.

    Returns:
      A `Search` of one round without end. Its ticket holds the given weights, or with
      `rescale` their multiples. Evaluate the ticket: where `read` is `threshold`, the
      mask of `params(state)` is another.

    Raises:
      ValueError: an unknown `read`, or a `constant_factor` without `rescale`.

    Reference:
      Zhou et al., "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask",
      2019, section 5, and its code.
    """
    checks.finite(initial_logit=initial_logit)
    checks.one_of(get_args(Read))(read=read)
    if constant_factor and not rescale:
        raise ValueError("constant_factor=True is for rescale=True alone")

    def draw(key, count, logits, allowed):
        return jax.tree.map(
            lambda s, u, a: a & (u < jax.nn.sigmoid(s.astype(u.dtype))),
            logits,
            draws.uniform(key, count, logits),
            allowed,
        )

    def opened(key, ticket):
        logits = jax.tree.map(
            lambda w: meshes.full_like(w, initial_logit),
            masks.prunable_like(ticket.weights, ticket.mask),
        )
        first = draw(key, jnp.int32(0), logits, ticket.mask)
        return logits, first, ticket.mask, None

    def choose(state, step):
        del step
        return draw(state.key, state.count, state.scores, state.allowed), None

    def gain(state):
        def factor(s, a, m):
            wide = jnp.promote_types(s.dtype, jnp.float32)
            every, kept = (masks.count([x]).astype(wide) for x in (a, m))
            return every / jnp.maximum(kept, 1)

        return jax.tree.map(factor, state.scores, state.allowed, state.mask)

    def through_factor(d, m):
        """`dL/dm`: `d`, and `(dL/dc) (dc/dm) = -sum(d m) / sum(m)`."""
        wide = jnp.promote_types(d.dtype, jnp.float32)
        ones = jnp.maximum(masks.count([m]), 1).astype(wide)
        return d - (jnp.sum(d, where=m, dtype=wide) / ones).astype(d.dtype)

    def slope(s):
        p = jax.nn.sigmoid(s)
        return p * (1 - p)

    search = frozen.search(
        optimizer,
        opened=opened,
        choose=choose,
        slope=slope,
        gain=gain if rescale else None,
        through_gain=through_factor if rescale and not constant_factor else None,
        random=True,
    )
    if read == "sample":
        return search

    def ticket(state):
        likely = jax.tree.map(lambda s, a: a & (s > 0), state.scores, state.allowed)
        masks.check_some(likely)
        masks.warn_if_empty(likely, gates.OPEN)
        return search.ticket(state._replace(mask=likely))

    # The network runs with the mask last drawn, not with the ticket's.
    return search._replace(ticket=ticket, promises=search.promises._replace(hard=False))
