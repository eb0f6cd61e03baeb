"""A random sparse network that stays as it is: what sparse training must do better."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, draws, masks, selection
from jaxticket.base import OfWeights, Promises, Search
from jaxticket.searches.fixed import fixed


def static(
    optimizer: OfWeights,
    *,
    density: ArrayLike = 0.1,
    select: selection.Select | str = "erk",
) -> Search:
    """Trains under a mask that is drawn at random, and never moves.

    Args:
      optimizer: trains the weights. It is given `step`, see `schedules.scale_by_step`.
      density: the fraction of the given ticket's weights that is trained. May be
        traced.
      select: how the layers share the density, a function or a name of `selection`:
        in the proportions of Erdos-Renyi-Kernel by default, as `rigl`.

    Returns:
      A `Search` of one round without end. Its ticket holds the trained weights.

    Raises:
      ValueError: a density outside (0, 1], an unknown `select`.

    Reference:
      Evci et al., "Rigging the Lottery", 2020, section 4, the baseline "static". Its
      released code also puts the smallest weights back to zero now and then.
    """
    checks.fraction(density=density)
    select = selection.named(select)
    train = fixed(optimizer)

    def init(key, ticket):
        masks.check(ticket.mask, ticket.weights)
        selection.check_kept(select, density, ticket.mask)
        kernels = masks.prunable_like(ticket.weights, ticket.mask)
        drawn = draws.uniform(key, jnp.int32(0), kernels)
        return train.init(
            key, ticket._replace(mask=select(drawn, ticket.mask, density))
        )

    kept = selection.kept(select, density)
    return train._replace(init=init, promises=Promises(random=True, kept=kept))
