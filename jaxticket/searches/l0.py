"""L0 regularisation: hard concrete gates on weights, or on groups of them."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, draws, meshes
from jaxticket.base import OfGates, Search
from jaxticket.searches import constraint, gates
from jaxticket.searches.groups import Groups

LOWEST, HIGHEST = math.log(1e-2), math.log(1e2)  # of the logits
SPREAD = 0.01  # standard deviation of the first logits
EPSILON = 1e-6  # how near the draws come to 0 and 1


class Concrete(NamedTuple):
    """What hard concrete gates are drawn from: temperature and ends of the stretch."""

    temperature: float
    low: float
    high: float

    def rectified(self, concrete: jax.Array) -> jax.Array:
        """Stretched from `low` to `high`, and cut off at 0 and 1."""
        return jnp.clip((self.high - self.low) * concrete + self.low, 0, 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def drawn(a: jax.Array, u: jax.Array, alive: jax.Array, of: Concrete) -> jax.Array:
    """The gates `z` where there may be one, 0 elsewhere; their slope is in `a` alone.

    `sigmoid((log(u / (1 - u)) + a) / b)` is `1 / (1 + ((1 - u) / u exp(-a))^(1/b))`. At
    the paper's temperature, 2/3, that power is a root and two products; its logarithm
    would cost as much as all else. The slope follows from `z`, so that nothing but `z`
    is kept until then.
    """
    ratio = (1 - u) / u * jnp.exp(-a.astype(u.dtype))
    halves = 2 / of.temperature
    if halves == round(halves):
        power = jax.lax.integer_pow(jnp.sqrt(ratio), round(halves))
    else:
        power = ratio ** (1 / of.temperature)
    z = of.rectified(1 / (1 + power))
    return jnp.where(alive, z, 0).astype(a.dtype)


@drawn.defjvp
def _(of, primals, tangents):
    z = drawn(*primals, of)
    width = of.high - of.low
    concrete = (z - of.low) * (1 / width)
    slope = concrete * (1 - concrete) * (width / of.temperature)
    return z, tangents[0] * jnp.where((z > 0) & (z < 1), slope, 0)


def l0(
    optimizer: OfGates,
    *,
    penalty: ArrayLike | None = None,
    initial_logit: ArrayLike = 0.0,
    temperature: float = 2 / 3,
    low: float = -0.1,
    high: float = 1.1,
    rewind_step: int = 0,
    weights: gates.Weights = "anchor",
    density: ArrayLike | None = None,
    density_of: constraint.Of = "ticket",
    density_within: constraint.Within = "network",
    dual_learning_rate: ArrayLike = 1e-2,
    dual_restarts: bool = True,
    groups: Groups = "weights",
) -> Search:
    """Learns gates that are noisy in training and exactly zero where not needed.

    Every prunable weight `w` has a logit `a` (`log alpha`); `b` is the temperature and
    `c`, `d` are the ends of the stretch (`gamma`, `zeta`). The network trains with
    `z * w`, where

        z = clip((d - c) sigmoid((log(u / (1 - u)) + a) / b) + c, 0, 1),  u ~ U(0, 1),

    on `loss + penalty * sum(sigmoid(a - b log(-c / d)))`, the expected number of gates
    that are not zero. The gate of a test is `clip((d - c) sigmoid(a) + c, 0, 1)`.

    Args:
      optimizer: trains the pair `Gated(weights, logits)`. It is given `step`, see
        `schedules.scale_by_step`.
      penalty: `lambda`; larger is sparser. May be traced. The default, 1e-5, is ours:
        the penalty that suits depends on the network.
      initial_logit: mean of the first logits, `log((1 - p) / p)` for gates that are off
        with probability `p`. May be traced.
      temperature: `b`.
      low: `c`, below 0: how far a gate is stretched beyond closed.
      high: `d`, above 1: how far it is stretched beyond open.
      rewind_step: step of the first round whose weights the ticket starts from.
      weights: the ticket's: `anchor` are those of `rewind_step`; `trained` are those of
        now times their gate in a test, which is the network that the paper tests.
      density: held to by a constraint, in place of the penalty: the fraction of the
        given ticket's weights that is left, see `constraint.held`. Logits must have
        time to move that far. May be traced.
      density_of: what is held to it, and how: the `ticket`, from both sides, which is
        ours, or, as published, the mean of the `gates`, from above.
      density_within: whether it is that of the `network`, or of every `layer` alike.
      dual_learning_rate: of the multipliers, by plain ascent. The default is chosen on
        LeNet-300-100 with MNIST, 5 epochs, Adam; published for it is 1e-4, with gates
        on units and 200 epochs. May be traced.
      dual_restarts: whether a multiplier returns to 0 when its density is reached.
      groups: which weights share a gate: none (`weights`), all of a neuron or a filter
        (`units`), or all that read an input or a channel (`inputs`), so that they go
        together, and `compact` makes the network smaller; or a function of the names
        of kernels, see `groups.shaped`. What is penalised, and the density, are still
        counted in weights.

    Returns:
      A `Search`. Its ticket keeps the weights whose gate in a test is not zero.
      Evaluate the ticket, not `params(state)`, whose gates are drawn. The method has no
      rounds: a further one goes on where the last one ended.

    Raises:
      ValueError: a negative penalty or `rewind_step`, a `temperature`, `low`,
        `high`, `weights` or `density` that cannot be, a penalty and a density.

    Reference:
      Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", 2018.
      One gate for each weight; the released code has one for each input of a dense
      layer or filter of a convolution, and keeps the logits in [log 0.01, log 100], as
      here.
    """
    checks.finite(initial_logit=initial_logit)
    checks.positive(temperature=temperature)
    checks.below(0)(low=low)
    checks.above(1)(high=high)
    shift = temperature * math.log(-low / high)

    of = Concrete(temperature, low, high)

    def tested(a):
        """The gate of a test."""
        return of.rectified(jax.nn.sigmoid(a))

    def opened(key, like):
        logit_key, gate_key = jax.random.split(key)
        leaves, tree = jax.tree.flatten(like)
        keys = jax.random.split(logit_key, len(leaves))
        logits = [
            meshes.full_like(w, initial_logit)
            + SPREAD * jax.random.normal(k, w.shape, w.dtype)
            for k, w in zip(keys, leaves, strict=True)
        ]
        return tree.unflatten(logits), gate_key

    def gate(logits, state):
        """The gates of this step, and how likely they are not to be zero."""
        u = draws.uniform(state.key, state.count, logits, EPSILON, 1 - EPSILON)
        active = jax.tree.map(
            lambda a, alive: gates.soft(a - shift, alive, jnp.ones((), a.dtype)),
            logits,
            state.mask,
        )
        z = jax.tree.map(lambda a, u, m: drawn(a, u, m, of), logits, u, state.mask)
        return z, active

    search = gates.search(
        optimizer,
        opened=opened,
        gate=gate,
        kept=lambda a: tested(a) > 0,
        bound=lambda a: jnp.clip(a, LOWEST, HIGHEST),
        penalty=constraint.penalty(penalty, density, 1e-5),
        rewind_step=rewind_step,
        weights=weights,
        random=True,
        constraint=constraint.held(
            density,
            of=density_of,
            within=density_within,
            learning_rate=dual_learning_rate,
            restarts=dual_restarts,
        ),
        groups=groups,
    )
    if weights == "anchor":
        return search

    def ticket(state):
        found = search.ticket(state)
        z = jax.tree.map(
            lambda a, m: jnp.where(m, tested(a), 0), state.gated.logits, found.mask
        )
        return found._replace(weights=gates.realise(state.gated.weights, z))

    return search._replace(ticket=ticket, promises=search.promises._replace(scale=None))
