"""Where searches run: lanes side by side on every device of a mesh.

Each device holds a fixed number of lanes, mapped by `vmap`; devices share nothing but
the data. A search's numbers depend on that width, not on how many devices there are,
nor on which searches run beside it, nor on its place among them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Layout(NamedTuple):
    """A mesh of one axis, `lanes`, and how many lanes each of its devices holds."""

    mesh: Mesh
    per_device: int

    @property
    def width(self) -> int:
        """Searches that run at once."""
        return self.per_device * self.mesh.size


def layout(per_device: int = 1, devices: Sequence[jax.Device] | None = None) -> Layout:
    """Lays `per_device` lanes on each device; by default on all there are.

    On CPU the fastest is one lane on each of as many virtual devices as there are cores
    (`jax_num_cpu_devices`): a small network then stays in its core's cache. On a GPU or
    TPU it is one device with as many lanes as fit.

    Raises:
      ValueError: fewer than one lane.
    """
    if per_device < 1:
        raise ValueError(f"lanes must be at least 1, got {per_device}")
    devices = jax.devices() if devices is None else devices
    return Layout(Mesh(np.array(devices), ("lanes",)), per_device)


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
    if layout.per_device == 1:
        per_device = _alone(f, batched)
    else:
        axes = tuple(0 if b else None for b in batched)
        per_device = jax.vmap(f, in_axes=axes, axis_size=layout.per_device)
    return jax.jit(
        jax.shard_map(
            per_device,
            mesh=layout.mesh,
            in_specs=specs,
            out_specs=PartitionSpec("lanes"),
            check_vma=False,
        ),
        donate_argnums=tuple(donate),
        compiler_options=_compiler_options(layout),
    )


def _alone(f, batched):
    """`vmap` over an axis of one: without it XLA computes activations only once.

    With it, some are computed again in each shape that they are wanted in.
    """

    def one(*args):
        args = [
            jax.tree.map(lambda x: x[0], arg) if b else arg
            for arg, b in zip(args, batched, strict=True)
        ]
        return jax.tree.map(lambda x: jnp.asarray(x)[None], f(*args))

    return one


def _compiler_options(layout):
    """Convolutions on all cores, where one CPU device has them to itself.

    XLA leaves convolutions of many channels to YNNPACK, which computes each on one
    core: the best with a device for every core. On a single device the older kernels
    take all cores; a training step of ResNet-20 is then 1.3 times as fast.
    """
    single = layout.mesh.size == 1 and layout.mesh.devices.flat[0].platform == "cpu"
    return _ALL_CORES if single and _known(*_ALL_CORES.items()) else None


_ALL_CORES = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}


@functools.cache
def _known(*options):
    """Whether this version of XLA takes the options."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=dict(options))
    except Exception:  # of several kinds, by version
        return False
    return True


def everywhere(layout: Layout, tree: Any) -> Any:
    """`tree` on every device of the layout."""
    return jax.device_put(tree, NamedSharding(layout.mesh, PartitionSpec()))


def groups(items: Sequence, width: int) -> list[list]:
    """`items` in groups of exactly `width`, the last one padded with its last item."""
    parts = [list(items[i : i + width]) for i in range(0, len(items), width)]
    return [part + part[-1:] * (width - len(part)) for part in parts]
