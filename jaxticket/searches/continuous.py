"""Continuous Sparsification: a sigmoid gate on every weight, annealed to a mask."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxticket import checks, meshes, schedules
from jaxticket.base import OfGates, Schedule, Search
from jaxticket.searches import constraint, gates
from jaxticket.searches.groups import Groups

Between = Literal["paper", "code"]


def continuous_sparsification(
    optimizer: OfGates,
    *,
    temperature: Schedule | ArrayLike = 200.0,
    penalty: ArrayLike | None = None,
    initial_logit: ArrayLike = 0.0,
    rewind_step: int = 0,
    between: Between = "paper",
    scaling: bool = True,
    keep_momentum: bool = True,
    weights: gates.Weights = "anchor",
    steps: int | None = None,
    epoch_steps: int = 1,
    density: ArrayLike | None = None,
    density_of: constraint.Of = "ticket",
    density_within: constraint.Within = "network",
    dual_learning_rate: ArrayLike = 1e-2,
    dual_restarts: bool = True,
    groups: Groups = "weights",
) -> Search:
    """Learns a soft mask by annealing a sigmoid until it is binary.

    Every prunable weight `w` has a logit `s`. The network runs with `w * sigmoid(beta
    s)`, and `(w, s)` are trained together on `loss + penalty * sum(sigmoid(beta s))`.
    `beta` rises from 1 within a round; a new round starts it again from `s = min(beta
    s, s0)`: what was kept starts as at first, what was pruned starts far below zero.
    The weights are not rewound between rounds, only in the ticket.

    Args:
      optimizer: trains the pair `Gated(weights, logits)`. It is given `step`, see
        `schedules.scale_by_step`.
      temperature: the last `beta` of a round, to which it rises exponentially over
        `steps`, see `schedules.temperature`; it may be traced. Or a schedule: step
        within the round -> `beta`.
      penalty: `lambda`, weight of the L0 surrogate; larger is sparser. May be traced.
        The default is 1e-8.
      initial_logit: `s0`; smaller is sparser. May be traced.
      rewind_step: step of the first round whose weights the ticket starts from.
      between: the rule between rounds: `paper` is `min(beta s, s0)`; `code` is what the
        released code computes, `min(s, s0)`, which lets pruned weights come back.
      scaling: divide the gates by `sigmoid(s0)`, as the released code does: they are 1
        at the start and `1 / sigmoid(s0)` in the end, and the ticket's weights carry
        that factor. To retrain with the factor kept beside the weights, as the released
        code does, see the multiplier of `fixed`.
      keep_momentum: whether the optimiser's moments outlive a round; schedules inside
        it start again in any case, and so does what holds copies of the weights.
      weights: the ticket's: `anchor` are those of `rewind_step`; `trained` are those of
        now, and one round followed by `fixed` prunes, binarises and fine-tunes.
      steps: of a round; needed where `temperature` is a number.
      epoch_steps: steps that share one `beta`, where `temperature` is a number.
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
      A `Search`. Its ticket keeps the weights whose logit is positive: read it before
      `advance`, which moves every logit to `s0` or below. Evaluate the ticket, not
      `params(state)`: at any finite `beta` some gates of pruned weights are still open.

    Raises:
      ValueError: a negative penalty or `rewind_step`, an unknown `between` or
        `weights`, a `temperature` that is a number without `steps`, a `density` that
        cannot be, a penalty and a density.

    Reference:
      Savarese et al., "Winning the Lottery with Continuous Sparsification", 2020,
      Algorithm 2.
    """
    checks.one_of(get_args(Between))(between=between)
    checks.finite(initial_logit=initial_logit)
    if not callable(temperature):
        checks.positive(temperature=temperature)
        if steps is None:
            raise ValueError(
                f"temperature {temperature} needs steps, the number of them in a "
                "round; or give a schedule, step within the round -> beta"
            )
        temperature = schedules.temperature(temperature, steps, epoch_steps=epoch_steps)
    scale = 1 / jax.nn.sigmoid(jnp.asarray(initial_logit)) if scaling else 1.0

    def opened(key, like):
        return jax.tree.map(lambda s: meshes.full_like(s, initial_logit), like), key

    def gate(logits, state):
        """`sigmoid(beta s)`, scaled, is both the gate and what is penalised."""

        def soft(s, alive, scale):
            beta, scale = (jnp.asarray(x, s.dtype) for x in (state.temperature, scale))
            return gates.soft(beta * s, alive, scale)

        def scaled(scale):
            return jax.tree.map(lambda s, m: soft(s, m, scale), logits, state.mask)

        found = scaled(scale)
        return found, found if density is None else scaled(1.0)

    def reset(state):
        """`min(beta s, s0)`, and finite: a weight decay makes no number of -inf."""
        ended = state.temperature
        beta = ended if between == "paper" else jnp.ones_like(ended)

        def opening(s):
            low = jnp.finfo(s.dtype).min
            return jnp.clip(beta.astype(s.dtype) * s, low, initial_logit).astype(
                s.dtype
            )

        return jax.tree.map(opening, state.gated.logits)

    return gates.search(
        optimizer,
        opened=opened,
        gate=gate,
        kept=lambda s: s > 0,
        reset=reset,
        temperature=temperature,
        penalty=constraint.penalty(penalty, density, 1e-8),
        rewind_step=rewind_step,
        weights=weights,
        scale=scale,
        keep_momentum=keep_momentum,
        constraint=constraint.held(
            density,
            of=density_of,
            within=density_within,
            learning_rate=dual_learning_rate,
            restarts=dual_restarts,
        ),
        groups=groups,
    )
