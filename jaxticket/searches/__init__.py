"""Ticket searches: one file a method, each a factory that returns a `Search`.

`__all__` is the list of methods: experiments, their flags and the contract tests read
it, and nothing else repeats it.
"""

from jaxticket.searches.ac_dc import ac_dc
from jaxticket.searches.continuous import continuous_sparsification
from jaxticket.searches.dnw import dnw
from jaxticket.searches.drop_and_grow import rigl, set, snfs
from jaxticket.searches.edge_popup import edge_popup
from jaxticket.searches.factored import Factors, factored  # noqa: F401  as `Gated`
from jaxticket.searches.fixed import fixed
from jaxticket.searches.gates import Gated  # noqa: F401  what their optimisers see
from jaxticket.searches.gradual import gradual
from jaxticket.searches.imp import imp
from jaxticket.searches.iss import iss
from jaxticket.searches.jackpot import jackpot
from jaxticket.searches.l0 import l0
from jaxticket.searches.one_shot import one_shot
from jaxticket.searches.slimming import slimming
from jaxticket.searches.soft_threshold import soft_threshold
from jaxticket.searches.static import static
from jaxticket.searches.supermask import supermask

__all__ = [
    "ac_dc",
    "continuous_sparsification",
    "dnw",
    "edge_popup",
    "factored",
    "fixed",
    "gradual",
    "imp",
    "iss",
    "jackpot",
    "l0",
    "one_shot",
    "rigl",
    "set",
    "slimming",
    "snfs",
    "soft_threshold",
    "static",
    "supermask",
]
