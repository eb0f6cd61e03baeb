"""What becomes of a damaged file: how it is judged, at what cost."""

import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fuzzing import mutants, zips
from jaxticket import files, masks, models
from jaxticket.base import Ticket
from jaxticket.pruners import prune
from jaxticket.recipes import Recipe

SECONDS, BYTES = 1.0, 50e6  # what reading a small file may take
REFUSED, EQUAL, OTHER = "refused", "equal", "another ticket"


class Trial(NamedTuple):
    """What became of a mutant.

    Attributes:
      version: of the format of the file that was damaged, and what is special in it.
      kind: of the damage.
      outcome: `refused`, `equal`, `another ticket`, or what went wrong.
      fails: whether it should not be so.
      seconds: of the processor, that reading took.
      bytes: of memory that it held at most.
    """

    version: str
    kind: str
    outcome: str
    fails: bool
    seconds: float
    bytes: int


def example() -> tuple[Ticket, dict]:
    """A small ticket with leaves of all sorts, of which half is pruned, and facts.

    One of its masks keeps so few that it is stored by its gaps.
    """
    draw = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(draw.normal(size=shape), jnp.float32)

    weights = {
        "dense": {"bias": normal(6), "kernel": normal(6, 6)},
        "head": {"kernel": normal(6, 4).astype(jnp.bfloat16)},
        "square": {"kernel": normal(6, 6)},
    }
    mask = jax.tree.map(
        lambda leaf: jnp.asarray(draw.random(leaf.shape) < 0.5), masks.full(weights)
    )
    mask["square"]["kernel"] = (jnp.arange(36) % 21 == 7).reshape(6, 6)
    state = {"key": jax.random.key(3), "seen": jnp.int32(7)}
    return Ticket(weights, mask, state), {"method": "imp", "numbers": [1, 0.5, None]}


def rebuilt() -> tuple[Ticket, Recipe]:
    """A small ticket of initial weights, and their recipe."""
    recipe = Recipe("mlp", jax.random.key(0), (6,), 4, {"hidden": (5,)})
    model = models.create("mlp", 4, hidden=(5,))
    weights, _ = jax.jit(model.init)(recipe.key, jnp.ones((1, 6)))
    ticket = Ticket(weights, masks.full(weights))
    return prune(ticket, "magnitude", 0.3), recipe


def files_of(folder: Path) -> dict[str, tuple[bytes, Ticket]]:
    """Good files of all versions, and the tickets that they are of."""
    (ticket, about), path = example(), folder / "good.npz"
    kept = ticket._replace(weights=masks.apply(ticket.mask, ticket.weights))
    files.save_ticket(path, ticket, **about)
    found = {"3": (path.read_bytes(), ticket)}
    second = files.load_ticket(path, ticket)[0]  # without what is pruned
    found["2"] = zips.second_version(second, about), ticket
    found["1"] = zips.first_version(kept, about), ticket
    files.save_ticket(path, ticket, values="bfloat16", **about)
    found["3, rounded"] = path.read_bytes(), ticket
    small, recipe = rebuilt()
    files.save_ticket(path, small, recipe=recipe)
    found["3, a recipe"] = path.read_bytes(), small
    return found


def run(number: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Damages files of all versions in all ways by turns, and reads them.

    Args:
      number: of mutants.
      seed: decides them all.
      folder: for the file.
    """
    path, good, likes, intact = folder / "mutant.npz", {}, {}, {}
    for version, (content, ticket) in sorted(files_of(folder).items()):
        good[version] = content
        likes[version] = jax.eval_shape(lambda ticket=ticket: ticket)
        (whole := folder / f"{version}.npz").write_bytes(content)
        intact[version] = _seen(files.load_ticket(whole, likes[version]))
    turns = [(version, kind) for kind in mutants.KINDS for version in good]
    tracemalloc.start()
    try:
        for i in range(number):
            version, kind = turns[i % len(turns)]
            draw = random.Random(f"{seed} {i}")
            content = mutants.KINDS[kind](draw, good[version])
            path.write_bytes(content)
            forged = isinstance(content, mutants.Forged)
            judged = _judged(path, likes[version], intact[version], forged)
            yield Trial(version, kind, *judged)
    finally:
        tracemalloc.stop()


def _judged(path: Path, like: Ticket, intact: Any, forged: bool) -> tuple:
    """Outcome, whether it fails, seconds and bytes."""
    tracemalloc.reset_peak()
    before, begun = tracemalloc.get_traced_memory()[0], time.process_time()
    found, fails = None, False
    try:
        found = files.load_ticket(path, like)
        outcome = ""
    except ValueError as error:
        outcome = REFUSED
        if not str(error).startswith(f"{path} "):
            outcome, fails = f"refused without the file's name: {error}", True
    except Exception as error:  # what must not come out is any other
        outcome, fails = f"{type(error).__name__}: {error}", True
    seconds = time.process_time() - begun
    held = tracemalloc.get_traced_memory()[1] - before
    if found is not None:
        outcome = EQUAL if _seen(found) == intact else OTHER
        fails = outcome == OTHER and not (forged and _fits(found[0], like))
    if seconds > SECONDS or held > BYTES:
        outcome, fails = f"{outcome}, in {seconds:.1f} s and {held} bytes", True
    return outcome, fails, seconds, held


def _seen(found: tuple[Ticket, dict]) -> Any:
    """All that a file has given, to be compared."""
    ticket, about = found
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(ticket)
    ]
    arrays = [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in leaves]
    return arrays, str(jax.tree.structure(ticket)), about


def _fits(ticket: Ticket, like: Ticket) -> bool:
    """Whether it is a ticket of the network, be it another."""
    try:
        masks.check(ticket.mask, ticket.weights)
    except ValueError:
        return False
    state = ticket.model_state is not None
    pairs = [(ticket.weights, like.weights)]
    pairs += [(ticket.model_state, like.model_state)] if state else []
    return all(
        jax.tree.map(lambda x: (x.shape, x.dtype), ours)
        == jax.tree.map(lambda x: (x.shape, x.dtype), theirs)
        for ours, theirs in pairs
    )
