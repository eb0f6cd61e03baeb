"""One study: searches over seeds, their tickets and controls trained and audited."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common, methods, statistics
from experiments.config import CONTROLS, Config
from experiments.progress import Progress
from jaxticket import (
    audit,
    classification,
    controls,
    data,
    files,
    lanes,
    masks,
    models,
    resumable,
)
from jaxticket.base import Params, PRNGKey, Ticket

METRICS = ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy")


class Keys(NamedTuple):
    """The independent random streams of one seed."""

    init: PRNGKey
    search: PRNGKey
    data: PRNGKey
    controls: PRNGKey


def seed_keys(seed: int) -> Keys:
    """They depend on the seed alone."""
    return Keys(*jax.random.split(jax.random.fold_in(jax.random.key(0), seed), 4))


class Lane(NamedTuple):
    """One training: a treatment of the ticket of one seed and round."""

    treatment: str
    round: int
    seed: int

    def __str__(self):
        return f"seed {self.seed}"


class Study:
    """Everything that the trainings of a run share.

    Attributes:
      rows: one a finished training, as `results.csv` has them.
    """

    def __init__(self, config: Config, dataset: data.Dataset, layout: lanes.Layout):
        self.config = config
        self.folder = Path(config.output_dir)
        self.layout = layout
        self.model = models.create(config.model, num_classes=dataset.num_classes)
        prepare = data.normalizer(
            config.normalization, dataset.train.images, name=dataset.name
        )
        self.example = prepare(jnp.asarray(dataset.train.images[:1]))
        self.init = jax.jit(lambda key: self.model.init(key, self.example))
        self.epoch_steps = len(dataset.train.labels) // config.batch_size
        self.steps = config.steps or config.epochs * self.epoch_steps
        self.seeds = range(config.first_seed, config.first_seed + config.seeds)
        self.data = lanes.everywhere(
            layout,
            resumable.Data(dataset.train, (dataset.validation, dataset.test)),
        )
        self.loss_fn = classification.cross_entropy(
            self.model,
            prepare=prepare,
            augment=data.augment if config.augment else None,
        )
        self.metrics_of = classification.evaluator(self.model, prepare=prepare)
        self.fixed = self._program(methods.fixed(config))
        self.rows: list[dict] = []
        self.progress = Progress(self._work())
        self.log = open(self.folder / "metrics.jsonl", "w")  # noqa: SIM115
        self._controls = jax.jit(self._control, static_argnums=(0, 4))

    def run(self) -> None:
        """The whole study. What an earlier call finished is not done again."""
        with self.progress, self.log:
            searched = self.config.methods
            if not any(_trains_dense(name) for name in searched):
                self._train("dense", [Lane("dense", 0, seed) for seed in self.seeds])
            for name in searched:
                method = self._method(name)
                self._search(name, method)
                treatments = list(self.config.controls)
                if not method.trains_ticket:
                    treatments.insert(0, "ticket")
                rounds = self._rounds(method)
                todo = [
                    Lane(treatment, round_, seed)
                    for round_ in rounds
                    for treatment in treatments
                    for seed in self.seeds
                ]
                self._train(name, todo, method)

    def _method(self, name: str) -> methods.Method:
        params, _ = jax.eval_shape(self.init, jax.random.key(0))
        return methods.method(
            name, self.config, params, steps=self.steps, epoch_steps=self.epoch_steps
        )

    def _rounds(self, method: methods.Method) -> range:
        """How many prunings the tickets have seen, of those worth a comparison."""
        return range(1, self.config.rounds + method.found_after)

    def _program(self, search, **options) -> resumable.Program:
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

    def _plan(self, rounds: int, begin: int = 0, resume: int = 0):
        every = min(self.config.eval_every or self.epoch_steps, self.steps)
        return resumable.stretches(
            rounds, self.steps, every, begin=begin, resume=resume
        )

    def _work(self) -> int:
        """Stretches in the whole study, for the progress bar."""
        config, width = self.config, self.layout.width
        groups = math.ceil(len(self.seeds) / width)
        total = 0
        if not any(_trains_dense(name) for name in config.methods):
            total += groups * len(self._plan(1))
        for name in config.methods:
            method = self._method(name)
            resume = config.rewind_step if method.resumes else 0
            search_resume = resume if name in methods.IMP else 0
            total += groups * len(self._plan(config.rounds, resume=search_resume))
            treatments = len(config.controls) + (not method.trains_ticket)
            lanes_ = len(self._rounds(method)) * treatments * len(self.seeds)
            total += math.ceil(lanes_ / width) * len(self._plan(1, begin=resume))
        return total

    def _search(self, name: str, method: methods.Method) -> None:
        """Searches with all seeds, leaving their tickets in files."""
        config = self.config
        program = self._program(
            method.search,
            rewind_step=config.rewind_step,
            rewind_model=method.rewinds,
        )
        resume = config.rewind_step if method.resumes and name in methods.IMP else 0
        plan = self._plan(config.rounds, resume=resume)
        for group in lanes.groups(self.seeds, self.layout.width):
            keys = [seed_keys(seed) for seed in group]

            def begin(keys=keys):
                weights, states = resumable.together([self.init(k.init) for k in keys])
                mask = jax.vmap(masks.full)(weights)
                return (
                    jnp.stack([k.search for k in keys]),
                    Ticket(weights, mask),
                    states,
                )

            def opened(round_, view, group=group):
                for seed, one in zip(group, resumable.apart(view), strict=True):
                    where = f"{name}, seed {seed}, round {round_}"
                    if method.rewinds:
                        audit.rewound(where, one.params, one.ticket)

            def closed(round_, view, group=group):
                for seed, one in zip(group, resumable.apart(view), strict=True):
                    self._keep(name, method, seed, round_, one)

            unit = resumable.Unit(
                f"{name}, searching",
                [f"seed {seed}" for seed in group],
                begin,
                self._round_keys(keys),
                plan,
            )
            treatment = "ticket" if method.trains_ticket else "search"
            rows = [Lane(treatment, 0, seed) for seed in group]
            self._run_unit(
                program,
                unit,
                name,
                rows,
                f"{name}-search",
                opened=opened,
                closed=closed,
            )

    def _keep(self, name, method, seed, round_, view) -> None:
        """Audits what a round leaves, and writes its ticket."""
        where = f"{name}, seed {seed}, round {round_}"
        found, mask = round_ + method.found_after, view.ticket.mask
        audit.no_empty_layer(where, mask)
        if name in methods.IMP:
            audit.pruned_are_zero(where, view.params, mask)
        anchor = self._anchor_path(name, seed)
        if round_ == 0:
            weights = view.ticket.weights
            if method.kept_weights:
                weights, _ = self.init(seed_keys(seed).init)
            files.save(anchor, (weights, view.model_state))
        elif not method.kept_weights:
            audit.same(where, view.ticket.weights, self._anchor(name, seed)[0])
        if self.config.rewind_step == 0 and not method.kept_weights:
            weights, _ = self.init(seed_keys(seed).init)
            audit.same(where, view.ticket.weights, method.scale(weights))
        if name in methods.IMP and round_:
            before = self._ticket(name, seed, found - 1).mask
            audit.nested(where, mask, before)
            if method.rates is not None:
                audit.counts(where, mask, before, method.rates)
        files.save_ticket(
            self._ticket_path(name, seed, found),
            view.ticket,
            method=name,
            seed=seed,
            round=found,
            density=float(masks.density(mask)),
            **common.environment(),
        )

    def _train(
        self, name: str, todo: Sequence[Lane], method: methods.Method | None = None
    ) -> None:
        """Trains tickets and controls under their masks."""
        begin_step = self.config.rewind_step if method and method.resumes else 0
        plan = self._plan(1, begin=begin_step)
        for index, group in enumerate(lanes.groups(todo, self.layout.width)):
            keys = [seed_keys(lane.seed) for lane in group]

            def begin(group=group, keys=keys):
                tickets, states = [], []
                for lane in group:
                    ticket, state = self._treated(name, lane, method)
                    tickets.append(ticket)
                    states.append(state)
                search_keys = jnp.stack([k.search for k in keys])
                return (
                    search_keys,
                    resumable.together(tickets),
                    resumable.together(states),
                )

            def closed(_, view, group=group):
                for lane, one in zip(group, resumable.apart(view), strict=True):
                    where = f"{name}, {lane.treatment} of {lane}, round {lane.round}"
                    audit.pruned_are_zero(where, one.params, one.ticket.mask)

            what = "dense network" if name == "dense" else "tickets and controls"
            unit = resumable.Unit(
                f"{name}, training {what}",
                [f"the {lane.treatment} of {lane}" for lane in group],
                begin,
                self._round_keys(keys, [lane.round for lane in group]),
                plan,
            )
            folder = f"{name}-train-{index:03d}"
            self._run_unit(self.fixed, unit, name, group, folder, closed=closed)

    def _treated(self, name: str, lane: Lane, method) -> tuple[Ticket, Params]:
        """What a lane trains: the ticket, or a control shown to differ from it."""
        keys = seed_keys(lane.seed)
        if lane.treatment == "dense":
            weights, state = self.init(keys.init)
            return Ticket(weights, masks.full(weights)), state
        ticket = self._ticket(name, lane.seed, lane.round)
        anchor, state = self._anchor(name, lane.seed)
        if lane.treatment == "ticket":
            return ticket, state
        # Shuffling needs values for weights that the ticket's own file leaves out.
        ticket = ticket._replace(weights=anchor)
        key = jax.random.fold_in(keys.controls, CONTROLS.index(lane.treatment))
        key = jax.random.fold_in(key, lane.round)
        control, fresh_state = self._controls(
            lane.treatment, key, ticket, state, method.scale
        )
        where = f"{name}, {lane.treatment} of {lane}, round {lane.round}"
        by = {"reinitialise": "weights", "shuffle": "mask", "random": "both"}
        audit.differs(where, control, ticket, by=by[lane.treatment])
        return control, fresh_state

    def _control(self, treatment, key, ticket, state, scale):
        def draw(key):
            return scale(self.model.init(key, self.example)[0])

        if treatment == "shuffle":
            return controls.shuffle(key, ticket), state
        _, state = self.model.init(key, self.example)
        return getattr(controls, treatment)(key, ticket, draw), state

    def _round_keys(self, keys: Sequence[Keys], rounds: Sequence[int] | None = None):
        """Data order and noise: of the seed and the number of prunings alone."""
        stacked = jnp.stack([k.data for k in keys])
        fold = jax.jit(jax.vmap(jax.random.fold_in))

        def of(round_):
            numbers = [round_] * len(keys) if rounds is None else rounds
            return fold(stacked, jnp.asarray(numbers, jnp.uint32))

        return of

    def _run_unit(self, program, unit, name, group, folder, **hooks) -> None:
        """Runs a unit, logs its metrics as they come, and adds its rows."""
        real = list(dict.fromkeys(group))  # padding repeats a lane
        dense = _trains_dense(name) and group[0].treatment == "ticket"

        def at(lane, round_):
            if lane.treatment in ("ticket", "search") and "search" in folder:
                lane = lane._replace(round=round_)
            if dense and lane.round == 0:
                return "dense", lane._replace(treatment="dense")
            return name, lane

        def watch(stretch, index, metrics):
            for i, lane in enumerate(real):
                method, lane = at(lane, stretch.round)
                values = {k: _number(v[i]) for k, v in metrics.items()}
                line = {
                    "method": method,
                    "treatment": lane.treatment,
                    "seed": lane.seed,
                    "round": lane.round,
                    "step": stretch.last,
                    **values,
                }
                self.log.write(json.dumps(line, allow_nan=False) + "\n")
            self.log.flush()
            self.progress.advance(unit.name, stretch, metrics, ends=stretch.ends)

        outcome = resumable.run(
            program,
            unit,
            self.data,
            self.folder / "work" / f"{folder}-{group[0].seed:03d}",
            config={"lanes": [list(lane) for lane in group]},
            save_seconds=self.config.save_seconds,
            watch=watch,
            **hooks,
        )
        for i, lane in enumerate(real):
            for round_ in sorted({s.round for s in unit.plan}):
                method, named = at(lane, round_)
                if named.treatment != "search":
                    self.rows.append(
                        self._row(
                            method, named, unit.plan, outcome, i, round_, len(real)
                        )
                    )
        self._write_results()

    def _row(self, method, lane, plan, outcome, i, round_, lanes_) -> dict:
        where = [k for k, stretch in enumerate(plan) if stretch.round == round_]
        curves = {name: values[where, i] for name, values in outcome.metrics.items()}
        best = int(np.argmin(curves["validation_loss"]))
        final = {name: _number(curve[-1]) for name, curve in curves.items()}
        return {
            "method": method,
            "treatment": lane.treatment,
            "seed": lane.seed,
            "round": lane.round,
            "density": final["density"],
            "test_accuracy": final["test_accuracy"],
            "validation_accuracy": final["validation_accuracy"],
            "early_stopping_step": plan[where[best]].last,
            "early_stopping_test_accuracy": _number(curves["test_accuracy"][best]),
            "train_loss": final["train_loss"],
            "steps": sum(plan[k].last - plan[k].first for k in where),
            "search_steps": lane.round * self.steps,
            "seconds": round(float(outcome.seconds[where].sum()) / lanes_, 3),
        }

    def _write_results(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, statistics.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        common.write(self.folder / "results.csv", text.getvalue())

    def _ticket_path(self, name: str, seed: int, round_: int) -> Path:
        return self.folder / "tickets" / name / f"seed-{seed}-round-{round_}.npz"

    def _anchor_path(self, name: str, seed: int) -> Path:
        return self.folder / "work" / "anchors" / f"{name}-seed-{seed}.npz"

    def _ticket(self, name: str, seed: int, round_: int) -> Ticket:
        like, _ = jax.eval_shape(self.init, jax.random.key(0))
        path = self._ticket_path(name, seed, round_)
        return jax.tree.map(np.asarray, files.load_ticket(path, like)[0])

    def _anchor(self, name: str, seed: int) -> tuple[Params, Params]:
        like = jax.eval_shape(self.init, jax.random.key(0))
        return files.load(self._anchor_path(name, seed), like)[0]


def _trains_dense(name: str) -> bool:
    """Whether the first round of a search is the training of the dense network."""
    return name in methods.IMP


def _number(value) -> float | None:
    """A JSON number; None for what is not finite."""
    value = float(value)
    return value if math.isfinite(value) else None
