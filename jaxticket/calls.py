"""Functions that say by their signature what they want to be told."""

import inspect
from collections.abc import Callable
from typing import Any


def told(f: Callable, *arguments: Any, **known: Any) -> Any:
    """`f(*arguments)`, and of what is known the keyword arguments that it takes."""
    parameters = [*inspect.signature(f).parameters.values()][len(arguments) :]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        takes = {p.name for p in parameters}
        known = {name: value for name, value in known.items() if name in takes}
    return f(*arguments, **known)


def naming(f: Callable, *names: str) -> Callable:
    """`f`, with a signature of one argument and these keywords: whoever asks sees them.

    The line searches of optax give their `value_fn` by name what it takes of all that
    they are told, and refuse the rest.
    """
    first = inspect.Parameter("params", inspect.Parameter.POSITIONAL_ONLY)
    others = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    f.__signature__ = inspect.Signature([first, *others])
    return f
