"""Ticket searches: one file a method, each a factory that returns a `Search`."""

from jaxticket.searches.continuous_sparsification import (
    Gated,
    continuous_sparsification,
)
from jaxticket.searches.fixed import fixed
from jaxticket.searches.imp import imp

__all__ = ["Gated", "continuous_sparsification", "fixed", "imp"]
