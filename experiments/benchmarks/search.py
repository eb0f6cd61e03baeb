"""A whole IMP search of MNIST's size, a test after every epoch: seconds a ticket."""

import tempfile
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import arithmetic, lenet, measure, tasks, trainer
from experiments.benchmarks.bench import Bench, layout, place
from jaxticket import data
from jaxticket.engine import lanes, programs, resumable

# Seconds a ticket on two CPU cores, for reference and not measured here: a twentieth of
# the 200 that open_lth takes, and what a prototype took with two seeds on two devices.
TARGET = 10.0
PROTOTYPE = 7.9


def rows(bench: Bench) -> Iterator[measure.Row]:
    """By the number of seeds; and the time that the arithmetic alone would take."""
    sizes = bench.sizes
    found = images(bench)
    what = tasks.on(found.train, "mnist", lenet.MODEL, sizes.batch_size)
    steps = len(found.train.labels) // sizes.batch_size * sizes.epochs
    plan = resumable.stretches(sizes.rounds, steps, steps // sizes.epochs)
    count = steps * sizes.batch_size * sizes.rounds
    tests = len(plan) * len(found.held_out.labels)
    # A test is a forward pass, half of a step: the first layer has no input gradient.
    training = arithmetic.flops(lenet.MODEL, sizes.batch_size)
    flops = count * training + tests * training / 2
    for seeds in sizes.search_seeds:
        devices, width = place(seeds)
        search = Search(what, found, seeds, layout(devices, width))
        name = f"seeds {seeds}, devices {devices}"
        taken = measure.once(lambda search=search: search.compile(rounds=2))
        yield measure.number(f"{name}: compilation", "s", taken)
        again = measure.compilations(
            lambda search=search: search.compile(rounds=sizes.rounds)
        )
        yield measure.number(
            f"{name}: compiled again for {sizes.rounds} rounds", "", again
        )
        rate, _, work = lenet.throughput(bench, seeds=seeds)
        measure.once(rate)
        times = bench.together(
            {"search": lambda search=search: search.run(plan), "rate": rate},
            repeats=max(1, bench.repeats // 2),
            warm_up=False,
        )
        floor = times["rate"].median * flops / work * seeds
        yield measure.cost(
            f"{name}: a ticket",
            times["search"],
            "s",
            per=seeds,
            also={
                "arithmetic alone": floor / seeds,
                "of arithmetic": times["search"].median / floor,
                "of 10 s": times["search"].median / seeds / TARGET,
                "of 7.9 s": times["search"].median / seeds / PROTOTYPE,
            },
        )


def images(bench: Bench) -> programs.Data:
    """MNIST where `--data_dir` has it, or noise of its shape."""
    if bench.data_dir is None:
        return programs.Data(
            tasks.random_images("mnist", bench.sizes.train_images),
            tasks.random_images("mnist", bench.sizes.test_images, seed=1),
        )
    mnist = data.load("mnist", data_dir=bench.data_dir)
    both = zip(mnist.train, mnist.validation, strict=True)
    return programs.Data(data.Split(*map(np.concatenate, both)), mnist.test)


class Search:
    """The search of some seeds, group after group, by the loop of the experiments."""

    def __init__(self, what, dataset, seeds, where, method="imp"):
        self.what = what
        self.program = trainer.search_program(what, where, method)
        self.data = lanes.everywhere(where, dataset)
        self.groups = lanes.groups(range(seeds), where.width)
        self.init = jax.jit(jax.vmap(what.init))

    def compile_stretch(self):
        """Compiles the stretch; the bytes that it takes on each device."""
        keys = jax.random.split(jax.random.key(0), len(self.groups[0]))
        tickets = jax.eval_shape(jax.vmap(self.what.init), keys)
        self.program, size = programs.compiled(
            self.program, keys, tickets, (), keys, self.data
        )
        return size

    def compile(self, rounds):
        """Runs everything that there is to compile, in rounds of one step."""
        plan = [resumable.Stretch(round_, 0, 1, True) for round_ in range(rounds)]
        return self.run(plan, groups=1)

    def run(self, plan, groups=None):
        return [self._group(group, plan) for group in self.groups[:groups]]

    def _group(self, group, plan):
        keys = jnp.stack([jax.random.key(seed) for seed in group])

        def round_keys(round_):
            return jax.vmap(jax.random.fold_in, (0, None))(keys, round_)

        unit = resumable.Unit(
            len(group),
            lambda: self.program.start(keys, self.init(keys), ()),
            round_keys,
            plan,
        )
        with tempfile.TemporaryDirectory() as folder:
            *_, finished = resumable.run(
                self.program, unit, self.data, folder, config={}
            )
        return finished.metrics
