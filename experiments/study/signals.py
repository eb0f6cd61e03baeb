"""Signals that ask a run to stop: it saves first what it has done.

Those that a terminal and the schedulers of clusters send. While a search runs they wait
for the end of its stretch, where its state is saved; at any other moment nothing is to
be saved, and the run ends at once. So it does at a second signal.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from experiments.study.last_words import SIGNALS

_came: list[int] = []  # see `handled`
_waits = False
_raised = False  # whether `Signalled` was: a library may have made another error of it


class Signalled(BaseException):
    """A signal came while nothing was to be saved."""


def asked() -> bool:
    """Whether the run has been asked to stop."""
    return bool(_came)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Signals are noted: whoever is in here asks for them."""
    global _waits
    _waits = True
    try:
        yield
    finally:
        _waits = False


@contextlib.contextmanager
def handled() -> Iterator[list[int]]:
    """Signals ask the run to stop, in here; those that the caller ignores still are.

    Yields:
      The numbers of those that have come, as they come.

    Raises:
      Signalled: in place of what a library has made of it.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came  # only the main thread hears of signals
        return
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    global _came, _raised
    _came, _raised = came, False
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.signal(number, _handle) for number in numbers}
    waking = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(ours, numbers), daemon=True)
    watcher.start()
    try:
        yield came
    except Exception as error:
        if _raised:
            raise Signalled from error
        raise
    finally:
        _came = []
        signal.set_wakeup_fd(waking)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
        watcher.join()
        ours.close()


def _handle(number: int, _) -> None:
    """In the main thread, as soon as it is not inside a library."""
    global _raised
    _came.append(number)
    if not _waits:
        _raised = True
        raise Signalled


def _watch(wakes: socket.socket, numbers: list[int]) -> None:
    """In a thread of its own, which hears of signals while the main one computes."""
    heard = 0
    while woken := wakes.recv(1):
        if woken[0] not in numbers:
            continue
        heard += 1
        if heard > 1:
            print("stopped at once; what was saved is kept", file=sys.stderr)
            sys.stderr.flush()
            os._exit(128 + woken[0])
        if _waits:
            print("stopping; once more to stop at once", file=sys.stderr, flush=True)
