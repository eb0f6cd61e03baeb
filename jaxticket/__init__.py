"""Lottery tickets in functional JAX: find, train and test sparse sub-networks."""

__version__ = "0.2.0"

from jaxticket import (
    analysis,
    audit,
    controls,
    data,
    engine,
    files,
    kernels,
    masks,
    models,
    schedules,
    scores,
    searches,
    selection,
    stacks,
    starts,
    supervised,
    training,
)
from jaxticket.base import Evidence, Promises, Search, Ticket, as_optax
from jaxticket.pruning import prune
from jaxticket.searches import *  # noqa: F403  the public list of methods is theirs
from jaxticket.searches import Gated
from jaxticket.summaries import summary
from jaxticket.training import run

__all__ = [
    "Evidence",
    "Gated",
    "Promises",
    "Search",
    "Ticket",
    "analysis",
    "as_optax",
    "audit",
    "supervised",
    "controls",
    "data",
    "engine",
    "files",
    "kernels",
    "masks",
    "models",
    "prune",
    "run",
    "schedules",
    "scores",
    "searches",
    "selection",
    "stacks",
    "starts",
    "summary",
    "training",
    *searches.__all__,
]
