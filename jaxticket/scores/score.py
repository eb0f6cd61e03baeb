"""What a score is, and how it says which evidence it needs."""

import functools
from collections.abc import Callable

from jaxticket import masks
from jaxticket.base import NO_EVIDENCE, Evidence, Mask, Params, Scores

# `weights` are zero where they are pruned; scores of what is pruned play no part.
Score = Callable[[Params, Evidence], Scores]

_OF_DATA = (
    "for a classifier supervised.evidence(model, split); a search is handed it by its "
    "loop"
)
_REMEDIES = {
    "initial": "the weights before training, Evidence(initial=weights)",
    "key": "a key to draw from, Evidence(key=jax.random.key(0))",
    "loss": f"a loss on fixed data, Evidence(loss=...), {_OF_DATA}",
    "forward": f"the network on an input of ones, Evidence(forward=...), {_OF_DATA}",
    "curvature": "the diagonal of a Gauss-Newton matrix, Evidence(curvature=...), "
    f"{_OF_DATA}",
}
# Those that run the network.
RUNNING = frozenset({"loss", "forward", "curvature"})


def needs(*members: str) -> Callable[[Score], Score]:
    """Declares what a score reads of its evidence: `@needs("initial", "key")`.

    Where that is `None` the score raises a `ValueError` that says what to give. A score
    that draws from the key has to declare it: searches promise to be random by it.
    """

    def declare(score):
        @functools.wraps(score)
        def checked(weights, evidence=NO_EVIDENCE):
            for member in members:
                if getattr(evidence, member) is None:
                    raise ValueError(
                        f"the score {score.__name__} needs evidence.{member}: give "
                        f"{_REMEDIES[member]}"
                    )
            return score(weights, evidence)

        checked.needs = members
        return checked

    return declare


def needed(score: Score) -> tuple[str, ...]:
    """The members of the evidence that a score has declared."""
    return getattr(score, "needs", ())


def known_initial(score: Score, mask: Mask, initial: Params) -> Params:
    """The initial weights, for a score of a ticket that has `mask`.

    One that needs these and the network may run the two together, what is pruned
    included, which then must be known, see `masks.known`; else only what is kept
    matters, leaf by leaf.
    """
    members = needed(score)
    if "initial" in members and RUNNING & {*members}:
        name = getattr(score, "__name__", score)
        return masks.known(mask, initial, f"the score {name}")
    return initial
