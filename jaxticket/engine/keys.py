"""Where the randomness of a run comes from: the seed, and the name of what draws."""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxticket import checks
from jaxticket.base import PRNGKey

MOST = 2**32 - 1  # as large a seed as a key takes


class Keys(NamedTuple):
    """The independent random streams of one seed."""

    init: PRNGKey
    search: PRNGKey
    data: PRNGKey
    controls: PRNGKey  # of all that is drawn beside, each by its name, see `named`


def of_seed(seed: int) -> Keys:
    """They depend on the seed alone, a whole number up to `MOST`."""
    if checks.concrete(seed):
        checks.whole(0, MOST)(seed=seed)
    return Keys(*jax.random.split(jax.random.fold_in(jax.random.key(0), seed), 4))


def named(key: PRNGKey, name: str) -> PRNGKey:
    """The stream of a name: whatever else there is, its draws are the same."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def of_rounds(
    keys: Sequence[Keys], rounds: Sequence[int] | None = None
) -> Callable[[int], PRNGKey]:
    """Data order and noise: of the seed and the number of prunings alone.

    So a ticket and its controls see the same batches in the same order. The dense
    network, which has seen no pruning, sees others.

    Args:
      keys: one a lane.
      rounds: prunings that each lane has seen, where they are not those of the round.

    Returns:
      `round -> keys`, `[lanes]`.
    """
    stacked = jnp.stack([k.data for k in keys])

    def of(round_):
        numbers = [round_] * len(keys) if rounds is None else rounds
        return _fold_in(stacked, jnp.asarray(numbers, jnp.uint32))

    return of


_fold_in = jax.jit(jax.vmap(jax.random.fold_in))
