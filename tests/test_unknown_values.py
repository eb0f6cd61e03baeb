"""What a ticket's file leaves out is not taken for a number, by anything.

Whatever takes a ticket either refuses one that was saved without what it prunes, or
does with it, bit for bit, what it does with the ticket that was never saved.
"""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from cases import CASES, STEPS, assert_same

from experiments.fuzzing import zips
from jaxticket import (
    Ticket,
    analysis,
    audit,
    controls,
    files,
    jackpot,
    masks,
    prune,
    revalued,
    scores,
    starts,
    summary,
    units,
)

pytestmark = pytest.mark.usefixtures("x64")
# The searches that need what is pruned, and what their messages call them.
READERS = {
    "jackpot": "the search jackpot",
    "jackpot, restricted": "the search jackpot",
    "fixed, frozen": "the search fixed",
}
REMEDY = r"not there \(NaN\).*save_ticket\(\.\.\., pruned='keep'\)"
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def tickets(tmp_path_factory):
    """A ticket of density 0.3, and the same from a file that dropped the rest."""
    path = tmp_path_factory.mktemp("tickets") / "ticket.npz"
    with jax.enable_x64(True):
        evidence = cases.evidence()._replace(key=KEY)
        ticket = prune(toy.ticket(), "random", 0.3, evidence=evidence)
        ticket = ticket._replace(model_state={"mean": jnp.arange(6.0)})
        files.save_ticket(path, ticket)
        return ticket, files.load_ticket(path, ticket)[0]


def kept(ticket):
    return ticket._replace(weights=masks.apply(ticket.mask, ticket.weights))


def test_values_that_are_not_there_are_not_numbers(tickets):
    ticket, loaded = tickets
    assert_same(kept(loaded), kept(ticket))
    unknown = jax.tree.map(jnp.isnan, masks.prunable_like(loaded.weights, loaded.mask))
    assert_same(unknown, jax.tree.map(jnp.logical_not, ticket.mask))


def test_files_of_version_1_have_none_of_them(tickets, tmp_path):
    """They have zeros there, which are no values either."""
    ticket, loaded = tickets
    path = tmp_path / "first.npz"
    path.write_bytes(zips.first_version(kept(ticket), {}))
    assert_same(files.load_ticket(path, ticket)[0], loaded)


@pytest.mark.parametrize("name", CASES)
def test_a_search_refuses_it_or_goes_on_as_if_it_had_not_been_saved(name, tickets):
    ticket, loaded = tickets
    search = CASES[name].make()
    if name in READERS:
        with pytest.raises(ValueError, match=f"{READERS[name]} reads .*{REMEDY}"):
            search.init(KEY, loaded)
        return
    same(*(_course(name)(search.init(KEY, t)) for t in tickets))


def same(ours, theirs):
    """Parameters bit for bit, and of tickets what they keep."""
    for (params, found), (their_params, their_found) in zip(ours, theirs, strict=True):
        assert_same(params, their_params)
        assert_same(kept(found), kept(their_found))


@functools.cache
def _course(name):
    """State -> what a search shows at first, after a round, and in the next one."""
    search = CASES[name].make()

    def step(state, at):
        grads = cases.gradient(search.params(state))
        return search.update(grads, state, at), None

    def shown(state):
        return search.params(state), search.ticket(state)

    @toy.hurried
    def course(state):
        looks = [shown(state)]
        state, _ = jax.lax.scan(step, state, jnp.arange(STEPS))
        looks.append(shown(state))
        state = search.advance(state, cases.evidence())
        looks.append(shown(state))
        state, _ = jax.lax.scan(step, state, jnp.arange(STEPS))
        return [*looks, shown(state)]

    return course


@pytest.mark.parametrize("score", ["gradient_at_initial", "snip_at_initial"])
def test_imp_refuses_it_where_its_score_runs_the_initial_network(score, tickets):
    with pytest.raises(ValueError, match=f"the score at_initial.* reads .*{REMEDY}"):
        cases.make("imp", score=score)().init(KEY, tickets[1])


def test_in_a_traced_program_what_reads_them_finds_no_number(tickets):
    """Where nothing can be refused, nothing can be taken for a result."""
    ticket, loaded = tickets
    jackpots = jax.jit(lambda t: jackpot(cases.MOMENTUM).init(KEY, t).weights)
    shuffled = jax.jit(lambda t: controls.shuffle(KEY, t).weights)
    constants = jax.jit(lambda t: revalued.signed_constant(KEY, t).weights)
    by_score = cases.make("imp", score="snip_at_initial")()
    pruned = jax.jit(lambda t: by_score.params(by_score.init(KEY, t)))
    for traced in (jackpots, shuffled, constants, pruned):
        whole, lacking = (
            masks.prunable_like(traced(t), ticket.mask) for t in (ticket, loaded)
        )
        assert not any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(whole))
        for leaf, m in zip(*map(jax.tree.leaves, (lacking, ticket.mask)), strict=True):
            assert jnp.isnan(leaf[m]).all()


def test_what_is_closed_over_by_a_program_is_refused_too(tickets):
    with pytest.raises(ValueError, match=REMEDY):
        jax.jit(lambda key: controls.shuffle(key, tickets[1]))(KEY)


@pytest.mark.parametrize("name", controls.__all__)
def test_a_control_refuses_it_or_is_that_of_the_ticket_that_was_not_saved(
    name, tickets
):
    ticket, loaded = tickets

    def control(ticket):
        return getattr(controls, name)(KEY, ticket, toy.network)

    whole = ("shuffle", "permute", "signed_permute", "random_constant", "freeze")
    if name in (*whole, "signed_constant") or name.startswith("noise"):
        with pytest.raises(ValueError, match=f"control [a-z_]+ reads .*{REMEDY}"):
            control(loaded)
        return
    found = [control(each) for each in (loaded, ticket)]
    if name not in ("reinitialise", "random"):  # what is unknown stays so
        found = [masks.apply(each.mask, each.weights) for each in found]
    assert_same(*found)


def test_constants_of_signs_refuse_it(tickets):
    with pytest.raises(ValueError, match=f"^kaiming_constant reads .*{REMEDY}"):
        revalued.kaiming_constant(tickets[1])


def test_newly_drawn_values_do_not_need_it(tickets):
    ours, theirs = (revalued.kaiming_normal(KEY, ticket) for ticket in tickets)
    assert_same(ours, theirs)


AT_INITIAL = ("gradient_at_initial", "snip_at_initial")


@pytest.mark.parametrize("score", scores.__all__)
def test_a_score_refuses_it_or_prunes_as_if_it_had_not_been_saved(score, tickets):
    evidence = cases.evidence()._replace(key=KEY)
    if score in AT_INITIAL:
        with pytest.raises(
            ValueError, match=f"the score at_initial.* reads .*{REMEDY}"
        ):
            prune(tickets[1], score, 0.5, evidence=evidence)
        return
    for variant in (score, scores.ties_at_random(scores.named(score))):
        assert_same(*(kept(prune(t, variant, 0.5, evidence=evidence)) for t in tickets))


@pytest.mark.parametrize("score", ["magnitude", "movement"])
def test_so_it_does_in_several_iterations(score, tickets):
    assert_same(*(kept(prune(t, score, 0.5, iterations=3)) for t in tickets))


@pytest.mark.parametrize("score", AT_INITIAL)
def test_a_score_of_initial_weights_that_are_given_whole_is_as_ever(score, tickets):
    initial = tickets[0].weights
    evidence = cases.evidence()._replace(key=KEY, initial=initial)
    assert_same(*(kept(prune(t, score, 0.5, evidence=evidence)) for t in tickets))


@pytest.mark.parametrize("name", starts.__all__)
def test_a_start_refuses_it_or_is_that_of_the_ticket_that_was_not_saved(name, tickets):
    ticket, loaded = tickets
    options = {
        "pruned": {"density": 0.5},
        "deviating": {"quality": 0.5},
        "given": {"file": "ticket.npz"},
        "filters": {"density": 0.5},
    }
    start = getattr(starts, name)(**options.get(name, {}))

    def opened(ticket):
        opening = starts.Opening(
            KEY,
            ticket,
            ticket,
            lambda state, temperature: cases.evidence(),
            ticket,
            lambda ticket: [units.Filters(masks.names(ticket.mask)[0], 1, ())],
        )
        return kept(start.ticket(opening))

    if name in ("signed_constant", "kaiming_constant"):
        with pytest.raises(ValueError, match=REMEDY):
            opened(loaded)
    else:
        assert_same(opened(loaded), opened(ticket))


def test_what_is_said_of_a_ticket_is_said_of_it(tickets):
    ticket, loaded = tickets
    assert str(summary(loaded)) == str(summary(ticket))
    assert_same(
        analysis.overlap(loaded.mask, ticket.mask),
        analysis.overlap(ticket.mask, ticket.mask),
    )
    with pytest.raises(ValueError, match=f"overlap_with reads .*{REMEDY}"):
        analysis.overlap_with(scores.magnitude(loaded.weights), loaded.mask)
    control = controls.reinitialise(KEY, loaded, toy.network)
    audit.differs("here", *jax.device_get((control, loaded)), by="weights")


@pytest.mark.parametrize("name", ["continuous_sparsification", "imp", "edge_popup"])
def test_the_audit_finds_a_search_over_it_as_promised(name, tickets):
    search = CASES[name].make()
    _, loaded = tickets
    looks = jax.device_get(_course(name)(search.init(KEY, loaded)))
    given = jax.device_get(loaded)._replace(model_state=None)
    audit.ticket("here", *looks[1], search.promises, given=given)
    other = jax.tree.map(lambda w: w + 1, given.weights)
    with pytest.raises(audit.AuditError):
        audit.ticket(
            "here", *looks[1], search.promises, given=given._replace(weights=other)
        )


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_a_ticket_that_is_kept_whole_comes_back_whole(tmp_path, density, x64):
    evidence = cases.evidence()._replace(key=KEY)
    ticket = prune(toy.ticket(), "random", density, evidence=evidence)
    path = tmp_path / "ticket.npz"
    files.save_ticket(path, ticket, pruned="keep" if density < 1 else "drop")
    assert_same(files.load_ticket(path, ticket)[0], ticket)
    assert_same(
        controls.shuffle(KEY, files.load_ticket(path, ticket)[0]),
        controls.shuffle(KEY, ticket),
    )


def test_what_is_lost_stays_so_when_it_is_saved_again(tmp_path, tickets):
    for pruned in ("keep", "drop"):
        files.save_ticket(tmp_path / "again.npz", tickets[1], pruned=pruned)
        assert_same(
            files.load_ticket(tmp_path / "again.npz", tickets[0])[0], tickets[1]
        )


def test_gradients_pass_over_values_that_are_not_there(tickets):
    def loss(weights, ticket):
        params = masks.apply(ticket.mask, weights)
        return cases.loss(params, cases.UNSEEN, cases.data(), None)[0]

    ours, theirs = (jax.grad(loss)(ticket.weights, ticket) for ticket in tickets)
    assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", ["int32", "float4_e2m1fn", "complex64", "bfloat16"])
def test_each_dtype_has_its_own_way(tmp_path, dtype):
    """A leaf whose numbers have no NaN keeps what it prunes."""
    weights = {"w": jnp.asarray(np.arange(12).reshape(3, 4) % 5, dtype)}
    mask = {"w": jnp.arange(12).reshape(3, 4) % 3 > 0}
    path = tmp_path / "ticket.npz"
    files.save_ticket(path, Ticket(weights, mask))
    (found, _, _), _ = files.load_ticket(path, Ticket(weights, mask))
    lost = np.asarray(found["w"] != weights["w"])
    if dtype in ("int32", "float4_e2m1fn"):
        assert not lost.any()
    else:
        np.testing.assert_array_equal(lost, ~mask["w"])
        assert jnp.isnan(found["w"][lost]).all()
