"""Checks that a run makes of itself: each raises an `AuditError` naming the violation.

All work on numpy trees of one search and share no code with what they check: what is
right they are told, by the promises of the search.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import masks
from jaxticket.base import Mask, ModelState, Params, Promises, Ticket


class AuditError(AssertionError):
    """A law that every run obeys is broken: its numbers must not be believed."""


def ticket(
    where: str,
    params: Params,
    found: Ticket,
    promises: Promises,
    *,
    given: Ticket,
    before: Ticket | None = None,
    anchor: Ticket | None = None,
) -> None:
    """What a round has left is what its search promises.

    Args:
      where: what messages call the place.
      params: what the network runs with after the last step of the round.
      found: the ticket of then.
      promises: those of the search, built of the numbers that it ran with.
      given: the ticket that the search was opened with, with its model state.
      before: the ticket that this one was pruned from, of the round before; its pruned
        weights do not matter. `None` in the first round.
      anchor: an earlier ticket of the same search, whole. Its weights and model state
        must be those of this one, where both are of a rewinding step after 0.
    """
    if promises.hard:
        pruned_are_zero(where, params, found.mask)
    first = before is None or not promises.rounds
    outer = given.mask if first else before.mask
    if promises.nested:
        nested(where, found.mask, outer)
    if promises.opens_given and before is None:
        same(where, found.mask, outer)
    elif promises.kept is not None:
        counts(where, found.mask, promises.kept(outer))
    if promises.weights == "anchor" and promises.rewind_step > 0:
        if anchor is not None:
            same(where, found.weights, anchor.weights)
            same(where, found.model_state, anchor.model_state)
    elif promises.weights == "anchor":
        _are_times(where, found, given, promises.scale)
        same(where, found.model_state, given.model_state)
    elif promises.weights == "given":
        _are_times(where, found, given, promises.scale)
    if promises.hard and promises.weights != "anchor":
        _run_with(where, params, found)


def opened(
    where: str,
    params: Params,
    found: Ticket,
    promises: Promises,
    *,
    model_state: ModelState,
) -> None:
    """A further round begins as its search promises.

    Args:
      where: what messages call the place.
      params: what the network runs with before the first step.
      found: the ticket of then.
      promises: those of the search.
      model_state: what goes with `params`.
    """
    if promises.hard:
        pruned_are_zero(where, params, found.mask)
    if promises.rewinds:
        rewound(where, params, found)
        same(where, model_state, found.model_state)


def pruned_are_zero(where: str, params: Params, mask: Mask) -> None:
    """The network ran with exact zeros where the mask is false."""
    for name, w, m in _prunable(params, mask):
        if wrong := int(np.count_nonzero(w[~m])):
            raise AuditError(f"{where}: {wrong} pruned weights of {name} are not zero")


def pruned_are_frozen(where: str, params: Params, ticket: Ticket) -> None:
    """The network ran with the ticket's values where its mask is false."""
    for name, w, v, m in _prunable(params, ticket.weights, ticket.mask):
        if wrong := int(np.count_nonzero(w[~m] != v[~m])):
            raise AuditError(f"{where}: {wrong} pruned weights of {name} have moved")


def rewound(where: str, params: Params, ticket: Ticket) -> None:
    """Every weight that is kept equals the ticket's, bit for bit."""
    if name := _differing(params, ticket):
        raise AuditError(f"{where}: {name} was not rewound to the ticket's weights")


def _run_with(where: str, params: Params, found: Ticket) -> None:
    if name := _differing(params, found):
        raise AuditError(f"{where}: {name} ran with other weights than the ticket's")


def _differing(params: Params, ticket: Ticket) -> str | None:
    """The name of a leaf of which a weight that is kept is not the ticket's."""
    for name, w, theirs, m in _together(params, ticket.weights, ticket.mask):
        kept = ... if m is None else m
        if w[kept].tobytes() != theirs[kept].tobytes():
            return name
    return None


def _are_times(where: str, found: Ticket, given: Ticket, scale: float | None) -> None:
    """The ticket's weights are the given ones, times a factor where there is a mask."""
    for name, w, v, m in _together(found.weights, given.weights, found.mask):
        if m is not None and scale is None:
            continue
        if m is None or scale == 1:
            wrong = w.tobytes() != v.tobytes()
        else:  # a program rounds the factor and the product as it likes
            expected, near = np.float64(v) * float(scale), 8 * jnp.finfo(w.dtype).eps
            wrong = not np.allclose(
                np.float64(w), expected, rtol=float(near), atol=0, equal_nan=True
            )
        if wrong:
            raise AuditError(f"{where}: {name} is not what the search was given")


def same(where: str, tree: Params, other: Params) -> None:
    """Two trees are equal, bit for bit."""
    for one, two in ((tree, other), (other, tree)):
        for name, ours, theirs in _together(one, two):
            if theirs is None or ours.tobytes() != theirs.tobytes():
                raise AuditError(f"{where}: {name} has changed")


def nested(where: str, inner: Mask, outer: Mask) -> None:
    """Nothing that was pruned has come back."""
    for name, i, o in _prunable(inner, outer):
        if wrong := int(np.count_nonzero(i & ~o)):
            raise AuditError(f"{where}: {wrong} pruned weights of {name} came back")


def counts(where: str, mask: Mask, expected: dict[str, int] | int) -> None:
    """As many weights are kept as expected: of each layer by name, or in all."""
    have = {name: int(np.count_nonzero(m)) for name, m in _together(mask)}
    if not isinstance(expected, dict):
        have, expected = {"the mask": sum(have.values())}, {"the mask": expected}
    for name, number in have.items():
        if number != expected[name]:
            raise AuditError(
                f"{where}: {name} keeps {number} weights, expected {expected[name]}"
            )


def no_empty_layer(where: str, mask: Mask) -> None:
    """Every layer keeps something."""
    for name, m in _together(mask):
        if not m.any():
            raise AuditError(f"{where}: {name} keeps nothing, the network is cut")


def differs(where: str, control: Ticket, ticket: Ticket, *, by: str) -> None:
    """A control differs from its ticket as it should, and nowhere else.

    Args:
      where: what the message calls the place.
      control: the control.
      ticket: what it controls.
      by: `weights`, `mask`, `both`, or what no ticket shows, `order` and `pruned`:
        what must differ. Layer counts must not.
    """
    for name, ours, theirs in _prunable(control.mask, ticket.mask):
        if ours.sum() != theirs.sum():
            raise AuditError(f"{where}: the control's count differs in {name}")
    triples = list(
        _prunable(control.weights, control.mask, ticket.weights, ticket.mask)
    )
    new_mask = any((m != n).any() for _, _, m, _, n in triples)
    new_weights = any((w[m] != v[m]).any() for _, w, m, v, _ in triples)
    # A ticket of full or empty layers has only one mask, an empty one no weights.
    one_mask = all(m.all() or not m.any() for _, _, m, _, _ in triples)
    empty = not any(m.any() for _, _, m, _, _ in triples)
    expected = (
        by in ("weights", "both") and not empty,
        by in ("mask", "both") and not one_mask,
    )
    if (new_weights, new_mask) != expected:
        raise AuditError(
            f"{where}: the control should differ by {by}, but weights "
            f"{'differ' if new_weights else 'are equal'} and masks "
            f"{'differ' if new_mask else 'are equal'}"
        )


def _together(*trees: Params):
    """`(name, *leaves)` for every leaf of the first tree, `None` where one lacks it."""
    named = list(map(masks.named, trees))
    for name in named[0]:
        yield name, *(_array(leaf.get(name)) for leaf in named)


def _array(leaf):
    if leaf is not None and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)  # the streams of a model state
    return None if leaf is None else np.asarray(leaf)


def _prunable(*trees: Params):
    """`_together`, for the leaves that all of them have."""
    for name, *leaves in _together(*trees):
        if all(leaf is not None for leaf in leaves):
            yield name, *leaves
