"""Searches compiled for all lanes of a layout.

A `Program` is one kind of search, compiled; each lane may have numbers of its own, its
settings. `resumable.run` drives it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxticket import lanes, masks, memory, training
from jaxticket.base import Params, PRNGKey, Search, State, Ticket

Settings = Any  # a pytree of numbers that lanes may differ by; () where there are none


class View(NamedTuple):
    """What there is to see of a search between stretches; every leaf `[lanes, ...]`."""

    params: Params
    ticket: Ticket
    model_state: training.ModelState  # that belongs to the ticket's weights


class Program(NamedTuple):
    """One kind of search over all lanes: its compiled moves.

    The settings of the lanes are part of the carry.

    Attributes:
      start: `(keys, tickets, model_states, settings) -> carry`.
      stretch: `(carry, round_keys, data, first, last, round) -> (carry, metrics)`;
        `carry` is donated.
      next_round: `carry -> carry`, donated.
      view: `carry -> View`.
      metrics: the names of what a stretch measures.
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
    evaluate: Callable[[Params, training.ModelState, Any], dict],
    names: Sequence[str],
    layout: lanes.Layout,
    *,
    batch_size: int,
    rewind_step: int = 0,
    rewind_model: bool = True,
    ticket_model: Literal["early", "trained"] = "early",
    measure: Callable[[State, State], dict] = lambda before, after: {},
) -> Program:
    """Compiles a search for a layout.

    Args:
      search: the settings of a lane -> its search, written for one lane as all are. The
        settings are traced: one program serves all their values, side by side.
      loss_fn: `(params, model_state, batch, key) -> (loss, model_state)`.
      evaluate: `(params, model_state, held_out) -> {name: scalar}`, after every
        stretch.
      names: the names that `evaluate` and `measure` return.
      layout: where the lanes are.
      batch_size: rows per step.
      rewind_step: step of round 0 whose model state belongs to the ticket.
      rewind_model: whether the model state returns there when a round ends.
      ticket_model: the model state of a `View`: `early` is that of the rewinding step,
        `trained` that of now, for tickets with trained weights.
      measure: `(before, after) -> {name: scalar}` of the search's states around every
        stretch.
    """

    def start(key, ticket, model_state, settings):
        return settings, training.start(search(settings), key, ticket, model_state)

    def stretch(carry, key, data, first, last, round):
        settings, carry = carry
        ours, before = search(settings), carry.search
        carry, loss = training.steps(
            ours,
            loss_fn,
            carry,
            key,
            data.train,
            first=first,
            last=last,
            round=round,
            batch_size=batch_size,
            rewind_step=rewind_step,
        )
        params = ours.params(carry.search)
        return (settings, carry), {
            "density": masks.density(ours.ticket(carry.search).mask),
            "train_loss": loss,
            **evaluate(params, carry.model, data.held_out),
            **measure(before, carry.search),
        }

    def next_round(carry):
        settings, carry = carry
        return settings, training.next_round(
            search(settings), carry, rewind_model=rewind_model
        )

    def view(carry):
        settings, carry = carry
        ours = search(settings)
        model = carry.model_anchor if ticket_model == "early" else carry.model
        return View(ours.params(carry.search), ours.ticket(carry.search), model)

    return Program(
        ("density", "train_loss", *names),
        lanes.mapped(layout, start, (True,) * 4),
        lanes.mapped(layout, stretch, (True, True) + (False,) * 4, donate=(0,)),
        lanes.mapped(layout, next_round, (True,), donate=(0,)),
        lanes.mapped(layout, view, (True,)),
    )


def compiled(
    program: Program,
    keys: PRNGKey,
    tickets: Ticket,
    model_states: training.ModelState,
    settings: Settings,
    round_keys: PRNGKey,
    data: Data,
) -> tuple[Program, int]:
    """Compiles the stretch of a program before it is called.

    Args:
      program: from `program`.
      keys, tickets, model_states, settings: what it starts from, or their shapes and
        dtypes.
      round_keys: `[lanes]`, or their shape and dtype.
      data: likewise; need not be on the devices.

    Returns:
      The program with its stretch compiled, and the bytes that it takes on each device,
      see `memory.footprint`.
    """
    carry = jax.eval_shape(program.start, keys, tickets, model_states, settings)
    numbers = [jax.ShapeDtypeStruct((), np.int32)] * 3
    stretch = program.stretch.lower(carry, round_keys, data, *numbers).compile()
    return program._replace(stretch=stretch), memory.footprint(stretch)
