"""Memory: what a compiled program takes on each device, and what a device has."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from jax.stages import Compiled

try:
    import resource
except ImportError:  # Windows
    resource = None

# Where Linux tells what is free, and to which control groups of which limits a process
# belongs.
SYSTEM, PROCESS = Path("/proc/meminfo"), Path("/proc/self")
GROUPS = Path("/sys/fs/cgroup")


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
        free = host()
        return None if free is None else free // len(devices)
    stats = devices[0].memory_stats() or {}
    return stats.get("bytes_limit")


def host() -> int | None:
    """Bytes that the process may take of the host's memory; `None` if nobody tells."""
    known = (_system(), _address_space(), *_containers())
    return min((max(0, x) for x in known if x is not None), default=None)


def _system() -> int | None:
    try:
        lines = SYSTEM.read_text().splitlines()
    except OSError:
        return None
    free = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(free.split()[1]) * 1024


def _address_space() -> int | None:
    """What `ulimit -v` leaves to the process."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int((PROCESS / "statm").read_text().split()[0])
    except OSError:
        return None
    return limit - pages * resource.getpagesize()


def _containers() -> Iterator[int | None]:
    """What is left below the limits of the control groups, of the two versions."""
    try:
        lines = (PROCESS / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if not kinds:
            root, limit, used = GROUPS, "memory.max", "memory.current"
        elif "memory" in kinds.split(","):
            root, limit = GROUPS / "memory", "memory.limit_in_bytes"
            used = "memory.usage_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        # A container may see its own group as the root, or under its outer name.
        for folder in dict.fromkeys((group, *group.parents)):
            if folder.is_relative_to(root):
                yield _left(folder, limit, used)


def _left(group: Path, limit: str, used: str) -> int | None:
    """The limit of a group, less what it uses and could not give back."""
    try:
        free = int((group / limit).read_text()) - int((group / used).read_text())
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return None
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return free
    known = dict(line.split() for line in lines)
    return free + int(known.get("inactive_file", 0))
