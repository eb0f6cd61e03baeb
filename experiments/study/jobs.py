"""The work of a study, piece by piece: searches, then trainings of what they found."""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study.config import CONTROLS
from experiments.study.methods import Method, Network, Setting
from experiments.study.records import Lane
from experiments.study.settings import Settings
from experiments.study.shelf import Shelf
from experiments.study.study import methods
from jaxticket import audit, controls, masks
from jaxticket.base import Params, PRNGKey, Ticket
from jaxticket.engine import keys, lanes, resumable

DIFFERS_BY = {"reinitialise": "weights", "shuffle": "mask", "random": "both"}
TRAINING = "training"  # what the program that trains tickets goes by
TUNING = "tuning"  # that which trains tickets further


class Job(NamedTuple):
    """A unit of work, and what its lanes are called in the results.

    Attributes:
      folder: where it keeps its outcome.
      program: the name of what runs it.
      unit: the work.
      lanes_of: round -> a lane a column.
      hooks: what `resumable.run` calls between rounds.
      finds: tickets that a search leaves -> rounds that it took for each.
    """

    folder: str
    program: str
    unit: resumable.Unit
    lanes_of: Callable[[int], list[Lane]]
    hooks: dict[str, Callable]
    finds: dict[Lane, int] = {}


class Jobs:
    """All work of a run, and the audit of what comes out."""

    def __init__(
        self,
        config: Settings,
        methods: dict[str, Method],
        shelf: Shelf,
        init: Callable[[PRNGKey], tuple],
        gradient: Callable[..., Params],
        width: int,
    ):
        self.config = config
        self.methods = methods
        self.shelf = shelf
        self.init = init
        # Of the initial network of a seed: all settings of a method share it.
        self._gradient = functools.cache(
            lambda seed: gradient(*init(keys.of_seed(seed).init))
        )
        self.width = width
        self.seeds = range(config.first_seed, config.first_seed + config.seeds)
        self._openings = {
            name: jax.jit(method.opens)
            for name, method in methods.items()
            if method.opens is not None
        }

    def all(self) -> Iterator[Job]:
        """In order: a job may need the tickets of those before it."""
        if not any(method.trains_dense for method in self.methods.values()):
            dense = [Lane("dense", "dense", seed, 0) for seed in self.seeds]
            given = self.config.pretrained is not None
            yield from self._training(dense, 0 if given else self.config.steps)
        for name, method in self.methods.items():
            yield from self._searching(name, method)
            trained = [] if method.trains_ticket else ["ticket"]
            yield from self._training(
                self._lanes(name, method, [*trained, *self.config.controls]),
                self.config.steps if method.train_steps is None else method.train_steps,
                method.trains_from,
            )
            if method.tune_steps:
                tuned = self._lanes(name, method, ["tuned"])
                yield from self._training(tuned, method.tune_steps, program=TUNING)

    def _lanes(self, name: str, method: Method, treatments: Sequence[str]):
        return [
            Lane(name, treatment, seed, number, setting.label)
            for number, (setting, _) in method.tickets().items()
            for treatment in treatments
            for seed in self.seeds
        ]

    def _searching(self, name: str, method: Method) -> Iterator[Job]:
        """Searches with all settings and seeds; they leave tickets on the shelf."""
        plan = resumable.stretches(
            method.rounds,
            method.steps,
            min(self.config.eval_every, method.steps),
            resume=method.resumes_at,
            look=method.looks,
        )
        kind = "ticket" if method.trains_ticket else "search"
        settings = enumerate(method.settings)
        todo = [(i, setting, seed) for i, setting in settings for seed in self.seeds]
        for index, group in enumerate(lanes.groups(todo, self.width)):
            keys = [keys.of_seed(seed) for *_, seed in group]

            def begin(group=group, keys=keys):
                tickets, states = zip(
                    *(self._opened(name, setting, seed) for _, setting, seed in group),
                    strict=True,
                )
                search_keys = jnp.stack([k.search for k in keys])
                both = resumable.together(tickets), resumable.together(states)
                return search_keys, *both

            def lanes_of(round_, group=group):
                if round_ == 0 and method.trains_dense:
                    return [Lane("dense", "dense", seed, 0) for *_, seed in group]
                return [
                    Lane(name, kind, seed, i + 1 if s.label else round_, s.label)
                    for i, s, seed in group
                ]

            def opened(round_, view, group=group):
                for (*_, seed), one in zip(group, resumable.apart(view), strict=True):
                    if method.rewinds:
                        where = f"{name}, seed {seed}, round {round_}"
                        audit.rewound(where, one.params, one.ticket)

            def closed(round_, view, group=group):
                for (i, setting, seed), one in zip(
                    group, resumable.apart(view), strict=True
                ):
                    number = method.number(i, round_)
                    lane = Lane(name, "ticket", seed, number, setting.label)
                    self._keep(lane, method, setting, round_, one)

            unit = resumable.Unit(
                f"{name}, searching",
                [
                    f"seed {seed}" + (f", {s.label}" if s.label else "")
                    for _, s, seed in group
                ],
                begin,
                keys.of_rounds(keys),
                plan,
                resumable.together([setting.values for _, setting, _ in group]),
            )
            finds = {
                Lane(name, "ticket", seed, number, setting.label): rounds
                for number, (setting, rounds) in method.tickets().items()
                for _, ours, seed in group
                if ours.label == setting.label
            }
            hooks = {"opened": opened, "closed": closed}
            folder = f"{name}-search-{index}"
            yield Job(folder, name, unit, lanes_of, hooks, finds)

    def _training(
        self,
        todo: Sequence[Lane],
        steps: int,
        begin_step: int = 0,
        program: str = TRAINING,
    ) -> Iterator[Job]:
        """Trains tickets, controls or the dense network under their masks.

        In no steps they are only tested.
        """
        every = min(self.config.eval_every, max(steps, 1))
        plan = resumable.stretches(1, steps, every, begin=begin_step, look=not steps)
        for index, group in enumerate(lanes.groups(todo, self.width)):
            keys = [keys.of_seed(lane.seed) for lane in group]

            def begin(group=group, keys=keys):
                tickets, states = zip(
                    *(self._treated(lane) for lane in group), strict=True
                )
                search_keys = jnp.stack([k.search for k in keys])
                both = resumable.together(tickets), resumable.together(states)
                return search_keys, *both

            def closed(_, view, group=group):
                for lane, one in zip(group, resumable.apart(view), strict=True):
                    audit.pruned_are_zero(str(lane), one.params, one.ticket.mask)
                    if lane.treatment == "dense" and self._openings:
                        self.shelf.put_anchor(lane, one.params, one.model_state)

            what = dict.fromkeys(
                f"{lane.treatment} {lane.setting or lane.round}" for lane in group
            )
            unit = resumable.Unit(
                f"{group[0].method}, {program} {', '.join(what)}",
                [str(lane) for lane in group],
                begin,
                keys.of_rounds(keys, [self._prunings(lane) for lane in group]),
                plan,
                self.multipliers(group) if program == TRAINING else (),
            )
            folder = f"{group[0].method}-{program}-{index}"
            hooks = {"closed": closed}
            yield Job(folder, program, unit, lambda _, group=group: group, hooks)

    def multipliers(self, group: Sequence[Lane]):
        """The settings of the program that trains tickets, see `searches.fixed`."""
        if not self.config.keep_multiplier:
            return ()
        return np.float32([self._setting(lane).factor for lane in group])

    def _keep(self, lane: Lane, method: Method, setting: Setting, round_: int, view):
        """Audits what a round leaves, and puts its ticket on the shelf."""
        where, (weights, mask) = str(lane), view.ticket
        given, _ = self._opened(lane.method, setting, lane.seed)
        if round_ == 0:
            anchor = given.weights if method.kept_weights else weights
            self.shelf.put_anchor(lane, anchor, view.model_state)
        elif not method.kept_weights:
            audit.same(where, weights, self.shelf.anchor(lane)[0])
        if method.rewind_step == 0 and not method.kept_weights:
            scaled = masks.scale(given.mask, given.weights, setting.factor)
            # A factor that the program computes may round otherwise.
            traced = method.parallel and setting.factor != 1
            audit.same(where, weights, scaled, rtol=1e-6 if traced else 0.0)
        try:
            audit.no_empty_layer(where, mask)
        except audit.AuditError as error:
            if not method.parallel:  # there it is what came of one of many settings
                raise
            print(f"note: {error}", file=sys.stderr)
        if method.hard:
            audit.pruned_are_zero(where, view.params, mask)
        if method.nested and round_:
            before = self.shelf.ticket(lane._replace(round=lane.round - 1)).mask
            audit.nested(where, mask, before)
            if method.rates is not None:
                audit.counts(where, mask, before, method.rates)
        self.shelf.put_ticket(lane, view.ticket)

    def _opened(self, name: str, setting: Setting, seed: int) -> tuple[Ticket, Params]:
        """What a search starts from: a ticket and its model state."""
        keys = keys.of_seed(seed)
        initial = Network(*self.init(keys.init))
        if name not in self._openings:
            full = methods.full(self.config, initial.weights)
            return Ticket(initial.weights, full), initial.model_state
        if self.methods[name].needs_gradient:
            initial = initial._replace(gradient=self._gradient(seed))
        trained = Network(*self.shelf.anchor(Lane("dense", "dense", seed, 0)))
        key = jax.random.fold_in(keys.controls, len(CONTROLS))
        return self._openings[name](key, setting.values, initial, trained)

    def _treated(self, lane: Lane) -> tuple[Ticket, Params]:
        """What a lane trains: the ticket, or a control shown to differ from it."""
        keys = keys.of_seed(lane.seed)
        if lane.treatment == "dense":
            weights, state = self.init(keys.init)
            return Ticket(weights, methods.full(self.config, weights)), state
        ticket = self.shelf.ticket(lane)
        anchor, state = self.shelf.anchor(lane)
        if lane.treatment in ("ticket", "tuned"):
            return ticket, state
        # Shuffling needs values for weights that the ticket's own file leaves out.
        ticket = ticket._replace(weights=anchor)
        key = jax.random.fold_in(keys.controls, CONTROLS.index(lane.treatment))
        key = jax.random.fold_in(key, lane.round)
        if lane.treatment == "shuffle":
            control = controls.shuffle(key, ticket)
        else:
            factor = self._setting(lane).factor

            def draw(key):
                weights, _ = self.init(key)
                return masks.scale(methods.full(self.config, weights), weights, factor)

            control = getattr(controls, lane.treatment)(key, ticket, draw)
            _, state = self.init(key)
        control = jax.tree.map(np.asarray, control)
        audit.differs(str(lane), control, ticket, by=DIFFERS_BY[lane.treatment])
        return control, state

    def _setting(self, lane: Lane) -> Setting:
        method = self.methods.get(lane.method)
        return method.tickets()[lane.round][0] if method else Setting()

    def _prunings(self, lane: Lane) -> int:
        """How many a lane's ticket has seen: all settings of a seed train alike."""
        method = self.methods.get(lane.method)
        return method.tickets()[lane.round][1] if method else 0
