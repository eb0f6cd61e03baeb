"""The host's loop: the steps of `training.run` in stretches, with a look between.

`run` calls a compiled `programs.Program` stretch by stretch, and yields what happens:
it evaluates, saves and resumes. Each stretch is the same compiled function, so a run
that was killed and resumed gives bit-identical numbers. What the caller does with a
round that has closed is done beside the next one: the devices are at work by then.
"""

import functools
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import checks, files
from jaxticket.base import Promises, check_round
from jaxticket.engine import checkpoint, hosts, programs

_log = logging.getLogger(__name__)
ANY = Promises()  # of a search that any round is long enough for


class Stretch(NamedTuple):
    """The steps `first, ..., last - 1` of a round; `ends` if they are its last."""

    round: int
    first: int
    last: int
    ends: bool


def stretches(
    rounds: int,
    steps: int,
    every: int,
    *,
    begin: int = 0,
    resume: int = 0,
    look: bool = False,
    at: Collection[int] = (),
    promises: Promises = ANY,
) -> list[Stretch]:
    """The plan of a run: rounds of `steps` steps, a look after `every` of them.

    Args:
      rounds: how many.
      steps: steps of a round.
      every: steps between evaluations; the last of a round may be shorter.
      begin: the step with which the first round begins.
      resume: the step with which every other round begins.
      look: look before the first step too, in a stretch of no steps; then one round may
        have no others.
      at: steps of a round to look after besides.
      promises: of the search, which a round may be too short for.
    """
    if look and steps == 0:
        return [Stretch(0, 0, 0, True)]
    checks.whole(1)(rounds=rounds, steps=steps, every=every)
    check_round(promises, steps, rounds)
    if not (0 <= begin < steps and 0 <= resume < steps):
        raise ValueError(
            f"a round of {steps} steps cannot begin at step {max(begin, resume)}: "
            "rewind to an earlier step or take more"
        )
    plan = [Stretch(0, begin, begin, False)] if look else []
    for round_ in range(rounds):
        now = resume if round_ else begin
        after = sorted({*range(every, steps, every), *at})
        bounds = [now, *(s for s in after if now < s < steps), steps]
        plan += [
            Stretch(round_, first, last, last == steps)
            for first, last in zip(bounds[:-1], bounds[1:], strict=True)
        ]
    return plan


class Unit(NamedTuple):
    """One group of lanes to run to its end.

    Attributes:
      lanes: how many there are.
      begin: `() -> carry`, from `Program.start`, or of a search that goes on.
      round_keys: `round -> keys` of the data order and noise, `[lanes]`.
      plan: the stretches. One that begins with a later round opens it first.
    """

    lanes: int
    begin: Callable[[], tuple]
    round_keys: Callable[[int], jax.Array]
    plan: Sequence[Stretch]


class Opened(NamedTuple):
    """A round but the first has opened, and has not taken its first step."""

    round: int
    view: programs.View  # on the host
    alive: np.ndarray  # bool `[lanes]`: see `Finished.diverged`


class Measured(NamedTuple):
    """A stretch has been taken, now or by an earlier call.

    Nothing after it has been saved: what is put away now is put away again by a call
    that resumes before it.
    """

    index: int  # in the plan
    stretch: Stretch
    metrics: dict[str, np.ndarray]  # `[lanes]`
    alive: np.ndarray  # bool `[lanes]`
    view: Callable[[], programs.View] | None  # of now; None of an earlier call's


class Closed(NamedTuple):
    """A round has taken its last step, and nothing after it has been saved.

    The devices may be at the next round by now, in the memory of this one.
    """

    round: int
    view: programs.View  # on the host
    carry: Any  # of the last round, while it is looked at; None of others
    alive: np.ndarray  # bool `[lanes]`


class Finished(NamedTuple):
    """The unit is done. The last event, of every call.

    Attributes:
      metrics: name -> `[stretches, lanes]`, in the order of the plan. There are fewer
        stretches than planned where all lanes have diverged.
      seconds: time spent in each stretch, `[stretches]`.
      diverged: int32 `[lanes]`: the first stretch after which a metric, a parameter or
        the model state of a lane was not finite, or -1. What the lane has from there
        on means nothing; the others do not notice.
    """

    metrics: dict[str, np.ndarray]
    seconds: np.ndarray
    diverged: np.ndarray

    def alive(self, index: int) -> np.ndarray:
        """Which lanes were finite after a stretch, bool `[lanes]`."""
        return (self.diverged < 0) | (self.diverged > index)


class Resumed(NamedTuple):
    """What earlier calls have done. The first event."""

    history: Finished


Event = Resumed | Opened | Measured | Closed | Finished


class Stopped(Exception):
    """A run was asked to stop, and has saved where it was."""


def run(
    program: programs.Program,
    unit: Unit,
    data: programs.Data,
    folder: str | Path,
    *,
    config: dict,
    others: Sequence[dict] = (),
    save_seconds: float = 30.0,
    keep: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Runs a unit to its end, from wherever an earlier call was stopped.

    A lane that diverges is data: it is marked, and the others go on to the same bits.

    Args:
      program: the compiled search.
      unit: what to run. The plan of an earlier call that was shorter is gone on with.
      data: on every device, see `lanes.everywhere`.
      folder: where checkpoints and the outcome lie.
      config: JSON values that must be equal when a run is resumed.
      others: configs of earlier calls whose work is taken over too.
      save_seconds: a checkpoint is written when the last is older than this.
      keep: leave the last state beside the outcome, so that a longer plan can go on
        from it.
      stop: asked between stretches: whether to save and end.

    Yields:
      What happens, as it does: `Resumed`; of every round `Opened` (but the first),
      `Measured` after every stretch and `Closed`, before anything is saved; in the end
      `Finished`. Of what an earlier call did, `Measured` alone. Take all events: the
      work is done between them.

    Raises:
      Stopped: as it was asked to.
      ValueError: the folder holds another run.
    """
    folder, finished = Path(folder), Path(folder) / "outcome.npz"
    width = unit.lanes
    configs = [json.loads(json.dumps(each)) for each in (config, *others)]

    def empty(taken: int) -> Finished:
        return Finished(
            {name: np.zeros((taken, width), np.float32) for name in program.metrics},
            np.zeros(taken, np.float32),
            np.full(width, -1, np.int32),
        )

    history = _outcome(finished, empty, unit, configs)
    taken = len(history.seconds)
    if taken == len(unit.plan) or (taken and not history.alive(taken).any()):
        yield from _replayed(unit, history)
        yield history
        return

    carry = unit.begin()
    with checkpoint.Folder(folder / "checkpoint") as checkpoints:
        found = checkpoints.restore(lambda step: (carry, empty(step)), configs)
        taken, (carry, history) = found or (0, (carry, empty(0)))
        if taken > len(unit.plan):
            raise ValueError(f"{folder} was left by a run of a longer plan")
        history = jax.tree.map(np.array, history)
        yield from _replayed(unit, history)
        saved = time.monotonic()

        def due() -> bool:
            return hosts.agreed(time.monotonic() - saved >= save_seconds)

        ahead = None  # what has begun while the host looks at the round before
        for index in range(taken, len(unit.plan)):
            stretch = unit.plan[index]
            begun = ahead or _begun(program, unit, data, index, carry)
            if begun.opened is not None:
                yield Opened(stretch.round, begun.opened, history.alive(index))
            carry, metrics = begun.carry, hosts.gathered(begun.metrics)
            seconds = hosts.agreed(time.monotonic() - begun.since)
            begun = ahead = None
            history = _with(history, stretch, metrics, seconds)
            alive = history.alive(index)
            last = index + 1 == len(unit.plan) or not alive.any()
            view, asked = functools.partial(program.view, carry), False
            if stretch.ends:
                closed = hosts.gathered(view())
                view, asked = functools.partial(_given, closed), hosts.anyone(stop())
                if not (last or asked or due()):
                    ahead = _begun(program, unit, data, index + 1, carry)
                yield Closed(stretch.round, closed, carry if last else None, alive)
                del closed
            metrics = {name: values[index] for name, values in history.metrics.items()}
            yield Measured(index, stretch, metrics, alive, view)
            del view  # the next stretch is given the memory
            if last:
                break
            if ahead:
                continue
            asked = asked or hosts.anyone(stop())
            if asked or due():
                checkpoints.save(index + 1, (carry, history), config)
                saved = time.monotonic()
            if asked:
                checkpoints.wait()
                raise Stopped
        alive = history.alive(len(unit.plan))
        if keep and taken < len(unit.plan) and alive.any():
            checkpoints.save(len(unit.plan), (carry, history), config)
    plan = [list(stretch) for stretch in unit.plan[: len(history.seconds)]]
    if hosts.first():
        files.save(finished, history, config=config, plan=plan)
    if not keep:
        checkpoints.clear()  # the outcome stands for them now
    yield history


class _Begun(NamedTuple):
    """A stretch that the devices are at."""

    opened: programs.View | None  # of the round that it opens
    carry: Any
    metrics: dict[str, jax.Array]
    since: float


def _begun(program, unit: Unit, data, index: int, carry) -> _Begun:
    """Opens the round of a stretch, if need be, and hands that to the devices."""
    since, stretch, opened = time.monotonic(), unit.plan[index], None
    if stretch.round > 0 and (index == 0 or unit.plan[index - 1].ends):
        carry = program.next_round(carry, data)
        opened = hosts.gathered(program.view(carry))
    numbers = (np.int32(x) for x in (stretch.first, stretch.last, stretch.round))
    keys = unit.round_keys(stretch.round)
    carry, metrics = program.stretch(carry, keys, data, *numbers)
    return _Begun(opened, carry, metrics, since)


def _given(x: Any) -> Any:
    return x


def _outcome(
    path: Path, empty: Callable[[int], Finished], unit: Unit, configs: Sequence[dict]
) -> Finished:
    """What an earlier call has finished; nothing, where it is damaged.

    Raises:
      ValueError: it is the outcome of another run.
    """
    if not hosts.agreed(path.exists()):
        return empty(0)
    try:
        about = files.about(path, empty(len(unit.plan)))
        history, _ = files.load(path, empty(len(about["plan"])))
        wrong = None
    except (ValueError, KeyError, TypeError) as error:
        wrong = error
    if hosts.anyone(wrong is not None):
        _log.warning("it is made again: %s", wrong)
        if hosts.first():
            path.unlink()
        return empty(0)
    if about["config"] not in configs:
        raise ValueError(
            f"{path} was left by another run ({about['config']}; this is "
            f"{configs[0]}): give another folder, or move that away"
        )
    planned = [list(stretch) for stretch in unit.plan[: len(about["plan"])]]
    if about["plan"] != planned:
        raise ValueError(f"{path} was left by a run of another plan")
    return history


def _with(
    history: Finished, stretch: Stretch, metrics: dict[str, np.ndarray], seconds: float
) -> Finished:
    """The history, with what another stretch has left."""
    finite = metrics.pop(programs.FINITE).astype(bool)
    if stretch.last > stretch.first:  # means over no steps are NaN
        finite &= np.all([np.isfinite(values) for values in metrics.values()], axis=0)
    index = len(history.seconds)
    return Finished(
        {
            name: np.concatenate([history.metrics[name], [values]], dtype=np.float32)
            for name, values in metrics.items()
        },
        np.append(history.seconds, np.float32(seconds)),
        np.where(history.alive(index) & ~finite, np.int32(index), history.diverged),
    )


def _replayed(unit: Unit, history: Finished) -> Iterator[Event]:
    yield Resumed(history)
    for index in range(len(history.seconds)):
        at = {name: values[index] for name, values in history.metrics.items()}
        yield Measured(index, unit.plan[index], at, history.alive(index), None)


def together(trees: Sequence[Any]) -> Any:
    """Trees of equal structure as one, with a leading axis: lanes from tickets."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def apart(tree: Any) -> Iterator[Any]:
    """The other way round: one tree a lane, on the host."""
    # At once: every element that is taken of an array of a device is a program.
    leaves, structure = jax.tree.flatten(hosts.gathered(tree))
    for i in range(len(leaves[0])):
        yield structure.unflatten([leaf[i] for leaf in leaves])
