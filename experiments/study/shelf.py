"""Where a study keeps its tickets, and the weights that they start from."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.study import outputs
from experiments.study.records import Lane
from jaxticket import files, masks
from jaxticket.base import Ticket


class Shelf:
    """Files of tickets, and of the weights that they start from, in an output folder.

    A ticket's file holds what it keeps, with its model state. A control may need more:
    all weights of the step that the ticket starts from, which the tickets of a setting
    share, are its anchor.

    Attributes:
      folder: of the run.
      like: a ticket of the run's network that keeps everything, or its shapes.
    """

    def __init__(self, folder: Path, like: Ticket):
        self.folder = folder
        self.like = like

    def put_ticket(self, lane: Lane, ticket: Ticket) -> None:
        about = {
            k: v for k, v in lane._asdict().items() if k != "treatment" and v != ""
        }
        density = float(masks.density(ticket.mask))
        path = self._path("tickets", lane, f"prunings-{lane.prunings}")
        files.save_ticket(
            path, ticket, **about, density=density, **outputs.environment()
        )

    def has(self, lane: Lane) -> bool:
        return self._path("tickets", lane, f"prunings-{lane.prunings}").exists()

    def ticket(self, lane: Lane) -> Ticket:
        """The ticket of a lane, or that of the control's lane, as numpy arrays."""
        path = self._path("tickets", lane, f"prunings-{lane.prunings}")
        ticket, _ = files.load_ticket(path, self.like)
        return jax.tree.map(np.asarray, ticket)

    def put_anchor(self, lane: Lane, ticket: Ticket) -> None:
        """Keeps the weights and the model state of a ticket whole."""
        files.save(self._path("work/anchors", lane), ticket)

    def anchor(self, lane: Lane) -> Ticket:
        return files.load(self._path("work/anchors", lane), self.like)[0]

    def put_state(self, lane: Lane, state: Any) -> None:
        """Keeps the state of a search, for others that go on from it."""
        files.save(self._path("work/states", lane), state)

    def state(self, lane: Lane, like: Any) -> Any:
        return files.load(self._path("work/states", lane), like)[0]

    def _path(self, where: str, lane: Lane, *ends: str) -> Path:
        parts = [lane.setting.replace(", ", "-"), f"seed-{lane.seed}", *ends]
        name = "-".join(filter(None, parts))
        return self.folder / where / lane.method / f"{name}.npz"
