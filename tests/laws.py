"""The laws that every search obeys, and those that hold it to what it promises.

A law is a function of a case, of promises and of a story. It does not ask a search what
it promises: so a promise can be turned into a lie, and some law has to notice.
"""

from collections.abc import Callable
from typing import NamedTuple

import cases
import jax
import numpy as np
from cases import GIVEN, ROUNDS, STEPS, Case, Story, assert_same, at

from jaxticket import Promises, audit, masks

LAST = slice(None), slice(None), STEPS  # of every round
FIRST = slice(None), slice(None), 0


class Law(NamedTuple):
    """What must hold, and for which cases and promises."""

    holds: Callable[[Case, Promises, Story], None]
    applies: Callable[[Case, Promises], bool]

    @property
    def name(self):
        return self.holds.__name__


LAWS: list[Law] = []


def law(applies=lambda case, promises: True):
    """Adds a function to the laws."""

    def add(holds):
        LAWS.append(Law(holds, applies))
        return holds

    return add


def layers(mask):
    """The leaves of a mask tree, the weights of each in one axis: `[..., weights]`."""
    return [np.reshape(leaf, (*leaf.shape[:3], -1)) for leaf in jax.tree.leaves(mask)]


def counts(mask):
    """How many weights each layer keeps: `[lanes, ROUNDS, STEPS + 1, layers]`."""
    return np.stack([layer.sum(-1) for layer in layers(mask)], axis=-1)


def lost():
    """What the given tickets have pruned: `[lanes, 1, 1, weights]` of each layer."""
    leaves = jax.tree.leaves(cases.given().mask)
    return [~leaf.reshape(len(leaf), 1, 1, -1) for leaf in leaves]


def keeping(mask, weights):
    """`weights` where the mask is, 0 elsewhere, in numpy."""
    return jax.tree.map(
        lambda w, m: w if m is None else np.where(m, w, 0.0), weights, mask
    )


def both(mask, other):
    return jax.tree.map(np.logical_and, mask, other)


def times(factor, weights, mask):
    return jax.tree.map(lambda w, m: w if m is None else factor * w, weights, mask)


def found(state, name):
    """The field of a name, of a state or of a part of it; None where there is none."""
    if not hasattr(state, "_fields"):
        return None
    if name in state._fields:
        return getattr(state, name)
    parts = (found(part, name) for part in state)
    return next((part for part in parts if part is not None), None)


def trained(promises, story):
    """The weights that are trained: what the network runs with, or behind its gates."""
    gated = found(story.states, "gated")
    return story.params if promises.hard or gated is None else gated.weights


# The key.


@law()
def the_key_alone_decides_where_a_search_is_random(case, promises, story):
    first, other_key = (at((story.params, story.ticket), i) for i in (0, 2))
    pairs = zip(*map(jax.tree.leaves, (first, other_key)), strict=True)
    assert promises.random == any((a != b).any() for a, b in pairs)


@law()
def gradients_of_what_the_given_ticket_has_pruned_do_not_matter(case, promises, story):
    """Nor anything but key and ticket, of which two lanes have the same."""
    assert cases.LANES[0][:2] == cases.LANES[3][:2]
    assert_same(at(story, 0), at(story, 3))


@law(lambda case, promises: promises.hard)
def those_of_what_is_pruned_now_matter_where_a_search_looks_at_them(
    case, promises, story
):
    assert cases.LANES[0][:2] == cases.LANES[4][:2]
    right, wrong = (at(story.params, i) for i in (0, 4))
    pairs = zip(jax.tree.leaves(right), jax.tree.leaves(wrong), strict=True)
    assert any((a != b).any() for a, b in pairs) == (
        promises.dense_gradient is not None
    )


# Masks.


@law()
def what_the_first_round_prunes(case, promises, story):
    """Nothing where it trains the given ticket."""
    for layer, gone in zip(layers(story.ticket.mask), lost(), strict=True):
        if promises.opens_given:
            assert (layer == layer[:, :, :1]).all()
            assert (layer[:, 0] == ~gone[:, 0]).all()
    if case.decides and not promises.opens_given:
        pairs = zip(layers(story.ticket.mask), lost(), strict=True)
        assert any((layer[:, :1] == gone).any() for layer, gone in pairs)


@law(lambda case, promises: promises.nested)
def what_is_pruned_when_a_round_ends_stays_pruned(case, promises, story):
    for layer, gone in zip(layers(story.ticket.mask), lost(), strict=True):
        assert not (layer & gone).any()
        assert (layer[:, 1:] <= layer[:, :-1, -1:]).all()


@law(lambda case, promises: promises.kept is not None)
def counts_are_exact(case, promises, story):
    by_round = counts(story.ticket.mask)[LAST].tolist()
    for lane, numbers in enumerate(by_round):
        expected = promises.kept(at(cases.given().mask, lane))
        for round_, now in enumerate(numbers):
            if promises.opens_given and not round_:
                assert now == GIVEN
                continue
            if promises.rounds and round_:
                before = at(story.ticket, lane, round_ - 1, STEPS).mask
                expected = promises.kept(before)
            by_layer = isinstance(expected, dict)
            assert (now if by_layer else sum(now)) == (
                [*expected.values()] if by_layer else expected
            )


@law(lambda case, promises: promises.hard)
def a_network_runs_with_as_much_as_is_promised(case, promises, story):
    kept = counts(story.ticket.mask).sum(-1)
    if promises.running is None:
        assert (kept == kept[LAST][..., None]).all()
        return
    shares = np.broadcast_to(promises.running(np.arange(STEPS)), STEPS)
    for lane, round_ in np.ndindex(kept.shape[:2]):
        before = kept[lane, round_ - 1, STEPS] if promises.rounds and round_ else None
        expected = (sum(GIVEN) if before is None else before) * shares
        here = kept[lane, round_, :STEPS]
        assert (here <= expected + 1).all()  # layers are rounded
        if promises.kept is not None:
            assert (here >= expected - 1).all()


@law(lambda case, promises: case.course is not None)
def masks_change_within_a_round_as_the_schedule_says(case, promises, story):
    have = counts(story.ticket.mask)
    for lane, round_ in np.ndindex(have.shape[:2]):
        alive = GIVEN
        if promises.rounds and round_:
            alive = have[lane, round_ - 1, STEPS].tolist()
        course = case.course(alive)
        here = have[lane, round_]
        by_layer = isinstance(course[0], list)
        assert (here if by_layer else here.sum(-1)).tolist() == course


@law()
def a_further_round_prunes_on_or_changes_nothing(case, promises, story):
    closing, opening = (
        at((story.params, story.ticket), slice(None), rounds, step)
        for rounds, step in ((slice(None, -1), STEPS), (slice(1, None), 0))
    )
    if not promises.rounds:
        assert_same(opening, closing)
    elif case.decides:
        for layer in layers(story.ticket.mask):
            assert (layer[:, 1:, STEPS] != layer[:, :-1, STEPS]).any()


@law(lambda case, promises: case.decides)
def something_is_pruned_and_not_everything(case, promises, story):
    kept = counts(story.ticket.mask).sum(-1)[LAST]
    assert (kept[:, 0] > 0).all()
    assert (kept[:, -1] < sum(GIVEN)).all() or case.returns


@law(lambda case, promises: case.resets)
def a_soft_mask_is_read_before_advance(case, promises, story):
    assert (counts(story.ticket.mask)[FIRST] == 0).all()


@law()
def parameters_are_zero_where_a_hard_mask_is_after_every_step(case, promises, story):
    params = layers(masks.prunable_like(story.params, story.ticket.mask))
    leaks = False
    for weights, kept, gone in zip(
        params, layers(story.ticket.mask), lost(), strict=True
    ):
        assert (gone & (weights != 0)).any() == case.returns
        leaks |= (~kept & (weights != 0)).any()
    assert not (promises.hard and leaks)
    if case.decides and not promises.hard:
        assert leaks, "it could promise more"


# Weights.


def anchors(promises, story):
    """The weights before the rewinding step, or the given ones: `[lanes, ...]`."""
    if promises.weights == "given" or promises.rewind_step == 0:
        return cases.given().weights
    place = slice(None), 0, promises.rewind_step
    return at(trained(promises, story), *place)


@law()
def weights_train_unless_they_are_given(case, promises, story):
    """Those that are never pruned, which no mask moves."""
    whole = jax.tree.map(
        lambda w, m: w if m is None else None, story.params, story.ticket.mask
    )
    opening, later = at(whole, slice(None), 0, 0), at(whole, slice(None), 0, STEPS)
    pairs = zip(*map(jax.tree.leaves, (opening, later)), strict=True)
    assert any((a != b).any() for a, b in pairs) == (promises.weights != "given")


@law(lambda case, promises: promises.weights != "trained")
def the_ticket_starts_from_the_anchor_of_the_first_round(case, promises, story):
    known = promises.rewind_step and promises.rewind_step + 1  # that update remembers
    for round_, step in np.ndindex(ROUNDS, STEPS + 1):
        if round_ > 0 or step >= known:
            now = at(story.ticket, slice(None), round_, step)
            assert_times(promises, now, anchors(promises, story))


@law(lambda case, promises: promises.weights == "trained")
def the_ticket_holds_the_trained_weights(case, promises, story):
    ticket = story.ticket
    if promises.hard:  # where it keeps nothing it may hold anything
        ticket = ticket._replace(weights=keeping(ticket.mask, ticket.weights))
    assert_times(promises, ticket, trained(promises, story))


def assert_times(promises, ticket, weights):
    """Its weights are `scale` times these, or each has a factor of its own."""
    if promises.scale is None:
        ours, theirs = (
            masks.prunable_like(tree, ticket.mask) for tree in (ticket.weights, weights)
        )
        trees = map(jax.tree.leaves, (ours, theirs, ticket.mask))
        some = ((w, v, kept & (v != 0)) for w, v, kept in zip(*trees, strict=True))
        factors = np.concatenate([w[m] / v[m] for w, v, m in some])
        assert len(np.unique(factors.round(6))) > 1, "it could promise more"
        return
    expected = times(float(promises.scale), weights, ticket.mask)
    assert_same(ticket.weights, expected, rtol=0 if promises.scale == 1 else 1e-12)


@law()
def a_round_opens_with_the_weights_of_the_ticket_or_of_now(case, promises, story):
    assert not promises.rewinds or promises.weights == "anchor", "to what else?"
    weights = trained(promises, story)
    for round_ in range(1, ROUNDS):
        opening, ending = (slice(None), round_, 0), (slice(None), round_ - 1, STEPS)
        mask = at(story.ticket.mask, *opening)
        expected = at(weights, *ending)
        if promises.rewinds:
            expected = at(story.ticket.weights, *opening)
        else:  # what is not kept may have another value before or after
            mask = both(mask, at(story.ticket.mask, *ending))
        now = at(weights, *opening)
        if promises.hard:
            now, expected = keeping(mask, now), keeping(mask, expected)
        assert_same(now, expected)


@law(lambda case, promises: case.optimizer is not None)
def the_optimiser_is_fresh_or_kept_in_a_new_round(case, promises, story):
    optimizer = found(story.states, "optimizer")
    fresh = at(optimizer, slice(None), 0, 0)
    for round_ in range(1, ROUNDS):
        opening = at(optimizer, slice(None), round_, 0)
        used = at(optimizer, slice(None), round_ - 1, STEPS)
        same, other = (used, fresh) if case.optimizer == "kept" else (fresh, used)
        assert_same(opening, same)
        with np.testing.assert_raises(AssertionError):
            assert_same(opening, other)


# The audit, which runs beside every study, says the same.


@law()
def the_audit_finds_all_as_promised(case, promises, story):
    for lane in range(len(cases.LANES)):
        given = at(cases.given(), lane)
        before, anchor = None, None
        for round_ in range(ROUNDS):
            opening, ending = (
                at((story.params, story.ticket), lane, round_, step)
                for step in (0, STEPS)
            )
            if round_:
                audit.opened("here", *opening, promises, model_state=None)
            audit.ticket(
                "here", *ending, promises, given=given, before=before, anchor=anchor
            )
            _, before = ending
            anchor = anchor or before
