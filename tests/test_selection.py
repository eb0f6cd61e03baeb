"""Selection: exactly `k` weights, as a stable sort would choose them."""

import functools
from collections import Counter
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxticket import Ticket, masks, prune, selection

pytestmark = pytest.mark.usefixtures("unoptimised")

few = settings(deadline=None, max_examples=40)
top = jax.jit(selection.top)

SHAPES = {"a": (3, 4), "b": (1, 1), "c": (2, 3, 2), "d": (5,)}
SIZE = 30
WIDTHS = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}

LENET = {"hidden_0": (784, 300), "hidden_1": (300, 100), "output": (100, 10)}
LENET_MASK = {name: jnp.ones(shape, bool) for name, shape in LENET.items()}


def split(flat):
    """Flat numbers as a tree, with a leaf that is never pruned."""
    parts = np.split(flat, np.cumsum([np.prod(shape) for shape in SHAPES.values()]))
    return {n: x.reshape(s) for (n, s), x in zip(SHAPES.items(), parts, strict=False)}


def join(tree):
    return np.concatenate([np.ravel(tree[name]) for name in SHAPES])


def masked_tree(flat):
    return split(flat) | {"never": None}


def scored_tree(flat):
    return split(flat) | {"never": np.full((2, 2), np.inf, flat.dtype)}


def stable_sort(scores, alive, k):
    """The `k` highest of the alive: NaN lowest, ties to the first."""
    value = np.asarray(scores, np.float64)
    nan = np.isnan(value)
    rank = np.lexsort((np.where(nan, 0, -value), nan, ~alive))
    kept = np.zeros(len(alive), bool)
    kept[rank[:k]] = True
    return kept


def scores_of(width):
    """Numbers of many ties, with everything that floating point has besides."""
    special = st.sampled_from([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf])
    finite = st.floats(width=width, allow_subnormal=False)
    return hnp.arrays(f"float{width}", SIZE, elements=special | finite)


alive_masks = st.booleans().flatmap(
    lambda whole: st.just(np.ones(SIZE, bool)) if whole else hnp.arrays(bool, SIZE)
)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_top_is_a_stable_sort(dtype):
    @few
    @given(scores_of(WIDTHS[dtype]), alive_masks, st.data())
    def check(values, alive, data):
        k = data.draw(st.integers(0, int(alive.sum())))
        values = values.astype(jnp.dtype(dtype))
        kept = top(scored_tree(values), masked_tree(alive), jnp.int32(k))
        assert kept["never"] is None
        expected = stable_sort(values, alive, k)
        np.testing.assert_array_equal(join(kept), expected)
        assert masks.nested(kept, masked_tree(alive))

    with jax.enable_x64(dtype == "float64"):
        check()


@pytest.mark.parametrize("k", [0, 1, 17, SIZE])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_when_all_are_equal_the_first_are_kept(k, value):
    scores = np.full(SIZE, value, np.float32)
    kept = top(scored_tree(scores), masked_tree(np.ones(SIZE, bool)), jnp.int32(k))
    np.testing.assert_array_equal(join(kept), np.arange(SIZE) < k)


@pytest.mark.parametrize("size", [255, 256, 5001])
def test_top_of_many(size):
    rng = np.random.default_rng(size)
    alive = rng.random(size) < 0.8
    draws = {"ties": rng.integers(-3, 3, size), "none": rng.normal(size=size)}
    draws["mixed"] = np.where(rng.random(size) < 0.5, draws["none"], draws["ties"])
    for values in draws.values():
        scores = values.astype(np.float32)
        trees = [np.split(x, [size // 3, size // 2]) for x in (scores, alive)]
        for k in (0, 1, size // 3, alive.sum() - 1, alive.sum()):
            kept = np.concatenate(top(*trees, jnp.int32(k)))
            np.testing.assert_array_equal(kept, stable_sort(scores, alive, k))


def test_scores_of_several_types_are_compared_as_numbers():
    scores = [jnp.array([1.0, 3.0], jnp.bfloat16), jnp.array([2.0, 4.0])]
    kept = top(scores, [jnp.ones(2, bool)] * 2, 2)
    assert [leaf.tolist() for leaf in kept] == [[False, True], [False, True]]


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int16, np.uint8])
def test_whole_numbers_are_compared_to_the_last_digit(kind):
    """Of ranks beyond 2**24 float32 has not all; nothing kept is below all of them."""
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    rng = np.random.default_rng(0)
    scores = rng.integers(least, most, SIZE, kind, endpoint=True)
    scores[:6] = [least, least + 1, most - 2, 0, 1, most // 2]
    scores[6:8] = most // 2 - 1, most // 2 + 1
    alive = rng.random(SIZE) < 0.9
    for k in (0, 1, SIZE // 2, alive.sum() - 1, alive.sum()):
        kept = top(split(scores), split(alive), jnp.int32(k))
        np.testing.assert_array_equal(join(kept), stable_sort(scores, alive, k))


def test_top_under_vmap():
    """Some lanes have ties at the cut and some have not."""
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 3, (8, SIZE)).astype(np.float32)
    scores[::2] = rng.normal(size=(4, SIZE))
    alive, k = rng.random((8, SIZE)) < 0.7, np.arange(8, dtype=np.int32)
    trees = [[tree(x) for x in xs] for tree, xs in ((split, scores), (split, alive))]
    stacked = [jax.tree.map(lambda *x: np.stack(x), *tree) for tree in trees]
    kept = jax.jit(jax.vmap(selection.top))(*stacked, k)
    for lane in range(8):
        one = jax.tree.map(lambda x, lane=lane: x[lane], kept)
        expected = stable_sort(scores[lane], alive[lane], k[lane])
        np.testing.assert_array_equal(join(one), expected)


# Counts.


def exact(alive, fraction):
    """`alive - round((1 - density) * alive)`, halves up, on multiples of 2**-31."""
    lost = 2**31 - round(Fraction(fraction) * 2**31)
    return alive - int(Fraction(alive * lost, 2**31) + Fraction(1, 2))


counts = st.integers(0, 2**31 - 1) | st.sampled_from([0, 1, 2**24 + 1, 2**31 - 1])
fractions = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0, 2.0**-31])


@few
@given(counts, fractions)
def test_keep_is_exact_for_python_densities(alive, density):
    kept = int(selection.keep(jnp.int32(alive), density))
    assert kept == exact(alive, density)
    assert abs(kept - Fraction(density) * alive) <= 0.5 + alive * 2.0**-32


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64", "int32"]
)
def test_keep_is_exact_for_traced_densities(dtype):
    keep = jax.jit(selection.keep)

    @few
    @given(counts, fractions)
    def check(alive, density):
        density = jnp.asarray(density, dtype)
        assert int(keep(jnp.int32(alive), density)) == exact(alive, float(density))

    with jax.enable_x64(dtype == "float64"):
        check()


@pytest.mark.parametrize("density", [-0.1, 1.3])
def test_a_traced_density_outside_0_to_1_is_clamped(density):
    clipped = jax.jit(selection.keep)(jnp.int32(10), jnp.float32(density))
    assert clipped == (0 if density < 0 else 10)


# Selects.

TREE = {"a": (4, 5), "b": (3, 3, 2, 4), "c": (6, 10), "d": (1, 1)}
RATES = {"b": 0.5, "d": 0.0}
SELECTS = {
    "global": selection.global_top,
    "equal": selection.per_layer(selection.equal),
    "at_rates": selection.per_layer(selection.at_rates(RATES)),
    "uniform": selection.per_layer(selection.uniform(first="a")),
    "erk": selection.per_layer(selection.erk),
    "linear": selection.linear,
}
TRACES = Counter()


@functools.cache
def compiled(name):
    def select(scores, mask, density):
        TRACES[name] += 1
        return SELECTS[name](scores, mask, density)

    return jax.jit(select)


def normal(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=s).astype(np.float32) for name, s in TREE.items()}


def ones():
    return {name: np.ones(shape, bool) for name, shape in TREE.items()}


def kept_of(mask):
    return {name: int(leaf.sum()) for name, leaf in mask.items()}


def solved(mask, density, raw, whole=()):
    """Densities in the proportions `raw`, whole where that is more than all."""
    alive = kept_of(mask)
    whole = set(whole)
    while True:
        left = max(density * sum(alive.values()) - sum(alive[n] for n in whole), 0)
        share = {n: raw[n] * mask[n].size for n in mask if n not in whole}
        factor = left / sum(share.values()) if share else 0
        found = {n: 1.0 if n in whole else factor * share[n] / alive[n] for n in mask}
        over = {n for n in share if found[n] > 1}
        if not over:
            return found
        whole |= over


def allocated(name, mask, density):
    """What every layer keeps, as the papers say."""
    raw = {"uniform": dict.fromkeys(TREE, 1.0)}
    raw["erk"] = {n: sum(shape) / np.prod(shape) for n, shape in TREE.items()}
    if name in raw:
        return solved(mask, density, raw[name], ["a"] if name == "uniform" else [])
    if name == "linear":
        alive = kept_of(mask)
        lost = {n: (1 - density) * mask[n].size for n in TREE}
        return {n: max(1 - lost[n] / alive[n], 0) for n in TREE}
    return {
        n: 1 - (RATES if name == "at_rates" else {}).get(n, 1) * (1 - density)
        for n in TREE
    }


@pytest.mark.parametrize("name", SELECTS)
def test_selects_keep_exact_counts_in_one_compilation(name):
    select, scores, alive = compiled(name), normal(), ones()
    alive["c"][:3] = False
    before = kept_of(alive)
    total = sum(before.values())
    for density in np.linspace(0, 1, 21, dtype=np.float32):
        kept = select(scores, alive, jnp.float32(density))
        assert masks.nested(kept, alive)
        if name == "global":
            assert masks.count(kept) == exact(total, float(density))
            continue
        expected = allocated(name, alive, density)
        for n, found in kept_of(kept).items():
            assert abs(found - expected[n] * before[n]) <= 0.501, (density, n)
            highest = np.sort(scores[n][alive[n]])[before[n] - found :]
            np.testing.assert_array_equal(np.sort(scores[n][kept[n]]), highest)
        if name in ("uniform", "erk") and density * total >= before["a"]:
            assert abs(masks.count(kept) - density * total) <= len(TREE) / 2
    assert TRACES[name] == 1


@pytest.mark.parametrize("name", ["uniform", "erk"])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.4, 0.9])
def test_allocations_among_survivors(name, density):
    alive = ones()
    alive["c"][:3] = False
    allocation = SELECTS[name].allocation
    found = allocation(alive, density)
    for layer, expected in allocated(name, alive, density).items():
        np.testing.assert_allclose(found[layer], expected, rtol=1e-5, err_msg=layer)


@pytest.mark.parametrize("name", SELECTS)
def test_densities_0_and_1(name):
    whole, none = (
        kept_of(compiled(name)(normal(), ones(), jnp.float32(density)))
        for density in (1, 0)
    )
    assert whole == kept_of(ones())
    stays = {"uniform": {"a": 20}, "at_rates": {"b": 36, "d": 1}}.get(name, {})
    assert none == dict.fromkeys(TREE, 0) | stays


@pytest.mark.parametrize("name", SELECTS)
def test_repeated_pruning_is_nested(name):
    mask = ones()
    for round_ in range(6):
        smaller = compiled(name)(normal(round_), mask, jnp.float32(0.85))
        assert masks.nested(smaller, mask)
        assert masks.count(smaller) < masks.count(mask)
        mask = smaller


def test_densities_fall_along_a_line_to_nothing():
    """A hundred times a hundredth: of what there was at first, in every layer alike."""
    mask = {"w": np.ones((20, 50), bool), "b": np.ones(300, bool)}
    scores = jax.tree.map(lambda m: np.arange(m.size).reshape(m.shape), mask)
    select = jax.jit(selection.linear)
    for n in range(1, 102):
        mask = select(scores, mask, jnp.float32(0.99))
        left = max(100 - n, 0)
        assert kept_of(mask) == {"w": 10 * left, "b": 3 * left}


def test_a_kernel_and_its_bias_lose_the_lowest_of_both():
    mask = {n: {"w": np.ones((9, 10), bool), "b": np.ones(10, bool)} for n in "pq"}
    mask["b"] = np.ones(20, bool)  # at the top, and so by itself
    scores = jax.tree.map(lambda m: np.arange(m.size).reshape(m.shape), mask)
    scores["q"]["b"] += 1000
    found = jax.jit(selection.linear)(scores, mask, jnp.float32(0.9))
    assert jax.tree.map(np.sum, found) == {
        "p": {"w": 85, "b": 5},
        "q": {"w": 80, "b": 10},
        "b": 18,
    }
    assert selection.kept(selection.linear, 0.9)(mask) == 90 + 90 + 18
    alone = {n: layer for n, layer in mask.items() if n == "b"}
    assert selection.kept(selection.linear, 0.9)(alone) == {"b": 18}


def test_without_a_name_no_layer_is_the_first():
    """Least of all the first by the alphabet."""
    mask = {n: np.ones((10, 10), bool) for n in ("block1", "head", "stem")}
    for first, expected in ((None, [0.4, 0.4, 0.4]), ("stem", [0.1, 0.1, 1.0])):
        densities = selection.uniform(first=first)(mask, 0.4)
        np.testing.assert_allclose([*densities.values()], expected, rtol=1e-6)
    layers = {"stem": {"kernel": mask["stem"]}, "stem_2": mask["head"]}
    found = selection.uniform(first="stem")(layers, 0.75)
    np.testing.assert_allclose(jax.tree.leaves(found), [1.0, 0.5], rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_like_keeps_as_many_of_each_layer_as_another_mask(seed):
    """The highest of each, whatever the density asked for, and never what is gone."""
    rng = np.random.default_rng(seed)
    reference = {n: rng.random(s) < 0.6 for n, s in TREE.items()} | {"never": None}
    reference["d"][:] = seed == 0
    scores = normal(seed) | {"never": np.full((2, 2), np.inf, np.float32)}
    alive = ones() | {"never": None}
    alive["c"][1:] = False  # 10 weights, of which the other mask has about 36
    for density in (0.0, 0.37, 1.0):
        kept = jax.jit(selection.like(reference))(scores, alive, density)
        assert kept["never"] is None
        for n in TREE:
            k = min(reference[n].sum(), alive[n].sum())
            expected = stable_sort(scores[n].ravel(), alive[n].ravel(), k)
            np.testing.assert_array_equal(np.ravel(kept[n]), expected, err_msg=n)


def test_like_under_vmap():
    references = {
        n: np.random.default_rng(0).random((4, *s)) < 0.3 for n, s in TREE.items()
    }
    kept = jax.vmap(lambda m: selection.like(m)(normal(), ones(), None))(references)
    for n in TREE:
        counts = [leaf.reshape(4, -1).sum(1) for leaf in (kept[n], references[n])]
        np.testing.assert_array_equal(*counts)


def test_like_of_another_network_is_an_error():
    with pytest.raises(ValueError):
        selection.like(ones() | {"never": np.ones(2, bool)})(
            normal() | {"never": np.ones(2)}, ones() | {"never": None}, 1.0
        )


# Names, and counts that are known beforehand.


def test_a_name_stands_for_its_selection_and_a_function_for_itself():
    assert selection.named("global_top") is selection.global_top
    assert selection.named(selection.top) is selection.top


KNOWN = {
    "global_top": selection.global_top,
    "linear": selection.named("linear"),
    "equal": selection.named("equal"),
    "lottery_conv_6": selection.named("lottery_conv_6"),
    "lottery_conv_6_one_shot": selection.named("lottery_conv_6_one_shot"),
    "at_rates": selection.per_layer(selection.at_rates({"b": 0.3}, per_round=0.5)),
    "like": selection.like({n: normal()[n] < 0 for n in "bc"}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_counts_are_known_beforehand(name):
    """Of a convolution and a dense layer that has lost some; of numbers and arrays."""
    select, alive = KNOWN[name], {n: ones()[n] for n in "bc"}
    alive["c"][:3] = False
    choose = functools.partial(select, {n: normal()[n] for n in "bc"}, alive)
    densities = np.random.default_rng(0).random(50, np.float32)
    traced = jax.jit(jax.vmap(choose))(densities)
    cases = [
        (density, {n: leaf[i] for n, leaf in traced.items()})
        for i, density in enumerate(densities)
    ]
    cases += [(d, jax.jit(functools.partial(choose, d))()) for d in (0, 2 / 3, 1)]
    for density, mask in cases:
        found = kept_of(mask)
        found = sum(found.values()) if name == "global_top" else found
        assert selection.kept(select, density)(alive) == found


def test_counts_of_many_weights_are_known_to_the_last():
    """What a fused product and difference would round to another count."""
    rates = {"w": 0.75}
    many = {"w": np.broadcast_to(True, (2**14, 2**10))}
    select = selection.per_layer(selection.at_rates(rates))
    densities = np.random.default_rng(0).random(50, np.float32)
    layer = jax.jit(lambda d: selection.at_rates(rates)(many, d)["w"])
    keep = jax.jit(selection.keep)
    for density in densities:
        found = keep(jnp.int32(many["w"].size), layer(density))
        assert selection.kept(select, density)(many) == {"w": int(found)}


def test_nothing_is_known_of_other_counts():
    foreign = functools.partial(selection.global_top)
    for select in (*map(selection.named, ["uniform", "erk"]), foreign):
        assert selection.kept(select, 0.5) is None


# The numbers of the papers.


CONV = {"conv_0": (3, 3, 3, 8), "conv_1": (3, 3, 8, 8), "fc": (64, 16), "out": (16, 4)}
CONV_MASK = {name: jnp.ones(shape, bool) for name, shape in CONV.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lottery", [0.8, 0.8, 0.8, 0.9]),
        ("lottery_conv_2", [0.9, 0.9, 0.8, 0.9]),
        ("lottery_conv_6", [0.85, 0.85, 0.8, 0.9]),
    ],
)
def test_lottery_rates(name, expected):
    """Frankle and Carbin 2019, figure 2; ten rounds at once as Zhou et al. 2019."""
    found = selection.named(name).allocation(CONV_MASK, 0.8)
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-12)
    rounds = selection.named(f"{name}_one_shot").allocation(CONV_MASK, 0.8**10)
    np.testing.assert_allclose(list(rounds.values()), np.array(expected) ** 10)
    traced = jax.jit(selection.named(f"{name}_one_shot").allocation)
    for n, density in traced(CONV_MASK, jnp.float32(0.8**10)).items():
        np.testing.assert_allclose(density, rounds[n], rtol=1e-6)


def test_one_shot_at_half_rate_keeps_what_ten_rounds_would():
    """0.349, where the rate of one round would keep 0.554."""
    rates, density = {"output": 0.5}, 0.8**10
    once = selection.at_rates(rates, per_round=0.8)(LENET_MASK, density)
    assert once == {"hidden_0": density, "hidden_1": density, "output": once["output"]}
    assert abs(once["output"] - 0.9**10) < 1e-12
    assert round(once["output"], 3) == 0.349
    assert round(selection.at_rates(rates)(LENET_MASK, density)["output"], 3) == 0.554


def test_a_network_without_dense_layers_has_no_output_rate():
    convolutions = {n: m for n, m in CONV_MASK.items() if "conv" in n}
    found = selection.lottery(conv=0.5)(convolutions, 0.8)
    assert found == {"conv_0": 0.9, "conv_1": 0.9}


LENET_DENSITIES = [
    100, 80.04, 64.06, 51.28, 41.05, 32.87, 26.32, 21.07, 16.88, 13.52,
    10.83, 8.68, 6.95, 5.57, 4.47, 3.58, 2.87, 2.31, 1.85, 1.49,
]  # fmt: skip


def test_lenet_densities_of_the_lottery_ticket_paper():
    """Frankle and Carbin 2019: 20% per round, 10% in the output layer, by layer."""
    select = selection.per_layer(selection.at_rates({"output": 0.5}))
    prune = jax.jit(functools.partial(select, density=0.8))
    rng = np.random.default_rng(0)
    mask = LENET_MASK
    for percent in LENET_DENSITIES:
        assert abs(100 * masks.density(mask) - percent) <= 0.01
        alive = kept_of(mask)
        scores = {n: rng.random(s, np.float32) for n, s in LENET.items()}
        mask = prune(scores, mask)
        rates = {"hidden_0": 0.8, "hidden_1": 0.8, "output": 0.9}
        assert kept_of(mask) == {n: exact(alive[n], rates[n]) for n in alive}


@pytest.mark.parametrize(
    ("counts", "rates", "unpruned", "removed", "expected"),
    [
        (  # Conv-2
            {"conv": 38_592, "fc": 4_259_840, "output": 2_560},
            {"conv": 0.5, "output": 0.5}, 0, 0.2, {11: 8.81, 14: 4.57},
        ),
        (  # Conv-4
            {"conv": 259_776, "fc": 2_162_688, "output": 2_560},
            {"conv": 0.5, "output": 0.5}, 0, 0.2, {11: 11.06, 12: 9.18},
        ),
        (  # Conv-6
            {"conv": 1_144_512, "fc": 1_114_112, "output": 2_560},
            {"conv": 0.75, "output": 0.5}, 0, 0.2, {7: 26.61, 10: 15.29},
        ),
        (  # ResNet-20: projections and output stay whole
            {"conv": 267_696}, {}, 3_200, 0.2, {4: 41.7, 6: 27.1, 7: 21.9, 10: 11.8},
        ),
    ],
    ids=["conv_2", "conv_4", "conv_6", "resnet_20"],
)  # fmt: skip
def test_densities_of_the_convolutional_networks(
    counts, rates, unpruned, removed, expected
):
    allocation = selection.at_rates(rates)
    densities = allocation(dict.fromkeys(counts, jnp.ones(1, bool)), 1 - removed)
    alive = {name: jnp.int32(count) for name, count in counts.items()}
    total = sum(counts.values()) + unpruned
    for round_ in range(1, max(expected) + 1):
        alive = jax.tree.map(selection.keep, alive, densities)
        if round_ in expected:
            percent = 100 * (sum(map(int, alive.values())) + unpruned) / total
            digits = 1 if unpruned else 2
            assert round(percent, digits) == expected[round_]


@pytest.mark.parametrize(
    ("density", "expected"),
    [
        (0.10, [0.0796, 0.2302, 1.0]),
        (0.05, [0.0385, 0.1113, 0.9185]),
        (0.02, [0.0154, 0.0445, 0.3674]),
    ],
)
def test_erdos_renyi_densities_of_lenet(density, expected):
    """Evci et al. 2020, and the total they are scaled to."""
    found = selection.erk(LENET_MASK, density)
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-4)
    total = sum(float(found[n]) * np.prod(shape) for n, shape in LENET.items())
    assert abs(total / masks.size(LENET_MASK) - density) < 1e-6


def test_a_number_by_itself_is_a_layer_of_one_weight():
    mask = {"gate": np.ones((), bool), "w": np.ones((4, 4), bool)}
    found = selection.erk(mask, 0.5)
    factor = 0.5 * 17 / (1 + 8)
    np.testing.assert_allclose(found["gate"], factor, rtol=1e-6)
    np.testing.assert_allclose(found["w"], factor / 2, rtol=1e-6)


def smart_ratios(sizes, density, last):
    """Su et al. 2020, layer by layer: what one cannot keep, the next ones do."""
    after = [len(sizes) - i + 1 for i in range(1, len(sizes) + 1)]
    ratio = [x**2 + x for x in after]
    budget = density * sum(sizes) - last * sizes[-1]
    share = sum(p * n for p, n in zip(ratio[:-1], sizes[:-1], strict=True))
    found, beyond = [], 0.0
    for p, n in zip(ratio[:-1], sizes[:-1], strict=True):
        wanted = budget * p * n / share + beyond
        beyond = max(wanted - n, 0)
        found.append((wanted - beyond) / n)
    return [*found, last]


@pytest.mark.parametrize("density", [0.05, 0.3, 0.6])
def test_smart_ratios(density):
    """At 0.6 the first layer would keep more than it has, and the next ones keep it."""
    order = ["stem", "body", "head", "exit"]
    shapes = {"body": (30, 30), "exit": (10, 4), "head": (30, 10), "stem": (5, 4)}
    mask = {name: np.ones(shape, bool) for name, shape in shapes.items()}
    found = selection.smart(order)(mask, density)
    sizes = [np.prod(shapes[name]) for name in order]
    expected = smart_ratios(sizes, density, 0.3)
    np.testing.assert_allclose([found[n] for n in order], expected, rtol=1e-5)
    assert (found["stem"] == 1) == (density == 0.6)
    total = sum(float(found[name]) * mask[name].size for name in order)
    np.testing.assert_allclose(total, density * sum(sizes), rtol=1e-5)
    kept = selection.per_layer(selection.smart(order))(mask, mask, density)
    np.testing.assert_allclose(
        [kept[n].mean() for n in order], expected, atol=0.5 / min(sizes)
    )


def test_smart_ratios_need_the_order_of_all_layers():
    mask = {"a": np.ones((3, 4), bool), "b": np.ones((4, 2), bool)}
    with pytest.raises(ValueError, match="have the layers of the mask, a, b, each"):
        selection.smart(["a"])(mask, 0.5)
    with pytest.raises(ValueError, match="last must be"):
        selection.smart(["a", "b"], last=1.3)


def highest_of_groups(scores, alive, n, m):
    """Of `[..., in, out]`, by sorting the inputs of every output group by group."""
    kept = np.zeros_like(alive)
    for place in np.ndindex(*alive.shape[:-2], alive.shape[-1]):
        *before, out = place
        for first in range(0, alive.shape[-2], m):
            rows = [first + i for i in range(m) if alive[(*before, first + i, out)]]
            order = sorted(rows, key=lambda i: -scores[(*before, i, out)])
            for i in order[:n]:
                kept[(*before, i, out)] = True
    return kept


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
@pytest.mark.parametrize("shape", [(16, 5), (3, 3, 8, 4)])
def test_n_of_m_keeps_the_highest_of_every_group_of_inputs(n, m, shape):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, shape).astype(np.float32)  # with ties
    alive = rng.random(shape) < 0.7
    select = selection.n_of_m(n, m)
    found = jax.jit(select)({"w": scores}, {"w": alive}, n / m)["w"]
    np.testing.assert_array_equal(found, highest_of_groups(scores, alive, n, m))
    assert selection.kept(select, n / m)({"w": alive}) == {"w": int(found.sum())}
    again = select({"w": scores}, {"w": found}, n / m)["w"]
    np.testing.assert_array_equal(again, found)


def test_n_of_m_leaves_what_it_cannot_divide_and_takes_no_other_density():
    mask = {
        "a": np.ones((6, 3), bool),
        "b": np.ones(8, bool),
        "c": np.ones((8, 3), bool),
    }
    scores = jax.tree.map(lambda m: np.ones(m.shape, np.float32), mask)
    select = selection.named("two_of_four")
    found = select(scores, mask, 0.5)
    assert [int(m.sum()) for m in found.values()] == [18, 8, 12]
    np.testing.assert_array_equal(found["c"][:, 0], [True, True, False, False] * 2)
    selection.check_kept(select, 0.5, mask)
    with pytest.raises(ValueError, match="density must be 0.5 where 2 of 4 are kept"):
        selection.check_kept(select, 0.1, mask)
    with pytest.raises(ValueError, match="n must be a whole number"):
        selection.n_of_m(5, 4)


def test_blocks_of_half_precision_are_summed_in_single():
    scores = np.random.default_rng(0).random((128, 128)).astype("bfloat16")
    mask = {"w": np.ones((128, 128), bool)}
    select = selection.blocks(8, 8)
    found, wanted = (
        select({"w": x}, mask, 0.5)["w"] for x in (scores, scores.astype(np.float32))
    )
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("density", [0.5, np.float32(0.5), jnp.float32(0.5)])
def test_a_ticket_of_the_outside_is_pruned_within_a_jit(density):
    weights = {"w": np.arange(32, dtype=np.float32).reshape(8, 4)}
    ticket = Ticket(weights, masks.full(weights))
    for name in selection.NAMES:
        cut = functools.partial(prune, ticket, "magnitude", density, select=name)
        found, wanted = jax.jit(lambda cut=cut: cut().mask)(), cut().mask
        np.testing.assert_array_equal(found["w"], wanted["w"], err_msg=name)


@pytest.mark.parametrize("name", ["equal", "global_top", "erk"])
def test_a_leaf_of_no_weights_is_left_as_it_is(name):
    scores = {"none": np.zeros((0, 3), np.float32), "w": np.arange(8.0).reshape(2, 4)}
    mask = jax.tree.map(lambda x: np.ones(x.shape, bool), scores)
    found = selection.named(name)(scores, mask, 0.5)
    assert found["none"].shape == (0, 3)
    np.testing.assert_array_equal(found["w"], scores["w"] >= 4)


def test_n_of_m_of_kernels_whose_inputs_come_last():
    scores = {"w": np.arange(16, dtype=np.float32).reshape(2, 8)}
    mask = {"w": np.ones((2, 8), bool)}
    found = selection.n_of_m(2, 4, axis=-1)(scores, mask, 0.5)["w"]
    np.testing.assert_array_equal(found, [[False, False, True, True] * 2] * 2)


def highest_blocks(scores, alive, inputs, outputs, density):
    """In numpy: the blocks of the highest sums, the first of equals first."""
    kept, where, sums = np.zeros_like(alive), [], []
    *before, rows, columns = alive.shape
    for index in np.ndindex(*before, rows // inputs, columns // outputs):
        i, j = index[-2] * inputs, index[-1] * outputs
        block = (*index[:-2], slice(i, i + inputs), slice(j, j + outputs))
        if alive[block].any():
            where.append(block)
            sums.append(-scores[block][alive[block]].sum())
    left = len(where) - int(len(where) * (1 - Fraction(density)) + Fraction(1, 2))
    for n in np.argsort(sums, kind="stable")[:left]:
        kept[where[n]] = alive[where[n]]
    return kept


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (2, 1), (1, 5)])
@pytest.mark.parametrize("shape", [(16, 20), (3, 2, 8, 20)])
def test_blocks_stay_and_go_whole(inputs, outputs, shape):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, shape).astype(np.float32)  # with ties
    select = jax.jit(selection.blocks(inputs, outputs))
    whole, some = np.ones(shape, bool), rng.random(shape) < 0.3
    for alive in (whole, some):
        for density in (0.25, 0.5, 1.0):
            found = select({"w": scores}, {"w": alive}, density)["w"]
            wanted = highest_blocks(scores, alive, inputs, outputs, density)
            np.testing.assert_array_equal(found, wanted)
    assert select({"w": scores}, {"w": whole}, 0.25)["w"].sum() == whole.size / 4


def test_blocks_leave_what_they_cannot_divide_and_what_is_nan_goes_first():
    shapes = {"a": (6, 4), "b": (8,), "c": (8, 4)}
    mask = {name: np.ones(shape, bool) for name, shape in shapes.items()}
    scores = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    scores["c"][1, 2] = np.nan
    found = selection.named("four_by_four")(scores, mask, 0.5)
    assert [int(m.sum()) for m in found.values()] == [24, 8, 16]
    assert found["c"][4:].all()
    with pytest.raises(ValueError, match="outputs must be a whole number"):
        selection.blocks(4, 0)
