"""Where a study keeps its tickets, and the dense weights that they start from."""

from pathlib import Path

import jax
import numpy as np

from experiments import common
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

    def put_ticket(self, method: str, seed: int, round_: int, ticket: Ticket) -> None:
        about = {"method": method, "seed": seed, "round": round_}
        density = float(masks.density(ticket.mask))
        path = self._ticket_path(method, seed, round_)
        files.save_ticket(
            path, ticket, **about, density=density, **common.environment()
        )

    def ticket(self, method: str, seed: int, round_: int) -> Ticket:
        path = self._ticket_path(method, seed, round_)
        return jax.tree.map(np.asarray, files.load_ticket(path, self._params)[0])

    def put_anchor(
        self, method: str, seed: int, weights: Params, state: ModelState
    ) -> None:
        files.save(self._anchor_path(method, seed), (weights, state))

    def anchor(self, method: str, seed: int) -> tuple[Params, ModelState]:
        like = (self._params, self._model_state)
        return files.load(self._anchor_path(method, seed), like)[0]

    def _ticket_path(self, method: str, seed: int, round_: int) -> Path:
        return self._folder / "tickets" / method / f"seed-{seed}-round-{round_}.npz"

    def _anchor_path(self, method: str, seed: int) -> Path:
        return self._folder / "work" / "anchors" / f"{method}-seed-{seed}.npz"
