"""The host's loop: the steps of `training.run` in stretches, with a look between.

`run` calls a compiled `programs.Program` stretch by stretch, and yields what happens:
it evaluates, saves and resumes. Each stretch is the same compiled function, so a run
that was killed and resumed gives bit-identical numbers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import checks, files
from jaxticket.base import Promises, check_round
from jaxticket.engine import checkpoint, programs

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
      promises: of the search, which a round may be too short for.
    """
    if look and steps == 0:
        return [Stretch(0, 0, 0, True)]
    checks.whole(1)(rounds=rounds, steps=steps, every=every)
    check_round(promises, steps)
    if not (0 <= begin < steps and 0 <= resume < steps):
        raise ValueError(
            f"a round of {steps} steps cannot begin at step {max(begin, resume)}: "
            "rewind to an earlier step or take more"
        )
    plan = [Stretch(0, begin, begin, False)] if look else []
    for round_ in range(rounds):
        now = resume if round_ else begin
        bounds = [now, *(s for s in range(every, steps, every) if s > now), steps]
        plan += [
            Stretch(round_, first, last, last == steps)
            for first, last in zip(bounds[:-1], bounds[1:], strict=True)
        ]
    return plan


class Unit(NamedTuple):
    """One group of lanes to run to its end.

    Attributes:
      name: what messages and files call it.
      lanes: what each lane is called in messages, one string a lane.
      begin: `() -> carry`, from `Program.start`, or of a search that goes on.
      round_keys: `round -> keys` of the data order and noise, `[lanes]`.
      plan: the stretches. One that begins with a later round opens it first.
    """

    name: str
    lanes: Sequence[str]
    begin: Callable[[], tuple]
    round_keys: Callable[[int], jax.Array]
    plan: Sequence[Stretch]


class Opened(NamedTuple):
    """A round but the first has opened, and has not taken its first step."""

    round: int
    view: programs.View


class Measured(NamedTuple):
    """A stretch has been taken, now or by an earlier call."""

    index: int  # in the plan
    stretch: Stretch
    metrics: dict[str, np.ndarray]  # `[lanes]`


class Closed(NamedTuple):
    """A round has taken its last step, and nothing after it has been saved.

    The carry is the program's, which goes on with its memory: copy what is to stay.
    """

    round: int
    view: programs.View
    carry: Any


class Finished(NamedTuple):
    """The unit is done. The last event, of every call.

    Attributes:
      metrics: name -> `[stretches, lanes]`, in the order of the plan.
      seconds: time spent in each stretch, `[stretches]`.
    """

    metrics: dict[str, np.ndarray]
    seconds: np.ndarray


Event = Opened | Measured | Closed | Finished


def run(
    program: programs.Program,
    unit: Unit,
    data: programs.Data,
    folder: str | Path,
    *,
    config: dict,
    save_seconds: float = 30.0,
) -> Iterator[Event]:
    """Runs a unit to its end, from wherever an earlier call was stopped.

    Args:
      program: the compiled search.
      unit: what to run.
      data: on every device, see `lanes.everywhere`.
      folder: where checkpoints and the outcome lie.
      config: JSON values that must be equal when a run is resumed.
      save_seconds: a checkpoint is written when the last is older than this.

    Yields:
      What happens, as it does: of every round `Opened` (but the first), `Measured`
      after every stretch and `Closed`, before anything is saved; in the end `Finished`.
      Of what an earlier call did, `Measured` alone. Take all events: the work is done
      between them.

    Raises:
      FloatingPointError: the loss is not finite; the message names the lanes.
      ValueError: the folder holds another run, or a damaged outcome.
    """
    folder = Path(folder)
    shape = (len(unit.plan), len(unit.lanes))
    history = Finished(
        {name: np.full(shape, np.nan, np.float32) for name in program.metrics},
        np.zeros(len(unit.plan), np.float32),
    )
    finished = folder / "outcome.npz"
    if finished.exists():
        try:
            history, about = files.load(finished, history)
        except ValueError as error:
            raise ValueError(f"{error}; delete {folder} and run again") from error
        if about["config"] != config:
            raise ValueError(f"{folder} holds another run: {about['config']}")
        yield from _replayed(unit, history, len(unit.plan))
        yield history
        return

    carry = unit.begin()
    position = 0
    checkpoints = checkpoint.Folder(folder / "checkpoint")
    with checkpoints:
        found = checkpoints.restore((carry, history), config)
        if found is not None:
            position, (carry, history) = found
            history = jax.tree.map(np.array, history)
            yield from _replayed(unit, history, position)
        saved = time.monotonic()
        for index in range(position, len(unit.plan)):
            begun = time.monotonic()
            stretch = unit.plan[index]
            opens = index == 0 or unit.plan[index - 1].ends
            if opens and stretch.round > 0:
                carry = program.next_round(carry, data)
                yield Opened(stretch.round, program.view(carry))
            carry, metrics = program.stretch(
                carry,
                unit.round_keys(stretch.round),
                data,
                *(np.int32(x) for x in (stretch.first, stretch.last, stretch.round)),
            )
            metrics = {name: np.asarray(value) for name, value in metrics.items()}
            if stretch.last > stretch.first:  # no steps have no loss
                _check_finite(unit, stretch, metrics["train_loss"])
            for name, value in metrics.items():
                history.metrics[name][index] = value
            history.seconds[index] = time.monotonic() - begun
            if stretch.ends:
                yield Closed(stretch.round, program.view(carry), carry)
            yield Measured(index, stretch, metrics)
            last = index + 1 == len(unit.plan)
            if not last and time.monotonic() - saved >= save_seconds:
                checkpoints.save(index + 1, (carry, history), config)
                saved = time.monotonic()
    files.save(finished, history, config=config)
    checkpoints.clear()  # the outcome stands for them now
    yield history


def _replayed(unit: Unit, history: Finished, position: int) -> Iterator[Measured]:
    for index in range(position):
        at = {name: values[index] for name, values in history.metrics.items()}
        yield Measured(index, unit.plan[index], at)


def _check_finite(unit: Unit, stretch: Stretch, loss: np.ndarray) -> None:
    bad = [lane for lane, x in zip(unit.lanes, loss, strict=True) if not np.isfinite(x)]
    if bad:
        raise FloatingPointError(
            f"{unit.name}: the training loss of {', '.join(dict.fromkeys(bad))} is not "
            f"finite in round {stretch.round} before step {stretch.last}: lower the "
            "learning rate or change the seed; what was finished before is kept"
        )


def together(trees: Sequence[Any]) -> Any:
    """Trees of equal structure as one, with a leading axis: lanes from tickets."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def apart(tree: Any) -> Iterator[Any]:
    """The other way round: one tree a lane."""
    leaves, structure = jax.tree.flatten(tree)
    for i in range(len(leaves[0])):
        yield structure.unflatten([leaf[i] for leaf in leaves])
