"""Network slimming: channels go when the scale of their batch normalisation is small.

`slimming` is the search; its parts serve others. A ticket that is pruned channel by
channel from any training, or round by round in `imp`:

    slim = prune(ticket, scales(), 0.3, select=channels())
    search = imp(chain(shrink(1e-4), optimizer), score=scales(), select=channels())

A mask of kernels alone leaves a pruned channel's shift in place, and the channel gives
off what `beta` and the activation make of zero. To remove it altogether, let the mask
cover the normalisation: `masks.full(params, prunable)` with a `prunable` that accepts
its leaves, which then count as weights too.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import calls, checks, masks, pruners, scores, selection
from jaxticket.base import NO_EVIDENCE, OfWeights, Params, Promises, Search
from jaxticket.searches.fixed import fixed

# Parameters -> for each layer the names of the leaves whose last axis is its channels:
# the kernel, the scale, and what else goes with a channel.
Layers = Callable[[Params], list[tuple[str, ...]]]


def by_number(params: Params) -> list[tuple[str, ...]]:
    """Pairs `conv_0` with `norm_0`, and so on: the networks of `models`.

    Returns:
      Of each pair `conv_i/kernel`, `norm_i/scale`, and those of `norm_i/bias` and
      `conv_i/bias` that there are.

    Raises:
      ValueError: no pair: the network has no such layers.
    """
    names = set(masks.names(params))
    layers = []
    for scale in masks.names(params):
        norm = re.fullmatch(r"(.*/)?norm_(\d+)/scale", scale)
        conv = norm and f"{norm[1] or ''}conv_{norm[2]}"
        if norm and f"{conv}/kernel" in names:
            others = {scale.replace("/scale", "/bias"), f"{conv}/bias"} & names
            layers.append((f"{conv}/kernel", scale, *sorted(others)))
    if not layers:
        raise ValueError(
            "slimming needs convolutions with batch normalisation: there is no pair "
            f"conv_i/kernel, norm_i/scale among {sorted(names)}; take a network like "
            "vgg_16, or give a `layers(params)` that names kernels and their scales"
        )
    return layers


def slimming(
    optimizer: OfWeights,
    *,
    density: ArrayLike = 0.5,
    penalty: ArrayLike = 1e-4,
    layers: Layers = by_number,
) -> Search:
    """Trains with an L1 norm of the scales, and keeps the channels of the largest.

    The loss has `penalty * sum(|gamma|)` added, over the scales `gamma` of all layers.
    The network trains whole. Its ticket keeps the fraction `density` of the channels of
    all layers together, those of the largest `|gamma|`, and is to be fine-tuned.

    Density here is of channels; `masks.density` of the ticket is of weights, as
    everywhere. What the next layer has for a channel that is gone stays in its mask and
    counts: the small network, built anew, is smaller still.

    Args:
      optimizer: trains the weights. It is given `step`, see `schedules.scale_by_step`.
      density: the fraction of the channels that the ticket keeps. May be traced.
      penalty: weight of the L1 norm of the scales: published are 1e-4 (VGG) and 1e-5
        (ResNet-164, DenseNet-40). May be traced.
      layers: which leaves are kernels, which their scales.

    Returns:
      A `Search` of one round without end. Its ticket holds the trained weights.

    Raises:
      ValueError: density outside (0, 1], a negative penalty; in `init`, a network or a
        mask without such layers.

    Reference:
      Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
      2017, as in Liu et al., "Rethinking the Value of Network Pruning", 2019, which
      keep 0.3 (VGG) or 0.6 (the others) of the channels.
    """
    checks.fraction(density=density)
    train, thin = fixed(optimizer), shrink(penalty, layers)
    score, select = scales(layers), channels(layers)

    def norm(params):
        named = masks.named(params)
        gammas = [named[scale] for _, scale, *_ in layers(params)]
        return penalty * sum(jnp.sum(jnp.abs(gamma)) for gamma in gammas)

    def cut(whole):
        return pruners.prune(whole, score, density, select=select)

    def init(key, ticket):
        state = train.init(key, ticket)
        jax.eval_shape(cut, ticket)  # what has no channels is refused before it trains
        return state

    def update(grads, state, step, **told):
        params, loss = train.params(state), told.get("value_fn")
        grads, _ = thin.update(grads, optax.EmptyState(), params)
        if "value" in told:
            told["value"] = told["value"] + norm(params)
        if loss is not None:
            told["value_fn"] = lambda params, **others: (
                calls.told(loss, params, **others) + norm(params)
            )
        return train.update(grads, state, step, **told)

    def ticket(state):
        return cut(train.ticket(state))

    promises = Promises(hard=False, nested=False)
    return train._replace(init=init, update=update, ticket=ticket, promises=promises)


def shrink(
    penalty: ArrayLike, layers: Layers = by_number
) -> optax.GradientTransformation:
    """Adds `penalty * sign(gamma)` to the gradients of the scales: an L1 norm's.

    Chained before an optimiser it is part of the loss, as published.

    Args:
      penalty: weight of the L1 norm of the scales. May be traced.
      layers: which leaves are scales.
    """
    checks.not_negative(penalty=penalty)

    def update(grads, state, params):
        scales = {scale for _, scale, *_ in layers(params)}

        def add(path, grad, gamma):
            if masks.name(path) not in scales:
                return grad
            return grad + jnp.asarray(penalty, grad.dtype) * jnp.sign(gamma)

        return jax.tree_util.tree_map_with_path(add, grads, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scales(layers: Layers = by_number) -> scores.Score:
    """The score `|gamma|`, for all weights of a channel; zero where there is none."""

    def score(weights, evidence=NO_EVIDENCE):
        del evidence
        named = masks.named(weights)
        gammas = {
            leaf: jnp.abs(named[scale])
            for kernel, scale, *others in layers(weights)
            for leaf in (kernel, scale, *others)
        }
        zero = jnp.zeros(())

        def spread(name, w):
            return jnp.broadcast_to(gammas.get(name, zero), w.shape).astype(w.dtype)

        return _renamed(weights, spread)

    return score


def channels(layers: Layers = by_number) -> selection.Select:
    """Keeps the fraction `density` of the channels of all layers together, exactly.

    A channel scores what the highest of its kernel's weights does, and goes whole: with
    every leaf of its layer that the mask covers. Leaves of no layer stay as they are.

    Args:
      layers: which leaves share channels; it is given the tree of the scores.

    Returns:
      A `Select`. It raises a `ValueError` where the mask covers no such kernel.
    """

    def select(values, mask, density):
        groups = [group for group in layers(values) if group[0] in masks.named(mask)]
        if not groups:
            raise ValueError("the mask covers no kernel that `layers` names")
        values, alive = masks.named(values), masks.named(mask)

        def per_channel(leaf):
            return jnp.max(leaf, axis=tuple(range(leaf.ndim - 1)))

        have = [per_channel(alive[kernel]) for kernel, *_ in groups]
        best = [
            per_channel(jnp.where(alive[kernel], values[kernel], -jnp.inf))
            for kernel, *_ in groups
        ]
        keep = selection.keep(masks.count(have), density)
        kept = selection.top(best, have, keep)
        stays = {
            name: layer
            for group, layer in zip(groups, kept, strict=True)
            for name in group
        }

        def drop(name, m):
            return m & jnp.broadcast_to(stays[name], m.shape) if name in stays else m

        return _renamed(mask, drop)

    return select


def _renamed(tree: Params, f: Callable[[str, jax.Array], jax.Array]) -> Params:
    """`tree` with `f(name, leaf)` in place of every leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda p, leaf: f(masks.name(p), leaf), tree
    )
