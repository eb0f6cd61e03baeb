"""Audits: each passes what is right, and names place and layer of what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxticket import (
    Promises,
    Ticket,
    audit,
    controls,
    masks,
    prune,
    scores,
    selection,
)

WHERE = "round 2"
OUTER = toy.ticket(lost=3)  # keeps 27 of 30 and 21 of 24
TICKET = toy.ticket(lost=9)  # keeps 21 of 30 and 15 of 24
PARAMS = masks.apply(TICKET.mask, TICKET.weights)


def changed(tree, name, index, value):
    """A copy with one entry of `layer/leaf` set."""
    layer, leaf = name.split("/")
    new = tree[layer][leaf].at[index].set(value)
    return tree | {layer: tree[layer] | {leaf: new}}


def shuffled(tree, name):
    layer, leaf = name.split("/")
    return tree | {layer: tree[layer] | {leaf: tree[layer][leaf][::-1]}}


def fresh(ticket=TICKET):
    return control("weights", ticket)


def control(by, ticket=TICKET):
    names = {"weights": "reinitialise", "mask": "shuffle", "both": "random"}
    names |= {"order": "reorder", "pruned": "freeze"}
    return getattr(controls, names[by])(jax.random.key(9), ticket, toy.network)


RIGHT = {
    "pruned_are_zero": (PARAMS, TICKET.mask),
    "pruned_are_frozen": (TICKET.weights, TICKET),
    "rewound": (PARAMS, TICKET),
    "rewound, by kept weights": (TICKET.weights, TICKET),
    "same": (PARAMS, jax.tree.map(np.array, PARAMS)),
    "nested": (TICKET.mask, OUTER.mask),
    "nested, equal": (TICKET.mask, TICKET.mask),
    "same, streams": ({"a": jax.random.key(1)}, {"a": jax.random.key(1)}),
    "same, nothing": ({}, None),
    "counts, together": (TICKET.mask, 36),
    "counts": (TICKET.mask, {"dense/kernel": 21, "head/kernel": 15}),
    "no_empty_layer": (TICKET.mask,),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name):
    getattr(audit, name.split(",")[0])(WHERE, *RIGHT[name])


WRONG = {
    "pruned_are_zero: 1 pruned weights of dense/kernel are not zero": (
        changed(PARAMS, "dense/kernel", (0, 2), 1e-30),
        TICKET.mask,
    ),
    "pruned_are_zero: 2 pruned weights of head/kernel are not zero": (
        changed(PARAMS, "head/kernel", (0, slice(2)), jnp.nan),
        TICKET.mask,
    ),
    "pruned_are_frozen: 9 pruned weights of dense/kernel have moved": (PARAMS, TICKET),
    "rewound: head/kernel was not rewound": (
        changed(PARAMS, "head/kernel", (5, 3), 1.0),
        TICKET,
    ),
    "rewound: head/bias was not rewound": (
        changed(PARAMS, "head/bias", 0, 1.0),
        TICKET,
    ),
    "rewound: dense/kernel was not rewound": (
        TICKET.weights,
        TICKET._replace(
            weights=changed(
                TICKET.weights,
                "dense/kernel",
                (4, 5),
                np.nextafter(TICKET.weights["dense"]["kernel"][4, 5], np.float32(9)),
            )
        ),
    ),
    "same: head/bias has changed": (PARAMS, changed(PARAMS, "head/bias", 1, 0.5)),
    "same: dense/bias has changed": (
        changed(PARAMS, "dense/bias", 1, 0.0),
        changed(PARAMS, "dense/bias", 1, -0.0),
    ),
    "nested: 1 pruned weights of dense/kernel came back": (
        changed(TICKET.mask, "dense/kernel", (0, 0), True),
        OUTER.mask,
    ),
    "nested: 6 pruned weights of dense/kernel came back": (OUTER.mask, TICKET.mask),
    "same: a has changed": ({"a": jax.random.key(1)}, {"a": jax.random.key(2)}),
    "same: b has changed": ({"a": np.ones(1)}, {"a": np.ones(1), "b": np.ones(1)}),
    "counts: the mask keeps 36 weights, expected 35": (TICKET.mask, 35),
    "counts: head/kernel keeps 15 weights, expected 16": (
        TICKET.mask,
        {"dense/kernel": 21, "head/kernel": 16},
    ),
    "no_empty_layer: head/kernel keeps nothing": (toy.ticket(lost=24).mask,),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(what):
    name, message = what.split(": ")
    with pytest.raises(audit.AuditError, match=f"^{WHERE}: {message}"):
        getattr(audit, name)(WHERE, *WRONG[what])


@pytest.mark.parametrize("by", ["weights", "mask", "both", "order", "pruned"])
@pytest.mark.parametrize("ticket", [TICKET, toy.ticket()], ids=["sparse", "dense"])
def test_controls_pass(by, ticket):
    audit.differs(WHERE, control(by, ticket), ticket, by=by)


@pytest.mark.parametrize(
    ("found", "by"),
    [
        (found, by)
        for found in ("nothing", "weights", "mask", "both")
        for by in ("weights", "mask", "both", "order", "pruned")
        if not (found == "nothing" and by in ("order", "pruned"))
        if found != by
    ],
)
def test_controls_that_differ_otherwise_are_named(found, by):
    ours = TICKET if found == "nothing" else control(found)
    weights = "differ" if found in ("weights", "both") else "are equal"
    mask = "differ" if found in ("mask", "both") else "are equal"
    message = f"differ by {by}, but weights {weights} and masks {mask}"
    with pytest.raises(audit.AuditError, match=f"^{WHERE}: .*{message}"):
        audit.differs(WHERE, ours, TICKET, by=by)


def test_a_dense_ticket_has_one_mask_but_its_weights_must_differ():
    dense = toy.ticket()
    for ours, by in ((dense, "both"), (fresh(dense), "mask"), (dense, "weights")):
        with pytest.raises(audit.AuditError, match=f"{WHERE}: .*differ by {by}"):
            audit.differs(WHERE, ours, dense, by=by)


def test_an_empty_ticket_has_one_mask_and_no_weights():
    empty = toy.ticket(lost=30)
    for by in ("weights", "mask", "both"):
        audit.differs(WHERE, control(by, empty), empty, by=by)


def test_controls_keep_the_counts_of_layers():
    moved = TICKET._replace(mask=changed(TICKET.mask, "head/kernel", (0, 0), True))
    with pytest.raises(audit.AuditError, match=f"{WHERE}: .* differs in head/kernel"):
        audit.differs(WHERE, moved, TICKET, by="mask")


def test_scalars_and_leaves_that_are_never_pruned():
    params = {"w": jnp.ones((2, 2)), "scale": jnp.float32(2), "none": None}
    ticket = Ticket(params, masks.full(params))
    audit.rewound(WHERE, params, ticket)
    audit.pruned_are_zero(WHERE, params, ticket.mask)
    other = params | {"scale": jnp.float32(3)}
    for check, arguments in ((audit.rewound, ticket), (audit.same, params)):
        with pytest.raises(audit.AuditError, match="scale"):
            check(WHERE, other, arguments)


# A ticket against the promises of its search: one that holds, and what each notices.

GIVEN = toy.ticket(lost=3)._replace(model_state={"mean": jnp.ones(2)})
AFTER = GIVEN._replace(mask=TICKET.mask)
OTHER = GIVEN._replace(weights=toy.ticket(1).weights)
STATE = {"mean": jnp.zeros(2)}
PRUNED = Promises(rounds=True, kept=lambda mask: 36)
ANCHORED = PRUNED._replace(weights="anchor", rewinds=True)
LATER = ANCHORED._replace(rewind_step=3)
FROZEN = Promises(weights="given", scale=2.0)


def scaled(ticket, factor):
    return ticket._replace(weights=masks.scale(ticket.mask, ticket.weights, factor))


def run_with(ticket):
    return masks.apply(ticket.mask, ticket.weights)


def hold(found, promises, params=None, **options):
    params = run_with(found) if params is None else params
    audit.ticket(WHERE, params, found, promises, **{"given": GIVEN} | options)


def of(kept):
    return PRUNED._replace(kept=lambda mask: kept)


TRAINED = OTHER._replace(mask=TICKET.mask)
ALONE = FROZEN._replace(scale=1.0, kept=lambda mask: int(masks.count(mask)) - 12)
HELD = {
    "pruned once": (AFTER, ANCHORED, {}),
    "pruned again": (AFTER, ANCHORED, {"before": GIVEN}),
    "trained": (TRAINED, PRUNED, {}),
    "kept by layer": (AFTER, of({"dense/kernel": 21, "head/kernel": 15}), {}),
    "opened as given": (OTHER, PRUNED._replace(opens_given=True), {}),
    "first of a later step": (TRAINED, LATER, {}),
    "from a later step": (TRAINED, LATER, {"anchor": OTHER, "before": OTHER}),
    "frozen": (scaled(AFTER, 2.0), FROZEN, {}),
    "frozen, nearly": (scaled(AFTER, 2.0 + 1e-6), FROZEN, {}),
    "frozen, by factors": (scaled(AFTER, np.pi), FROZEN._replace(scale=None), {}),
    "soft": (AFTER, PRUNED._replace(hard=False), {"params": GIVEN.weights}),
    "no rounds": (AFTER, ALONE, {"before": AFTER}),
    "not nested": (GIVEN, of(48)._replace(nested=False), {"before": AFTER}),
}


@pytest.mark.parametrize("name", HELD)
def test_a_ticket_that_is_as_promised_passes(name):
    found, promises, options = HELD[name]
    hold(found, promises, **options)


MOVED = GIVEN._replace(weights=changed(GIVEN.weights, "head/kernel", (5, 3), 1.0))
BROKEN = [
    ("9 pruned weights of dense/kernel are", AFTER, PRUNED, {"params": GIVEN.weights}),
    ("pruned weights of dense/kernel came back", GIVEN, PRUNED, {"before": AFTER}),
    ("the mask keeps 36 weights, expected 35", AFTER, of(35), {}),
    (
        "head/kernel keeps 15 weights, expected 14",
        AFTER,
        of({"dense/kernel": 21, "head/kernel": 14}),
        {},
    ),
    ("dense/kernel has changed", AFTER, PRUNED._replace(opens_given=True), {}),
    ("dense/bias is not what the search was given", TRAINED, ANCHORED, {}),
    ("head/kernel is not what the search", MOVED, FROZEN._replace(scale=1.0), {}),
    ("dense/kernel is not what the search", scaled(AFTER, 2.0001), FROZEN, {}),
    ("mean has changed", AFTER._replace(model_state=STATE), ANCHORED, {}),
    ("dense/bias has changed", TRAINED, LATER, {"anchor": GIVEN}),
    (
        "mean has changed",
        TRAINED,
        LATER,
        {"anchor": OTHER._replace(model_state=STATE)},
    ),
    (
        "dense/bias ran with other weights than the ticket's",
        TRAINED,
        PRUNED,
        {"params": run_with(AFTER)},
    ),
]


@pytest.mark.parametrize(("message", "found", "promises", "options"), BROKEN)
def test_a_ticket_that_is_not_as_promised_is_named(message, found, promises, options):
    with pytest.raises(audit.AuditError, match=f"^{WHERE}: .*{message}"):
        hold(found, promises, **options)


def test_a_round_opens_as_promised():
    def opened(params, promises, model_state=GIVEN.model_state):
        audit.opened(WHERE, params, AFTER, promises, model_state=model_state)

    opened(run_with(AFTER), ANCHORED)
    opened(run_with(TRAINED), PRUNED, STATE)
    for message, *wrong in (
        ("dense/bias was not rewound", run_with(TRAINED), ANCHORED),
        ("mean has changed", run_with(AFTER), ANCHORED, STATE),
        ("weights of dense/kernel are not zero", GIVEN.weights, PRUNED),
    ):
        with pytest.raises(audit.AuditError, match=f"^{WHERE}: .*{message}"):
            opened(*wrong)


@pytest.mark.parametrize("density", [0.8, 1 / 3, 0.9])
@pytest.mark.parametrize("name", ["global_top", "lottery"])
def test_counts_are_those_of_selection(name, density):
    """Two definitions that share no code."""
    select = selection.named(name)
    pruned = prune(OUTER, scores.magnitude, density, select=select)
    audit.counts(WHERE, pruned.mask, selection.kept(select, density)(OUTER.mask))
