"""The host's loop: the steps of `training.run` in stretches, with a look between.

A `Program` is one kind of search compiled for all lanes of a layout; each lane may have
numbers of its own, its settings. `run` calls it stretch by stretch: it evaluates,
reports, saves and resumes. Each stretch is the same compiled function, so a run that
was killed and resumed gives bit-identical numbers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxticket import checkpoint, files, lanes, masks, memory, training
from jaxticket.base import Params, PRNGKey, Search, Ticket

Settings = Any  # a pytree of numbers that lanes may differ by; () where there are none


class View(NamedTuple):
    """What there is to see of a search between stretches; every leaf `[lanes, ...]`."""

    params: Params
    ticket: Ticket
    model_state: training.ModelState  # that belongs to the ticket's weights


class Program(NamedTuple):
    """One kind of search over all lanes: its compiled moves.

    The settings of the lanes are part of the carry.

    Attributes:
      start: `(keys, tickets, model_states, settings) -> carry`.
      stretch: `(carry, round_keys, data, first, last, round) -> (carry, metrics)`;
        `carry` is donated.
      next_round: `carry -> carry`, donated.
      view: `carry -> View`.
      metrics: the names of what a stretch measures.
    """

    metrics: tuple[str, ...]
    start: Callable
    stretch: Callable
    next_round: Callable
    view: Callable


class Data(NamedTuple):
    """What a program trains on, and what `evaluate` is given."""

    train: Any
    held_out: Any


class Stretch(NamedTuple):
    """The steps `first, ..., last - 1` of a round; `ends` if they are its last."""

    round: int
    first: int
    last: int
    ends: bool


def program(
    search: Callable[[Settings], Search],
    loss_fn: training.LossFn,
    evaluate: Callable[[Params, training.ModelState, Any], dict],
    names: Sequence[str],
    layout: lanes.Layout,
    *,
    batch_size: int,
    rewind_step: int = 0,
    rewind_model: bool = True,
    ticket_model: Literal["early", "trained"] = "early",
) -> Program:
    """Compiles a search for a layout.

    Args:
      search: the settings of a lane -> its search, written for one lane as all are. The
        settings are traced: one program serves all their values, side by side.
      loss_fn: `(params, model_state, batch, key) -> (loss, model_state)`.
      evaluate: `(params, model_state, held_out) -> {name: scalar}`, after every
        stretch.
      names: the names that `evaluate` returns.
      layout: where the lanes are.
      batch_size: rows per step.
      rewind_step: step of round 0 whose model state belongs to the ticket.
      rewind_model: whether the model state returns there when a round ends.
      ticket_model: the model state of a `View`: `early` is that of the rewinding step,
        `trained` that of now, for tickets with trained weights.
    """

    def start(key, ticket, model_state, settings):
        return settings, training.start(search(settings), key, ticket, model_state)

    def stretch(carry, key, data, first, last, round):
        settings, carry = carry
        ours = search(settings)
        carry, loss = training.steps(
            ours,
            loss_fn,
            carry,
            key,
            data.train,
            first=first,
            last=last,
            round=round,
            batch_size=batch_size,
            rewind_step=rewind_step,
        )
        params = ours.params(carry.search)
        return (settings, carry), {
            "density": masks.density(ours.ticket(carry.search).mask),
            "train_loss": loss,
            **evaluate(params, carry.model, data.held_out),
        }

    def next_round(carry):
        settings, carry = carry
        return settings, training.next_round(
            search(settings), carry, rewind_model=rewind_model
        )

    def view(carry):
        settings, carry = carry
        ours = search(settings)
        model = carry.model_anchor if ticket_model == "early" else carry.model
        return View(ours.params(carry.search), ours.ticket(carry.search), model)

    return Program(
        ("density", "train_loss", *names),
        lanes.mapped(layout, start, (True,) * 4),
        lanes.mapped(layout, stretch, (True, True) + (False,) * 4, donate=(0,)),
        lanes.mapped(layout, next_round, (True,), donate=(0,)),
        lanes.mapped(layout, view, (True,)),
    )


def compiled(
    program: Program,
    keys: PRNGKey,
    tickets: Ticket,
    model_states: training.ModelState,
    settings: Settings,
    round_keys: PRNGKey,
    data: Data,
) -> tuple[Program, int]:
    """Compiles the stretch of a program before it is called.

    Args:
      program: from `program`.
      keys, tickets, model_states, settings: what it starts from, or their shapes and
        dtypes.
      round_keys: `[lanes]`, or their shape and dtype.
      data: likewise; need not be on the devices.

    Returns:
      The program with its stretch compiled, and the bytes that it takes on each device,
      see `memory.footprint`.
    """
    carry = jax.eval_shape(program.start, keys, tickets, model_states, settings)
    numbers = [jax.ShapeDtypeStruct((), np.int32)] * 3
    stretch = program.stretch.lower(carry, round_keys, data, *numbers).compile()
    return program._replace(stretch=stretch), memory.footprint(stretch)


def stretches(
    rounds: int, steps: int, every: int, *, begin: int = 0, resume: int = 0
) -> list[Stretch]:
    """The plan of a run: rounds of `steps` steps, a look after `every` of them.

    Args:
      rounds: how many.
      steps: steps of a round.
      every: steps between evaluations; the last of a round may be shorter.
      begin: the step with which the first round begins.
      resume: the step with which every other round begins.
    """
    training.check_sizes(rounds=rounds, steps=steps, every=every)
    if not (0 <= begin < steps and 0 <= resume < steps):
        raise ValueError(
            f"a round of {steps} steps cannot begin at step {max(begin, resume)}: "
            "rewind to an earlier step or take more"
        )
    plan = []
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
      begin: `() -> (keys, tickets, model_states)`, each leaf `[lanes, ...]`.
      round_keys: `round -> keys` of the data order and noise, `[lanes]`.
      plan: the stretches.
      settings: what lanes differ by, each leaf `[lanes]`.
    """

    name: str
    lanes: Sequence[str]
    begin: Callable[[], tuple]
    round_keys: Callable[[int], jax.Array]
    plan: Sequence[Stretch]
    settings: Settings = ()


class Outcome(NamedTuple):
    """What a unit leaves.

    Attributes:
      metrics: name -> `[stretches, lanes]`, in the order of the plan.
      seconds: time spent in each stretch, `[stretches]`.
    """

    metrics: dict[str, np.ndarray]
    seconds: np.ndarray


def run(
    program: Program,
    unit: Unit,
    data: Data,
    folder: str | Path,
    *,
    config: dict,
    save_seconds: float = 30.0,
    opened: Callable[[int, View], None] = lambda round, view: None,
    closed: Callable[[int, View], None] = lambda round, view: None,
    watch: Callable[[Stretch, int, dict], None] = lambda stretch, index, metrics: None,
) -> Outcome:
    """Runs a unit to its end, from wherever an earlier call was stopped.

    Args:
      program: the compiled search.
      unit: what to run.
      data: on every device, see `lanes.everywhere`.
      folder: where checkpoints and the outcome lie.
      config: JSON values that must be equal when a run is resumed.
      save_seconds: a checkpoint is written when the last is older than this.
      opened: called with every round but the first before its first step.
      closed: called with every round after its last step, before anything is saved.
      watch: called with every stretch, its index in the plan and its metrics `[lanes]`;
        those of an earlier call are replayed.

    Returns:
      The `Outcome`.

    Raises:
      FloatingPointError: the loss is not finite; the message names the lanes.
      ValueError: the folder holds another run, or a damaged outcome.
    """
    folder = Path(folder)
    shape = (len(unit.plan), len(unit.lanes))
    empty = Outcome(
        {name: np.full(shape, np.nan, np.float32) for name in program.metrics},
        np.zeros(len(unit.plan), np.float32),
    )
    finished = folder / "outcome.npz"
    if finished.exists():
        try:
            outcome, about = files.load(finished, empty)
        except ValueError as error:
            raise ValueError(f"{error}; delete {folder} and run again") from error
        if about["config"] != config:
            raise ValueError(f"{folder} holds another run: {about['config']}")
        _replay(unit, outcome, len(unit.plan), watch)
        return outcome

    carry = program.start(*unit.begin(), unit.settings)
    history, position = empty, 0
    checkpoints = checkpoint.Folder(folder / "checkpoint")
    with checkpoints:
        found = checkpoints.restore((carry, history), config)
        if found is not None:
            position, (carry, history) = found
            history = jax.tree.map(np.array, history)
            _replay(unit, history, position, watch)
        saved = time.monotonic()
        for index in range(position, len(unit.plan)):
            begun = time.monotonic()
            stretch = unit.plan[index]
            if index and unit.plan[index - 1].ends:
                carry = program.next_round(carry)
                opened(stretch.round, program.view(carry))
            carry, metrics = program.stretch(
                carry,
                unit.round_keys(stretch.round),
                data,
                *(np.int32(x) for x in (stretch.first, stretch.last, stretch.round)),
            )
            metrics = {name: np.asarray(value) for name, value in metrics.items()}
            _check_finite(unit, stretch, metrics["train_loss"])
            for name, value in metrics.items():
                history.metrics[name][index] = value
            history.seconds[index] = time.monotonic() - begun
            if stretch.ends:
                closed(stretch.round, program.view(carry))
            watch(stretch, index, metrics)
            last = index + 1 == len(unit.plan)
            if not last and time.monotonic() - saved >= save_seconds:
                checkpoints.save(index + 1, (carry, history), config)
                saved = time.monotonic()
    files.save(finished, history, config=config)
    checkpoints.clear()  # the outcome stands for them now
    return history


def _replay(unit, history, position, watch) -> None:
    for index in range(position):
        at = {name: values[index] for name, values in history.metrics.items()}
        watch(unit.plan[index], index, at)


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
