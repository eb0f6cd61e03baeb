"""Meshes of virtual devices, and what the devices of a program tell each other."""

import math
import re

import jax

COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)


def mesh_of(kind, **axes):
    sizes = tuple(axes.values())
    return jax.make_mesh(
        sizes, tuple(axes), axis_types=(kind,) * len(axes),
        devices=jax.devices()[: math.prod(sizes)],
    )  # fmt: skip


def collectives(compiled):
    """Of a program: (kind, the most numbers that one result of it has)."""
    found = []
    for results, kind in COLLECTIVE.findall(compiled.as_text()):
        shapes = re.findall(r"\w+\[([\d,]*)\]", results)
        sizes = [math.prod(map(int, filter(None, s.split(",")))) for s in shapes]
        found.append((kind, max(sizes)))
    return found


def assert_only_counts(compiled, most):
    """Nothing is gathered, and no more than `most` numbers are added at once."""
    found = collectives(compiled)
    assert found, "nothing is added: the weights are not in shards"
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert max(size for _, size in found) <= most
