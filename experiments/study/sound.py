"""What can be checked of the file of a ticket, by itself and in its run."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxticket import audit, masks
from jaxticket.base import Ticket

Read = Callable[[Path], tuple[Ticket, dict]]


def checked(path: Path, read: Read) -> Iterator[str]:
    """Names what has been checked, one after another.

    Args:
      path: the file.
      read: gives the ticket and the facts of a file, whose digests are right.

    Raises:
      OSError: there is no file.
      ValueError: it is damaged, or not as it says.
      AssertionError: it breaks a promise of its search that its file says.
    """
    ticket, about = read(path)
    yield "digests"
    kept = masks.apply(ticket.mask, ticket.weights)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept)):
        raise ValueError("a value that it keeps is not finite")
    yield "finite"
    density = float(masks.density(ticket.mask))
    if (said := about.get("density")) is not None:
        if not isinstance(said, int | float) or abs(said - density) > 1e-6:
            raise ValueError(f"its density is {density}, and it says {said}")
        yield "density"
    run = of(path)
    if run is None:
        return
    known = [call.get("identity") for call in (run, *run.get("accepted", ()))]
    if about.get("identity") not in known:
        raise ValueError("it is of another run than the one that it lies in")
    yield "run"
    number, promised = about.get("prunings"), about.get("promised")
    if not (isinstance(number, int) and isinstance(promised, list)):
        return
    name = path.name.replace(f"prunings-{number}", f"prunings-{number - 1}")
    if name == path.name or not (path.parent / name).exists():
        return
    before, _ = read(path.parent / name)
    if "nested" in promised:
        audit.nested(str(path), ticket.mask, before.mask)
        yield f"nested in {name}"
    if "anchored" in promised:
        both = jax.tree.map(np.logical_and, ticket.mask, before.mask)
        trees = (masks.apply(both, each.weights) for each in (ticket, before))
        audit.same(str(path), *trees)
        yield "weights as there"


def of(path: str | Path) -> dict[str, Any] | None:
    """The `config.json` of the run that a file lies in; None where there is none.

    Raises:
      ValueError: it is damaged.
    """
    for folder in [*Path(path).absolute().parents][:4]:
        if (file := folder / "config.json").is_file():
            try:
                about = json.loads(file.read_bytes())
                if isinstance(about["config"], dict):
                    return about
            except (ValueError, KeyError, TypeError):
                pass
            raise ValueError(f"{file} holds no settings of a run")
    return None
