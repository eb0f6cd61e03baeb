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
    programs,
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
    edge_popup,
    fixed,
    gradual,
    imp,
    iss,
    jackpot,
    l0,
    soft_threshold,
    supermask,
)
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
    "edge_popup",
    "files",
    "fixed",
    "gradual",
    "imp",
    "iss",
    "jackpot",
    "l0",
    "lanes",
    "masks",
    "models",
    "programs",
    "prune",
    "resumable",
    "run",
    "schedules",
    "scores",
    "searches",
    "selection",
    "slimming",
    "soft_threshold",
    "supermask",
    "training",
]
