"""Where a study keeps its tickets, and the dense weights that they start from."""

from pathlib import Path

import jax
import numpy as np

from experiments.study.records import Lane
from experiments.study.study import common
from jaxticket import files, masks
from jaxticket.base import Params, Ticket
from jaxticket.training import ModelState


class Shelf:
    """Files of tickets and anchors under the output folder.

    A ticket's file holds what it keeps. Its anchor holds all weights of the step that
    it starts from, which a control that shuffles the mask needs, and the model state.
    """

    def __init__(self, folder: Path, params: Params, model_state: ModelState):
        self._folder = folder
        self._params = params
        self._model_state = model_state

    def put_ticket(self, lane: Lane, ticket: Ticket) -> None:
        about = {name: getattr(lane, name) for name in ("method", "seed", "round")}
        about |= {"setting": lane.setting} if lane.setting else {}
        density = float(masks.density(ticket.mask))
        path = self._ticket_path(lane)
        files.save_ticket(
            path, ticket, **about, density=density, **common.environment()
        )

    def ticket(self, lane: Lane) -> Ticket:
        path = self._ticket_path(lane)
        return jax.tree.map(np.asarray, files.load_ticket(path, self._params)[0])

    def put_anchor(self, lane: Lane, weights: Params, state: ModelState) -> None:
        files.save(self._anchor_path(lane), (weights, state))

    def anchor(self, lane: Lane) -> tuple[Params, ModelState]:
        like = (self._params, self._model_state)
        return files.load(self._anchor_path(lane), like)[0]

    def _ticket_path(self, lane: Lane) -> Path:
        name = f"seed-{lane.seed}-round-{lane.round}.npz"
        return self._folder / "tickets" / lane.method / name

    def _anchor_path(self, lane: Lane) -> Path:
        """All rounds of a setting have one."""
        name = "-".join(filter(None, (lane.method, lane.setting, f"seed-{lane.seed}")))
        return self._folder / "work" / "anchors" / f"{name}.npz"
