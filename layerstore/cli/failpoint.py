"""Owns LAYERSTORE_FAILPOINT, by which the program kills itself at a named point of an operation.

A point's name is what the interpreter of steps calls it, such as `create:3:MakeSymlink:before`; the
value is a pattern as the shell knows them, and the first point that matches is the end. With
`SIGTERM:` or another signal's name in front of the pattern, that one is sent instead of SIGKILL. The
value `list` prints each point to stderr as it is passed. It is for tests, for the demo, and for
whoever wants to see recovery at work: what it does to the program, kill -9 may do at any time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Final

VARIABLE: Final = "LAYERSTORE_FAILPOINT"


def install(environment: Mapping[str, str]) -> None:
    """Set the hook where the variable asks for one."""
    wanted = environment.get(VARIABLE)
    if wanted:
        from layerstore.fs import trace

        trace.set_trace(_lister if wanted == "list" else _killer(wanted))


def _lister(point: str) -> None:
    sys.stderr.write(f"{point}\n")
    sys.stderr.flush()


def _killer(wanted: str) -> Callable[[str], None]:
    name, colon, pattern = wanted.partition(":")
    named = bool(colon) and name in signal.Signals.__members__
    number = signal.Signals[name] if named else signal.SIGKILL
    left = 1

    def kill(point: str) -> None:
        nonlocal left
        if left and fnmatchcase(point, pattern if named else wanted):
            left = 0
            if number == signal.SIGSTOP:
                # Of the process another thread might take it, while this one goes on for a while.
                signal.pthread_kill(threading.get_ident(), number)
            else:
                os.kill(os.getpid(), number)

    return kill
