"""Checks that a run makes of itself: each raises an `AuditError` naming the violation.

All work on numpy trees of one search and share no code with what they check.
"""

import jax
import numpy as np

from jaxticket import masks
from jaxticket.base import Mask, Params, Ticket


class AuditError(AssertionError):
    """A law that every run obeys is broken: its numbers must not be believed."""


def pruned_are_zero(where: str, params: Params, mask: Mask) -> None:
    """The network ran with exact zeros where the mask is false."""
    for name, w, m in _prunable(params, mask):
        if wrong := int(np.count_nonzero(w[~m])):
            raise AuditError(f"{where}: {wrong} pruned weights of {name} are not zero")


def rewound(where: str, params: Params, ticket: Ticket) -> None:
    """Every weight that is kept equals the ticket's, bit for bit."""
    for name, w, anchor, m in _together(params, ticket.weights, ticket.mask):
        kept = ... if m is None else m
        if w[kept].tobytes() != anchor[kept].tobytes():
            raise AuditError(f"{where}: {name} was not rewound to the ticket's weights")


def same(where: str, params: Params, others: Params, *, rtol: float = 0.0) -> None:
    """Two trees are equal, bit for bit, or up to a relative error."""
    for name, w, other, _ in _together(params, others, others):
        if rtol and w.shape == other.shape:
            close = np.allclose(w, other, rtol=rtol, atol=0)
        else:
            close = w.tobytes() == other.tobytes()
        if not close:
            raise AuditError(f"{where}: {name} has changed")


def nested(where: str, inner: Mask, outer: Mask) -> None:
    """Nothing that was pruned has come back."""
    for name, i, o in _prunable(inner, outer):
        if wrong := int(np.count_nonzero(i & ~o)):
            raise AuditError(f"{where}: {wrong} pruned weights of {name} came back")


def counts(
    where: str, mask: Mask, outer: Mask, rates: dict[str, float] | float
) -> None:
    """Exactly the right number was pruned.

    Args:
      where: what the message calls the place.
      mask: the mask to check.
      outer: the mask it was pruned from.
      rates: the fraction of the survivors kept: of all leaves together, or by name.
    """
    have = {name: (int(m.sum()), int(o.sum())) for name, m, o in _prunable(mask, outer)}
    if not isinstance(rates, dict):
        have = {"all layers": tuple(map(sum, zip(*have.values(), strict=True)))}
        rates = {"all layers": rates}
    for name, (kept, alive) in have.items():
        # The count as `selection.keep` defines it, in Python's whole numbers.
        lost = 2**31 - round(rates[name] * 2**31)
        expected = alive - (2 * alive * lost + 2**31) // 2**32
        if kept != expected:
            raise AuditError(
                f"{where}: {name} keeps {kept} of {alive} weights, expected {expected}"
            )


def no_empty_layer(where: str, mask: Mask) -> None:
    """Every layer keeps something."""
    for name, m, _ in _prunable(mask, mask):
        if not m.any():
            raise AuditError(f"{where}: {name} keeps nothing, the network is cut")


def differs(where: str, control: Ticket, ticket: Ticket, *, by: str) -> None:
    """A control differs from its ticket as it should, and nowhere else.

    Args:
      where: what the message calls the place.
      control: the control.
      ticket: what it controls.
      by: `weights`, `mask` or `both`: what must differ. Layer counts must not.
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
    expected = (by != "mask" and not empty, by != "weights" and not one_mask)
    if (new_weights, new_mask) != expected:
        raise AuditError(
            f"{where}: the control should differ by {by}, but weights "
            f"{'differ' if new_weights else 'are equal'} and masks "
            f"{'differ' if new_mask else 'are equal'}"
        )


def _together(*trees: Params):
    """`(name, *leaves)` for every leaf of the first tree, `None` where one lacks it."""
    named = [dict(zip(masks.names(t), jax.tree.leaves(t), strict=True)) for t in trees]
    for name in named[0]:
        leaves = (leaf.get(name) for leaf in named)
        yield name, *(None if leaf is None else np.asarray(leaf) for leaf in leaves)


def _prunable(*trees: Params):
    """`_together`, for the leaves that all of them have."""
    for name, *leaves in _together(*trees):
        if all(leaf is not None for leaf in leaves):
            yield name, *leaves
