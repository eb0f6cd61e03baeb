"""Tiny studies for the tests of experiments: a narrow network, two devices, no report.

Studies that agree in their lengths, their optimiser and their lanes have programs in
common, which are compiled once: tests keep to `TINY` where they can.

    python tests/studies.py DOOR FAULT [flags]

runs one from a command line, with a fault on the way, see `faulty`.
"""

import contextlib
import functools
import importlib
import itertools
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import short_hash
from absl import flags

from experiments import report
from experiments.study import command, shelf
from experiments.study.outputs import Claim
from jaxticket import masks, models, order
from jaxticket.base import Ticket
from jaxticket.data import streams
from jaxticket.engine import keys, layouts, resumable
from jaxticket.models.plain import MLP

ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "dataset": "digits",
    "seeds": 2,
    "epochs": 2,
    "batch_size": 60,
    "learning_rate": 4e-3,
    "learning_rate_drops": (),
    "lanes": "1",
}
FLAGS = [f"--{k}={x}" for k, x in TINY.items() if x != ()]
READ, WRITE = report.read, report.write  # the real ones, for those who want a page
CLOCKS = ["seconds", "search_seconds"]


def narrow(name, num_classes=10, **options):
    """In place of `models.create`: one hidden layer, of 16, whatever the name."""
    del name
    options.pop("width", None)
    return models.from_linen(MLP(num_classes, hidden=(16,), **options))


@contextlib.contextmanager
def tiny(devices=2):
    """Networks are narrow and there are two devices; reports are not written.

    Args:
      devices: as many instead; None: as there are.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "create", narrow)
        if devices is not None:
            patch.setattr(layouts.jax, "device_count", lambda: devices)
        for name in ("read", "write", "show"):
            patch.setattr(report, name, lambda folder, **_: None)
        yield patch


def door(name):
    """The module of an experiment."""
    return importlib.import_module(f"experiments.{name}")


def run(name, folder, **changes):
    """Runs a study; returns its rows as a table."""
    config = door(name).Config(**{**TINY, "output_dir": str(folder), **changes})
    return pd.DataFrame(door(name).experiment(config))


def page(folder):
    """The page of a run, written."""
    WRITE(READ(folder))
    return (Path(folder) / "report.html").read_text()


def select(rows, **values):
    """The rows that have these values, in order."""
    for name, value in values.items():
        rows = rows[rows[name] == value]
    return rows.reset_index(drop=True)


def assert_same(ours, theirs, *, but=()):
    """Rows of the same numbers, to the last bit, the clocks' apart."""
    names = [*CLOCKS, *but]
    pd.testing.assert_frame_equal(
        ours.drop(columns=names).reset_index(drop=True),
        theirs.drop(columns=names).reset_index(drop=True),
        check_exact=True,
    )


def assert_same_tickets(ours, theirs):
    """Files of the same arrays in two folders, to the last bit."""
    names = sorted(path.relative_to(theirs) for path in theirs.rglob("tickets/*/*"))
    assert names
    for name in names:
        with np.load(ours / name) as one, np.load(theirs / name) as other:
            arrays = [n for n in other.files if n != "index.json"]
            assert [n for n in one.files if n != "index.json"] == arrays
            for array in arrays:
                assert one[array].tobytes() == other[array].tobytes()


def network(folder=None, prunable=masks.is_kernel):
    """The dense network of the digits, of seed 0's shapes: a ticket of all weights."""
    init = narrow("").init
    weights, model_state = jax.eval_shape(
        init, jax.random.key(0), np.zeros((1, 8, 8, 1))
    )
    mask = jax.eval_shape(lambda w: masks.full(w, prunable), weights)
    like = Ticket(weights, mask, model_state)
    return like if folder is None else shelf.Shelf(Path(folder), like, Claim())


def stretches_taken(patch):
    """Counts the stretches of steps that are taken, as the length of a list."""
    taken, real = [], resumable._with

    def counts(*arguments):
        taken.append(1)
        return real(*arguments)

    patch.setattr(resumable, "_with", counts)
    return taken


def started(name, fault, folder, *flags):
    """A program of its own for a study; see above."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(jax.config.jax_num_cpu_devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    program = [sys.executable, __file__, name, fault, f"--output_dir={folder}"]
    return subprocess.run(
        [*program, *flags],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def faulty(patch, fault):
    """Something goes wrong in a study.

    Args:
      patch: of pytest.
      fault: `SIGKILL:N`, or another signal, comes in the N-th stretch of steps;
        `read:N` is SIGKILL while the N-th batch of what streams is read; `nan` spoils
        the initial weights of all seeds, `nan:N` those of seed N.
    """
    kind, _, at = fault.partition(":")
    if kind == "read":
        reads, read = itertools.count(1), streams.Reader.__call__

        def killed(*arguments):
            if next(reads) == int(at):
                signal.raise_signal(signal.SIGKILL)
            return read(*arguments)

        patch.setattr(streams.Reader, "__call__", killed)
        return
    if kind == "nan":
        model = narrow("")
        chosen = keys.of_seed(int(at)).init if at else None

        def init(key, x):
            weights, state = model.init(key, x)
            here = (
                True
                if chosen is None
                else jax.numpy.all(
                    jax.random.key_data(key) == jax.random.key_data(chosen)
                )
            )
            spoil = jax.numpy.where(here, np.nan, 1)
            return jax.tree.map(lambda w: w * spoil, weights), state

        patch.setattr(models, "create", lambda *_, **__: model._replace(init=init))
        return
    stretches, real = [], resumable._with

    def taken(*arguments):
        stretches.append(at)
        if len(stretches) == int(at):
            signal.raise_signal(signal.Signals[kind])
        return real(*arguments)

    patch.setattr(resumable, "_with", taken)


def shell(patch, name, *given, experiment=None):
    """What a command line does, in this process, with flags of its own.

    Args:
      patch: of pytest.
      name: of the experiment.
      *given: flags.
      experiment: in place of the experiment's own.

    Returns:
      The flags.
    """
    values = flags.FlagValues()
    flags.DEFINE_integer("verbosity", -1, "", flag_values=values)
    define = {
        kind: functools.partial(f, flag_values=values)
        for kind, f in command._DEFINE.items()
    }
    patch.setattr(command, "_DEFINE", define)
    named = types.SimpleNamespace(FLAGS=values, Error=flags.Error)
    patch.setattr(command, "flags", named)
    patch.setattr(
        command.app, "run", lambda run, flags_parser: run(flags_parser([name, *given]))
    )
    patch.setattr(command.logging, "set_verbosity", lambda _: None)
    patch.setattr(sys, "argv", [name, *given])
    command.main(experiment or door(name).experiment, door(name).Config)
    return values


def main():
    name, fault, *given = sys.argv[1:]
    sys.argv = [name, *given]
    module = door(name)
    short_hash.hurry()
    with tiny(None if os.environ.get("STUDIES_DEVICES") == "all" else 2) as patch:
        patch.setattr(order, "ROUNDS", 2)  # as in the tests
        faulty(patch, fault)
        command.main(module.experiment, module.Config)


if __name__ == "__main__":
    main()
