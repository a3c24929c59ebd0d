"""Runs a function in a forked child, and tells how the child ended and what it returned."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import attrs


@attrs.frozen
class Ended:
    """How a child ended: `signal` that killed it or 0, what it returned or raised."""

    signal: int
    code: int
    value: Any = None
    error: str = ""

    @property
    def result(self) -> Any:
        """What the function returned, where the child came to its end."""
        assert (0, 0, "") == (self.signal, self.code, self.error), self
        return self.value


@attrs.define
class Child:
    """A child that runs."""

    pid: int
    _pipe: int

    def wait(self) -> Ended:
        """Wait for its end."""
        with open(self._pipe, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        value, error = pickle.loads(data) if data else (None, "")
        if os.WIFSIGNALED(status):
            return Ended(os.WTERMSIG(status), 0, value, error)
        return Ended(0, os.WEXITSTATUS(status), value, error)

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        os.kill(self.pid, signal.SIGKILL)


def start(work: Callable[[], Any]) -> Child:
    """Start `work` in a forked child, which leaves by `os._exit` whatever happens."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run(work, writer)
    os.close(writer)
    return Child(pid, reader)


def _run(work: Callable[[], Any], writer: int) -> NoReturn:
    code = 0
    try:
        answer = (work(), "")
    except BaseException:  # noqa: BLE001 - the parent is told, whatever it was
        answer, code = (None, traceback.format_exc()), 70
    try:
        with open(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
    finally:
        os._exit(code)


def run(work: Callable[[], Any]) -> Ended:
    """Run `work` in a forked child to its end."""
    return start(work).wait()


@contextlib.contextmanager
def running(work: Callable[[], Any]) -> Iterator[Child]:
    """A child for the length of a `with` block; killed at its end if it is still there."""
    child = start(work)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            child.kill()
            os.waitpid(child.pid, 0)
        with contextlib.suppress(OSError):
            os.close(child._pipe)


class Gate:
    """Lets processes wait for each other: what was opened before the fork joins both sides."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def open(self, times: int = 1) -> None:
        """Let so many pass."""
        os.write(self._writer, b"x" * times)

    def wait(self, times: int = 1) -> None:
        """Pass as often as said; fails after half a minute rather than hang."""
        for _ in range(times):
            ready, _, _ = select.select([self._reader], [], [], 30)
            assert ready, "nobody opened the gate"
            os.read(self._reader, 1)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
