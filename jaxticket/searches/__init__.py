"""Ticket searches: one file a method, each a factory that returns a `Search`."""

from jaxticket.searches.continuous_sparsification import continuous_sparsification
from jaxticket.searches.edge_popup import edge_popup
from jaxticket.searches.fixed import fixed
from jaxticket.searches.gates import Gated
from jaxticket.searches.gradual import gradual
from jaxticket.searches.imp import imp
from jaxticket.searches.iss import iss
from jaxticket.searches.jackpot import jackpot
from jaxticket.searches.l0 import l0
from jaxticket.searches.soft_threshold import soft_threshold
from jaxticket.searches.supermask import supermask

__all__ = [
    "Gated",
    "continuous_sparsification",
    "edge_popup",
    "fixed",
    "gradual",
    "imp",
    "iss",
    "jackpot",
    "l0",
    "soft_threshold",
    "supermask",
]
