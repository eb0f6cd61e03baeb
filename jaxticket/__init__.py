"""Lottery tickets in functional JAX: find, train and test sparse sub-networks.

A *ticket* is the weights that a training starts from and a mask that says which of them
there are. A *search* is an optimiser that owns the parameters of the network: ask it
which to run with, hand it their gradient, say when a round is over.

    ticket = jt.Ticket(weights, jt.masks.full(weights))
    search = jt.imp(optax.adam(1e-3), density=0.5)
    result = jt.run(
        search, loss_fn, key, ticket, data, rounds=5, epochs=10, batch_size=60
    )
    print(jt.summary(result.ticket))

`searches` lists the searches, which are here too (`jt.imp`, `jt.rigl`, ...); each says
in its *promises* what it may be held to. `prune` and `starts` give tickets without a
search, by `scores` and by what `selection` keeps of them. `controls` spoil a ticket in
one respect, `interventions` a network in one layer. `run` is a whole search in one
program, for `jit` and `vmap`; `as_optax` puts one into a loop that knows optax alone,
and `engine` runs many seeds on many devices, resumably. `audit` holds a ticket to its
promises; `analysis` says what masks have in common and accuracies show, `structure` how
tickets are made, `flops` what they save, `landscape` what lies between networks.
`files` keeps tickets, and `export` runs them where there is no JAX.
"""

__version__ = "0.2.4"

from jaxticket import (
    analysis,
    audit,
    controls,
    data,
    engine,
    export,
    files,
    flops,
    interventions,
    kernels,
    landscape,
    masks,
    mirror,
    models,
    schedules,
    scores,
    searches,
    selection,
    stacks,
    starts,
    structure,
    supervised,
    training,
)
from jaxticket.base import Evidence, Promises, Search, Ticket, as_optax
from jaxticket.compaction import compact
from jaxticket.pruners import prune, prune_by_deviation
from jaxticket.searches import *  # noqa: F403  the public list of methods is theirs
from jaxticket.searches import Factors, Gated
from jaxticket.summaries import summary
from jaxticket.training import run

__all__ = [
    "Evidence",
    "Factors",
    "Gated",
    "Promises",
    "Search",
    "Ticket",
    "analysis",
    "as_optax",
    "audit",
    "compact",
    "controls",
    "data",
    "engine",
    "export",
    "files",
    "flops",
    "interventions",
    "kernels",
    "landscape",
    "masks",
    "mirror",
    "models",
    "prune",
    "prune_by_deviation",
    "run",
    "schedules",
    "scores",
    "searches",
    "selection",
    "stacks",
    "starts",
    "structure",
    "summary",
    "supervised",
    "training",
    *searches.__all__,
]
