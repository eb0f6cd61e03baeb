"""The two stages of a study, and the dense training before them.

*Search*: open, run, audit, keep. *Treat*: read, control, run, audit. Each works on a
group of lanes that run side by side; what an earlier call finished is not done again,
and what is left of it is looked at. A lane that diverges is marked, and leaves nothing:
neither a ticket, nor what would have been made of it.
"""

import contextlib
import functools
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import signals
from experiments.study.methods import Planned
from experiments.study.progress import Progress
from experiments.study.records import Cost, Lane, at_step, dense
from experiments.study.settings import Settings
from experiments.study.study import FREEZING, TRAINING, TUNING, Study
from jaxticket import audit, controls
from jaxticket.base import Ticket
from jaxticket.engine import hosts, keys, lanes, resumable
from jaxticket.engine.programs import View
from jaxticket.engine.resumable import (
    Closed,
    Event,
    Finished,
    Measured,
    Opened,
    Resumed,
)

ABSURD = 1e6  # a loss above this is said


class Task(NamedTuple):
    """One stage of one group of lanes.

    Attributes:
      stage: what does it.
      name: what messages call it.
      folder: where it keeps its outcome.
      program: the name of what runs it.
      lanes: as wide as the layout; the last may be padding.
      plan: its stretches.
      planned: the method; None for the dense network's training.
    """

    stage: Callable
    name: str
    folder: str
    program: str
    lanes: tuple[Lane, ...]
    plan: Sequence[resumable.Stretch]
    planned: Planned | None = None


def run(study: Study) -> None:
    """The whole study, task after task.

    Raises:
      resumable.Stopped: a signal has asked for it; what was done is saved.
    """
    study.place()
    todo = list(tasks(study))
    progress = Progress(sum(len(task.plan) for task in todo))
    with study.records, progress, signals.deferred():
        for task in todo:
            if hosts.anyone(signals.asked()):
                raise resumable.Stopped
            before = progress.done
            if (task := able(study, task)) is not None:
                task.stage(study, task, progress)
                progress.done = before + len(task.plan)


def tasks(study: Study) -> Iterator[Task]:
    """In order: a task may need what those before it have left.

    Seeds, methods, and tickets of rounds that came later are groups of their own: those
    of the first call are what they were.
    """
    config = study.config
    for part in study.claim.parts:
        length = (0, 0) if config.pretrained else (0, config.steps)
        program = next(iter(study.sharing), TRAINING)
        todo = [dense(seed) for seed in part.seeds]
        name = f"dense{part.name}"
        yield from _trainings(study, train_dense, name, program, todo, length)
        for planned in study.planned.values():
            yield from _of_method(study, planned, part)


def _of_method(study: Study, planned: Planned, part) -> Iterator[Task]:
    """The search of a method's tickets, and what is done with them."""
    config = study.config
    if planned.search:
        yield from _searches(study, planned, part)
    own = ["ticket"] if config.trains(planned.promises) else []
    for name, prunings in part.prunings(planned):
        name = f"{planned.name}{name}"
        find = functools.partial(tickets, study, planned, part.seeds, prunings)
        if not planned.search:
            todo = tuple(find(["ticket"]))
            yield Task(start, planned.name, "", "", todo, (), planned)
        length = config.training(planned.resumed)
        by_program: dict[str, list[Lane]] = {TRAINING: [], FREEZING: []}
        for lane in find([*own, *draws(config)]):
            frozen = controls.differs_by(lane.control) == "pruned"
            by_program[FREEZING if frozen else TRAINING].append(lane)
        for program, these in by_program.items():
            yield from _trainings(study, treat, name, program, these, length, planned)
        if config.tune_steps:
            these, length = find(["tuned"]), (0, config.tune_steps)
            yield from _trainings(study, treat, name, TUNING, these, length, planned)


def draws(config: Settings) -> list[str]:
    """What the controls of a ticket are called: several draws of each, or one."""
    again = [f" {draw}" if draw > 1 else "" for draw in range(1, config.draws + 1)]
    return [name + draw for draw in again for name in config.controls]


def tickets(
    study: Study,
    planned: Planned,
    seeds: Sequence[int],
    prunings: Sequence[int],
    treatments: Sequence[str],
) -> list[Lane]:
    """A lane for every treatment of every ticket that a method finds."""
    return [
        Lane(planned.name, treatment, seed, times, setting.label)
        for setting in planned.settings
        for times in prunings
        for treatment in treatments
        for seed in seeds
    ]


def found(study: Study, planned: Planned | None = None) -> list[Lane]:
    """The tickets of a method, or of all: of seeds that have not diverged."""
    return [
        lane
        for each in ([planned] if planned else study.planned.values())
        for lane in tickets(study, each, study.seeds, each.prunings(), ["ticket"])
        if not study.records.lost(lane)
    ]


def able(study: Study, task: Task) -> Task | None:
    """The task, without lanes that need what has diverged; others take their places."""

    def lost(lane):
        if task.stage is treat:
            return study.records.lost(lane)
        if task.stage is train_dense:
            return False
        needs = _shared(task) or task.planned.start(study.swept(lane)).trained
        return needs and study.records.lost(dense(lane.seed))

    for lane in task.lanes:
        if lost(lane):
            study.records.lose(lane, task.planned.prunings())
    left = [lane for lane in task.lanes if not lost(lane)]
    if not left:
        return None
    padding = left[-1:] * (len(task.lanes) - len(left))
    return task._replace(lanes=(*left, *padding))


def _shared(task: Task) -> bool:
    """Whether a search goes on from the dense network's training."""
    return task.stage is search and task.plan[0].round > 0


def _searches(study: Study, planned: Planned, part) -> Iterator[Task]:
    """A method's searches, of all settings and seeds."""
    config, name = study.config, planned.name
    plan = resumable.stretches(
        planned.rounds,
        config.search_steps,
        min(config.eval_every, config.search_steps),
        resume=planned.resumed if planned.opens_given else 0,
        look=planned.promises.weights == "given",
    )
    if name in study.sharing:
        plan = [stretch for stretch in plan if stretch.round > 0]
        if not plan:
            return
    todo = [
        Lane(name, "search", seed, 0, setting.label)
        for setting in planned.settings
        for seed in part.seeds
    ]
    for i, group in enumerate(lanes.groups(todo, study.layout.width)):
        folder = f"{name}{part.name}-search-{i}"
        yield Task(search, name, folder, name, tuple(group), plan, planned)


def _trainings(
    study: Study,
    stage: Callable,
    name: str,
    program: str,
    todo: Sequence[Lane],
    length: tuple[int, int],
    planned: Planned | None = None,
) -> Iterator[Task]:
    """Trainings under a fixed mask; in no steps what is trained is only tested."""
    first, last = length
    every = min(study.config.eval_every, max(last, 1))
    at = study.config.keep_steps if stage is train_dense else ()
    plan = resumable.stretches(1, last, every, begin=first, look=not last, at=at)
    kind = program if program in (FREEZING, TUNING) else TRAINING
    what = "dense" if planned is None else planned.name
    for i, group in enumerate(lanes.groups(todo, study.layout.width)):
        folder = f"{name}-{kind}-{i}"
        yield Task(stage, what, folder, program, tuple(group), plan, planned)


def train_dense(study: Study, task: Task, progress: Progress) -> None:
    """Trains the dense network, which every comparison and some starts need.

    Methods that begin with it go on from its state.
    """
    streams = [keys.of_seed(lane.seed) for lane in task.lanes]
    tickets = [study.network(stream.init) for stream in streams]
    begin = functools.partial(_start, study, task, tickets)
    goes_on = task.program != TRAINING

    steps, intact = study.config.keep_steps, study.shelf.intact
    state = study.state_like(task.program) if goes_on else None

    def left(lane):
        kinds = ["anchors", "states"] if goes_on else ["anchors"]
        then = (at_step(lane.seed, step) for step in steps)
        return intact(lane, kinds=kinds, state=state) and all(
            intact(each, kinds=["anchors"]) for each in then
        )

    with contextlib.closing(_events(study, task, begin, left, progress)) as events:
        for event in events:
            match event:
                case Closed(_, view, carry, alive):
                    for lane, one in _each(task.lanes, view, alive):
                        audit.pruned_are_zero(str(lane), one.params, one.ticket.mask)
                        study.shelf.put_anchor(lane, _whole(one))
                    if goes_on:
                        _, states = carry
                        for lane, state in _each(task.lanes, states, alive):
                            study.shelf.put_state(lane, state)
                case Measured() if event.view and event.stretch.last in steps:
                    for lane, one in _each(task.lanes, event.view(), event.alive):
                        then = at_step(lane.seed, event.stretch.last)
                        study.shelf.put_anchor(then, _whole(one))
                case Finished():
                    _trained(study, task, event)
                    cost = _cost(task, event)
                    for lane in _real(task.lanes):
                        study.records.found(lane, cost)


def start(study: Study, task: Task, progress: Progress) -> None:
    """Keeps what a method without a search starts from: these are its tickets.

    Where tickets are trained, and come from a trained network, that is what they cost.
    """
    del progress
    for lane in _real(task.lanes):
        if study.config.VERDICTS and task.planned.start(study.swept(lane)).trained:
            study.records.found(lane, study.records.cost(dense(lane.seed)))
        if not study.shelf.intact(lane, kinds=("tickets", "anchors")):
            ticket = study.opened(task.planned, lane)
            study.shelf.put_anchor(lane, ticket)
            note_empty_layer(lane, ticket)
            study.shelf.put_ticket(lane, ticket)


def search(study: Study, task: Task, progress: Progress) -> None:
    """Runs searches; audits the ticket that each round leaves, and keeps it."""
    planned, promises = task.planned, study.promises
    opened = functools.cache(
        lambda: [study.opened(planned, lane) for lane in task.lanes]
    )

    def begin():
        carry = _start(study, task, opened())
        return _gone_on(study, task, carry) if _shared(task) else carry

    kept = study.config.keep_trained and not study.config.trains(planned.promises)

    def left(lane):
        found = lane.prunings in planned.prunings()
        kinds = ("tickets", "anchors", *(["trained"] if kept else ()))
        return not found or study.shelf.intact(lane, kinds=kinds)

    with contextlib.closing(_events(study, task, begin, left, progress)) as events:
        for event in events:
            match event:
                case Opened(round_, view, alive):
                    for lane, one in _each(_group(study, task, round_), view, alive):
                        audit.opened(
                            str(lane),
                            one.params,
                            one.ticket,
                            promises(lane),
                            model_state=one.model_state,
                        )
                case Closed(round_, view, _, alive):
                    group = _group(study, task, round_)
                    given = dict(zip(group, opened(), strict=True))
                    for lane, one in _each(group, view, alive):
                        if lane.prunings in planned.prunings():
                            ticket = lane._replace(treatment="ticket")
                            keep(study, ticket, one, given[lane])
                            if kept:
                                study.shelf.put_trained(ticket, _whole(one))
                case Finished():
                    _searched(study, task, event)


def _group(study: Study, task: Task, round_: int) -> Sequence[Lane]:
    """The lanes of a task as they are in a round.

    Those of a search are named by the ticket that the round leaves, and are tickets
    where looks at the search are looks at these.
    """
    if task.stage is not search:
        return task.lanes
    planned = task.planned
    prunings = round_ + (not planned.opens_given)
    own = not study.config.trains(planned.promises) and prunings in planned.prunings()
    kind = "ticket" if own else "search"
    return [lane._replace(treatment=kind, prunings=prunings) for lane in task.lanes]


def _searched(study: Study, task: Task, outcome: Finished) -> None:
    """Records what every ticket of a search has cost, and those tested by it."""
    before = {lane: Cost() for lane in _real(task.lanes)}
    if _shared(task):
        before = {lane: study.records.cost(dense(lane.seed)) for lane in before}
    plan = task.plan[: len(outcome.seconds)]
    for round_ in dict.fromkeys(stretch.round for stretch in task.plan):
        group = _group(study, task, round_)
        here = _real(group)
        cost = _cost(task, outcome, round_ + (not task.planned.opens_given))
        for lane, spent in zip(here, before.values(), strict=True):
            total = Cost(*map(sum, zip(spent, cost, strict=True)))
            study.records.found(lane._replace(treatment="ticket"), total)
        at = [i for i, stretch in enumerate(plan) if stretch.round == round_]
        if here[0].treatment == "ticket" and at:
            looks = Finished(
                {name: values[at] for name, values in outcome.metrics.items()},
                outcome.seconds[at],
                np.where(outcome.alive(at[-1]), -1, 0),
            )
            ours = task._replace(lanes=group, plan=[plan[i] for i in at])
            _trained(study, ours, looks)


def treat(study: Study, task: Task, progress: Progress) -> None:
    """Trains tickets and their controls, each shown to differ from its ticket."""

    frozen = task.program == FREEZING

    def begin():
        treated = [study.treated(lane) for lane in task.lanes]
        for lane, (control, ticket) in zip(task.lanes, treated, strict=True):
            if by := controls.differs_by(lane.control):
                audit.differs(str(lane), control, ticket, by=by)
        return _start(study, task, [control for control, _ in treated])

    def left(lane):
        kept = study.config.keep_trained
        return not kept or study.shelf.intact(lane, kinds=["trained"])

    with contextlib.closing(_events(study, task, begin, left, progress)) as events:
        for event in events:
            match event:
                case Closed(_, view, _, alive):
                    for lane, one in _each(task.lanes, view, alive):
                        if frozen:
                            control, _ = study.treated(lane)  # not kept till now
                            audit.pruned_are_frozen(str(lane), one.params, control)
                        else:
                            mask = one.ticket.mask
                            audit.pruned_are_zero(str(lane), one.params, mask)
                        if study.config.keep_trained:
                            study.shelf.put_trained(lane, _whole(one))
                case Finished():
                    _trained(study, task, event)


def _whole(one: View) -> Ticket:
    """The weights that a network has now, with their mask and model state."""
    return Ticket(one.params, one.ticket.mask, one.model_state)


def keep(study: Study, lane: Lane, view, given: Ticket) -> None:
    """Holds the ticket of a round to the promises of its search, and keeps it."""
    promises, ticket = study.promises(lane), view.ticket
    before = anchor = None
    if lane.prunings > 1:
        before = study.shelf.ticket(lane._replace(prunings=lane.prunings - 1))
        anchor = study.shelf.anchor(lane)
    else:
        before = given if promises.opens_given and promises.rounds else None
        study.shelf.put_anchor(lane, given if promises.weights == "trained" else ticket)
    audit.ticket(
        str(lane),
        view.params,
        ticket,
        promises,
        given=given,
        before=before,
        anchor=None if promises.weights == "trained" else anchor,
    )
    note_empty_layer(lane, ticket)
    # The scale is read on the host, and not compared on devices at the next round.
    same = promises.scale is not None and float(promises.scale) == 1.0
    promised = {
        "nested": promises.nested,
        "anchored": promises.weights == "anchor" and same,
    }
    study.shelf.put_ticket(lane, ticket, [k for k, v in promised.items() if v])


def note_empty_layer(lane: Lane, ticket: Ticket) -> None:
    """Says that a network is cut: an outcome of extreme densities, and no fault."""
    try:
        audit.no_empty_layer(str(lane), ticket.mask)
    except audit.AuditError as error:
        print(f"note: {error}", file=sys.stderr)


def _start(study: Study, task: Task, tickets: Sequence[Ticket]) -> Any:
    """The carry of a task's program before its first step."""
    streams = [keys.of_seed(lane.seed).search for lane in task.lanes]
    traced = study.traced(task.program, task.lanes)
    begun = jnp.stack(streams), resumable.together(tickets), traced
    return study.programs[task.program].start(*study.spread(begun))


def _gone_on(study: Study, task: Task, carry: Any) -> Any:
    """The carry, with the states in which the dense training has left its lanes."""
    swept, state = carry
    like = jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], state))
    states = [study.shelf.state(dense(lane.seed), like) for lane in task.lanes]

    def together(*leaves):
        # Random keys are no arrays of numpy's; for all else no program is needed.
        return (np.stack if isinstance(leaves[0], np.ndarray) else jnp.stack)(leaves)

    return swept, study.spread(jax.tree.map(together, *states))


def _events(
    study: Study,
    task: Task,
    begin: Callable[[], Any],
    left: Callable[[Lane], bool],
    progress: Progress,
) -> Iterator[Event]:
    """What happens while a task runs; looks are logged and shown on the way.

    Args:
      study: the study.
      task: one of its.
      begin: see `resumable.Unit`.
      left: whether what a lane has left, when its round closed, is there and intact. If
        not, the task is done again, to the same bits.
      progress: is told.
    """
    alive = np.ones(len(task.lanes), bool)
    with contextlib.closing(_run(study, task, begin)) as events:
        for event in events:
            done = _closed(study, task, event) if isinstance(event, Resumed) else []
            if not all(map(left, done)):
                break
            if isinstance(event, Measured):
                group = _group(study, task, event.stretch.round)
                gone = _columns(group, alive & ~event.alive)
                _diverged(study, task, gone, event.stretch)
                alive = event.alive
                _look(study, task, group, event, progress)
            yield event
        else:
            return
    print(
        f"note: what {task.name} has left is damaged or missing: it is made again",
        file=sys.stderr,
    )
    if hosts.first():
        shutil.rmtree(_folder(study, task))
    yield from _events(study, task, begin, left, progress)


def _look(
    study: Study,
    task: Task,
    group: Sequence[Lane],
    event: Measured,
    progress: Progress,
) -> None:
    """Logs and shows a look at the lanes that are alive."""
    stretch, metrics = event.stretch, event.metrics
    here = _columns(group, event.alive)
    study.records.evaluated(here, stretch.last, metrics)
    for lane, i in here.items():
        loss = metrics["train_loss"][i]
        if stretch.ends and abs(loss) > ABSURD:
            print(
                f"note: the loss of {lane} is {loss:g} in round {stretch.round}: "
                "finite, but absurd",
                file=sys.stderr,
            )
    shown = [metrics["test_accuracy"][i] for i in here.values()]
    accuracy = f"{100 * np.mean(shown):.1f}%" if shown else "no seed left,"
    settings = [x for x in dict.fromkeys(lane.setting for lane in group) if x]
    more = f" and {len(settings) - 1} more" if settings[1:] else ""
    where = ", ".join([group[0].treatment, *(x + more for x in settings[:1])])
    text = f"{task.name}, {where}, pruned {group[0].prunings} times: {accuracy} test"
    progress.advance(text, say=stretch.ends)


def _closed(study: Study, task: Task, resumed: Resumed) -> list[Lane]:
    """The lanes of all rounds that an earlier call has closed, and that were alive."""
    history = resumed.history
    ends = [i for i, s in enumerate(task.plan[: len(history.seconds)]) if s.ends]
    return [
        lane
        for i in ends
        for lane in _columns(_group(study, task, task.plan[i].round), history.alive(i))
    ]


def _diverged(study: Study, task: Task, lanes: Sequence[Lane], stretch) -> None:
    """Marks lanes, and all that would have come of them.

    Raises:
      FloatingPointError: where that is to stop the run.
    """
    for lane in lanes:
        study.records.left_out(lane, stretch.round, stretch.last)
        if task.stage is search:
            prunings = task.planned.prunings()
            study.records.lose(lane, [n for n in prunings if n >= lane.prunings])
        elif task.stage is train_dense:
            study.records.lose(lane, [0])


def _folder(study: Study, task: Task) -> Path:
    """Where a task keeps its outcome."""
    return study.folder / "work" / task.folder


def _streams(lane: Lane) -> keys.Keys:
    """The random streams of a lane's seed. A control may have another data order."""
    streams = keys.of_seed(lane.seed)
    if controls.differs_by(lane.control) == "order":
        streams = streams._replace(data=keys.named(streams.data, lane.treatment))
    return streams


def _run(study, task, begin) -> Iterator[Event]:
    """The program of a task, driven."""
    streams = [_streams(lane) for lane in task.lanes]
    stage, folder = task.stage, _folder(study, task)
    prunings = None if stage is search else [lane.prunings for lane in task.lanes]
    of_round = keys.of_rounds(streams, prunings)
    unit = resumable.Unit(
        len(task.lanes),
        begin,
        lambda round_: study.spread(of_round(round_)),
        task.plan,
    )
    group = [list(lane) for lane in _group(study, task, task.plan[0].round)]
    config, *others = (
        {"lanes": group, "identity": one} for one in study.claim.identities
    )
    return resumable.run(
        study.programs[task.program],
        unit,
        study.placed,
        folder,
        config=config,
        others=others,
        save_seconds=study.config.save_seconds,
        keep=stage is search and task.planned.promises.rounds,
        stop=signals.asked,
    )


def _trained(study: Study, task: Task, outcome: Finished) -> None:
    """A row for every lane that has come to the end of its training."""
    alive = outcome.alive(len(outcome.seconds))
    columns = _columns(task.lanes, alive)
    each = outcome.seconds / len(_real(task.lanes))
    study.records.trained(columns, task.plan, outcome.metrics, each)


def _columns(group: Sequence[Lane], alive: np.ndarray) -> dict[Lane, int]:
    """Where the numbers of each lane stand; without padding, which repeats one."""
    first = {lane: i for i, lane in reversed([*enumerate(group)])}
    return {lane: first[lane] for lane in dict.fromkeys(group) if alive[first[lane]]}


def _each(
    group: Sequence[Lane], tree: Any, alive: np.ndarray
) -> Iterator[tuple[Lane, Any]]:
    """Each lane that is alive with its part of what all have together."""
    columns = _columns(group, alive)
    parts = [*resumable.apart(tree)]
    return ((lane, parts[i]) for lane, i in columns.items())


def _real(group: Sequence[Lane]) -> list[Lane]:
    """Without padding, which repeats a lane."""
    return list(dict.fromkeys(group))


def _cost(task: Task, outcome: Finished, rounds: int | None = None) -> Cost:
    """Of the stretches before a round, for each of the lanes that share them."""
    plan = task.plan[: len(outcome.seconds)]
    taken = [i for i, s in enumerate(plan) if rounds is None or s.round < rounds]
    steps = sum(plan[i].last - plan[i].first for i in taken)
    seconds = float(outcome.seconds[taken].sum())
    return Cost(steps, seconds / len(_real(task.lanes)))
