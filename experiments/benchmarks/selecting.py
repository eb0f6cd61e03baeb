"""Exactly k of n, against sorting: alone, and of several networks under `vmap`."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from experiments.benchmarks import measure
from experiments.benchmarks.bench import Bench
from jaxticket import selection

OURS = "selection.top"
ARGSORT = "argsort alone"
LARGE = 2e7  # weights, beyond which every kind of sorting takes minutes
HUGE = 1e8  # weights, beyond which several networks do not fit
KEPT = 0.2  # of the weights


def rows(bench: Bench) -> Iterator[measure.Row]:
    """Milliseconds for all networks together, and how many times as fast ours is."""
    for size in bench.weights:
        for networks in (1, bench.sizes.many):
            if networks == 1 or networks * size <= HUGE:
                yield from _group(bench, size, networks)


def _group(bench, size, networks):
    scores = jnp.abs(jax.random.normal(jax.random.key(0), (networks, size)))
    k = int(KEPT * size)
    count = jnp.full(networks, k, jnp.int32)
    works = {}
    for name, f in _methods(k).items():
        if networks * size > LARGE and name not in (OURS, ARGSORT):
            continue
        call = jax.jit(jax.vmap(f) if networks > 1 else _alone(f))
        works[name] = lambda call=call: call(scores, count)
    times = bench.together(works)
    where = f"{size / 1e6:g}M" if networks == 1 else f"{networks} x {size / 1e6:g}M"
    for name, timing in times.items():
        yield measure.cost(
            f"{where}: {name}",
            timing,
            "ms",
            per=1e-3,
            also={"of top": measure.ratio(timing, times[OURS])},
        )


def _methods(k: int) -> dict[str, Callable]:
    """`(scores, k) -> `: ours, the masks that sorting gives, and sorting alone."""

    def top(scores, k):
        return selection.top([scores], [jnp.ones(scores.shape, bool)], k)[0]

    def by_argsort(scores, k):
        order = jnp.argsort(-scores, stable=True)
        first = jnp.arange(scores.size, dtype=jnp.int32) < k
        return jnp.zeros(scores.shape, bool).at[order].set(first)

    def by_sort(scores, k):  # of all that tie with the k-th, so not always exact
        return scores >= jnp.sort(scores)[scores.size - k]

    def by_top_k(scores, _):  # k is part of the program
        chosen = jax.lax.top_k(scores, k)[1]
        return jnp.zeros(scores.shape, bool).at[chosen].set(True)

    return {
        OURS: top,
        ARGSORT: lambda scores, _: jnp.argsort(scores),
        "mask by argsort": by_argsort,
        "mask by sort, inexact": by_sort,
        "mask by top_k": by_top_k,
    }


def _alone(f):
    return lambda scores, k: f(scores[0], k[0])
