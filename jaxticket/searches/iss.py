"""Iterative Stochastic Sparsification: a Bernoulli gate on every weight."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, draws, meshes
from jaxticket.base import OfGates, Search
from jaxticket.searches import gates


def iss(
    optimizer: OfGates,
    *,
    penalty: ArrayLike = 1e-8,
    initial_logit: ArrayLike = 0.0,
    rewind_step: int = 0,
    off: Callable[[jax.Array], jax.Array] | ArrayLike = 0.5,
    keep_momentum: bool = True,
    weights: gates.Weights = "anchor",
) -> Search:
    """Learns how likely each weight is to be kept, and drops the unlikely ones.

    Every prunable weight `w` has a logit `s`. Each step draws gates `m ~
    Bernoulli(sigmoid(s))`, and the network runs with `m * w`. `(w, s)` are trained
    together on `loss + penalty * sum(sigmoid(s))`, where the gradient passes straight
    through the draw: `dm/ds` is that of `sigmoid(s)`. Between rounds the weights whose
    gate is off are dropped for good, and the logits of the others return to `s0`. The
    weights are not rewound between rounds, only in the ticket.

    With weights that the optimiser freezes (see `gates.optimizer`) this is the
    stochastic supermask of Zhou et al. 2019.

    Args:
      optimizer: trains the pair `Gated(weights, logits)`. It is given `step`, see
        `schedules.scale_by_step`.
      penalty: `lambda`; larger is sparser. May be traced. The default is Continuous
        Sparsification's; that of this baseline is not known.
      initial_logit: `s0`; smaller is sparser. May be traced. Below 0 every gate is off
        when a round opens: read the ticket before `advance`.
      rewind_step: step of the first round whose weights the ticket starts from.
      off: gates that are open with a lower probability than this are off; it may be
        traced. Or a rule: logits -> which gates are off. That of the paper is not
        known: say which one a result used.
      keep_momentum: whether the optimiser's moments outlive a round, which is not known
        either; schedules inside it start again in any case.
      weights: the ticket's: `anchor` are those of `rewind_step`, `trained` those of
        now.

    Returns:
      A `Search`. Its ticket keeps what was never dropped and is not off now. Evaluate
      the ticket, not `params(state)`, whose gates are drawn.

    Raises:
      ValueError: a negative penalty or `rewind_step`, an unknown `weights`.

    Reference:
      Savarese et al., "Winning the Lottery with Continuous Sparsification", 2020, the
      baseline of its early versions; Zhou et al., "Deconstructing Lottery Tickets",
      2019, section 5.
    """
    checks.finite(initial_logit=initial_logit)
    if not callable(off):
        checks.share(off=off)
    is_off = off if callable(off) else lambda s: jax.nn.sigmoid(s) < off

    def full(logits):
        return jax.tree.map(lambda s: meshes.full_like(s, initial_logit), logits)

    def gate(logits, state):
        """The gates of this step, and how likely they are to be open."""

        def straight_through(p, u, alive):
            drawn = (u < p).astype(p.dtype)
            return jnp.where(alive, p - jax.lax.stop_gradient(p) + drawn, 0)

        u = draws.uniform(state.key, state.count, logits)
        p = jax.tree.map(
            lambda s, alive: gates.soft(s, alive, jnp.ones((), s.dtype)),
            logits,
            state.mask,
        )
        return jax.tree.map(straight_through, p, u, state.mask), p

    return gates.search(
        optimizer,
        opened=lambda key, kernels: (full(kernels), key),
        gate=gate,
        kept=lambda s: ~is_off(s),
        reset=lambda state: full(state.gated.logits),
        penalty=penalty,
        rewind_step=rewind_step,
        weights=weights,
        keep_momentum=keep_momentum,
        nested=True,
        random=True,
    )
