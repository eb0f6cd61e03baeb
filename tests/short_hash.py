"""Random bits by a short hash: programs that draw take half as long to compile.

JAX's own hash, threefry, is more than half of most programs of the tests. Keys and all
that is made of them stay JAX's; what is drawn is as good as tests of toys need, and no
test knows a number that JAX has drawn, but for those `without` it. Programs of their
own, as users start them, draw with threefry.
"""

import contextlib

import jax
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir
from jax.numpy import uint32


def _hash(key_0, key_1, count_0, count_1):
    """Two words, every bit of them of every bit of the key and of the count."""
    x = (key_0 + count_0) * uint32(0x85EBCA6B) ^ (key_1 + count_1 + uint32(0x9E3779B9))
    x = (x ^ (x >> 16)) * uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * uint32(0x846CA68B)
    x = x ^ (x >> 16)
    y = (x + key_1) * uint32(0x9E3779B1)
    return x, y ^ (y >> 15)


RULES = mlir._platform_specific_lowerings["cpu"]
THREEFRY = RULES[threefry2x32_p]


def hurry():
    """From now on, wherever this process draws on CPU."""
    rule = mlir.lower_fun(_hash, multiple_results=True)
    mlir.register_lowering(threefry2x32_p, rule, platform="cpu")


@contextlib.contextmanager
def without():
    """As users draw: for numbers that are written down somewhere."""
    ours, RULES[threefry2x32_p] = RULES[threefry2x32_p], THREEFRY
    jax.clear_caches()
    yield
    RULES[threefry2x32_p] = ours
    jax.clear_caches()
