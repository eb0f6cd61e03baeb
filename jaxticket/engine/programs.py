"""Searches compiled for all lanes of a layout.

A `Program` is one kind of search, compiled; each lane may have numbers of its own, its
settings. `resumable.run` drives it.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import masks, training
from jaxticket.base import ModelState, Params, PRNGKey, Search, State, Ticket
from jaxticket.engine import lanes, memory

FINITE = "finite"  # of a stretch: 1 where parameters and model state of a lane are
TRIALS, TRIAL_SECONDS = 3, 0.5  # how often, and about how long, a program is timed
Settings = Any  # a pytree of numbers that lanes may differ by; () where there are none


class View(NamedTuple):
    """What there is to see of a search between stretches; every leaf `[lanes, ...]`."""

    params: Params
    ticket: Ticket  # with the model state of its weights
    model_state: ModelState  # that of now, which goes with the parameters


class Program(NamedTuple):
    """One kind of search over all lanes: its compiled moves.

    The settings of the lanes are part of the carry.

    Attributes:
      start: `(keys, tickets, settings) -> carry`.
      stretch: `(carry, round_keys, data, first, last, round) -> (carry, metrics)`;
        `carry` is donated.
      next_round: `(carry, data) -> carry`; `carry` is donated.
      view: `carry -> View`.
      metrics: the names of what a stretch measures, besides `FINITE`.
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


def program(
    search: Callable[[Settings], Search],
    loss_fn: training.LossFn,
    evaluate: Callable[[Params, ModelState, Any], dict],
    names: Sequence[str],
    layout: lanes.Layout,
    *,
    batch_size: int,
    evidence: Callable[[Any], training.EvidenceFn] | None = None,
    observe: Callable[[Search], Callable[[State, State], dict]] | None = None,
) -> Program:
    """Compiles a search for a layout.

    Args:
      search: the settings of a lane -> its search, written for one lane as all are. The
        settings are traced: one program serves all their values, side by side.
      loss_fn: `(params, model_state, batch, key) -> (loss, model_state)`.
      evaluate: `(params, model_state, held_out) -> {name: scalar}`, after every
        stretch.
      names: the names that `evaluate` and `observe` return.
      layout: where the lanes are.
      batch_size: rows per step.
      evidence: training data -> what a search may look at when it prunes.
      observe: search -> `(state, next_state) -> {name: scalar}`, averaged over the
        steps of a stretch.
    """

    def start(key, ticket, settings):
        return settings, training.start(search(settings), key, ticket)

    def stretch(carry, key, data, first, last, round):
        settings, carry = carry
        ours = search(settings)
        carry, loss, observed = training.steps(
            ours,
            loss_fn,
            carry,
            key,
            data.train,
            first=first,
            last=last,
            round=round,
            batch_size=batch_size,
            **({} if observe is None else {"observe": observe(ours)}),
        )
        params = ours.params(carry.search)
        return (settings, carry), {
            "density": masks.density(ours.ticket(carry.search).mask),
            "train_loss": loss,
            FINITE: training.all_finite((params, carry.model)).astype(np.float32),
            **evaluate(params, carry.model, data.held_out),
            **(observed or {}),
        }

    def next_round(carry, data):
        settings, carry = carry
        known = None if evidence is None else evidence(data.train)
        return settings, training.next_round(search(settings), carry, known)

    def view(carry):
        settings, carry = carry
        ours = search(settings)
        return View(ours.params(carry.search), training.found(ours, carry), carry.model)

    return Program(
        ("density", "train_loss", *names),
        lanes.mapped(layout, start, (True,) * 3),
        lanes.mapped(layout, stretch, (True, True) + (False,) * 4, donate=(0,)),
        lanes.mapped(layout, next_round, (True, False), donate=(0,)),
        lanes.mapped(layout, view, (True,)),
    )


def compiled(
    program: Program,
    keys: PRNGKey,
    tickets: Ticket,
    settings: Settings,
    round_keys: PRNGKey,
    data: Data,
) -> tuple[Program, int]:
    """Compiles the stretch of a program before it is called.

    Args:
      program: from `program`.
      keys, tickets, settings: what it starts from, or their shapes and
        dtypes.
      round_keys: `[lanes]`, or their shape and dtype.
      data: likewise; need not be on the devices.

    Returns:
      The program with its stretch compiled, and the bytes that it takes on each device,
      see `memory.footprint`.
    """
    carry = jax.eval_shape(program.start, keys, tickets, settings)
    numbers = [jax.ShapeDtypeStruct((), np.int32)] * 3
    stretch = program.stretch.lower(carry, round_keys, data, *numbers).compile()
    return program._replace(stretch=stretch), memory.footprint(stretch)


def seconds_a_step(
    program: Program, carry: Any, round_keys: PRNGKey, data: Data, *, most: int
) -> float:
    """How long a step of all lanes takes, from a short trial.

    Args:
      program: from `program`, or `compiled`.
      carry: what it starts from; donated.
      round_keys: `[lanes]`.
      data: on the devices.
      most: steps that a stretch may have.
    """

    def taken(steps):
        nonlocal carry
        begun = time.perf_counter()
        numbers = (np.int32(x) for x in (0, steps, 0))
        carry, metrics = program.stretch(carry, round_keys, data, *numbers)
        jax.block_until_ready(metrics)
        return time.perf_counter() - begun

    taken(1)  # whatever a first call does besides
    overhead = min(taken(0) for _ in range(TRIALS))
    once = min(taken(1) for _ in range(TRIALS)) - overhead
    steps = min(most, max(1, int(TRIAL_SECONDS / max(once, 1e-6))))
    return (min(taken(steps) for _ in range(TRIALS)) - overhead) / steps
