"""One study: searches over seeds, their tickets and controls trained and audited."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study.jobs import TRAINING, TUNING, Job, Jobs
from experiments.study.progress import Progress
from experiments.study.records import Lane, Records
from experiments.study.settings import Settings
from experiments.study.shelf import Shelf
from experiments.study.study import gradients, methods
from jaxticket import classification, data, models
from jaxticket.base import Params, PRNGKey, Search, Ticket
from jaxticket.engine import lanes, programs, resumable
from jaxticket.training import ModelState

METRICS = ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
TRIALS, TRIAL_SECONDS = 3, 0.5  # how often, and about how long, a layout is tried


class Study:
    """Everything that the trainings of a run share.

    Attributes:
      jobs: the work.
      records: what came out; `records.rows` are the rows of `results.csv`.

    Args:
      config: resolved.
      dataset: what to train on.
      layout: where the lanes are.
      build: what makes a `Method` of each name, as `ticket_methods.method` does.
    """

    def __init__(
        self,
        config: Settings,
        dataset: data.Dataset,
        layout: lanes.Layout,
        build: Callable[..., methods.Method],
    ):
        epoch_steps = len(dataset.train.labels) // config.batch_size
        self.config = config = config.in_steps(epoch_steps)
        self.folder = Path(config.output_dir)
        self.layout = layout
        options = (
            {} if config.dtype == "float32" else {"dtype": jnp.dtype(config.dtype)}
        )
        model = models.create(config.model, dataset.num_classes, **options)
        prepare = data.normalizer(
            config.normalization, dataset.train.images, name=dataset.name
        )
        example = prepare(jnp.asarray(dataset.train.images[:1]))
        self.init = jax.jit(lambda key: model.init(key, example))
        if config.pretrained is not None:
            given = models.pretrained.load(
                config.pretrained,
                config.model,
                num_classes=dataset.num_classes,
                image=example.shape[1:],
            )
            self.init = lambda key: given  # of every seed
        self.loss_fn = functools.partial(
            classification.cross_entropy,
            model,
            prepare=prepare,
            augment=data.augment if config.augment else None,
        )
        self._gradient = jax.jit(
            gradients.mean_gradient(self.loss_fn(train=False, augment=None))
        )
        self.metrics_of = classification.evaluator(model, prepare=prepare)
        self.data = programs.Data(dataset.train, (dataset.validation, dataset.test))
        like = jax.eval_shape(self.init, jax.random.key(0))
        found = {
            name: build(
                name, config, like[0], steps=config.steps, epoch_steps=epoch_steps
            )
            for name in config.methods
        }
        shelf = Shelf(self.folder, *like)
        self.jobs = Jobs(config, found, shelf, self.init, self.gradient, layout.width)
        self.programs = {name: self._searcher(m) for name, m in found.items()}
        self.programs[TRAINING] = self._program(
            methods.trainer(config), ticket_model="trained"
        )
        if any(method.tune_steps for method in found.values()):
            self.programs[TUNING] = self._program(methods.tuner(config))
        self.records = Records(self.folder, epoch_steps)

    def gradient(self, weights: Params, model_state: ModelState) -> Params:
        """That of the mean loss on training images, in evaluation mode."""
        return self._gradient(weights, model_state, gradients.first(self.data.train))

    def compile(self) -> int:
        """Compiles all programs; returns the bytes a device needs for the largest."""
        keys = jax.eval_shape(self._any_keys)
        sizes = []
        for name, program in self.programs.items():
            start = jax.eval_shape(functools.partial(self._any_start, name), keys)
            compiled, size = programs.compiled(program, *start, keys, self.data)
            self.programs[name] = compiled
            sizes.append(size)
        return max(sizes)

    def trial(self) -> float:
        """Seconds that a step of all lanes takes, in the search of the first method."""
        name, program = next(iter(self.programs.items()))
        keys, everywhere = self._any_keys(), lanes.everywhere(self.layout, self.data)
        carry = program.start(*self._any_start(name, keys))

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
        steps = min(self.config.steps, max(1, int(TRIAL_SECONDS / max(once, 1e-6))))
        return (min(taken(steps) for _ in range(TRIALS)) - overhead) / steps

    def _any_keys(self) -> PRNGKey:
        return jax.random.split(jax.random.key(0), self.layout.width)

    def _any_start(self, name: str, keys: PRNGKey) -> tuple:
        """What a program starts from: as long as there are lanes."""
        weights, states = jax.vmap(self.init)(keys)
        mask = jax.vmap(lambda w: methods.full(self.config, w))(weights)
        lanes = self.layout.width
        if name == TUNING:
            settings = ()
        elif name == TRAINING:
            settings = self.jobs.multipliers([Lane("dense", "dense", 0, 0)] * lanes)
        else:
            values = self.jobs.methods[name].settings[0].values
            settings = resumable.together([values] * lanes)
        return keys, Ticket(weights, mask), states, settings

    def run(self) -> None:
        """The whole study. What an earlier call finished is not done again."""
        self.data = lanes.everywhere(self.layout, self.data)
        jobs = list(self.jobs.all())
        progress = Progress(sum(len(job.unit.plan) for job in jobs))
        with self.records, progress:
            for job in jobs:
                self._do(job, progress)

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
            self.programs[job.program],
            job.unit,
            self.data,
            self.folder / "work" / job.folder,
            config={"lanes": [list(lane) for lane in job.lanes_of(0)]},
            save_seconds=self.config.save_seconds,
            watch=watch,
            **job.hooks,
        )
        self.records.found(job.finds, plan, outcome.seconds)
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

    def _program(
        self,
        search: Callable[[Any], Search],
        *,
        train: bool = True,
        names: Sequence[str] = (),
        **options: Any,
    ) -> programs.Program:
        def evaluate(params, model_state, held_out):
            both = [self.metrics_of(params, model_state, split) for split in held_out]
            return dict(zip(METRICS, (x for m in both for x in m), strict=True))

        return programs.program(
            search,
            self.loss_fn(train=train),
            evaluate,
            (*METRICS, *names),
            self.layout,
            batch_size=self.config.batch_size,
            **options,
        )

    def _searcher(self, method: methods.Method) -> programs.Program:
        def measure(before, after):
            return {name: f(before, after) for name, f in method.measures.items()}

        return self._program(
            method.search,
            train=self.config.batch_statistics == "free",
            names=tuple(method.measures),
            measure=measure,
            rewind_step=method.rewind_step,
            rewind_model=method.rewinds,
            ticket_model=method.ticket_model,
        )
