"""Searches compiled for all lanes of a layout.

A `Program` is one kind of search, compiled, over whose numbers lanes may sweep.
`resumable.run` drives it.
"""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import masks, training
from jaxticket.base import ModelState, Params, PRNGKey, Search, State, Ticket
from jaxticket.data import streams as streaming
from jaxticket.engine import lanes, memory
from jaxticket.engine.keys import named

FINITE = "finite"  # of a stretch: 1 where parameters and model state of a lane are
TRIALS, TRIAL_SECONDS = 3, 0.5  # how often, and about how long, a program is timed
Swept = Any  # a pytree of numbers that lanes may differ by; () where there are none


class View(NamedTuple):
    """What there is to see of a search between stretches; every leaf `[lanes, ...]`."""

    params: Params
    ticket: Ticket  # with the model state of its weights
    model_state: ModelState  # that of now, which goes with the parameters


class Program(NamedTuple):
    """One kind of search over all lanes: its compiled moves.

    The swept numbers of the lanes are part of the carry.

    Attributes:
      metrics: the names of what a stretch measures, besides `FINITE`.
      start: `(keys, tickets, swept) -> carry`.
      stretch: `(carry, round_keys, data, first, last, round) -> (carry, metrics)`;
        `carry` is donated.
      next_round: `(carry, data) -> carry`; `carry` is donated.
      view: `carry -> View`.
    """

    metrics: tuple[str, ...]
    start: Callable
    stretch: Callable
    next_round: Callable
    view: Callable


class Data(NamedTuple):
    """What a program trains on, and what `evaluate` is given."""

    train: Any  # arrays with one row an example, or a `streams.Stream` of such
    held_out: Any


def program(
    search: Callable[[Swept], Search],
    loss_fn: training.LossFn,
    evaluate: Callable[[Params, ModelState, Any], dict],
    names: Sequence[str],
    layout: lanes.Layout,
    *,
    batch_size: int,
    evidence: Callable[[Any], training.EvidenceFn] | None = None,
    observe: Callable[[Search], Callable[[State, State], dict]] | None = None,
    streams: bool = False,
) -> Program:
    """Compiles a search for a layout.

    Args:
      search: the swept numbers of a lane -> its search, written for one lane as all
        are. They are traced: one program serves all their values, side by side.
      loss_fn: `(params, model_state, batch, key) -> (loss, model_state)`.
      evaluate: `(params, model_state, held_out) -> {name: scalar}`, after every
        stretch.
      names: the names that `evaluate` and `observe` return.
      layout: where the lanes are.
      batch_size: rows per step.
      evidence: training data -> what a search may look at when it prunes.
      observe: search -> `(state, next_state) -> {name: scalar}`, averaged over the
        steps of a stretch.
      streams: the training data are a `streams.Stream`, of which the devices hold a
        window of batches at a time: the same numbers, to the last bit.
    """

    def start(key, ticket, swept):
        return swept, training.start(search(swept), key, ticket)

    def options(swept):
        ours = search(swept)
        return ours, {} if observe is None else {"observe": observe(ours)}

    def taken(carry, totals, key, rows, first, last, round):
        swept, carry = carry
        ours, observed = options(swept)
        carry, totals = training.sums(
            ours,
            loss_fn,
            carry,
            totals,
            key,
            rows,
            first=first,
            last=last,
            round=round,
            batch_size=batch_size,
            **observed,
        )
        return (swept, carry), totals

    def looked_at(carry, totals, held_out, first, last):
        swept, carry = carry
        ours = search(swept)
        loss, observed = training.means(totals, first, last)
        params = ours.params(carry.search)
        return {
            "density": masks.density(ours.ticket(carry.search).mask),
            "train_loss": loss,
            FINITE: training.all_finite((params, carry.model)).astype(np.float32),
            **evaluate(params, carry.model, held_out),
            **(observed or {}),
        }

    def nothing(carry):
        swept, carry = carry
        ours, observed = options(swept)
        return training.nothing(ours, carry, **observed)

    def stretch(carry, key, data, first, last, round):
        carry, totals = taken(carry, None, key, data.train, first, last, round)
        return carry, looked_at(carry, totals, data.held_out, first, last)

    def next_round(carry, data):
        swept, carry = carry
        train = streaming.leading(data.train)
        known = None if evidence is None else evidence(train)
        return swept, training.next_round(search(swept), carry, known)

    def view(carry):
        swept, carry = carry
        ours = search(swept)
        return View(ours.params(carry.search), training.found(ours, carry), carry.model)

    if streams:
        whole = _Streaming(layout, batch_size, nothing, taken, looked_at)
    else:
        batched = (True, True) + (False,) * 4
        whole = lanes.mapped(layout, stretch, batched, donate=(0,))
    return Program(
        ("density", "train_loss", *names),
        lanes.mapped(layout, start, (True,) * 3),
        whole,
        lanes.mapped(layout, next_round, (True, False), donate=(0,)),
        lanes.mapped(layout, view, (True,)),
    )


class _Streaming:
    """The stretch of a program whose training data stream, window after window.

    While the devices take the steps of one window, the host reads the next. One of
    several processes reads for its own lanes alone.
    """

    def __init__(self, layout, batch_size, nothing, taken, looked_at):
        self._layout, self._batch_size = layout, batch_size
        self._nothing = lanes.mapped(layout, nothing, (True,))

        def take(carry, totals, key, batches, begin, first, last, round):
            ready = training.Window(batches, begin)
            return taken(carry, totals, key, ready, first, last, round)

        batched = (True,) * 4 + (False,) * 4
        self._take = lanes.mapped(layout, take, batched, donate=(0,))
        batched = (True, True) + (False,) * 3
        self._look = lanes.mapped(layout, looked_at, batched)

    def __call__(self, carry, keys, data, first, last, round):
        reader, steps = data.train.reader, self._steps(data)
        totals = before = self._nothing(carry)
        own = lanes.own(self._layout, keys)
        rows, bits = self._visits(own, int(first), int(last), reader, steps)
        begin = int(first)
        for batches in reader.windows(rows, steps, bits) if rows.shape[1] else ():
            batches = lanes.spread_own(self._layout, batches)
            end = min(begin + steps, int(last))
            numbers = (np.int32(x) for x in (begin, begin, end, round))
            before, (carry, totals) = (
                totals,
                self._take(carry, totals, keys, batches, *numbers),
            )
            jax.block_until_ready(before)  # else windows pile up on the devices
            begin = end
        return carry, self._look(carry, totals, data.held_out, first, last)

    def _steps(self, data: Data) -> int:
        return streaming.window(data.train, self._batch_size * self._layout.own)

    def _visits(self, keys, first, last, reader, steps) -> tuple[np.ndarray, Any]:
        """Rows of all steps of the stretch, `[lanes, steps, batch]`, and their bits."""
        shape = (self._layout.own, 0, self._batch_size)
        nothing = np.zeros((*shape, streaming.BITS), np.uint32)
        found = [(np.zeros(shape, np.int32), nothing if reader.varies else None)]
        for begin in range(first, last, steps):  # of one length: one program
            positions = np.arange(begin, begin + steps, dtype=np.int32)
            found.append(
                _visits(keys, positions, reader.size, self._batch_size, reader.varies)
            )
        visits = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *found)
        return jax.tree.map(lambda x: x[:, : last - first], visits)

    def compiled(self, carry, keys, data: Data) -> tuple["_Streaming", int]:
        """With its programs compiled, and the bytes that they take, see `compiled`."""
        number = jax.ShapeDtypeStruct((), np.int32)
        totals = jax.eval_shape(self._nothing, carry)
        shape = (self._layout.width, self._steps(data), self._batch_size)
        batches = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*shape, *x.shape), x.dtype),
            data.train.reader.like,
        )
        take = self._take.lower(carry, totals, keys, batches, *[number] * 4).compile()
        look = self._look.lower(carry, totals, data.held_out, *[number] * 2).compile()
        ours = copy.copy(self)
        ours._take, ours._look = take, look
        window = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batches))
        another = window // self._layout.mesh.size  # on its way
        return ours, max(memory.footprint(take) + another, memory.footprint(look))


@functools.partial(jax.jit, static_argnames=("size", "batch_size", "varies"))
def _visits(keys, positions, size, batch_size, varies):
    """Those of every lane, see `training.visits`; with bits of their own, if wanted.

    The bits hang on the round's key and the step alone, as the rows do.
    """

    def of_lane(key):
        rows = training.visits(key, positions, size=size, batch_size=batch_size)
        if not varies:
            return rows, None
        key = named(key, "loader")
        steps = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
        shape = (batch_size, streaming.BITS)
        return rows, jax.vmap(lambda step: jax.random.bits(step, shape))(steps)

    return jax.vmap(of_lane)(keys)


def compiled(
    program: Program,
    keys: PRNGKey,
    tickets: Ticket,
    swept: Swept,
    round_keys: PRNGKey,
    data: Data,
) -> tuple[Program, int]:
    """Compiles the stretch of a program before it is called.

    Args:
      program: from `program`.
      keys, tickets, swept: what it starts from, or their shapes and dtypes.
      round_keys: `[lanes]`, or their shape and dtype.
      data: likewise; need not be on the devices.

    Returns:
      The program with its stretch compiled, and the bytes that it takes on each device,
      see `memory.footprint`.
    """
    carry = jax.eval_shape(program.start, keys, tickets, swept)
    if isinstance(program.stretch, _Streaming):
        stretch, size = program.stretch.compiled(carry, round_keys, data)
        return program._replace(stretch=stretch), size
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
