"""The machine: how many cores and how much memory a process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

# Where Linux tells what is free, and to which control groups of which limits a process
# belongs.
SYSTEM, PROCESS = Path("/proc/meminfo"), Path("/proc/self")
GROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that the process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # the system has no affinities
        return os.cpu_count() or 1


def memory() -> int | None:
    """Bytes that the process may take of the memory; `None` if nobody tells.

    The least of what the system, the container and `ulimit -v` leave now.
    """
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
