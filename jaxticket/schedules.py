"""Schedules: step within the round -> value, and an optax transform to follow them."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxticket import checks
from jaxticket.base import Schedule


def position(name: str, at: int | float, steps: int | None) -> int:
    """A place in a round as a number of steps.

    Args:
      name: what messages call it.
      at: a whole number is a step; a float up to 1 is a fraction of the round, to the
        nearest step.
      steps: of a round; `None` where it is not known.

    Raises:
      ValueError: outside the round, or a fraction of a round of unknown length.
    """
    if steps is not None:
        checks.whole(1)(steps=steps)
    most = checks.INT32 if steps is None else steps
    _place(most)(**{name: at})
    if jnp.issubdtype(jnp.result_type(at), jnp.integer) or at > 1:
        return int(at)
    if steps is None and at > 0:
        raise checks.Refused(name, f"{at} is a fraction of a round: give its steps")
    return round(float(at) * (steps or 0))


def _place(steps: int) -> checks.Check:
    """A whole number of the steps of a round, or a fraction of it."""
    wanted = "a fraction of a round, up to 1.0, or a step from 0"
    limit = "" if steps == checks.INT32 else f" to {steps}"
    return checks.number(
        wanted + limit,
        lambda x: 0 <= x <= 1 or (1 < x <= steps and x == int(x)),
        rounds=False,
    )


def temperature(final: ArrayLike, steps: int, *, epoch_steps: int = 1) -> Schedule:
    """Exponential inverse temperature of Continuous Sparsification, from 1 to `final`.

    `beta(step) = final ** (e / (E - 1))`, where `e` is the epoch that `step` lies in
    and `E` the number of epochs; after the last epoch it stays at `final`. With
    `epoch_steps=1`, the default, it rises at every step.

    Args:
      final: `beta_T`, 200 in the paper. May be traced.
      steps: steps in a round.
      epoch_steps: steps that share one value, as in the released code, where `beta`
        changes between epochs.

    Reference:
      Savarese et al., "Winning the Lottery with Continuous Sparsification", 2020, sec.
      3.
    """
    checks.positive(final=final)
    checks.whole(1)(steps=steps, epoch_steps=epoch_steps)
    last = max(-(-steps // epoch_steps) - 1, 1)
    return lambda step: (
        jnp.asarray(final, jnp.float32)
        ** jnp.minimum((step // epoch_steps) / last, 1.0)
    )


def cubic_density(
    initial: ArrayLike, final: ArrayLike, start: int, stop: int
) -> Schedule:
    """Density of gradual magnitude pruning: fast at first, slow in the end.

    `d(t) = d_f + (d_i - d_f) * (1 - (t - start) / (stop - start)) ** 3` between `start`
    and `stop`, constant outside.

    Reference:
      Zhu and Gupta, "To Prune, or Not to Prune", 2017, eq. 1, in densities.
    """
    checks.fraction(initial=initial, final=final)
    checks.whole(0)(start=start)
    checks.whole(start + 1)(stop=stop)

    def schedule(step):
        left = 1 - jnp.clip((step - start) / (stop - start), 0, 1)
        return final + (initial - final) * left**3

    return schedule


def drop_fraction(initial: ArrayLike, stop: int) -> Schedule:
    """Cosine decay of the fraction that sparse training replaces: 0 from `stop` on.

    `f(t) = initial / 2 * (1 + cos(pi * t / stop))`.

    Reference:
      Evci et al., "Rigging the Lottery", 2020, section 3.
    """
    checks.share(initial=initial)
    checks.whole(1)(stop=stop)
    return lambda step: (
        initial / 2 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / stop, 1.0)))
    )


def cosine(steps: int, *, epoch_steps: int = 1) -> Schedule:
    """From 1 to 0 along a cosine: `(1 + cos(pi * e / E)) / 2`.

    `e` is the epoch that `step` lies in and `E` the number of epochs. It serves as the
    course of a learning rate, and as the rate of lottery jackpots' short restriction.

    Args:
      steps: steps in a round.
      epoch_steps: steps that share one value; 1, the default, lets it fall at every
        step.

    Reference:
      Zhang et al., "Lottery Jackpots Exist in Pre-trained Models", 2023, released code.
    """
    passed = _passed(steps, epoch_steps)
    return lambda step: (1 + jnp.cos(jnp.pi * passed(step))) / 2


def quartic(steps: int, *, epoch_steps: int = 1) -> Schedule:
    """From 1 to 0 by the fourth power: `(1 - e / E) ** 4`, see `cosine`."""
    passed = _passed(steps, epoch_steps)
    return lambda step: (1 - passed(step)) ** 4


def _passed(steps: int, epoch_steps: int) -> Schedule:
    """The fraction of the epochs that lie before the one of a step."""
    checks.whole(1)(steps=steps, epoch_steps=epoch_steps)
    epochs = -(-steps // epoch_steps)
    return lambda step: jnp.minimum((step // epoch_steps) / epochs, 1.0)


def scale_by_step(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by `-schedule(step)`: a learning rate that follows the round.

    optax's own schedules count updates in their state. They start again whenever a
    search renews its optimiser, and never when it keeps it. This transform reads the
    `step` that every search passes on, so the schedule restarts with the round, or
    resumes at the rewinding step.

    Args:
      schedule: step within the round -> learning rate.
    """

    def update(updates, state, params=None, *, step, **extra):
        del params, extra
        rate = -jnp.asarray(schedule(step))
        return jax.tree.map(lambda u: rate.astype(u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )
