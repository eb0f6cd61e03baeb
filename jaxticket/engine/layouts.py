"""Where the searches of a run go: how many lanes, on which devices, within memory."""

import sys
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import jax

from jaxticket.engine import hosts, lanes, memory

BETTER = 0.97  # of the time of half as many lanes: what twice as many must stay below


class Work(Protocol):
    """What is laid out: programs for a layout, which it was made with."""

    layout: lanes.Layout

    def compile(self) -> int:
        """Compiles them all; returns the bytes a device needs for the largest."""

    def trial(self) -> float:
        """Seconds that a step of all lanes takes."""


AnyWork = TypeVar("AnyWork", bound=Work)
Make = Callable[[lanes.Layout], AnyWork]


class Needs(NamedTuple):
    """Lanes that were tried, the bytes that they need on a device, and have there."""

    per_device: int
    bytes: int
    free: int | None

    def __str__(self) -> str:
        lane = "1 lane" if self.per_device == 1 else f"{self.per_device} lanes"
        free = "" if self.free is None else f" of {self.free / 1e6:,.0f}"
        return f"{lane} on a device: {self.bytes / 1e6:,.0f}{free} MB"


def usual(searches: int) -> int:
    """Lanes on a device that suit most: one on CPU, up to 16 elsewhere."""
    if jax.default_backend() == "cpu":
        return 1
    return max(1, min(16, -(-searches // jax.device_count())))


def decide(
    wanted: int | str | None,
    searches: int,
    turns: int,
    make: Make,
) -> tuple[AnyWork, Needs]:
    """The work on a layout that fits.

    Args:
      wanted: lanes on a device; "auto": what is fastest in a short trial; `None`: the
        `usual`, or the half of that, or a quarter, ... that memory holds. The searches
        that are left come afterwards.
      searches: how many there are to lay out.
      turns: sets of lanes that take turns in one program.
      make: layout -> work.

    Raises:
      ValueError: the lanes that were wanted do not fit, or not even one does.
    """
    most = max(1, -(-searches // (jax.device_count() * turns)))
    tried = []

    def fit(per_device):
        """On as many devices as memory allows: on CPU they share it."""
        devices = lanes.devices(_filled(searches, per_device, turns))
        work = make(lanes.layout(per_device, devices, turns=turns))
        size = work.compile()
        for count in range(len(devices), 0, -jax.process_count()):
            needs = Needs(per_device, size, _available(count))
            if needs.free is None or needs.bytes <= needs.free:
                break
        else:
            tried.append(needs)
            return None
        if count < len(devices):
            devices = lanes.devices(count)
            work = make(lanes.layout(per_device, devices, turns=turns))
        return work, needs

    if wanted == "auto":
        found = _fastest(fit, most, searches)
    elif wanted is None:
        first = usual(searches)
        halves = (first >> i for i in range(first.bit_length()))
        found = next(filter(None, map(fit, halves)), None)
    else:
        found = fit(wanted)
    if found is None:
        remedy = (
            "give fewer --lanes, or --lanes=auto"
            if tried[-1].per_device > 1
            else "lower --batch_size, or take a smaller network or a larger machine"
        )
        raise ValueError(f"out of memory: {tried[-1]}; {remedy}")
    return found


def again(recorded: dict, make: Make, devices: int) -> AnyWork:
    """The work of an earlier call, with as many searches to a program as it had.

    On as many devices as there are now: what one is short of, turns make up for.

    Raises:
      ValueError: there are processes that it has no lanes for.
    """
    per_device, width = recorded["lanes"], recorded["width"]
    sets, each = width // per_device, jax.process_count()
    counts = [n for n in range(each, devices + 1, each) if sets % n == 0]
    if not counts:
        raise ValueError(
            f"{each} processes cannot share the {width} searches at a time that the "
            f"run was begun with, {per_device} on a device: go on with as many "
            f"processes as divide {sets}, or with one"
        )
    count = max(counts)
    where = lanes.layout(per_device, lanes.devices(count), turns=sets // count)
    return make(where)


def laid_out(
    wanted: int | str | None,
    searches: int,
    turns: int,
    recorded: dict | None,
    make: Make,
    *,
    devices: int,
) -> AnyWork:
    """The work of a run, laid out as an earlier call has recorded it, or decided.

    Args:
      wanted: see `decide`; so are `searches`, `turns` and `make`.
      recorded: the `lanes` on a device and the `width` of an earlier call, if there was
        one.
      devices: how many may be taken for its work.
    """
    if recorded is not None:
        return again(recorded, make, devices)
    work, needs = decide(wanted, searches, turns, make)
    where = work.layout
    print(f"{where.mesh.size} devices, {where.turns} turns, {needs}", file=sys.stderr)
    return work


def _filled(searches, per_device, turns):
    """No more devices than the searches fill, of every process as many."""
    each = jax.process_count()
    count = -(-searches // (per_device * turns * each)) * each
    return max(each, min(jax.device_count(), count))


def _available(count: int) -> int | None:
    """Bytes for each of so many devices, where there are least."""
    here = jax.process_index()
    own = [d for d in lanes.devices(count) if d.process_index == here]
    return hosts.least(memory.available(own))


def _fastest(fit, most, searches):
    """Twice as many lanes, as long as that makes the whole faster."""
    best, per_device = None, 1
    while per_device <= most or best is None:
        found = fit(per_device)
        if found is None:
            break
        groups = -(-searches // found[0].layout.width)
        seconds = groups * hosts.agreed(found[0].trial())
        print(f"{found[1]}: {seconds:.3g} s a step of all searches", file=sys.stderr)
        if best is not None and seconds > BETTER * best[0]:
            break
        best, per_device = (seconds, found), 2 * per_device
    return best and best[1]
