"""One program in several processes: what they agree on, and who writes.

Every process runs the same program over the devices of all, after
`jax.distributed.initialize`. What they decide on the way must be the same everywhere,
or some would wait for others that do something else; so they ask each other. The first
writes files, and the others read them, on a file system that all of them see.

In a single process everything here is what it would be without.
"""

import math
from typing import Any

import jax
import numpy as np

from jaxticket import meshes


def several() -> bool:
    """Whether there are other processes; asks for no device where there are none."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that writes."""
    return not several() or jax.process_index() == 0


def each(value: bool | float) -> np.ndarray:
    """What every process has given, in their order; it waits for all of them."""
    if not several():
        return np.asarray([value])
    from jax.experimental import multihost_utils

    # In two 32 bits, which is all that devices take by default.
    bits = np.frombuffer(np.float64(value).tobytes(), np.uint32)
    found = multihost_utils.process_allgather(bits)
    return np.frombuffer(np.ascontiguousarray(found).tobytes(), np.float64)


def agreed(value: bool | float) -> bool | float:
    """What the first process has given."""
    return type(value)(each(value)[0])


def anyone(value: bool) -> bool:
    """Whether it is true in any process."""
    return bool(each(value).any())


def least(value: int | None) -> int | None:
    """The least of what the processes know; None where none knows."""
    found = each(math.inf if value is None else value).min()
    return None if math.isinf(found) else int(found)


def wait() -> None:
    """Until all processes are here, and have written what they were to write."""
    each(True)


def gathered(tree: Any) -> Any:
    """A pytree on the host, whole in every process; of random keys, keys.

    Leaf by leaf: no two are together on a device.
    """
    if not several():
        return jax.device_get(tree)
    wait()  # a connection between devices, where it is new, waits for 30 seconds only
    return jax.tree.map(lambda leaf: jax.device_get(meshes.on_host(leaf)), tree)
