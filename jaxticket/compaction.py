"""Compaction: the same function in smaller arrays.

A mask makes weights zero and arrays no smaller. But a unit that nothing reaches, or
that reaches nothing, can go: with its columns and rows in all kernels, its bias and its
normalisation. What is left is a network of dense arrays, and the network's own function
computes it.

    small = compact(model, ticket, x)
    logits, _ = small.model.apply(small.ticket.weights, small.ticket.model_state, x)
"""

import functools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import checks, masks
from jaxticket.base import Params, Ticket
from jaxticket.graphs import constants, reach, ties
from jaxticket.graphs.ties import Atom, Axes, Axis
from jaxticket.models.model import Model

# Of the largest output: what sums in another order may differ by; and what the rounding
# of biases that take constants over may, in steps of a type that is less than float32.
TOLERANCE, STEPS = 1e-4, 4


class Compacted(NamedTuple):
    """A ticket in smaller arrays.

    Attributes:
      model: of the smaller parameters, and to initialise them. Its `init` refuses where
        only the large network can be initialised: that of equinox and nnx.
      ticket: the smaller weights, mask and model state.
      left: of every leaf of weights that has become smaller, by its name, the indices
        that are left along each axis.
      whole: leaves with units that do nothing and stay nevertheless, and what needs
        them.
      places: `left` of the leaves of weights and model state, in their order.
    """

    model: Model
    ticket: Ticket
    left: dict[str, tuple[np.ndarray, ...]]
    whole: dict[str, str]
    places: tuple[tuple[np.ndarray, ...] | None, ...]

    def taken(self, ticket: Ticket) -> Ticket:
        """What is left of another ticket of the large network."""
        return _cut(ticket, self.places)


def compact(model: Model, ticket: Ticket, x: jax.Array) -> Compacted:
    """The network of a ticket, without the units that do nothing.

    A unit goes if each of its weights, in every leaf, is pruned or can be seen in no
    output. This holds in training too, draws of dropout apart: outputs are the same,
    and so are the gradients of what is left. A unit that has no inputs, but a bias, is
    a constant: it becomes part of the next bias, where there is one, and what other
    constants do through it is trained no more. Channels of a residual stream have
    weights in all layers that write to it or read it, and go from all at once.

    What the mask does not cover counts as pruned where it is 0, as the scale of a
    channel that is switched off: a network whose branches open with scales of 0 is
    compacted after training.

    All this is read off the network's steps. What comes out is run, and compared with
    the network itself, before it is returned: with the weights that it has, and with
    others, since zeros that a layer begins with would hide what comes before them.

    Args:
      model: the network. It has to read widths off its parameters, as layers of equinox
        and nnx do; linen's, which write them down as `features`, are made to.
      ticket: concrete; not inside `jit`.
      x: an input to compare outputs of; one example is enough.

    Returns:
      A `Compacted`.

    Raises:
      ValueError: the network cannot be followed, or is not the same in smaller arrays.

    Reference:
      Vysogorets and Kempe, "Connectivity Matters", 2023, for what can go.
    """

    def network(variables, x):
        return model.apply(*variables, x)[0]

    given = ticket._replace(
        weights=jax.jit(masks.apply)(ticket.mask, ticket.weights),
        model_state={} if ticket.model_state is None else ticket.model_state,
    )
    found = constants.found(network, given, x[:1])
    # A unit that stays nevertheless keeps its part in the training: its bias moves.
    planned = _planner(network, given, x[:1])
    trial = planned(constants.folded(given, found))
    whole = constants.folded(given, found, trial.places())
    plan = planned(whole)
    if not plan.runs(model, whole, x):
        one_by_one = (plan.only([atom]) for atom in plan.stays)
        can = [one.stays for one in one_by_one if one.runs(model, whole, x)]
        plan = plan.only(atom for one in can for atom in one)
    small = plan.cut(whole)
    smaller = _resized(model, small.weights)
    rounding = max(TOLERANCE, STEPS * _step(given.weights))
    other = _elsewhere(small)
    if not (
        plan.runs(model, whole, x)
        and _same(model, plan.put(whole, other), smaller, other, x, TOLERANCE)
        and _same(model, given, smaller, small, x, rounding)
    ):
        raise ValueError(
            "in smaller arrays the network does not compute the same: its code uses "
            f"a width of {sorted(plan.left(whole))} otherwise than as a size"
        )
    left, needed = plan.left(whole), plan.whole(whole)
    return Compacted(smaller, small, left, needed, tuple(plan.places()))


class _Plan(NamedTuple):
    """Which units a network loses.

    Attributes:
      axes: of every leaf of `(weights, model_state)`, in their order.
      stays: of every atom that has units to lose, which of them stay.
      needed: of every atom that has and is kept whole, what needs it.
    """

    axes: list[Axes]
    stays: dict[Atom, np.ndarray]
    needed: dict[Atom, str]

    def only(self, atoms: Iterable[Atom]) -> "_Plan":
        """The same, where all other atoms are kept whole."""
        stays = {atom: self.stays[atom] for atom in atoms}
        refused = dict.fromkeys(self.stays.keys() - stays, "the network's own code")
        return self._replace(stays=stays, needed=self.needed | refused)

    def places(self) -> list[tuple[np.ndarray, ...] | None]:
        """What is left along the axes of every leaf; None of one that stays whole."""
        return [
            tuple(map(self._left, axes)) if _atoms(axes) & self.stays.keys() else None
            for axes in self.axes
        ]

    def _left(self, axis: Axis) -> np.ndarray:
        stay = np.ones(1, bool)
        for atom, size in axis:
            own = self.stays.get(atom, np.ones(size, bool))
            stay = np.logical_and.outer(stay, own).reshape(-1)
        return np.flatnonzero(stay)

    def cut(self, ticket: Ticket) -> Ticket:
        """The smaller ticket."""
        return _cut(ticket, self.places())

    def put(self, ticket: Ticket, small: Ticket) -> Ticket:
        """The ticket with the weights of a smaller one where they come from."""

        def whole(leaf, new, places):
            if places is None:
                return new
            leaf = np.array(leaf)
            leaf[np.ix_(*places)] = new
            return jnp.asarray(leaf)

        leaves, tree = jax.tree.flatten(ticket.weights)
        news = jax.tree.leaves(small.weights)
        found = map(whole, leaves, news, self.places())
        return ticket._replace(weights=tree.unflatten(found))

    def runs(self, model: Model, ticket: Ticket, x: Any) -> bool:
        """Whether the network's own code does, on arrays of the smaller shapes."""
        small = jax.eval_shape(self.cut, ticket)
        smaller = _resized(model, small.weights)
        try:
            jax.eval_shape(smaller.apply, small.weights, small.model_state, x)
        except Exception:  # whatever that code raises
            return False
        return True

    def left(self, ticket: Ticket) -> dict[str, tuple[np.ndarray, ...]]:
        names = masks.names(ticket.weights)
        found = zip(names, self.places(), strict=False)
        return {name: places for name, places in found if places is not None}

    def whole(self, ticket: Ticket) -> dict[str, str]:
        found = {}
        for name, axes in zip(masks.names(ticket.weights), self.axes, strict=False):
            reasons = [self.needed[a] for a in _atoms(axes) if a in self.needed]
            if reasons:
                found[name] = " and ".join(dict.fromkeys(reasons))
        return found


def _planner(network: Callable, like: Ticket, x: Any) -> Callable[[Ticket], _Plan]:
    """Which units of such tickets have no weight that can be seen, and may go."""
    units, own = ties.tied(network, (like.weights, like.model_state), x)
    axes = [tuple(map(units.axis, leaf)) for leaf in own]

    @jax.jit
    def useful(ticket):
        """Of every leaf which entries are not zero, and can be seen in an output."""
        flows = (
            jax.tree.map(reach.through, ticket.weights, ticket.mask),
            jax.tree.map(reach.not_zero, ticket.model_state),
        )
        variables = ticket.weights, ticket.model_state
        _, grads = reach.reached(network, variables, flows, x, sources=True)
        return jax.tree.map(lambda flow, grad: flow * grad > 0, flows, grads)

    def plan(ticket):
        stays: dict[Atom, np.ndarray] = {}
        for entries, leaf in zip(jax.tree.leaves(useful(ticket)), axes, strict=True):
            parts = [part for axis in leaf for part in axis]
            entries = np.asarray(entries).reshape([size for _, size in parts])
            for i, (atom, size) in enumerate(parts):
                if atom is not ties.FREE:
                    others = tuple(j for j in range(len(parts)) if j != i)
                    stay = stays.get(atom, np.zeros(size, bool))
                    stays[atom] = stay | entries.any(others)
        idle = {a: stay for a, stay in stays.items() if not stay.all()}
        needed = {a: why for a in idle if (why := units.fixed(a))}
        for stay in idle.values():
            stay[0] |= not stay.any()  # there are no arrays without units
        free = {a: s for a, s in idle.items() if a not in needed and not s.all()}
        named = {a: why for a, why in needed.items() if why != ties.KERNEL}
        return _Plan(axes, free, named)

    return plan


def _atoms(axes: Axes) -> set[Atom]:
    return {atom for axis in axes for atom, _ in axis}


def _cut(ticket: Ticket, places: Sequence) -> Ticket:
    leaves, tree = jax.tree.flatten((ticket.weights, ticket.model_state))
    weights, state = tree.unflatten(map(_taken, leaves, places))
    tree = jax.tree.structure(ticket.weights)
    kept = zip(tree.flatten_up_to(ticket.mask), places, strict=False)
    mask = tree.unflatten(m if m is None else _taken(m, p) for m, p in kept)
    return Ticket(weights, mask, state)


def _taken(leaf: Any, places: tuple[np.ndarray, ...] | None) -> Any:
    if places is None:
        return leaf
    if checks.concrete(leaf):  # by numpy, for which nothing is compiled
        return jnp.asarray(np.asarray(leaf)[np.ix_(*places)])
    return leaf[np.ix_(*places)]


def _step(weights: Params) -> float:
    """From 1 to the next number, in the coarsest of their types."""
    kinds = {jnp.result_type(w) for w in jax.tree.leaves(weights)}
    floats = (kind for kind in kinds if jnp.issubdtype(kind, jnp.inexact))
    return max((float(jnp.finfo(kind).eps) for kind in floats), default=0.0)


def _elsewhere(ticket: Ticket) -> Ticket:
    """The ticket with larger weights, each by noise of the size that initial ones have.

    None changes its sign: there are weights of which a network takes the logarithm.
    """
    rng = np.random.default_rng(0)

    def moved(w):
        if not jnp.issubdtype(jnp.result_type(w), jnp.floating):
            return w
        inputs = math.prod(w.shape[:-1]) if jnp.ndim(w) > 1 else 100
        noise = rng.normal(0, max(inputs, 1) ** -0.5, w.shape).astype(w.dtype)
        return w + jnp.where(w == 0, noise, jnp.abs(noise) * jnp.sign(w))

    weights = jax.tree.map(moved, ticket.weights)
    return ticket._replace(weights=masks.apply(ticket.mask, weights))


def _same(
    model: Model,
    ticket: Ticket,
    smaller: Model,
    small: Ticket,
    x: Any,
    tolerance: float,
) -> bool:
    """Whether both compute the same, but for a fraction of the largest output."""
    leaves = [
        jax.tree.leaves(jax.jit(m.apply)(t.weights, t.model_state, x)[0])
        for m, t in ((model, ticket), (smaller, small))
    ]
    return all(
        a.shape == b.shape
        and bool(jnp.abs(a - b).max() <= tolerance * (1 + jnp.abs(a).max()))
        for a, b in zip(*leaves, strict=True)
    )


def _resized(model: Model, like: Params) -> Model:
    """A model of these parameters, linen's layers as wide as they are."""

    def resized(function):
        @functools.wraps(function)
        def call(*args, **options):
            linen = sys.modules.get("flax.linen")
            if linen is None:  # then there are none
                return function(*args, **options)
            with linen.intercept_methods(widened):
                return function(*args, **options)

        return call

    def widened(call, args, options, context):
        """Lets a layer that writes down its `features` read them off `like`."""
        module, layer = context.module, like
        if isinstance(getattr(module, "features", None), int):
            for name in module.path:
                layer = layer.get(name, {}) if isinstance(layer, dict) else {}
            for name in ("kernel", "embedding"):
                if name in layer:
                    object.__setattr__(module, "features", layer[name].shape[-1])
        return call(*args, **options)

    def init(key, x):
        params, state = resized(model.init)(key, x)
        if _shapes(params) != _shapes(like):
            raise ValueError(
                "this network is initialised by code that writes its widths down: "
                f"{_shapes(params)} and not {_shapes(like)}"
            )
        return params, state

    return Model(init, resized(model.apply))


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in masks.named(tree).items()}
