"""The two stages of a study, and the dense training before them.

*Search*: open, run, audit, keep. *Treat*: read, control, run, audit. Each works on a
group of lanes that run side by side; what an earlier call finished is not done again.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study.methods import Planned
from experiments.study.progress import Progress
from experiments.study.records import Cost, Lane, dense
from experiments.study.study import TRAINING, TUNING, Study
from jaxticket import audit, controls
from jaxticket.base import Ticket
from jaxticket.engine import keys, lanes, resumable
from jaxticket.engine.resumable import Closed, Event, Finished, Measured, Opened


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
    """The whole study, task after task."""
    study.data = lanes.everywhere(study.layout, study.data)
    todo = list(tasks(study))
    progress = Progress(sum(len(task.plan) for task in todo))
    with study.records, progress:
        for task in todo:
            task.stage(study, task, progress)


def tasks(study: Study) -> Iterator[Task]:
    """In order: a task may need what those before it have left."""
    config = study.config
    length = (0, 0) if config.pretrained else (0, config.steps)
    name = next(iter(study.sharing), TRAINING)
    yield from _trainings(
        study, train_dense, "dense", name, [dense(s) for s in study.seeds], length
    )
    for planned in study.planned.values():
        if planned.search:
            yield from _searches(study, planned)
        else:
            todo = tickets(study, planned, ["ticket"])
            yield Task(start, planned.name, "", "", tuple(todo), (), planned)
        promises = planned.promises[0]
        own = ["ticket"] if config.trains(promises) else []
        yield from _trainings(
            study,
            treat,
            planned.name,
            TRAINING,
            tickets(study, planned, [*own, *config.controls]),
            config.training(planned.resumed),
            planned,
        )
        if config.tune_steps:
            todo = tickets(study, planned, ["tuned"])
            length = (0, config.tune_steps)
            yield from _trainings(
                study, treat, planned.name, TUNING, todo, length, planned
            )


def tickets(study: Study, planned: Planned, treatments: Sequence[str]) -> list[Lane]:
    """A lane for every treatment of every ticket that a method finds."""
    return [
        Lane(planned.name, treatment, seed, prunings, setting.label)
        for setting in planned.settings
        for prunings in planned.prunings()
        for treatment in treatments
        for seed in study.seeds
    ]


def _searches(study: Study, planned: Planned) -> Iterator[Task]:
    """A method's searches, of all settings and seeds."""
    config = study.config
    plan = resumable.stretches(
        planned.rounds,
        config.search_steps,
        min(config.eval_every, config.search_steps),
        resume=planned.resumed if planned.opens_given else 0,
        look=planned.promises[0].weights == "given",
    )
    if planned.name in study.sharing:
        plan = [stretch for stretch in plan if stretch.round > 0]
        if not plan:
            return
    todo = [
        Lane(planned.name, "search", seed, 0, setting.label)
        for setting in planned.settings
        for seed in study.seeds
    ]
    for i, group in enumerate(lanes.groups(todo, study.layout.width)):
        name = planned.name
        yield Task(
            search, name, f"{name}-search-{i}", name, tuple(group), plan, planned
        )


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
    plan = resumable.stretches(1, last, every, begin=first, look=not last)
    kind = program if program in (TRAINING, TUNING) else TRAINING
    for i, group in enumerate(lanes.groups(todo, study.layout.width)):
        folder = f"{name}-{kind}-{i}"
        yield Task(stage, name, folder, program, tuple(group), plan, planned)


def train_dense(study: Study, task: Task, progress: Progress) -> None:
    """Trains the dense network, which every comparison and some starts need.

    Methods that begin with it go on from its state.
    """
    streams = [keys.of_seed(lane.seed) for lane in task.lanes]
    tickets = [study.network(stream.init) for stream in streams]
    if task.program == TRAINING:
        settings = study.multipliers(task.lanes)
    else:
        swept = study.planned[task.program].settings[0].swept
        settings = resumable.together([swept] * len(task.lanes))
    begin = functools.partial(_start, study, task, tickets, settings)
    for event in _events(study, task, begin, lambda _: task.lanes, progress):
        match event:
            case Closed(_, view, carry):
                for lane, one in _each(task.lanes, view):
                    audit.pruned_are_zero(str(lane), one.params, one.ticket.mask)
                    whole = Ticket(one.params, one.ticket.mask, one.model_state)
                    study.shelf.put_anchor(lane, whole)
                if task.program != TRAINING:
                    _, states = carry
                    for lane, state in _each(task.lanes, states):
                        study.shelf.put_state(lane, state)
            case Finished(metrics, seconds):
                study.records.trained(_real(task.lanes), task.plan, metrics, seconds)
                for lane in _real(task.lanes):
                    cost = _cost(task.plan, seconds, len(_real(task.lanes)))
                    study.records.found(lane, cost)


def start(study: Study, task: Task, progress: Progress) -> None:
    """Keeps what a method without a search starts from: these are its tickets.

    Where tickets are trained, and come from a trained network, that is what they cost.
    """
    del progress
    for lane in task.lanes:
        if study.config.VERDICTS and task.planned.start(study.swept(lane)).trained:
            study.records.found(lane, study.records.cost(dense(lane.seed)))
        if not study.shelf.has(lane):
            ticket = study.opened(task.planned, lane)
            study.shelf.put_anchor(lane, ticket)
            note_empty_layer(lane, ticket)
            study.shelf.put_ticket(lane, ticket)


def search(study: Study, task: Task, progress: Progress) -> None:
    """Runs searches; audits the ticket that each round leaves, and keeps it."""
    planned, promises = task.planned, study.promises
    shared = task.plan[0].round > 0
    own = not study.config.trains(planned.promises[0])
    opened = functools.cache(
        lambda: [study.opened(planned, lane) for lane in task.lanes]
    )

    def begin():
        settings = resumable.together([study.swept(lane) for lane in task.lanes])
        carry = _start(study, task, opened(), settings)
        return _gone_on(study, task, carry) if shared else carry

    def lanes_of(round_):
        prunings = round_ + (not planned.opens_given)
        kind = "ticket" if own and prunings in planned.prunings() else "search"
        return [lane._replace(treatment=kind, prunings=prunings) for lane in task.lanes]

    for event in _events(study, task, begin, lanes_of, progress):
        match event:
            case Opened(round_, view):
                for lane, one in _each(lanes_of(round_), view):
                    audit.opened(
                        str(lane),
                        one.params,
                        one.ticket,
                        promises(lane),
                        model_state=one.model_state,
                    )
            case Closed(round_, view, _):
                each = _each(lanes_of(round_), view)
                for (lane, one), given in zip(each, opened(), strict=True):
                    if lane.prunings in planned.prunings():
                        keep(study, lane._replace(treatment="ticket"), one, given)
            case Finished(metrics, seconds):
                costs = {lane: Cost() for lane in _real(task.lanes)}
                if shared:
                    costs = {
                        lane: study.records.cost(dense(lane.seed)) for lane in costs
                    }
                for round_ in dict.fromkeys(stretch.round for stretch in task.plan):
                    here = _real(lanes_of(round_))
                    spent = round_ + (not planned.opens_given)
                    for lane, before in zip(here, costs.values(), strict=True):
                        cost = _cost(task.plan, seconds, len(here), spent)
                        total = Cost(*map(sum, zip(before, cost, strict=True)))
                        ticket = lane._replace(treatment="ticket")
                        study.records.found(ticket, total)
                    if here[0].treatment == "ticket":
                        at = [i for i, s in enumerate(task.plan) if s.round == round_]
                        study.records.trained(
                            here,
                            [task.plan[i] for i in at],
                            {name: values[at] for name, values in metrics.items()},
                            seconds[at],
                        )


def treat(study: Study, task: Task, progress: Progress) -> None:
    """Trains tickets and their controls, each shown to differ from its ticket."""

    def begin():
        treated = [study.treated(lane) for lane in task.lanes]
        for lane, (control, ticket) in zip(task.lanes, treated, strict=True):
            if lane.treatment in controls.__all__:
                by = getattr(controls, lane.treatment).differs_by
                audit.differs(str(lane), control, ticket, by=by)
        tickets = [control for control, _ in treated]
        settings = study.multipliers(task.lanes) if task.program == TRAINING else ()
        return _start(study, task, tickets, settings)

    for event in _events(study, task, begin, lambda _: task.lanes, progress):
        match event:
            case Closed(_, view, _):
                for lane, one in _each(task.lanes, view):
                    audit.pruned_are_zero(str(lane), one.params, one.ticket.mask)
            case Finished(metrics, seconds):
                study.records.trained(_real(task.lanes), task.plan, metrics, seconds)


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
    study.shelf.put_ticket(lane, ticket)


def note_empty_layer(lane: Lane, ticket: Ticket) -> None:
    """Says that a network is cut: an outcome of extreme densities, and no fault."""
    try:
        audit.no_empty_layer(str(lane), ticket.mask)
    except audit.AuditError as error:
        print(f"note: {error}", file=sys.stderr)


def _start(study: Study, task: Task, tickets: Sequence[Ticket], settings: Any) -> Any:
    """The carry of a task's program before its first step."""
    streams = [keys.of_seed(lane.seed).search for lane in task.lanes]
    program = study.programs[task.program]
    return program.start(jnp.stack(streams), resumable.together(tickets), settings)


def _gone_on(study: Study, task: Task, carry: Any) -> Any:
    """The carry, with the states in which the dense training has left its lanes."""
    settings, state = carry
    like = jax.tree.map(lambda x: x[0], state)
    states = [study.shelf.state(dense(lane.seed), like) for lane in task.lanes]
    there = jax.tree.map(
        lambda x, *leaves: jax.device_put(jnp.stack(leaves), x.sharding), state, *states
    )
    return settings, there


def _events(
    study: Study,
    task: Task,
    begin: Callable[[], Any],
    lanes_of: Callable[[int], Sequence[Lane]],
    progress: Progress,
) -> Iterator[Event]:
    """What happens while a task runs; looks are logged and shown on the way."""
    streams = [keys.of_seed(lane.seed) for lane in task.lanes]
    stage = task.stage
    prunings = None if stage is search else [lane.prunings for lane in task.lanes]
    unit = resumable.Unit(
        f"{task.name}, {'searching' if stage is search else 'training'}",
        [str(lane) for lane in lanes_of(0)],
        begin,
        keys.of_rounds(streams, prunings),
        task.plan,
    )
    for event in resumable.run(
        study.programs[task.program],
        unit,
        study.data,
        study.folder / "work" / task.folder,
        config={"lanes": [list(lane) for lane in lanes_of(task.plan[0].round)]},
        save_seconds=study.config.save_seconds,
    ):
        if isinstance(event, Measured):
            here = _real(lanes_of(event.stretch.round))
            study.records.evaluated(here, event.stretch.last, event.metrics)
            accuracy = 100 * float(np.mean(event.metrics["test_accuracy"]))
            where = f"{here[0].treatment}, pruned {here[0].prunings} times"
            text = f"{task.name}, {where}: {accuracy:.1f}% test"
            progress.advance(text, say=event.stretch.ends)
        yield event


def _each(group: Sequence[Lane], tree: Any) -> Iterator[tuple[Lane, Any]]:
    """Each lane with its part of what all have together."""
    return zip(group, resumable.apart(tree), strict=True)


def _real(group: Sequence[Lane]) -> list[Lane]:
    """Without padding, which repeats a lane."""
    return list(dict.fromkeys(group))


def _cost(
    plan: Sequence[resumable.Stretch],
    seconds: np.ndarray,
    sharing: int,
    rounds: int | None = None,
) -> Cost:
    """Of the stretches before a round, for each of the lanes that share them."""
    taken = [i for i, s in enumerate(plan) if rounds is None or s.round < rounds]
    steps = sum(plan[i].last - plan[i].first for i in taken)
    return Cost(steps, float(seconds[taken].sum()) / sharing)
