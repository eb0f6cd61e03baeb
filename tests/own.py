"""A network, data and losses of a user's, which tests name on the command line."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

SEED = 3


class Net(nn.Module):
    outputs: int
    width: int
    bias: bool

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(self.width, use_bias=self.bias)(x))
        return nn.Dense(self.outputs, name="output")(x)


def linen(outputs, *, width: int = 16, bias: bool = True):
    return Net(outputs, width, bias)


def from_nnx(outputs, *, width: int = 16):
    class Two(nnx.Module):
        def __init__(self, *, rngs):
            self.first = nnx.Linear(6, width, rngs=rngs)
            self.last = nnx.Linear(width, outputs, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.first(x)))

    return Two


def nothing(outputs):
    return {"outputs": outputs}


def unmade(outputs):
    return Net


class Two(Net):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(self.outputs)(x.reshape(len(x), -1))
        return x, {}[self.width] if self.bias else x


def two(outputs, *, bias: bool = False):
    """Two outputs; with a bias a fault."""
    return Two(outputs, 3, bias)


def arrays(*, kind: str = "numbers", count: int = 120):
    """Six numbers a row, and what is asked of them: numbers, labels, or a class."""
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(count, 6)).astype(np.float32)
    y = x @ rng.normal(size=(6, 2)) * [1, 100] + [0, 1e4]
    labels = {"numbers": y, "several": x[:, :2] > 0, "class": (x[:, 0] > 0).astype(int)}
    y = labels[kind]
    return (x[: count // 2], y[: count // 2]), (x[count // 2 :], y[count // 2 :])


def scattered():
    (x, y), test = arrays(kind="class")
    x[3, 1] = np.nan
    return (x, y), test


def below():
    (x, y), test = arrays(kind="class")
    return (x, y - 1), test


def short():
    (x, y), test = arrays(kind="class", count=80)
    return (x, y[:-1]), test


def threefold():
    train, test = arrays(kind="class", count=80)
    return train, test, test


def lost():
    return np.load("nowhere.npy")


def streamless():
    """Images that only come one after another."""
    (x, y), test = arrays(kind="class", count=80)
    return (map(np.asarray, x), y), test


def uneven():
    """Images of which the last is larger."""
    (x, y), test = arrays(kind="class", count=80)
    return ([*x[:-1, :5], x[-1]], y), test


def pairless():
    return 3


def alone(outputs, labels):
    return ((outputs - 1) ** 2).mean(-1)


def swapped(outputs, labels):
    return outputs.argmax(-1) == labels, alone(outputs, labels)


def absolute(outputs, labels):
    """A loss whose accuracy is no number of rights: within a half."""
    errors = jnp.abs(outputs - labels)
    return errors, errors < 0.5


absolute.metric = "within a half"
