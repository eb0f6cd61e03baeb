"""Where a study keeps its tickets, and the weights that they start from."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.study import outputs
from experiments.study.outputs import Claim
from experiments.study.records import Lane
from jaxticket import files, masks
from jaxticket.base import Ticket
from jaxticket.engine import hosts


class Shelf:
    """Files of tickets, and of the weights that they start from, in an output folder.

    The first process of a run writes them, and all read.

    A ticket's file holds what it keeps, with its model state. A control may need more:
    all weights of the step that the ticket starts from, which the tickets of a setting
    share, are its anchor.

    Attributes:
      folder: of the run.
      like: a ticket of the run's network that keeps everything, or its shapes.
      claim: whose files they are.
    """

    def __init__(self, folder: Path, like: Ticket, claim: Claim):
        self.folder = folder
        self.like = like
        self.claim = claim

    def put_ticket(
        self, lane: Lane, ticket: Ticket, promised: Sequence[str] = ()
    ) -> None:
        """Keeps a ticket, with what its search promises of it and the one before."""
        about = {
            k: v for k, v in lane._asdict().items() if k != "treatment" and v != ""
        }
        if not hosts.first():
            return
        # On the host: the devices may be at the next round.
        kept = sum(masks.layer_counts(ticket.mask).values())
        density = float(np.float32(kept) / np.float32(masks.size(ticket.mask)))
        files.save_ticket(
            self._path("tickets", lane),
            ticket,
            **about,
            density=density,
            promised=list(promised),
            identity=self.claim.identities[0],
            **outputs.environment(),
        )

    def ticket(self, lane: Lane) -> Ticket:
        """The ticket of a lane, or that of the control's lane, as numpy arrays."""
        ticket, _ = files.load_ticket(self._path("tickets", lane), self.like)
        return jax.tree.map(np.asarray, ticket)

    def put_anchor(self, lane: Lane, ticket: Ticket) -> None:
        """Keeps the weights and the model state of a ticket whole."""
        self._put("anchors", lane, ticket)

    def anchor(self, lane: Lane) -> Ticket:
        return files.load(self._path("anchors", lane), self.like)[0]

    def put_trained(self, lane: Lane, ticket: Ticket) -> None:
        """Keeps what the training of a ticket, or of its control, has made of it."""
        self._put("trained", lane, ticket)

    def trained(self, lane: Lane) -> Ticket:
        return files.load(self._path("trained", lane), self.like)[0]

    def put_state(self, lane: Lane, state: Any) -> None:
        """Keeps the state of a search, for others that go on from it."""
        self._put("states", lane, state)

    def state(self, lane: Lane, like: Any) -> Any:
        return files.load(self._path("states", lane), like)[0]

    def intact(self, lane: Lane, *, kinds: Iterable[str], state: Any = None) -> bool:
        """Whether the files of a lane are there, undamaged, and of this run.

        Args:
          lane: whose.
          kinds: `tickets`, `anchors`, `trained` or `states`.
          state: what a state is like.
        """
        there = hosts.first() and self._intact(lane, kinds, state)
        return hosts.agreed(there)

    def _intact(self, lane: Lane, kinds: Iterable[str], state: Any) -> bool:
        for kind in kinds:
            path, like = self._path(kind, lane), self.like
            read = files.load_ticket if kind == "tickets" else files.load
            try:
                _, about = read(path, state if kind == "states" else like)
            except (OSError, ValueError):
                return False
            if about.get("identity") not in self.claim.identities:
                return False
        return True

    def _put(self, kind: str, lane: Lane, tree: Any) -> None:
        if hosts.first():
            path = self._path(kind, lane)
            files.save(path, tree, identity=self.claim.identities[0])

    def _path(self, kind: str, lane: Lane) -> Path:
        """The file of a lane: one of its `tickets`, or what all of them start from."""
        parts = [lane.setting.replace(", ", "-"), f"seed-{lane.seed}"]
        if kind in ("tickets", "trained"):
            parts.append(f"prunings-{lane.prunings}")
        if kind == "trained":
            parts.append(lane.treatment.replace(" ", "-"))
        where = "tickets" if kind == "tickets" else f"work/{kind}"
        return (
            self.folder / where / lane.method / f"{'-'.join(filter(None, parts))}.npz"
        )
