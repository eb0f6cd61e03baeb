"""Scores: how much each weight matters. The lowest are pruned.

Every score has the signature `score(weights, evidence) -> scores`: `weights` are the
values now, zero where pruned, and `evidence` is whatever else there is to look at, of
which a score reads what it `needs`. Scores are computed for all leaves; selection looks
at the prunable ones.

`__all__` is the list of scores that have a name. `at_initial`, `inverted`, `same_sign`,
`diff_sign` and `ties_at_random` make further ones of them, `hutchinson` one of more
draws. A score of one's own is a function:

    @scores.needs("loss")
    def loss_change(weights, evidence):
        grads = jax.grad(evidence.loss)(weights)
        return jax.tree.map(lambda w, g: -w * g, weights, grads)
"""

from jaxticket import checks
from jaxticket.scores.criteria import (
    gradient_at_initial,
    large_final,
    large_final_diff_sign,
    large_final_same_sign,
    magnitude_increase_diff_sign,
    magnitude_increase_same_sign,
    snip_at_initial,
)
from jaxticket.scores.grasp import grasp
from jaxticket.scores.magnitudes import (
    large_init,
    large_init_large_final,
    magnitude,
    magnitude_increase,
    movement,
    random,
    small_final,
    small_init,
    small_init_small_final,
)
from jaxticket.scores.obd import hutchinson, obd, obd_hutchinson  # noqa: F401
from jaxticket.scores.score import (  # noqa: F401  no scores
    RUNNING,
    Score,
    known_initial,
    needed,
    needs,
)
from jaxticket.scores.sensitivity import gradient, snip
from jaxticket.scores.synflow import synflow
from jaxticket.scores.variants import (  # noqa: F401  makers of scores
    at_initial,
    diff_sign,
    inverted,
    same_sign,
    ties_at_random,
)

__all__ = [
    "gradient",
    "gradient_at_initial",
    "grasp",
    "large_final",
    "large_final_diff_sign",
    "large_final_same_sign",
    "large_init",
    "large_init_large_final",
    "magnitude",
    "magnitude_increase",
    "magnitude_increase_diff_sign",
    "magnitude_increase_same_sign",
    "movement",
    "obd",
    "obd_hutchinson",
    "random",
    "small_final",
    "small_init",
    "small_init_small_final",
    "snip",
    "snip_at_initial",
    "synflow",
]
NAMES: dict[str, Score] = {name: globals()[name] for name in __all__}


def named(score: Score | str) -> Score:
    """The score of a name in `NAMES`; a function is returned as it is.

    Raises:
      ValueError: an unknown name.
    """
    if callable(score):
        return score
    checks.one_of(NAMES)(score=score)
    return NAMES[score]
