"""What a method of a study is: a search, and what may be expected of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.study.settings import Settings
from experiments.study.study import optimizers
from jaxticket import masks, models, searches
from jaxticket.base import Mask, Params, PRNGKey, Search, Ticket
from jaxticket.training import ModelState


class Setting(NamedTuple):
    """Numbers of a method that its lanes differ by.

    Attributes:
      label: what results call it, as "s0=0.1"; empty where there is only one.
      values: what `Method.search` is given.
      factor: what the search multiplies the weights of a ticket by.
    """

    label: str = ""
    values: Any = ()
    factor: float = 1.0


class Network(NamedTuple):
    """The values of a network, and the gradient there if a method asks for it."""

    weights: Params
    model_state: ModelState
    gradient: Params | None = None


# `(key, values, initial, trained) -> (ticket, model state)`: what a search starts from,
# with the key of the seed's controls, the values of the lane's `Setting`, and the dense
# `Network` before and after its training.
Opening = Callable[[PRNGKey, Any, Network, Network], tuple[Ticket, ModelState]]


class Method(NamedTuple):
    """A search, and the promises that its audit holds it to.

    A sequential method has one setting, and every round leaves a ticket. A parallel one
    leaves a ticket for every setting, after its last round.

    Attributes:
      search: values of a `Setting` -> the search.
      rounds: of a search.
      steps: of a round.
      settings: those of a parallel method from the densest expected ticket on.
      rewind_step: step of round 0 whose weights and model state tickets have.
      resumes_at: the step with which later rounds begin.
      trains_from: the step with which the training of a ticket begins.
      trains_ticket: whether a round trains the ticket itself, so that its results are
        the ticket's. Otherwise tickets are trained afterwards.
      found_after: prunings that a ticket read in round 0 has seen.
      hard: whether a round runs with the mask of its ticket.
      nested: whether later masks keep nothing that an earlier one has pruned.
      rewinds: whether a round begins from the ticket's weights.
      kept_weights: whether tickets carry trained weights instead of early ones.
      ticket_model: whether their model state is that of `rewind_step` or of the end.
      rates: the fraction of the survivors that a pruning keeps, of all or by leaf; None
        where the method does not promise it.
      opens: what a search starts from, see `Opening`; None: the dense network as it is
        initialised.
      needs_gradient: whether `opens` is given the gradient of the initial network.
      looks: whether there is a look before the first step.
      train_steps: of the training of a ticket; None: those of the dense network. With 0
        the ticket is tested as it is.
      tune_steps: of the training of its tickets' weights that comes in addition.
      measures: name -> `(state before, state after) -> scalar` of a stretch.
    """

    search: Callable[[Any], Search]
    rounds: int
    steps: int
    settings: tuple[Setting, ...] = (Setting(),)
    rewind_step: int = 0
    resumes_at: int = 0
    trains_from: int = 0
    trains_ticket: bool = False
    found_after: int = 1
    hard: bool = False
    nested: bool = False
    rewinds: bool = False
    kept_weights: bool = False
    ticket_model: str = "early"
    rates: dict[str, float] | float | None = None
    opens: Opening | None = None
    needs_gradient: bool = False
    looks: bool = False
    train_steps: int | None = None
    tune_steps: int = 0
    measures: dict[str, Callable[[Any, Any], jax.Array]] = {}

    @property
    def parallel(self) -> bool:
        return bool(self.settings[0].label)

    @property
    def trains_dense(self) -> bool:
        """Whether round 0 is the training of the dense network."""
        return self.hard and self.opens is None

    def number(self, setting: int, round_: int) -> int:
        """What results call the round of a ticket: of setting, or of prunings."""
        return setting + 1 if self.parallel else round_ + self.found_after

    def tickets(self) -> dict[int, tuple[Setting, int]]:
        """Number of every ticket -> its setting, and the rounds that found it."""
        if self.parallel:
            return {i: (s, self.rounds) for i, s in enumerate(self.settings, 1)}
        last = self.rounds + self.found_after
        return {i: (self.settings[0], i) for i in range(1, last)}


def full(config: Settings, params: Params) -> Mask:
    """The mask that keeps everything which may be pruned."""
    rules = {
        "kernels": masks.is_kernel,
        "hidden": models.is_hidden,
        "convolutions": models.is_convolution,
    }
    return masks.full(params, rules[config.prunable])


def fixed(config: Settings) -> Search:
    """What trains the dense network, and tickets without a multiplier."""
    return searches.fixed(optimizers.of_weights(config))


def trainer(config: Settings) -> Callable[[Any], Search]:
    """What trains all tickets: multiplier of a lane -> search, or () -> search."""
    if config.keep_multiplier:
        return lambda c: searches.fixed(optimizers.of_weights(config), multiplier=c)
    return lambda _: fixed(config)


def tuner(config: Settings) -> Callable[[Any], Search]:
    """What trains the weights of tickets further."""
    return lambda _: searches.fixed(optimizers.of_tuning(config))


def settings(name: str, values) -> tuple[Setting, ...]:
    """A setting for every value of a number."""
    return tuple(Setting(f"{name}={x}", {name: np.float32(x)}) for x in values)
