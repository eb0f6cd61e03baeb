"""Counts beyond 32 bits: their arithmetic, and selections of networks that large."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxticket import Ticket, counts, masks, prune, selection

few = settings(deadline=None, max_examples=100)
words = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1])
numbers = st.tuples(words, words).map(lambda pair: pair[0] * 2**32 + pair[1])
known = jax.jit(
    lambda a, b: (a + b, a - b, a >= b, a / b, counts.difference(a, b)),
)


@few
@given(numbers, numbers)
def test_counts_are_whole_numbers(a, b):
    total, left, enough, ratio, difference = known(counts.of(a), counts.of(b))
    assert int(total) == (a + b) % 2**64
    assert int(left) == (a - b) % 2**64
    assert enough == (a >= b)
    assert int(difference) == max(a - b, 0)
    if b:
        np.testing.assert_allclose(ratio, a / b, rtol=1e-6)


@few
@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9))
def test_sums_of_many_leaves(leaves):
    leaves += [2**31 - 1] * (9 - len(leaves))
    there = jnp.asarray(leaves, jnp.int32)
    assert int(counts.total(there)) == sum(leaves)
    ends = counts.cumulated(there)
    found = [int(counts.Count(*pair)) for pair in zip(ends.high, ends.low, strict=True)]
    assert found == np.cumsum(leaves).tolist()


@few
@given(st.integers(0, 2**47), st.floats(0, 1))
def test_keep_is_exact_beyond_one_word(alive, density):
    lost = 2**31 - round(Fraction(density) * 2**31)
    kept = alive - int(Fraction(alive * lost, 2**31) + Fraction(1, 2))
    assert int(selection.keep(counts.of(alive), density)) == kept


def test_numbers_of_any_kind_become_counts():
    for number in (7, np.int64(2**40), jnp.int32(7), jnp.uint8(7)):
        assert int(counts.of(number)) == int(number)
    with jax.enable_x64(True):
        assert int(counts.of(jnp.int64(2**40 + 7))) == 2**40 + 7
    same = counts.of(7)
    assert counts.of(same) is same


@pytest.mark.parametrize("select", ["global_top", "linear", "equal", "erk"])
def test_a_network_of_more_weights_than_int32_counts_is_pruned(select):
    """In shapes: the arrays are larger than this machine."""
    weights = [jax.ShapeDtypeStruct((2**15, 2**15), jnp.bfloat16)] * 70

    def pruned(weights):
        ticket = prune(Ticket(weights, masks.full(weights)), "magnitude", 0.5,
                       select=select)  # fmt: skip
        return ticket.mask, masks.density(ticket.mask), masks.count(ticket.mask)

    mask, density, count = jax.eval_shape(pruned, weights)
    assert [(m.shape, m.dtype) for m in mask] == [(w.shape, bool) for w in weights]
    assert density.dtype == jnp.float32
    assert isinstance(count, counts.Count)


def test_masks_are_counted_by_two_words(monkeypatch):
    """As if int32 held no more than 63, which is less than the mask has."""
    rng = np.random.default_rng(0)
    mask = [jnp.asarray(rng.random((7, 9)) < 0.5) for _ in range(9)]
    scores = [jnp.asarray(rng.normal(size=(7, 9)).astype(np.float32)) for _ in mask]
    expected = selection.global_top(scores, mask, 0.3)
    plain = masks.count(mask), masks.density(mask), masks.overlap(expected, mask)
    monkeypatch.setattr(counts, "ONE_WORD", 64)
    count = masks.count(mask)
    assert isinstance(count, counts.Count)
    assert int(count) == plain[0]
    assert masks.density(mask) == plain[1]
    assert masks.overlap(expected, mask) == plain[2]
    found = selection.global_top(scores, mask, 0.3)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_leaf_that_cannot_be_counted_is_refused():
    stack = {"blocks": jax.ShapeDtypeStruct((80, 2**13, 2**13), jnp.bool_)}
    scores = {"blocks": jax.ShapeDtypeStruct((80, 2**13, 2**13), jnp.float32)}
    with pytest.raises(
        ValueError, match="'blocks' has 5368709120 weights.*stacks.apar"
    ):
        jax.eval_shape(masks.count, stack)
    with pytest.raises(ValueError, match="'blocks' has 5368709120 weights"):
        jax.eval_shape(lambda s, m: selection.top(s, m, 3), scores, stack)
