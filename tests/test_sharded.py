"""Weights in shards, on meshes of either kind of axes: what devices tell each other.

Programs are compiled as users compile them: which collectives they have, and how much
memory they take, is what they are looked at for.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shards
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jaxticket import highest, masks, selection

KINDS = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
# Cut along their first axis, their last, their only one, and whole.
LEAVES = {
    "rows": ((64, 48), ("x", None)),
    "window": ((3, 3, 7, 16), (None, None, None, "x")),
    "line": ((84,), ("x",)),
    "whole": ((5, 9), (None, None)),
    "large": ((1040, 300), ("x", None)),
}
SIZE = sum(math.prod(shape) for shape, _ in LEAVES.values())
RNG = np.random.default_rng(0)


def put(mesh, tree, *before):
    return {
        name: jax.device_put(
            tree[name], NamedSharding(mesh, PartitionSpec(*before, *spec))
        )
        for name, (_, spec) in LEAVES.items()
    }


def drawn(draw):
    return {n: draw(shape).astype(np.float32) for n, (shape, _) in LEAVES.items()}


def alive():
    return {n: RNG.random(shape) < 0.8 for n, (shape, _) in LEAVES.items()}


DRAWS = {
    "distinct": lambda shape: RNG.normal(size=shape),
    "ties": lambda shape: RNG.integers(-1, 2, shape),
}


def assert_same(found, expected):
    for name in LEAVES:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@KINDS
def test_top_adds_counts_alone_and_chooses_the_same(kind):
    mesh = shards.mesh_of(kind, x=4)
    program = jax.jit(selection.top)
    mask = alive()
    there = put(mesh, mask)
    shapes = put(mesh, drawn(DRAWS["ties"]))
    compiled = program.lower(shapes, there, jnp.int32(0)).compile()
    shards.assert_only_counts(compiled, len(LEAVES))
    # A byte of every weight to count in, and its key of four where that is filled up.
    assert compiled.memory_analysis().temp_size_in_bytes < 7 * SIZE / 4
    most = masks.count(mask)
    for draw in DRAWS.values():
        scores = drawn(draw)
        for k in (0, 1, 2000, 100_000, most - 1, most):
            found = compiled(put(mesh, scores), there, jnp.int32(k))
            assert_same(found, program(scores, mask, jnp.int32(k)))
            for name, leaf in there.items():
                assert found[name].sharding.is_equivalent_to(leaf.sharding, leaf.ndim)


@pytest.mark.parametrize("devices", [4, 48, 1024])
def test_a_part_that_is_counted_lies_on_one_device(devices):
    """However many there are: of fewer parts, shards would be put together."""
    parts = []

    def look(leaf):
        parts.append(highest._layout(leaf).parts)
        return leaf

    mesh = AbstractMesh((devices,), ("x",), axis_types=(AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh):
        jax.eval_shape(look, jax.ShapeDtypeStruct((3 * 2**11, 8), jnp.float32))
    assert parts == [devices]


@KINDS
def test_lanes_on_one_axis_and_weights_on_another(kind):
    """By `vmap`, and within a `shard_map` over the lanes alone."""
    mesh = shards.mesh_of(kind, lanes=2, x=2)
    scores, mask = (
        {n: np.stack([one[n], other[n]]) for n in LEAVES}
        for one, other in (map(drawn, DRAWS.values()), (alive(), alive()))
    )
    k = np.array([70_000, 200_000], np.int32)
    lanes = PartitionSpec("lanes")
    args = put(mesh, scores, "lanes"), put(mesh, mask, "lanes")
    args += (jax.device_put(k, NamedSharding(mesh, lanes)),)
    expected = jax.jit(jax.vmap(selection.top))(scores, mask, k)
    mapped = functools.partial(
        jax.shard_map, mesh=mesh, in_specs=lanes, out_specs=lanes, axis_names={"lanes"}
    )
    mapped = mapped(jax.vmap(selection.top), check_vma=False)
    # Over an explicit axis JAX maps no loop, and gathers what a `shard_map` takes.
    if kind == AxisType.Explicit:
        assert_same(jax.tree.map(np.asarray, jax.jit(mapped)(*args)), expected)
        return
    for program in (jax.vmap(selection.top), mapped):
        compiled = jax.jit(program).lower(*args).compile()
        shards.assert_only_counts(compiled, 2 * len(LEAVES))
        assert_same(compiled(*args), expected)


@pytest.mark.parametrize("select", ["equal", "two_of_four", "four_by_four"])
def test_selections_of_layers_add_counts_alone(select):
    mesh = shards.mesh_of(AxisType.Auto, x=4)
    select = selection.named(select)
    scores, mask = drawn(DRAWS["distinct"]), alive()
    program = jax.jit(lambda s, m: select(s, m, 0.5))
    args = put(mesh, scores), put(mesh, mask)
    compiled = program.lower(*args).compile()
    if select is selection.named("two_of_four"):
        assert not shards.collectives(compiled)
    else:
        shards.assert_only_counts(compiled, len(LEAVES))
    assert_same(compiled(*args), program(scores, mask))
