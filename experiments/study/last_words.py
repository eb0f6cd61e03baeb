"""What a process says that is ended without a word: a program beside it, which waits.

JAX ends a process at once where another has died, with pages about its own insides; so
does a system that is out of memory, with nothing. This program is given what the
process says of itself, and what libraries have written past Python; see `processes`.
It imports nothing of ours, so that it is there at once.

    python last_words.py DESCRIPTOR < PIPE
"""

import os
import signal
import sys

GOES_ON = "the same command goes on, in as many processes as there then are"
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
JOINING, END = "joining", "end"  # what is told besides the name of the process
# What libraries write of processes that are not there any more.
OF_OTHERS = ("Gloo", "coordination service", "CoordinationService")
APART = (
    "the processes of the run do not find each other: was each --process started, "
    "once, within five minutes, and is --coordinator a free port of process 0's host?"
)


def lost(who: str) -> str:
    """The line of a process that cannot go on without the others."""
    return (
        f"error: {who} ends, since another process of the run has ended, which may say "
        f"why; {GOES_ON}"
    )


def main() -> None:
    for name in SIGNALS:  # they are for the process, which goes on for a while
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    told = sys.stdin.buffer.read().decode().split("\n")
    if told.pop() == END:
        return
    who, written = (
        told[-1],
        os.pread(int(sys.argv[1]), 2**20, 0).decode("utf-8", "replace"),
    )
    if who == JOINING:
        line = f"error: {APART}"
    elif any(word in written for word in OF_OTHERS[1:]):
        line = lost(who)
    else:
        line = f"error: {who} was killed, or has crashed; {GOES_ON}"
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
