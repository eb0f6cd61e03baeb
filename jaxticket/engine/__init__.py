"""How searches run: compiled for lanes of seeds, in stretches that can be resumed."""

from jaxticket.engine import (
    checkpoint,
    hosts,
    keys,
    lanes,
    layouts,
    memory,
    programs,
    resumable,
)

__all__ = [
    "checkpoint",
    "hosts",
    "keys",
    "lanes",
    "layouts",
    "memory",
    "programs",
    "resumable",
]
