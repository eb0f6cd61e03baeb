"""Memory: what a compiled program takes on each device, and what a device has."""

from collections.abc import Sequence

import jax
from jax.stages import Compiled

from jaxticket import machine


def footprint(compiled: Compiled) -> int:
    """Bytes that a compiled program holds on each device while it runs.

    Its arguments, its results where they do not take the memory of donated arguments,
    and what it needs in between, as XLA has planned it.
    """
    plan = compiled.memory_analysis()
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
        + plan.temp_size_in_bytes
    )


def available(devices: Sequence[jax.Device]) -> int | None:
    """Bytes that programs may take on each of some devices; `None` where nobody tells.

    Devices on CPU share what the system, the container, and `ulimit -v` leave now.
    """
    if devices[0].platform == "cpu":
        free = machine.memory()
        return None if free is None else free // len(devices)
    stats = devices[0].memory_stats() or {}
    return stats.get("bytes_limit")
