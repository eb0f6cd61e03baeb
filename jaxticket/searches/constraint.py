"""A density as a constraint on gates, in place of a penalty.

A penalty leads to a density that nobody knows before. Here the density is given, and
what a gate costs is found: by ascent in the multipliers of the Lagrangian.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, counts, masks
from jaxticket.base import Mask, Scores

EXCLUSIVE = ("penalty", "density")  # two ways to say how sparse
Of = Literal["ticket", "gates"]
Within = Literal["network", "layer"]
Multipliers = list[jax.Array]  # one of the network, or one of each layer


class Constraint(NamedTuple):
    """What becomes of the multipliers `l` in a search over gates.

    The gates are numbers in [0, 1], and 0 where the mask of what may be kept is false;
    their means are over what it keeps.

    Attributes:
      opened: `mask -> l`, all 0.
      added: `(l, gates, mask) ->` what the Lagrangian adds to the loss.
      ascended: `(l, gates, found, mask) -> l` after a step, where `found` is the mask
        that a ticket would have.
    """

    opened: Callable[[Mask], Multipliers]
    added: Callable[[Multipliers, Scores, Mask], jax.Array]
    ascended: Callable[[Multipliers, Scores, Mask, Mask], Multipliers]


def held(
    density: ArrayLike | None,
    *,
    of: Of,
    within: Within,
    learning_rate: ArrayLike,
    restarts: bool,
) -> Constraint | None:
    """Holds gates to a density `t`, of the network or of every layer.

    Gates descend on `loss + sum(l (d - t))` with `d` their mean, and `l` ascends.

    Published, and meant by `gates`, is `d <= t`: `l <- max(0, l + eta (d - t))`, and
    with restarts `l = 0` wherever `d <= t`, or what has gathered before would press on
    for as long again.

    The mean of gates that are half open is not the density of the ticket, and what is
    at most `t` may be far below. So by default, which is ours, `l` ascends by the
    density `c` of the mask that the ticket would have now, and may be negative: `l <- l
    + eta (c - t)`, with restarts 0 where that has not the sign of `c - t`.

    Args:
      density: `t`; `None` for no constraint. May be traced.
      of: what is held to it: the `ticket` or the mean of the `gates`.
      within: the density of the `network`, or of every `layer` alike.
      learning_rate: `eta`. May be traced.
      restarts: whether `l` returns to 0.

    Raises:
      ValueError: a density outside (0, 1], an unknown word, a learning rate that is not
        positive.

    Reference:
      Gallego-Posada et al., "Controlled Sparsity via Constrained Optimization", 2022,
      sections 3 and 4, and its code.
    """
    checks.one_of(get_args(Of))(density_of=of)
    checks.one_of(get_args(Within))(density_within=within)
    checks.positive(dual_learning_rate=learning_rate)
    if density is None:
        return None
    checks.fraction(density=density)

    def groups(tree):
        """The leaves of each group of weights that has a density."""
        leaves = jax.tree.leaves(tree)
        return [leaves] if within == "network" else [[leaf] for leaf in leaves]

    def means(tree, mask):
        """Of every group."""
        sizes = [counts.as_float(masks.count(alive)) for alive in groups(mask)]
        return [
            masks.total(part) / jnp.maximum(jnp.asarray(size, jnp.float32), 1)
            for part, size in zip(groups(tree), sizes, strict=True)
        ]

    def opened(mask):
        return [jnp.zeros((), jnp.result_type(float)) for _ in groups(mask)]

    def added(multipliers, gates, mask):
        pairs = zip(multipliers, means(gates, mask), strict=True)
        return sum(price * (d - density) for price, d in pairs)

    def ascended(multipliers, gates, found, mask):
        def step(price, d):
            over = d - density
            risen = price + learning_rate * over
            if of == "gates":
                risen = jnp.maximum(risen, 0)
            holds = over <= 0 if of == "gates" else risen * over <= 0
            left = jnp.where(holds, 0, risen) if restarts else risen
            return left.astype(price.dtype)

        measured = means(gates if of == "gates" else found, mask)
        return [step(*pair) for pair in zip(multipliers, measured, strict=True)]

    return Constraint(opened, added, ascended)


def penalty(
    given: ArrayLike | None, density: ArrayLike | None, usual: ArrayLike
) -> ArrayLike:
    """The penalty that is given, or the usual one; none beside a density.

    Raises:
      ValueError: both are given.
    """
    if given is None:
        return usual if density is None else 0.0
    if density is not None:
        raise checks.Refused(
            "density", f"takes the place of penalty={given}: give one of the two"
        )
    return given
