"""Which weights to keep: (scores, mask, density) -> mask, with exact counts.

A `Select` keeps the fraction `density` of the weights that `mask` keeps: the highest
scores, ties going to the first in order of leaf and position, NaN lowest. The density
may be traced, so one compilation serves every round and a density can be a batch axis.

There is no sort. The k-th largest score is found byte by byte, and each byte by eight
passes over bytes that only count, see `highest`: more than 20 times faster than
`argsort` at ten million weights on CPU, alone and under `vmap`
(`experiments.benchmark`). Weights that lie in shards stay where they are.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxticket import checks, counts, highest, kernels, masks, meshes
from jaxticket.base import Kept, Mask, Scores

Select = Callable[[Scores, Mask, ArrayLike], Mask]
Allocation = Callable[[Mask, ArrayLike], Scores]


def named(select: Select | str) -> Select:
    """The `Select` of a name in `NAMES`; a function is returned as it is.

    Raises:
      ValueError: an unknown name.
    """
    if callable(select):
        return select
    checks.one_of(NAMES)(select=select)
    return NAMES[select]


def kept(select: Select, density: ArrayLike) -> Kept | None:
    """How many weights a `Select` will keep, known beforehand.

    Counted in Python's whole numbers, apart from `keep`: a promise to hold it to.

    Args:
      select: the selection.
      density: what it will be given: a Python number, or an array of that dtype.

    Returns:
      `mask -> counts`: of the mask to select from, what each layer keeps of it, by
      name, or all layers together where they share it: for `global_top`, and for
      `linear` if modules have several leaves. `None` where it depends on how a
      program rounds (`uniform`, `erk`), on which weights of `blocks` were left, or
      where a `Select` of one's own has no method `kept(density)` that says it.

    Raises:
      ValueError: a density that `n_of_m` does not have.
    """
    if select is global_top:
        return lambda mask: _whole(sum(masks.layer_counts(mask).values()), density)
    if select is linear:
        return lambda mask: _on_a_line(mask, density)
    return select.kept(density) if hasattr(select, "kept") else None


def _whole(alive: int, density: ArrayLike) -> int:
    """What `keep` leaves, in Python's numbers."""
    lost = 2**31 - round(min(max(float(density), 0.0), 1.0) * 2**31)
    return alive - (2 * alive * lost + 2**31) // 2**32


def _on_a_line(mask: Mask, density: ArrayLike) -> dict[str, int] | int:
    """What `linear` leaves of a mask."""
    have, leaves = [*masks.layer_counts(mask).items()], jax.tree.leaves(mask)
    found = {}
    for places in _modules(mask):
        size = sum(leaves[i].size for i in places)
        there = sum(have[i][1] for i in places)
        left = max(there - size + _whole(size, density), 0)
        found[have[places[0]][0]] = left
    return found if len(found) == len(have) else sum(found.values())


def steady(select: Select) -> bool:
    """Whether what it keeps of each layer hangs on mask and density, on no score."""
    return isinstance(select, _PerLayer | _Like)


def check_kept(select: Select, density: ArrayLike, mask: Mask) -> None:
    """Raises a `ValueError` where it is known that a density keeps no weight at all."""
    if not all(map(checks.concrete, [density, *jax.tree.leaves(mask)])):
        return
    with jax.ensure_compile_time_eval():  # a trace may be under way
        counts = None if jnp.ndim(density) else kept(select, density)
        if counts is None:
            return
        left, have = counts(mask), sum(masks.layer_counts(mask).values())
    if have and not (sum(left.values()) if isinstance(left, dict) else left):
        raise checks.Refused(
            "density",
            f"must keep a weight; {density} keeps none of {have}: give a larger one",
        )


def global_top(scores: Scores, mask: Mask, density: ArrayLike) -> Mask:
    """Keeps the highest scores of all layers together."""
    return top(scores, mask, keep(masks.count(mask), density))


def linear(scores: Scores, mask: Mask, density: ArrayLike) -> Mask:
    """Every module loses the fraction `1 - density` of all that it ever had.

    A module is what stands together in the tree: a kernel with its bias, of which the
    lowest scores go, whichever has them. A leaf at the top is one by itself.

    Of iterated pruning: after `n` times a module keeps `1 - n (1 - density)`, where
    `equal` leaves it `density ** n`. What is fewer than half a weight is never lost: at
    0.99 a module of ten keeps all of them.
    """
    alive, tree = jax.tree.flatten(mask)
    values = jax.tree.leaves(masks.prunable_like(scores, mask))
    for places in _modules(mask):
        ours = [alive[i] for i in places]
        size = sum(leaf.size for leaf in ours)
        whole, have = counts.of(size), counts.of(masks.count(ours))
        left = counts.difference(have, whole - keep(whole, density))
        found = top([values[i] for i in places], ours, left)
        for i, leaf in zip(places, found, strict=True):
            alive[i] = leaf
    return tree.unflatten(alive)


def _modules(mask: Mask) -> list[list[int]]:
    """The places of the leaves of each module, among all leaves."""
    places: dict[str, list[int]] = {}
    for i, name in enumerate(masks.names(mask)):
        module, _, _ = name.rpartition("/")
        places.setdefault(module or name, []).append(i)
    return list(places.values())


def per_layer(allocation: Allocation) -> Select:
    """Keeps the highest scores of each layer, at densities that `allocation` gives.

    Args:
      allocation: `(mask, density) -> densities`, a mask tree of the fraction that each
        layer keeps of what it has: `equal`, `at_rates(...)`, `lottery(...)`,
        `uniform(...)` or `erk`.
    """

    return _PerLayer(allocation)


@dataclasses.dataclass(frozen=True, eq=False)  # a function to `jit`
class _PerLayer:
    allocation: Allocation

    def kept(self, density):
        if self.allocation is not equal and not isinstance(self.allocation, _Rates):
            return None

        def by_layer(mask):
            have = masks.layer_counts(mask)
            # In the arithmetic of the array, not in numpy's.
            given = (
                density if isinstance(density, float | int) else jnp.asarray(density)
            )
            densities = jax.tree.leaves(self.allocation(mask, given))
            return {n: _whole(have[n], d) for n, d in zip(have, densities, strict=True)}

        return by_layer

    def __call__(self, scores, mask, density):
        counts = jax.tree.map(
            lambda alive, density: keep(masks.count([alive]), density),
            mask,
            self.allocation(mask, density),
        )
        return _top_of_each(scores, mask, counts)


def like(reference: Mask) -> Select:
    """Keeps of each layer as many of the highest scores as `reference` does.

    The counts are exact, and the density that the `Select` is given plays no part. A
    layer that has fewer weights left keeps them all.

    Args:
      reference: a mask tree, `None` where the masks to select from are `None`.
    """

    return _Like(reference)


@dataclasses.dataclass(frozen=True, eq=False)
class _Like:
    reference: Mask

    def kept(self, density):
        del density

        def as_reference(mask):
            have, theirs = map(masks.layer_counts, (mask, self.reference))
            return {n: min(have[n], theirs[n]) for n in have}

        return as_reference

    def __call__(self, scores, mask, density):
        del density
        counts = masks.together(
            lambda alive, kept: jnp.minimum(masks.count([alive]), masks.count([kept])),
            mask,
            self.reference,
        )
        return _top_of_each(scores, mask, counts)


def n_of_m(n: int, m: int, *, axis: int = -2) -> Select:
    """Keeps the `n` highest scores of every `m` inputs in a row, of each output.

    That is the pattern that sparse tensor cores take, 2 of 4. The density that the
    `Select` is given must be `n / m`, and plays no part. Of a group that has fewer
    weights left, all stay. A leaf of one dimension, or of inputs that `m` does not
    divide, is left as it is. Where a group would lie in two shards, a leaf is gathered
    for it. Searches that move connections afterwards, as `rigl`, do not keep to it.

    Args:
      n: how many are kept of a group.
      m: the size of a group.
      axis: along which the inputs of a kernel lie: the last but one of `[in, out]` and
        `[height, width, in, out]`; the last of equinox's.

    Raises:
      ValueError: not `1 <= n <= m`.
    """
    checks.whole(1)(m=m)
    checks.whole(1, m)(n=n)
    return _OfGroups(n, m, axis)


@dataclasses.dataclass(frozen=True)
class _OfGroups:
    n: int
    m: int
    axis: int

    def groups(self, leaf):
        """A leaf as `[..., groups, m]`; None where it has none."""
        if leaf.ndim < 2 or leaf.shape[self.axis] % self.m:
            return None
        if leaf.shape[self.axis] // meshes.shards(leaf, self.axis) % self.m:
            leaf = meshes.gathered(leaf)  # a group is in two shards
        leaf = jnp.moveaxis(leaf, self.axis, -1)
        return leaf.reshape(*leaf.shape[:-1], -1, self.m)

    def kept(self, density):
        given = np.asarray(density) if checks.concrete(density) else None
        if given is not None and np.any(given != self.n / self.m):
            raise checks.Refused(
                "density",
                f"must be {self.n / self.m:g} where {self.n} of {self.m} are kept; "
                f"got {density}",
            )

        def of_groups(mask):
            found = masks.layer_counts(mask)
            for name, leaf in zip(found, jax.tree.leaves(mask), strict=True):
                if (groups := self.groups(leaf)) is not None:
                    found[name] = int(jnp.minimum(groups.sum(-1), self.n).sum())
            return found

        return of_groups

    def __call__(self, scores, mask, density):
        del density

        def layer(alive, score):
            if (ours := self.groups(alive)) is None:
                return alive
            value = self.groups(score)
            # What is gone comes last, after what is NaN.
            lowest = jnp.where(jnp.isnan(value), jnp.inf, -value)
            with jax.debug_nans(False):  # NaN is a mark here
                order = jnp.argsort(jnp.where(ours, lowest, jnp.nan), stable=True)
            rank = jnp.argsort(order)
            kept = (ours & (rank < self.n)).reshape(*ours.shape[:-2], -1)
            return meshes.placed(jnp.moveaxis(kept, -1, self.axis), like=alive)

        return jax.tree.map(layer, mask, masks.prunable_like(scores, mask))


def blocks(inputs: int, outputs: int) -> Select:
    """Keeps whole blocks of weights: of each layer, those whose scores add up to most.

    A block is `inputs` in a row by `outputs` in a row of a kernel `[..., in, out]`, the
    unit that block-sparse products skip. A layer keeps the fraction `density` of those
    blocks in which a weight is left, and of these all that is left; ties go to the
    first, and a block with a score that is NaN is lowest. A leaf of one dimension, or
    of lengths that are not divided by a block's, is left as it is. Where a block would
    lie in two shards, a leaf is gathered for it. Searches that move connections
    afterwards, as `rigl`, do not keep to it.

    Args:
      inputs: length of a block along the last axis but one.
      outputs: along the last.

    Raises:
      ValueError: a length below 1.
    """
    checks.whole(1)(inputs=inputs, outputs=outputs)
    return _Blocks(inputs, outputs)


@dataclasses.dataclass(frozen=True)
class _Blocks:
    inputs: int
    outputs: int

    def laid(self, leaf):
        """A leaf as `[..., rows, inputs, columns, outputs]`; None where it has none."""
        sizes = {-2: self.inputs, -1: self.outputs}
        if leaf.ndim < 2 or any(leaf.shape[i] % n for i, n in sizes.items()):
            return None
        if any(leaf.shape[i] // meshes.shards(leaf, i) % n for i, n in sizes.items()):
            leaf = meshes.gathered(leaf)  # a block is in two shards
        rows, columns = leaf.shape[-2] // self.inputs, leaf.shape[-1] // self.outputs
        within = (rows, self.inputs, columns, self.outputs)
        return leaf.reshape(*leaf.shape[:-2], *within)

    def __call__(self, scores, mask, density):
        def layer(alive, score):
            if (ours := self.laid(alive)) is None:
                return alive
            there = ours.any((-3, -1))
            wide = jnp.promote_types(score.dtype, jnp.float32)
            total = jnp.where(ours, self.laid(score), 0).sum((-3, -1), dtype=wide)
            (found,) = top([total], [there], keep(masks.count([there]), density))
            kept = (ours & found[..., :, None, :, None]).reshape(alive.shape)
            return meshes.placed(kept, like=alive)

        return jax.tree.map(layer, mask, masks.prunable_like(scores, mask))


def _top_of_each(scores: Scores, mask: Mask, counts: Scores) -> Mask:
    # The mask comes first: its None leaves say which scores do not count.
    return jax.tree.map(
        lambda alive, scores, k: top([scores], [alive], k)[0],
        mask,
        masks.prunable_like(scores, mask),
        counts,
    )


def equal(mask: Mask, density: ArrayLike) -> Scores:
    """Every layer keeps the same fraction."""
    return jax.tree.map(lambda _: density, mask)


def at_rates(
    rates: Mapping[str, float], *, per_round: float | None = None
) -> Allocation:
    """Layers lose weights at rates of their own.

    Args:
      rates: name of a leaf, as `masks.names` gives it, -> rate. The others have 1.
      per_round: `None`: a layer of rate `r` loses `r (1 - density)`, as in each round
        of iterative pruning. A number `p`: many rounds are done at once, each of which
        would keep `p` at rate 1: a layer keeps `(1 - (1 - p) r) ** n` where `p ** n` is
        the density.

    Raises:
      ValueError: a name is no leaf of the mask, or numbers of which no layer can lose
        so much.
    """

    def of(mask):
        names = masks.names(mask)
        for name in rates:
            checks.one_of(names)(**{"a name in rates": name})
        return rates

    return _rates(of, rates.values(), per_round)


def lottery(*, conv: float = 1.0, per_round: float | None = None) -> Allocation:
    """The rates of the Lottery Ticket paper: 0.5 for the output layer.

    The output layer is the dense kernel of the fewest outputs, see `kernels.fan_in`; a
    network that has none loses at the rates of convolutions alone.

    Args:
      conv: the rate of kernels of more than two dimensions: 0.5 in Conv-2 and Conv-4,
        0.75 in Conv-6.
      per_round: see `at_rates`. Zhou et al. prune in one shot as much as rounds of 0.8
        would, layer by layer.

    Reference:
      Frankle and Carbin, "The Lottery Ticket Hypothesis", 2019, figure 2; Zhou et al.,
      "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask", 2019.
    """

    def of(mask):
        leaves = masks.named(mask)
        fans = dict(zip(leaves, jax.tree.leaves(kernels.fan_in(mask)), strict=True))
        rates = {name: conv for name, leaf in leaves.items() if leaf.ndim > 2}
        dense = [
            (leaf.size // max(fans[name], 1), name)
            for name, leaf in leaves.items()
            if leaf.ndim == 2
        ]
        return rates | ({min(dense)[1]: 0.5} if dense else {})

    return _rates(of, [conv], per_round)


@dataclasses.dataclass(frozen=True, eq=False)
class _Rates:
    """An allocation: the rates that each layer of a mask has, 1 where it has none."""

    of: Callable[[Mask], Mapping[str, float]]
    per_round: float | None

    def __call__(self, mask, density):
        rates = self.of(mask)
        layers = [self.layer(rates.get(n, 1.0), density) for n in masks.names(mask)]
        return jax.tree.structure(mask).unflatten(layers)

    def layer(self, rate, density):
        if rate == 1:
            return density
        if self.per_round is not None:
            each = 1 - (1 - self.per_round) * rate
            return density ** (math.log(each) / math.log(self.per_round))
        lost = rate * (1 - density)
        if not isinstance(density, float | int):
            # Clamped as all that is traced; and a product that went straight into the
            # difference would round by what the compiler makes of the two.
            lost = jnp.minimum(lost, 1)
        return 1 - lost


def _rates(of, rates, per_round) -> Allocation:
    if per_round is not None:
        checks.between(0, 1)(per_round=per_round)
    most = math.inf if per_round is None else 1 / (1 - per_round)
    can_be = checks.number(f"at least 0 and below {most:.6g}", lambda x: 0 <= x < most)
    for rate in rates:
        can_be(rate=rate)
    return _Rates(of, per_round)


def uniform(*, first: str | None = None) -> Allocation:
    """The first layer stays whole; the others share one density that gives the total.

    Where the first layer alone is more than the total, the others keep nothing.

    Args:
      first: the name of the network's first layer, or of its kernel, as in
        `masks.names`. Without it no layer stays whole: the order of the leaves is that
        of their names and says nothing.

    Raises:
      ValueError: when it allocates, a name that no leaf has.

    Reference:
      Evci et al., "Rigging the Lottery", 2020, section 3.
    """

    def allocation(mask, density):
        names = masks.names(mask)
        whole = [
            i
            for i, name in enumerate(names)
            if first is not None and f"{name}/".startswith(f"{first}/")
        ]
        if first is not None and not whole:
            checks.one_of(names)(first=first)
        return _proportional(mask, density, [1.0] * len(names), whole)

    return allocation


def erk(mask: Mask, density: ArrayLike) -> Scores:
    """Densities proportional to `sum(shape) / prod(shape)`: Erdos-Renyi-Kernel.

    Reference:
      Evci et al., "Rigging the Lottery", 2020, section 3.
    """
    raw = [  # a number by itself is a layer of one weight
        (sum(leaf.shape) or 1) / max(leaf.size, 1) for leaf in jax.tree.leaves(mask)
    ]
    return _proportional(mask, density, raw, whole=[])


def smart(order: Sequence[str], *, last: float = 0.3) -> Allocation:
    """Layers keep the less the later they come: smart ratios, of random tickets.

        d_l proportional to (L - l + 1) ** 2 + (L - l + 1)

    for layer `l` of `L`, with the factor that gives the total. What a layer would keep
    beyond all that it has goes to the next ones. The last layer keeps a fraction of its
    own; in the networks of the paper it is the only linear one, for which that is said.

    Args:
      order: the names of all layers, as in `masks.names`, from the input to the output:
        `graphs.products.order` reads it off a network.
      last: the fraction that the last layer keeps.

    Raises:
      ValueError: when it allocates, `order` has not each layer of the mask once.

    Reference:
      Su et al., "Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot",
      2020.
    """
    checks.fraction(last=last)

    def allocation(mask, density):
        names, leaves = masks.names(mask), jax.tree.leaves(mask)
        if sorted(names) != sorted(order):
            raise ValueError(
                f"order must have the layers of the mask, {', '.join(names)}, each "
                f"once; got {', '.join(order)}"
            )
        alive = {
            name: masks.count([leaf]).astype(jnp.float32)
            for name, leaf in zip(names, leaves, strict=True)
        }
        *layers, output = order
        left = jnp.maximum(density * sum(alive.values()) - last * alive[output], 0)
        ratios = {n: (i + 1) * i for i, n in enumerate(reversed(order), 1)}
        share = sum(ratios[name] * alive[name] for name in layers)
        found, beyond = {output: jnp.float32(last)}, jnp.float32(0)
        for name in layers:
            wanted = left * ratios[name] * alive[name] / jnp.maximum(share, 1) + beyond
            beyond = jnp.maximum(wanted - alive[name], 0)
            found[name] = (wanted - beyond) / jnp.maximum(alive[name], 1)
        return jax.tree.structure(mask).unflatten(found[name] for name in names)

    return allocation


def _proportional(
    mask: Mask, density: ArrayLike, raw: Sequence[float], whole: Sequence[int]
) -> Scores:
    """Layers in the proportions `raw`, with the factor that gives the total.

    A layer that would keep more than it has keeps all, and the factor is solved again,
    until there is none.
    """
    masks.check_some(mask)
    leaves, tree = jax.tree.flatten(mask)
    alive = jnp.stack([masks.count([leaf]) for leaf in leaves]).astype(jnp.float32)
    share = jnp.array([r * leaf.size for r, leaf in zip(raw, leaves, strict=True)])

    def solve(dense):
        left = density * alive.sum() - jnp.sum(alive, where=dense)
        factor = jnp.maximum(left, 0) / jnp.maximum(jnp.sum(share, where=~dense), 1e-9)
        return jnp.where(dense, 1.0, factor * share / jnp.maximum(alive, 1))

    dense = jnp.isin(jnp.arange(len(leaves)), jnp.array(whole, jnp.int32))
    for _ in leaves:  # each pass makes one more layer dense, or changes nothing
        dense = solve(dense) >= 1
    return tree.unflatten(list(solve(dense)))


def keep(alive: jax.Array | counts.Count, density: ArrayLike) -> Any:
    """`alive - round((1 - density) * alive)`: the exact count to keep.

    float32 cannot hold products above 2**24 exactly, so the density is taken as a
    multiple of 2**-31 and multiplied in integers.

    Args:
      alive: int32 scalar, the number of weights to choose from, or a `counts.Count`.
      density: in [0, 1], a Python number or a traced float.

    Returns:
      A number like `alive`.
    """
    checks.share(density=density)
    if isinstance(density, float | int):
        fixed = jnp.uint32(round(density * 2**31))
    else:
        # Half precision cannot hold 2**31, nor can JAX's default integer.
        wide = jnp.promote_types(jnp.result_type(density), jnp.float32)
        fraction = jnp.clip(jnp.asarray(density, wide), 0, 1)
        fixed = jnp.round(fraction * 2.0**31).astype(jnp.uint32)
    removed = counts.share(counts.of(alive), jnp.uint32(2**31) - fixed)
    if isinstance(alive, counts.Count):
        return alive - removed
    return alive - removed.low.astype(jnp.int32)


def top(scores: Scores, mask: Mask, k: ArrayLike | counts.Count) -> Mask:
    """The mask of exactly `k` weights: those kept by `mask` with the highest scores.

    Leaves may be in shards, along automatic or explicit axes of a mesh: none is
    gathered. Within `jax.shard_map` a device has an array of its own, a whole network
    or a part of one: it chooses within that. So leave axes that cut weights to the
    compiler there, and map the others alone, with `axis_names`; and give
    `check_vma=False`, there as around searches and `run`, whose loops begin with
    constants.

    Args:
      scores: tree of numbers; leaves where `mask` is `None` are ignored.
      mask: mask tree, which weights there are to choose from.
      k: how many to keep, at most `masks.count(mask)`. May be traced.

    Returns:
      A mask tree with exactly `k` true entries.

    Raises:
      ValueError: a mask of no leaf, or with one of 2**31 weights or more; a `k` that
        is known and cannot be.
    """
    alive, tree = jax.tree.flatten(mask)
    masks.check_some(mask)
    masks.check_sizes(mask)
    if not isinstance(k, counts.Count) and all(map(checks.concrete, [k, *alive])):
        checks.whole(0, sum(int(np.count_nonzero(leaf)) for leaf in alive))(k=k)
    scores = masks.together(lambda s, m: None if m is None else s, scores, mask)
    scores = jax.tree.leaves(scores)
    dtype = jnp.result_type(*scores)
    scores = [
        meshes.placed(jnp.asarray(s, dtype), like=m)
        for s, m in zip(scores, alive, strict=True)
    ]
    return tree.unflatten(highest.highest(scores, alive, counts.of(k)))


NAMES: dict[str, Select] = {
    "global_top": global_top,
    "linear": linear,
    "equal": per_layer(equal),
    "uniform": per_layer(uniform()),
    "erk": per_layer(erk),
    "two_of_four": n_of_m(2, 4),
    "four_by_four": blocks(4, 4),
    "lottery": per_layer(lottery()),
    "lottery_conv_2": per_layer(lottery(conv=0.5)),  # and Conv-4
    "lottery_conv_6": per_layer(lottery(conv=0.75)),
    "lottery_one_shot": per_layer(lottery(per_round=0.8)),
    "lottery_conv_2_one_shot": per_layer(lottery(conv=0.5, per_round=0.8)),
    "lottery_conv_6_one_shot": per_layer(lottery(conv=0.75, per_round=0.8)),
}
# By the layers' order in the network, from input to output: order -> `Select`.
IN_ORDER: dict[str, Callable[[Sequence[str]], Select]] = {
    "smart": lambda order: per_layer(smart(order)),
}
