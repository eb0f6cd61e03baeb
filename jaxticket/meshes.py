"""Arrays that lie in shards, on the devices of a mesh.

On explicit axes, as `jax.make_mesh` makes them by default, the sharding of an array is
part of its type: what sorts all weights of a layer gathers them, and what is drawn goes
where the weights are. On automatic axes programs see to that themselves, but for their
constants. Of arrays on one device nothing changes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike


def gathered(x: jax.Array) -> jax.Array:
    """The array whole on every device."""
    sharding = _explicit(x)
    if sharding is None or sharding.spec == PartitionSpec(*[None] * x.ndim):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def placed(x: jax.Array, like: jax.Array) -> jax.Array:
    """The array laid out as another of its shape."""
    sharding = _explicit(like)
    return x if sharding is None else jax.sharding.reshard(x, sharding)


def alike(x: jax.Array, like: jax.Array) -> jax.Array:
    """The array laid out as another of its shape, in a program on automatic axes too.

    There a constant would lie on every device as a whole.
    """
    if not (isinstance(like, jax.core.Tracer) and divisible(like)):
        return x
    if AxisType.Auto not in jax.typeof(like).sharding.mesh.axis_types:
        return x
    return shard_alike(like, x)[1]


def full_like(x: jax.Array, value: ArrayLike, dtype: Any = None) -> jax.Array:
    """`jnp.full_like`, laid out as `x`."""
    return alike(jnp.full_like(x, value, dtype), x)


def divisible(x: jax.Array) -> bool:
    """Whether the array may be in parts, on the devices of a mesh.

    In a program whose arrays come from one device, and within `shard_map`, it is not.
    """
    return devices(x) > 1


def devices(x: jax.Array) -> int:
    """How many devices an array may be in parts on: a multiple of any axis' parts."""
    own, ambient = jax.typeof(x).sharding.mesh, jax.sharding.get_abstract_mesh()
    return math.lcm(
        *(
            math.prod(
                n
                for n, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True)
                if kind != AxisType.Manual
            )
            for mesh in (own, ambient)
        )
    )


def shards(x: jax.Array, axis: int) -> int:
    """How many parts an axis is known to be in: with explicit axes of a mesh."""
    sharding = jax.typeof(x).sharding
    names = sharding.spec[axis]
    names = () if names is None else (names,) if isinstance(names, str) else names
    return math.prod(sharding.mesh.shape[name] for name in names)


def rows(x: jax.Array, places: jax.Array) -> jax.Array:
    """`x[places]`, laid out as `x` is."""
    sharding = _explicit(x)
    if sharding is None:
        return jnp.take(x, places, axis=0)
    return x.at[places].get(out_sharding=sharding)


def on_host(x: Any) -> Any:
    """An array in shards as one of numpy; anything else as it is.

    It is not kept: JAX remembers what it has once copied of an array. Where other
    processes have some of the shards, all of them ask for it.
    """
    if not isinstance(x, jax.Array) or len(x.sharding.device_set) == 1:
        return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            on_host(jax.random.key_data(x)), impl=jax.random.key_impl(x)
        )
    if not x.is_fully_addressable:
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(x, tiled=True)
    parts = [shard.data for shard in x.addressable_shards]
    again = jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)
    return np.asarray(again)


def _explicit(x: Any) -> NamedSharding | None:
    """The sharding in an array's type, where its mesh has explicit axes."""
    sharding = getattr(jax.typeof(x), "sharding", None)
    if sharding is None or AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    concrete = getattr(x, "sharding", None)  # of a tracer it is that of its type
    return concrete if isinstance(concrete, NamedSharding) else sharding
