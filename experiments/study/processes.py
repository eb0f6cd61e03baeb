"""One run in several processes, on one host or on many: they begin and end together.

Every process is given the same command. The first has the folder, writes all files and
says what there is to say; the others compute, read what it has written, and are silent
but for what ends them.
"""

import atexit
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging

from experiments.study import last_words
from jaxticket import checks
from jaxticket.engine import hosts

PLACE = ("coordinator", "processes", "process")  # which one of them a process is
OWN = (*PLACE, "data_dir", "cache_dir")  # what each may be told otherwise
HEARTBEAT = 30  # seconds after which one that says nothing is taken for dead
CLUSTERS = "SLURM, Open MPI or a TPU pod"

_watcher: subprocess.Popen | None = None


def check(config: Any) -> None:
    """Raises a `ValueError` where what is said of processes does not go together."""
    given = {name: x for name in PLACE if (x := getattr(config, name)) is not None}
    if not config.distributed:
        if given:
            raise ValueError(
                f"--{next(iter(given))} goes with --distributed: give both"
            )
        return
    if missing := [f"--{name}" for name in PLACE if name not in given]:
        if given:
            raise ValueError(
                f"{' and '.join(missing)} missing: give --coordinator=HOST:PORT, "
                f"--processes and --process, or none of them in a cluster ({CLUSTERS})"
            )
        return
    checks.whole(0, config.processes - 1)(**{"--process": config.process})


def join(config: Any) -> None:
    """Waits for all processes, before any device is touched.

    Raises:
      ValueError: there is no cluster, they do not find each other, or they differ.
    """
    if not config.distributed:
        return
    if not jax.distributed.is_initialized():
        with contextlib.ExitStack() as undone:
            _watch(undone)
            _initialize(config)
            undone.pop_all()  # it is watched from now on
    _say(f"{_name()}\n")
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len({*counts.values()}) > 1:
        said = ", ".join(str(counts[i]) for i in sorted(counts))
        raise ValueError(f"processes must have as many devices each; they have {said}")
    same("settings", _told(config), "give every process the same command")


def _initialize(config: Any) -> None:
    if config.coordinator is not None:
        host = config.coordinator.rpartition(":")[0]
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            raise ValueError(
                f"--coordinator: there is no host {host} ({error})"
            ) from None
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError:
        raise ValueError(
            f"--distributed finds no cluster ({CLUSTERS}): give "
            "--coordinator=HOST:PORT, --processes and --process"
        ) from None
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{last_words.APART} ({said})") from None


def same(what: str, value: Any, remedy: str) -> None:
    """Raises a `ValueError` where a JSON value is not that of all processes."""
    text = json.dumps(value, sort_keys=True, default=str)
    number = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
    found = hosts.each(number)
    if (found != found[0]).any():
        others = [i for i, x in enumerate(found) if x != found[0]]
        raise ValueError(f"process {others[0]} has other {what} than 0: {remedy}")


def _told(config: Any) -> dict[str, Any]:
    return {k: x for k, x in dataclasses.asdict(config).items() if k not in OWN}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Lets the first process alone say what it does, in here."""
    if hosts.first():
        yield
        return
    with (
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        yield


def shared(folder: Path) -> None:
    """Raises a `ValueError` where not all processes see the same folder."""
    if not hosts.several():
        return
    mark, number = folder / ".shared.tmp", float(os.getpid())
    if hosts.first():
        mark.write_text(str(number))
    number = hosts.agreed(number)
    try:
        seen = mark.read_text() == str(number)
    except OSError:
        seen = False
    if hosts.anyone(not seen):
        raise ValueError(
            f"{folder} is not the same folder in all processes: --output_dir must lie "
            "on a file system that all hosts share"
        )
    if hosts.first():
        mark.unlink()


def _watch(undone: contextlib.ExitStack) -> None:
    """From now on a process that is ended without a word has said its last ones.

    What libraries write past Python is kept from the terminal: of a process that JAX
    ends that are pages.
    """
    global _watcher
    aside = tempfile.TemporaryFile()  # noqa: SIM115, it stays as long as the process
    _watcher = subprocess.Popen(
        [sys.executable, "-S", last_words.__file__, str(aside.fileno())],
        stdin=subprocess.PIPE,
        pass_fds=[aside.fileno()],
        start_new_session=True,
    )
    _say(f"{last_words.JOINING}\n")
    atexit.register(_done)
    undone.callback(_done)
    for number, name in enumerate(("stdout", "stderr"), 1):
        before = getattr(sys, name)
        before.flush()
        copy = os.dup(number)
        setattr(sys, name, open(copy, "w", buffering=1))  # noqa: SIM115
        os.dup2(aside.fileno(), number)
        undone.callback(setattr, sys, name, before)
        undone.callback(os.dup2, copy, number)
    handler = logging.get_absl_handler().python_handler
    undone.callback(setattr, handler, "stream", handler.stream)
    handler.stream = sys.stderr


def leave(code: int) -> None:
    """Ends the process; one among several without waiting for the others."""
    if not hosts.several():
        sys.exit(code)
    _done()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def who() -> str:
    """What an error line begins with: nothing, in a single process."""
    return f"process {jax.process_index()}: " if hosts.several() else ""


def lost(error: Exception) -> str | None:
    """The line for an error that another process has caused; None for any other."""
    if hosts.several() and any(word in str(error) for word in last_words.OF_OTHERS):
        return last_words.lost(_name())
    return None


def _name() -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def _say(text: str) -> None:
    """Tells the program that waits."""
    if _watcher is not None and not _watcher.stdin.closed:
        with contextlib.suppress(OSError):
            _watcher.stdin.write(text.encode())
            _watcher.stdin.flush()


def _done() -> None:
    """Whatever comes is said by the process itself."""
    _say(last_words.END)
    if _watcher is not None:
        _watcher.stdin.close()
