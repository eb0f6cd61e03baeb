"""Lottery tickets in functional JAX: find, train and test sparse sub-networks."""

__version__ = "0.1.0"

from jaxticket import (
    analysis,
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
    slimming,
    training,
)
from jaxticket.base import Search, Ticket, as_optax
from jaxticket.pruning import prune
from jaxticket.searches import (
    Gated,
    continuous_sparsification,
    fixed,
    gradual,
    imp,
    iss,
    l0,
    soft_threshold,
)
from jaxticket.training import run

__all__ = [
    "Gated",
    "Search",
    "Ticket",
    "analysis",
    "as_optax",
    "audit",
    "classification",
    "continuous_sparsification",
    "controls",
    "data",
    "files",
    "fixed",
    "gradual",
    "imp",
    "iss",
    "l0",
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
    "slimming",
    "soft_threshold",
    "training",
]
