"""Ticket searches: one file a method, each a factory that returns a `Search`."""

from jaxticket.searches.continuous_sparsification import continuous_sparsification
from jaxticket.searches.fixed import fixed
from jaxticket.searches.gates import Gated
from jaxticket.searches.gradual import gradual
from jaxticket.searches.imp import imp
from jaxticket.searches.iss import iss
from jaxticket.searches.l0 import l0
from jaxticket.searches.soft_threshold import soft_threshold

__all__ = [
    "Gated",
    "continuous_sparsification",
    "fixed",
    "gradual",
    "imp",
    "iss",
    "l0",
    "soft_threshold",
]
