"""One study: searches over seeds, their tickets and controls trained and audited."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import methods
from experiments.config import CONTROLS, Config
from experiments.progress import Progress
from experiments.records import Lane, Records
from experiments.shelf import Shelf
from jaxticket import (
    audit,
    classification,
    controls,
    data,
    lanes,
    masks,
    models,
    resumable,
)
from jaxticket.base import Params, PRNGKey, Search, Ticket

METRICS = ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
TRIALS, TRIAL_SECONDS = 3, 0.5  # how often, and about how long, a layout is tried
DIFFERS_BY = {"reinitialise": "weights", "shuffle": "mask", "random": "both"}


class Keys(NamedTuple):
    """The independent random streams of one seed."""

    init: PRNGKey
    search: PRNGKey
    data: PRNGKey
    controls: PRNGKey


def seed_keys(seed: int) -> Keys:
    """They depend on the seed alone."""
    return Keys(*jax.random.split(jax.random.fold_in(jax.random.key(0), seed), 4))


class Job(NamedTuple):
    """A unit of work, and what its lanes are called in the results."""

    folder: str
    program: resumable.Program
    unit: resumable.Unit
    lanes_of: Callable[[int], list[Lane]]  # round -> a lane a column
    hooks: dict[str, Callable]


class Study:
    """Everything that the trainings of a run share.

    Attributes:
      records: what came out; `records.rows` are the rows of `results.csv`.
    """

    def __init__(self, config: Config, dataset: data.Dataset, layout: lanes.Layout):
        self.config = config
        self.folder = Path(config.output_dir)
        self.layout = layout
        self.seeds = range(config.first_seed, config.first_seed + config.seeds)
        epoch_steps = len(dataset.train.labels) // config.batch_size
        self.eval_every = config.eval_every or epoch_steps
        self.steps = config.steps or config.epochs * epoch_steps
        if config.rewind_step >= self.steps:
            raise ValueError(
                f"--rewind_step {config.rewind_step} must lie before the end of a "
                f"round, at {self.steps} steps"
            )
        self.model = models.create(config.model, num_classes=dataset.num_classes)
        prepare = data.normalizer(
            config.normalization, dataset.train.images, name=dataset.name
        )
        example = prepare(jnp.asarray(dataset.train.images[:1]))
        self.init = jax.jit(lambda key: self.model.init(key, example))
        self.like = jax.eval_shape(self.init, jax.random.key(0))
        self.loss_fn = classification.cross_entropy(
            self.model,
            prepare=prepare,
            augment=data.augment if config.augment else None,
        )
        self.metrics_of = classification.evaluator(self.model, prepare=prepare)
        self.data = resumable.Data(dataset.train, (dataset.validation, dataset.test))
        self.methods = {
            name: methods.method(
                name, config, self.like[0], steps=self.steps, epoch_steps=epoch_steps
            )
            for name in config.methods
        }
        self.programs = {name: self._searcher(m) for name, m in self.methods.items()}
        self.fixed = self._program(methods.fixed(config))
        self.shelf = Shelf(self.folder, *self.like)
        self.records = Records(self.folder, self.steps)

    def compile(self) -> int:
        """Compiles all programs; returns the bytes a device needs for the largest."""
        keys = jax.eval_shape(self._any_keys)
        start = jax.eval_shape(self._any_start, keys)
        sizes = {}
        for name, program in {**self.programs, None: self.fixed}.items():
            compiled, sizes[name] = resumable.compiled(program, *start, keys, self.data)
            if name is None:
                self.fixed = compiled
            else:
                self.programs[name] = compiled
        return max(sizes.values())

    def trial(self) -> float:
        """Seconds that a step of all lanes takes, in the search of the first method."""
        program = next(iter(self.programs.values()))
        keys, everywhere = self._any_keys(), lanes.everywhere(self.layout, self.data)
        carry = program.start(*self._any_start(keys))

        def taken(steps):
            nonlocal carry
            begun = time.perf_counter()
            numbers = (np.int32(x) for x in (0, steps, 0))
            carry, metrics = program.stretch(carry, keys, everywhere, *numbers)
            jax.block_until_ready(metrics)
            return time.perf_counter() - begun

        taken(1)  # whatever a first call does besides
        overhead = min(taken(0) for _ in range(TRIALS))
        once = min(taken(1) for _ in range(TRIALS)) - overhead
        steps = min(self.steps, max(1, int(TRIAL_SECONDS / max(once, 1e-6))))
        return (min(taken(steps) for _ in range(TRIALS)) - overhead) / steps

    def _any_keys(self) -> PRNGKey:
        return jax.random.split(jax.random.key(0), self.layout.width)

    def _any_start(self, keys: PRNGKey) -> tuple:
        """What programs start from: as long as there are lanes."""
        weights, states = jax.vmap(self.init)(keys)
        return keys, Ticket(weights, jax.vmap(masks.full)(weights)), states

    def run(self) -> None:
        """The whole study. What an earlier call finished is not done again."""
        self.data = lanes.everywhere(self.layout, self.data)
        jobs = list(self._jobs())
        progress = Progress(sum(len(job.unit.plan) for job in jobs))
        with self.records, progress:
            for job in jobs:
                self._do(job, progress)

    def _jobs(self) -> Iterator[Job]:
        """All work in order: a job may need the tickets of those before it."""
        if not any(name in methods.IMP for name in self.config.methods):
            yield from self._training(
                [Lane("dense", "dense", seed, 0) for seed in self.seeds], None
            )
        for name, method in self.methods.items():
            yield from self._searching(name, method)
            trained = [] if method.trains_ticket else ["ticket"]
            todo = [
                Lane(name, treatment, seed, round_)
                for round_ in range(1, self.config.rounds + method.found_after)
                for treatment in [*trained, *self.config.controls]
                for seed in self.seeds
            ]
            yield from self._training(todo, method)

    def _searching(self, name: str, method: methods.Method) -> Iterator[Job]:
        """Searches with all seeds, which leave their tickets on the shelf."""
        resumes = method.resumes and name in methods.IMP
        resume = self.config.rewind_step if resumes else 0
        plan = self._plan(self.config.rounds, resume=resume)
        for group in lanes.groups(self.seeds, self.layout.width):
            keys = [seed_keys(seed) for seed in group]

            def begin(keys=keys):
                weights, states = resumable.together([self.init(k.init) for k in keys])
                ticket = Ticket(weights, jax.vmap(masks.full)(weights))
                return jnp.stack([k.search for k in keys]), ticket, states

            def opened(round_, view, group=group):
                for seed, one in zip(group, resumable.apart(view), strict=True):
                    if method.rewinds:
                        where = f"{name}, seed {seed}, round {round_}"
                        audit.rewound(where, one.params, one.ticket)

            def closed(round_, view, group=group):
                for seed, one in zip(group, resumable.apart(view), strict=True):
                    self._keep(name, method, seed, round_, one)

            def lanes_of(round_, group=group):
                if round_ == 0 and name in methods.IMP:
                    return [Lane("dense", "dense", seed, 0) for seed in group]
                treatment = "ticket" if method.trains_ticket else "search"
                return [Lane(name, treatment, seed, round_) for seed in group]

            unit = resumable.Unit(
                f"{name}, searching",
                [f"seed {seed}" for seed in group],
                begin,
                self._round_keys(keys),
                plan,
            )
            folder = f"{name}-search-{group[0]}"
            hooks = {"opened": opened, "closed": closed}
            yield Job(folder, self.programs[name], unit, lanes_of, hooks)

    def _training(
        self, todo: Sequence[Lane], method: methods.Method | None
    ) -> Iterator[Job]:
        """Trains tickets, controls or the dense network under their masks."""
        begin_step = self.config.rewind_step if method and method.resumes else 0
        plan = self._plan(1, begin=begin_step)
        for index, group in enumerate(lanes.groups(todo, self.layout.width)):
            keys = [seed_keys(lane.seed) for lane in group]

            def begin(group=group, keys=keys):
                tickets, states = zip(
                    *(self._treated(lane, method) for lane in group), strict=True
                )
                search_keys = jnp.stack([k.search for k in keys])
                both = resumable.together(tickets), resumable.together(states)
                return search_keys, *both

            def closed(_, view, group=group):
                for lane, one in zip(group, resumable.apart(view), strict=True):
                    audit.pruned_are_zero(str(lane), one.params, one.ticket.mask)

            what = dict.fromkeys(f"{lane.treatment} {lane.round}" for lane in group)
            unit = resumable.Unit(
                f"{group[0].method}, training {', '.join(what)}",
                [str(lane) for lane in group],
                begin,
                self._round_keys(keys, [lane.round for lane in group]),
                plan,
            )
            folder = f"{group[0].method}-train-{index}"
            hooks = {"closed": closed}
            yield Job(folder, self.fixed, unit, lambda _, group=group: group, hooks)

    def _do(self, job: Job, progress: Progress) -> None:
        """Runs a job, logging its metrics as they come, and adds its rows."""
        plan = job.unit.plan
        several = f", round {{}} of {plan[-1].round}" if plan[-1].round else ""

        def real(round_):
            return list(dict.fromkeys(job.lanes_of(round_)))  # padding repeats a lane

        def watch(stretch, index, metrics):
            self.records.evaluated(real(stretch.round), stretch.last, metrics)
            accuracy = 100 * float(np.mean(metrics["test_accuracy"]))
            where = job.unit.name + several.format(stretch.round)
            progress.advance(f"{where}: {accuracy:.1f}% test", say=stretch.ends)

        outcome = resumable.run(
            job.program,
            job.unit,
            self.data,
            self.folder / "work" / job.folder,
            config={"lanes": [list(lane) for lane in job.lanes_of(0)]},
            save_seconds=self.config.save_seconds,
            watch=watch,
            **job.hooks,
        )
        for round_ in range(plan[-1].round + 1):
            if any(lane.treatment == "search" for lane in real(round_)):
                continue  # a soft network is no ticket: its metrics are in the log only
            where = [i for i, stretch in enumerate(plan) if stretch.round == round_]
            self.records.trained(
                real(round_),
                [plan[i] for i in where],
                {name: values[where] for name, values in outcome.metrics.items()},
                outcome.seconds[where],
            )

    def _keep(self, name, method, seed, round_, view) -> None:
        """Audits what a round leaves, and puts its ticket on the shelf."""
        where = f"{name}, seed {seed}, round {round_}"
        found, (weights, mask) = round_ + method.found_after, view.ticket
        initial, _ = self.init(seed_keys(seed).init)
        audit.no_empty_layer(where, mask)
        if round_ == 0:
            anchor = initial if method.kept_weights else weights
            self.shelf.put_anchor(name, seed, anchor, view.model_state)
        elif not method.kept_weights:
            audit.same(where, weights, self.shelf.anchor(name, seed)[0])
        if self.config.rewind_step == 0 and not method.kept_weights:
            audit.same(where, weights, method.scale(initial))
        if name in methods.IMP:
            audit.pruned_are_zero(where, view.params, mask)
        if name in methods.IMP and round_:
            before = self.shelf.ticket(name, seed, found - 1).mask
            audit.nested(where, mask, before)
            if method.rates is not None:
                audit.counts(where, mask, before, method.rates)
        self.shelf.put_ticket(name, seed, found, view.ticket)

    def _treated(
        self, lane: Lane, method: methods.Method | None
    ) -> tuple[Ticket, Params]:
        """What a lane trains: the ticket, or a control shown to differ from it."""
        keys = seed_keys(lane.seed)
        if lane.treatment == "dense":
            weights, state = self.init(keys.init)
            return Ticket(weights, masks.full(weights)), state
        ticket = self.shelf.ticket(lane.method, lane.seed, lane.round)
        anchor, state = self.shelf.anchor(lane.method, lane.seed)
        if lane.treatment == "ticket":
            return ticket, state
        # Shuffling needs values for weights that the ticket's own file leaves out.
        ticket = ticket._replace(weights=anchor)
        key = jax.random.fold_in(keys.controls, CONTROLS.index(lane.treatment))
        key = jax.random.fold_in(key, lane.round)
        if lane.treatment == "shuffle":
            control = controls.shuffle(key, ticket)
        else:
            control = getattr(controls, lane.treatment)(
                key, ticket, lambda key: method.scale(self.init(key)[0])
            )
            _, state = self.init(key)
        control = jax.tree.map(np.asarray, control)
        audit.differs(str(lane), control, ticket, by=DIFFERS_BY[lane.treatment])
        return control, state

    def _program(self, search: Search, **options: Any) -> resumable.Program:
        def evaluate(params, model_state, held_out):
            both = [self.metrics_of(params, model_state, split) for split in held_out]
            return dict(zip(METRICS, (x for m in both for x in m), strict=True))

        return resumable.program(
            search,
            self.loss_fn,
            evaluate,
            METRICS,
            self.layout,
            batch_size=self.config.batch_size,
            **options,
        )

    def _searcher(self, method: methods.Method) -> resumable.Program:
        return self._program(
            method.search,
            rewind_step=self.config.rewind_step,
            rewind_model=method.rewinds,
        )

    def _plan(self, rounds: int, **begin: int) -> list[resumable.Stretch]:
        every = min(self.eval_every, self.steps)
        return resumable.stretches(rounds, self.steps, every, **begin)

    def _round_keys(self, keys: Sequence[Keys], rounds: Sequence[int] | None = None):
        """Data order and noise: of the seed and the number of prunings alone."""
        stacked = jnp.stack([k.data for k in keys])

        def of(round_):
            numbers = [round_] * len(keys) if rounds is None else rounds
            return _fold_in(stacked, jnp.asarray(numbers, jnp.uint32))

        return of


_fold_in = jax.jit(jax.vmap(jax.random.fold_in))
