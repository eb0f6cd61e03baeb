"""Memory: what a compiled program takes on each device, and what a device has."""

from collections.abc import Sequence
from pathlib import Path

import jax
from jax.stages import Compiled

# Where Linux tells what is free, in all and to this control group.
SYSTEM, GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


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

    Devices on CPU share what the system, and the container, could give away now.
    """
    if devices[0].platform == "cpu":
        free = [x for x in (_system(), _container()) if x is not None]
        return min(free) // len(devices) if free else None
    stats = devices[0].memory_stats() or {}
    return stats.get("bytes_limit")


def _system() -> int | None:
    try:
        lines = SYSTEM.read_text().splitlines()
    except OSError:
        return None
    free = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(free.split()[1]) * 1024


def _container() -> int | None:
    """What is left below the limit of this control group."""
    try:
        limit, used = (
            int((GROUP / name).read_text()) for name in ("memory.max", "memory.current")
        )
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return None
    return limit - used
