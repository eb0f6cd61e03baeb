"""One owner of a folder: a lock that dies with its process."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Has a folder for this process alone; any other is refused.

    The lock is the system's, on the file `lock` in the folder, which says who holds it.
    It ends with the process, however that ends. It holds between machines on NFS where
    its lock service runs, and on Lustre mounted with `flock`. Where a file system keeps
    no locks, and on Windows, a note says that nothing guards the folder.

    Raises:
      ValueError: another process has the folder.
    """
    path = folder / "lock"
    file = _locked(path)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is ours
            os.close(file)


def _locked(path: Path) -> int | None:
    """The file, locked; None where that cannot be."""
    while fcntl is not None:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise ValueError(
                f"{path.parent} is in use by {_holder(path)}: wait for it, stop it, or "
                "give another --output_dir"
            ) from None
        except OSError as error:
            os.close(file)
            print(
                f"note: nothing keeps other processes from {path.parent}: its file "
                f"system has no locks ({error.strerror})",
                file=sys.stderr,
            )
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                _sign(file)
                return file
        os.close(file)  # that of a process which has just ended, and removed it
    return None


def _sign(file: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    who = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    os.ftruncate(file, 0)
    os.write(file, json.dumps(who).encode())


def _holder(path: Path) -> str:
    try:
        who = json.loads(path.read_text())
        return f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
