"""Lottery tickets in functional JAX: find, train and test sparse sub-networks."""

__version__ = "0.1.0"

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
    schedules,
    scores,
    searches,
    selection,
    training,
)
from jaxticket.base import Search, Ticket, as_optax
from jaxticket.pruning import prune
from jaxticket.searches import Gated, continuous_sparsification, fixed, imp
from jaxticket.training import run

__all__ = [
    "Gated",
    "Search",
    "Ticket",
    "as_optax",
    "audit",
    "classification",
    "continuous_sparsification",
    "controls",
    "data",
    "files",
    "fixed",
    "imp",
    "lanes",
    "masks",
    "models",
    "prune",
    "resumable",
    "run",
    "schedules",
    "scores",
    "searches",
    "selection",
    "training",
]
