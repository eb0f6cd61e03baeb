"""Where searches run: lanes side by side and in turns, on every device of a mesh.

Each device holds `turns` sets of lanes, one set after another; the lanes of a set are
mapped by `vmap`. Devices share nothing but the data. A search's numbers depend on how
many lanes a set has, not on how many sets or devices there are, nor on which searches
run beside it, nor on its place among them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxticket import checks

# XLA moves code out of loops earlier in a program for several devices than in one for a
# single device, and then fuses and rounds otherwise: without, both give the same bits,
# as fast.
SAME_BITS = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}


class Layout(NamedTuple):
    """A mesh of one axis, `lanes`, and what each of its devices holds."""

    mesh: Mesh
    per_device: int  # lanes side by side
    turns: int = 1  # sets of lanes, one after another

    @property
    def width(self) -> int:
        """Searches that one program runs."""
        return self.mesh.size * self.turns * self.per_device

    @property
    def own(self) -> int:
        """Those of them that this process has devices for."""
        return len(self.mesh.local_devices) * self.turns * self.per_device


def layout(
    per_device: int = 1,
    devices: Sequence[jax.Device] | None = None,
    *,
    turns: int = 1,
) -> Layout:
    """Lays `turns` sets of `per_device` lanes on each device; by default on all.

    On CPU the fastest is one lane on each of as many virtual devices as there are cores
    (`jax_num_cpu_devices`): a small network then stays in its core's cache. On a GPU or
    TPU it is one device with as many lanes as fit.

    Raises:
      ValueError: fewer than one lane or turn.
    """
    checks.whole(1)(per_device=per_device, turns=turns)
    devices = jax.devices() if devices is None else devices
    return Layout(Mesh(np.array(devices), ("lanes",)), per_device, turns)


def devices(count: int) -> list[jax.Device]:
    """So many devices, of every process as many: a program needs one of each.

    Args:
      count: a multiple of the number of processes.
    """
    of = [[d for d in jax.devices() if d.process_index == p] for p in _processes()]
    return [device for own in of for device in own[: count // len(of)]]


def _processes() -> list[int]:
    return sorted({device.process_index for device in jax.devices()})


def mapped(
    layout: Layout, f: Callable, batched: Sequence[bool], *, donate: Sequence[int] = ()
) -> Callable:
    """`f`, written for one search, compiled for all lanes of a layout.

    Args:
      layout: where the lanes are.
      f: positional arguments -> pytree.
      batched: which arguments have a leading axis of `layout.width`; the others are the
        same for all lanes, and reach `f` unbatched. All results are batched.
      donate: arguments whose memory the results may take.
    """
    specs = tuple(PartitionSpec("lanes") if b else PartitionSpec() for b in batched)
    shardings = tuple(NamedSharding(layout.mesh, spec) for spec in specs)
    return jax.jit(
        jax.shard_map(
            _on_device(f, batched, layout.per_device, layout.turns),
            mesh=layout.mesh,
            in_specs=specs,
            out_specs=PartitionSpec("lanes"),
            check_vma=False,
        ),
        in_shardings=shardings,
        donate_argnums=tuple(donate),
        compiler_options=SAME_BITS,
    )


def _on_device(f, batched, per_device, turns):
    """What one device computes, on arguments with `turns * per_device` leading rows."""

    def run(*args):
        def one(own):
            own = iter(own)
            both = zip(args, batched, strict=True)
            return f(*(next(own) if b else arg for arg, b in both))

        own = [arg for arg, b in zip(args, batched, strict=True) if b]
        if turns > 1:
            return jax.lax.map(
                one, own, batch_size=per_device if per_device > 1 else None
            )
        if per_device > 1:
            return jax.vmap(one)(own)
        # A batch axis of length 1 is not free: XLA then transposes the gradients of
        # kernels, which takes LeNet 12% of its step on CPU.
        found = one(jax.tree.map(lambda x: x[0], own))
        return jax.tree.map(lambda x: x[None], found)

    return run


def everywhere(layout: Layout, tree: Any) -> Any:
    """`tree` on every device of the layout; every process has the whole."""
    return _put(tree, NamedSharding(layout.mesh, PartitionSpec()))


def spread(layout: Layout, tree: Any) -> Any:
    """`tree`, of leaves `[layout.width, ...]`, each lane on its device.

    In several processes, each of which has the whole, a program of the layout takes
    nothing else.
    """
    return _put(tree, NamedSharding(layout.mesh, PartitionSpec("lanes")))


def spread_own(layout: Layout, tree: Any) -> Any:
    """`spread`, of leaves on the host that have `layout.own` rows: of these lanes."""
    sharding = NamedSharding(layout.mesh, PartitionSpec("lanes"))

    def put(leaf):
        shape = (layout.width, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return jax.tree.map(put, tree)


def own(layout: Layout, leaf: jax.Array) -> jax.Array:
    """The `layout.own` rows of what is spread that this process can look at."""
    if not layout.mesh.is_multi_process:
        return leaf
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        bits = own(layout, jax.random.key_data(leaf))
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
    rows = {shard.index[0].start or 0: shard.data for shard in leaf.addressable_shards}
    return np.concatenate([np.asarray(rows[first]) for first in sorted(rows)])


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(leaf):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        ):
            made = functools.partial(
                jax.random.wrap_key_data, impl=jax.random.key_impl(leaf)
            )
            return jax.jit(made, out_shardings=sharding)(put(jax.random.key_data(leaf)))
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

    return jax.tree.map(put, tree)


def groups(items: Sequence, width: int) -> list[list]:
    """`items` in groups of exactly `width`, the last one padded with its last item."""
    parts = [list(items[i : i + width]) for i in range(0, len(items), width)]
    return [part + part[-1:] * (width - len(part)) for part in parts]
