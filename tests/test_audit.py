"""Audits: each passes what is right, and names place and layer of what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxticket import (
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
    return controls.reinitialise(jax.random.key(9), ticket, toy.init)


def control(by, ticket=TICKET):
    return {
        "weights": fresh(ticket),
        "mask": controls.shuffle(jax.random.key(9), ticket),
        "both": controls.random(jax.random.key(9), ticket, toy.init),
    }[by]


RIGHT = {
    "pruned_are_zero": (PARAMS, TICKET.mask),
    "rewound": (PARAMS, TICKET),
    "rewound, by kept weights": (TICKET.weights, TICKET),
    "same": (PARAMS, jax.tree.map(np.array, PARAMS)),
    "nested": (TICKET.mask, OUTER.mask),
    "nested, equal": (TICKET.mask, TICKET.mask),
    "counts, together": (TICKET.mask, OUTER.mask, 36 / 48),
    "counts": (
        TICKET.mask,
        OUTER.mask,
        {"dense/kernel": 21 / 27, "head/kernel": 15 / 21},
    ),
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
    "counts: all layers keeps 36 of 48 weights, expected 35": (
        TICKET.mask,
        OUTER.mask,
        35 / 48,
    ),
    "counts: head/kernel keeps 15 of 21 weights, expected 16": (
        TICKET.mask,
        OUTER.mask,
        {"dense/kernel": 21 / 27, "head/kernel": 16 / 21},
    ),
    "counts: all layers keeps 37 of 48 weights, expected 36": (
        changed(TICKET.mask, "head/kernel", (0, 0), True),
        OUTER.mask,
        36 / 48,
    ),
    "no_empty_layer: head/kernel keeps nothing": (toy.ticket(lost=24).mask,),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(what):
    name, message = what.split(": ")
    with pytest.raises(audit.AuditError, match=f"^{WHERE}: {message}"):
        getattr(audit, name)(WHERE, *WRONG[what])


@pytest.mark.parametrize("by", ["weights", "mask", "both"])
@pytest.mark.parametrize("ticket", [TICKET, toy.ticket()], ids=["sparse", "dense"])
def test_controls_pass(by, ticket):
    audit.differs(WHERE, control(by, ticket), ticket, by=by)


@pytest.mark.parametrize(
    ("found", "by"),
    [
        (found, by)
        for found in ("nothing", "weights", "mask", "both")
        for by in ("weights", "mask", "both")
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


def test_same_up_to_a_relative_error():
    near = jax.tree.map(lambda x: x * np.float32(1 + 1e-6), PARAMS)
    audit.same(WHERE, near, PARAMS, rtol=1e-5)
    for other, rtol in ((near, 0.0), (changed(near, "head/bias", 1, 0.5), 1e-5)):
        with pytest.raises(audit.AuditError, match="has changed"):
            audit.same(WHERE, other, PARAMS, rtol=rtol)


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


@pytest.mark.parametrize("density", [0.8, 1 / 3, 0.9])
def test_counts_are_those_of_selection(density):
    """Two definitions that share no code."""
    rates = {"head/kernel": 0.5}
    for select, expected in (
        (selection.global_top, density),
        (
            selection.per_layer(selection.at_rates(rates)),
            {"dense/kernel": density, "head/kernel": 1 - 0.5 * (1 - density)},
        ),
    ):
        pruned = prune(OUTER, scores.magnitude, density, select=select)
        audit.counts(WHERE, pruned.mask, OUTER.mask, expected)
