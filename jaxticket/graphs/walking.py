"""A network's own steps, one after another, for what asks something else of them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import jax
from jax.extend import core

from jaxticket.models import convolution

Value = TypeVar("Value")

# Primitives that domains treat alike.
REDUCTIONS = (
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "reduce_prod",
    "reduce_and",
    "reduce_or",
)
WINDOWS = ("reduce_window_sum", "reduce_window_max", "reduce_window_min")
CUMULATIVE = ("cumsum", "cumlogsumexp", "cummax", "cummin", "cumprod")


def spreads(shape: Sequence[int], onto: Sequence[int]) -> bool:
    """Whether an operand of a step by numbers is of the result's shape, or spread."""
    return not shape or (
        len(shape) == len(onto)
        and all(a in (1, b) for a, b in zip(shape, onto, strict=True))
    )


class Domain(Protocol[Value]):
    """What is known of the arrays of a network, in place of their numbers."""

    def constant(self, array: Any) -> Value:
        """What is known of an array that stands in the network itself."""

    def step(self, eqn: Any, values: Sequence[Value]) -> Sequence[Value]:
        """What is known of the results of one step, a `JaxprEqn`."""

    def row(self, value: Value, index: int) -> Value:
        """What is known of `array[index]`."""

    def stack(self, values: Sequence[Value]) -> Value:
        """What is known of `stack(arrays)`."""


def steps(network: Callable, *args: Any) -> core.ClosedJaxpr:
    """The steps of `network(*args)`, convolutions as what they are by definition.

    Args:
      network: a function of pytrees of arrays.
      *args: arrays, or their shapes and dtypes.
    """
    with convolution.by_definition():
        # A function of its own: what has been traced before is not looked up.
        return jax.make_jaxpr(lambda *args: network(*args))(*args)


def walk(
    jaxpr: core.ClosedJaxpr, inputs: Sequence[Value], domain: Domain[Value]
) -> list[Value]:
    """What is known of the results, from what is known of the inputs.

    Functions that are called are entered, and loops of a known length are unrolled.

    Args:
      jaxpr: from `steps`.
      inputs: of its flat inputs.
      domain: says what is known after each step.

    Raises:
      ValueError: a loop without a known length, a branch, or what the domain refuses.
    """
    env = dict(zip(jaxpr.jaxpr.invars, inputs, strict=True))
    for var, const in zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True):
        env[var] = domain.constant(const)

    def read(var):
        return domain.constant(var.val) if isinstance(var, core.Literal) else env[var]

    for eqn in jaxpr.jaxpr.eqns:
        values = [read(var) for var in eqn.invars]
        name = eqn.primitive.name
        if name in ("while", "cond"):
            raise ValueError(
                f"what a network computes in a {name!r} cannot be followed: write it "
                "without, or leave this network as it is"
            )
        if name == "scan":
            found = _unrolled(eqn.params, values, domain)
        elif (inner := _called(eqn)) is not None:
            found = walk(inner, values, domain)
        else:
            found = domain.step(eqn, values)
        env.update(zip(eqn.outvars, found, strict=True))
    return [read(var) for var in jaxpr.jaxpr.outvars]


def _called(eqn: Any) -> core.ClosedJaxpr | None:
    """The function that a step calls, if it does."""
    for name in ("jaxpr", "call_jaxpr", "call", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if isinstance(inner, core.Jaxpr):
            return core.ClosedJaxpr(inner, ())
        if isinstance(inner, core.ClosedJaxpr):
            return inner
    return None


def _unrolled(params, values, domain):
    fixed, carried = params["num_consts"], params["num_carry"]
    consts, carry = values[:fixed], values[fixed : fixed + carried]
    rows = values[fixed + carried :]
    order = range(params["length"])
    made = {}
    for i in reversed(order) if params["reverse"] else order:
        at = [domain.row(value, i) for value in rows]
        found = walk(params["jaxpr"], [*consts, *carry, *at], domain)
        carry, made[i] = found[:carried], found[carried:]
    stacked = [domain.stack(one) for one in zip(*map(made.get, order), strict=True)]
    return [*carry, *stacked]
