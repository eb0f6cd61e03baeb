"""What a search starts from, by name: each a factory of a `Start`, `opening -> ticket`.

The initial network is the usual one. Others are trained, hold constants in place of
values, or are pruned by a score: a ticket without a search. The keyword-only arguments
are hyper-parameters of the method that starts there, beside those of its search.

    start = starts.pruned(density=0.1, score="snip", of="initial", weights="initial")
    ticket = start.ticket(starts.Opening(key, initial, trained, evidence))
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import (
    checks,
    controls,
    data,
    masks,
    revalued,
    scores,
    selection,
    units,
)
from jaxticket.base import Evidence, Kept, PRNGKey, Ticket
from jaxticket.engine import keys
from jaxticket.pruners import prune, prune_by_deviation

__all__ = [
    "initial",
    "trained",
    "signed_constant",
    "kaiming_constant",
    "kaiming_normal",
    "pruned",
    "given",
    "deviating",
    "filters",
]


class Opening(NamedTuple):
    """What a start may build on.

    Attributes:
      key: the stream of this start, of this seed.
      initial: the dense network as it is initialised: a ticket that keeps all.
      trained: the same after its training.
      evidence: `(model_state, temperature) -> Evidence`, of training data.
      given: the ticket of a start's `file`, where it has one.
      filters: `ticket -> [units.Filters]`, the layers whose filters can be pruned.
      corrupted: `(key, kind) -> evidence`, of data that have been corrupted.
      order: `ticket -> names` of its prunable layers, from the input to the output.
    """

    key: PRNGKey
    initial: Ticket
    trained: Ticket
    evidence: Callable[..., Evidence]
    given: Ticket | None = None
    filters: Callable[[Ticket], list[units.Filters]] = lambda ticket: []
    corrupted: Callable[[PRNGKey, str], Callable[..., Evidence]] | None = None
    order: Callable[[Ticket], list[str]] | None = None


Network = Literal["initial", "trained"]


class Start(NamedTuple):
    """What a search starts from.

    Attributes:
      ticket: `opening -> ticket`.
      trained: whether that takes a trained dense network.
      kept: what is known of its counts, see `Promises`.
      file: of a ticket that its opening must hold as `given`; "{seed}" in it stands for
        the seed.
      without: layers of that ticket which are not looked at.
    """

    ticket: Callable[[Opening], Ticket]
    trained: bool = False
    kept: Kept | None = None
    file: str = ""
    without: tuple[str, ...] = ()


def initial() -> Start:
    """The dense network as it is initialised."""
    return Start(lambda opening: opening.initial)


def trained() -> Start:
    """The dense network after its training."""
    return Start(lambda opening: opening.trained, trained=True)


def signed_constant() -> Start:
    """The initialisation with signed constants, see `revalued.signed_constant`."""
    return Start(lambda opening: revalued.signed_constant(opening.key, opening.initial))


def kaiming_constant(
    *,
    density: ArrayLike = 0.5,
    scale_fan: Literal["none", "density", "code"] = "none",
) -> Start:
    """Signed Kaiming constants, the best start of edge-popup; biases stay.

    Args:
      density: the fraction that the search keeps.
      scale_fan: the fan counts whole (none), times the density, or, as in the released
        code, times one minus it (code).
    """
    fan = _fan(density, scale_fan)
    return Start(
        lambda opening: revalued.kaiming_constant(opening.initial, density=fan)
    )


def kaiming_normal(
    *,
    density: ArrayLike = 0.5,
    scale_fan: Literal["none", "density", "code"] = "none",
) -> Start:
    """New normal values of Kaiming's deviation; the arguments are as above.

    Args:
      density: the fraction that the search keeps.
      scale_fan: see `kaiming_constant`.
    """
    fan = _fan(density, scale_fan)
    return Start(
        lambda opening: revalued.kaiming_normal(
            opening.key, opening.initial, density=fan
        )
    )


def _fan(density: ArrayLike, scale_fan: str) -> ArrayLike:
    checks.fraction(density=density)
    checks.one_of(("none", "density", "code"))(scale_fan=scale_fan)
    if scale_fan == "none":
        return 1.0
    fan = density if scale_fan == "density" else 1 - density
    if scale_fan == "code":
        wanted = "below 1 where scale_fan is code, which divides by one minus it"
        checks.number(wanted, lambda x: x < 1)(density=density)
    return jnp.asarray(fan, jnp.float32)


def pruned(
    *,
    density: ArrayLike,
    score: scores.Score | str = "magnitude",
    select: selection.Select | str = "global_top",
    iterations: int = 1,
    temperature: float = 1.0,
    of: Network = "trained",
    weights: Network = "trained",
    constants: bool = False,
    ties: Literal["first", "random"] = "first",
    shuffle: bool = False,
    inverted: bool = False,
    corrupted: Literal["nothing", "labels", "pixels"] = "nothing",
) -> Start:
    """A network pruned by a score.

    Args:
      density: the fraction of the prunable weights that is kept.
      score: which weights matter, by name.
      select: how the layers share the density, by name: one of `selection.NAMES`, or
        of `selection.IN_ORDER`, by their order in the network.
      iterations: how many times to score and prune.
      temperature: what logits are divided by in the loss that a score looks at.
      of: what is scored: the initial or the trained weights.
      weights: those of the ticket.
      constants: signed constants in place of these.
      ties: go to the first weight, or at random.
      shuffle: a random mask of the same layer densities instead.
      inverted: keeps the lowest scores.
      corrupted: what is out of order in the data that a score looks at: nothing, labels
        or pixels, see `data.corrupted`.
    """
    checks.fraction(density=density)
    checks.whole(1)(iterations=iterations)
    checks.one_of(("nothing", *get_args(data.Corruption)))(corrupted=corrupted)
    checks.positive(temperature=temperature)
    checks.one_of(get_args(Network))(of=of, weights=weights)
    checks.one_of(("first", "random"))(ties=ties)
    chosen, in_order = scores.named(score), selection.IN_ORDER.get(select)
    select = None if in_order else selection.named(select)
    if inverted:
        chosen = scores.inverted(chosen)
    if ties == "random":
        chosen = scores.ties_at_random(chosen)

    def start(opening):
        scored, ticket = getattr(opening, of), getattr(opening, weights)
        given = opening.evidence
        if corrupted != "nothing":
            given = opening.corrupted(keys.named(opening.key, corrupted), corrupted)
        evidence = given(scored.model_state, temperature)
        found = prune(
            scored,
            chosen,
            density,
            evidence=evidence._replace(
                initial=opening.initial.weights, key=opening.key
            ),
            select=in_order(opening.order(scored)) if in_order else select,
            iterations=iterations,
        )
        if shuffle:
            found = controls.shuffle(keys.named(opening.key, "shuffle"), found)
        if constants:
            ticket = revalued.signed_constant(opening.key, ticket)
        return ticket._replace(mask=found.mask)

    kept = None if in_order else selection.kept(select, density)
    return Start(start, trained="trained" in (of, weights), kept=kept)


def given(
    *, file: str, weights: Literal["file", "initial"] = "file", without: str = ""
) -> Start:
    """A ticket from a file: of another search, on other data, or from somebody else.

    Args:
      file: where it is; {seed} in its name stands for the seed.
      weights: those of the file, or the initial ones, of this run, under its mask.
        Values that the file has left out are the initial ones.
      without: names of layers, with spaces between them, that are not the file's but
        the initial ones, and whole: such as an output layer for other classes.
    """
    checks.one_of(("file", "initial"))(weights=weights)
    own = tuple(without.split())

    def but(theirs, ours):
        return jax.tree_util.tree_map_with_path(
            lambda path, x, y: y if masks.name(path).rpartition("/")[0] in own else x,
            theirs,
            ours,
        )

    def start(opening):
        found, initial = opening.given, opening.initial
        mask = but(found.mask, initial.mask)
        if weights == "initial":
            return initial._replace(mask=mask)
        known = jax.tree.map(
            lambda ours, w: jnp.where(jnp.isnan(w), ours, w),
            initial.weights,
            found.weights,
        )
        state = initial.model_state if found.model_state is None else found.model_state
        return Ticket(but(known, initial.weights), mask, state)

    return Start(start, file=file, without=own)


def deviating(*, quality: ArrayLike, weights: Network = "trained") -> Start:
    """A network without its small weights, see `pruners.prune_by_deviation`.

    Args:
      quality: how many standard deviations of its layer a weight must be away from
        zero; how many are kept is an outcome.
      weights: the initial or the trained ones.
    """
    checks.not_negative(quality=quality)
    checks.one_of(get_args(Network))(weights=weights)
    return Start(
        lambda opening: prune_by_deviation(getattr(opening, weights), quality),
        trained=weights == "trained",
    )


def filters(
    *, density: ArrayLike, layers: str = "", weights: Network = "trained"
) -> Start:
    """A network without the filters of the smallest L1 norm, see `prune_filters`.

    Args:
      density: the fraction of the filters of each layer that is kept; that of the
        weights is an outcome.
      layers: names of the layers that are pruned, with spaces between them; all that
        can be where it is empty.
      weights: those of the ticket: the initial or the trained ones. The trained ones
        are scored.
    """
    checks.fraction(density=density)
    checks.one_of(get_args(Network))(weights=weights)

    def start(opening):
        found = opening.filters(opening.trained)
        known = [layer.kernel.rpartition("/")[0] for layer in found]
        wanted = layers.split() or known or ["any layer"]
        if missing := [name for name in wanted if name not in known]:
            raise ValueError(
                f"no filters of {', '.join(missing)} can be pruned: those that can are "
                f"{', '.join(known) or 'none, where all are of one residual stream'}"
            )
        chosen = [x for x, name in zip(found, known, strict=True) if name in wanted]
        mask = units.prune_filters(opening.trained, chosen, density).mask
        return getattr(opening, weights)._replace(mask=mask)

    return Start(start, trained=True)
