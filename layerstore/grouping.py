"""Owns group commit: parts of several threads go into one transaction; it must not know what they write.

A commit under `full` waits for the disk, and whoever comes meanwhile waits for that commit. Those who
waited then share the next one. The first of them leads: it begins the transaction, does its part,
passes the turn along the line, and commits when the turn comes back. Each thread does its part itself,
in a savepoint, so that a part that raises is rolled back alone, and its error is raised where it
belongs. Nobody returns before the commit; if that fails, everybody in it learns so.

The main thread shares with nobody: an interruption (KeyboardInterrupt) comes to it alone, anywhere,
and could end a transaction in which others have a part.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from layerstore.db import engine, faults
from layerstore.fs.trace import trace

T = TypeVar("T")


class _Part:
    """One thread's part: `gate` is open when that thread may go on."""

    __slots__ = ("full", "gate", "group")

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self.gate = threading.Lock()
        self.gate.acquire()
        self.group: _Group | None = None
        """The transaction that it has got the turn in; None: it is to lead one itself."""


class _Group:
    """One transaction, and who has a part in it."""

    __slots__ = ("broken", "connection", "failure", "full", "leader", "members")

    def __init__(self, leader: _Part, connection: engine.Connection, *, full: bool) -> None:
        self.leader = leader
        self.connection = connection
        self.full = full
        self.members: list[_Part] = []
        self.broken: BaseException | None = None
        """What a part met that took the whole transaction with it."""
        self.failure: BaseException | None = None
        """Why nothing of it was committed."""


class Grouping:
    """The line of the threads that want to write to one database."""

    def __init__(self, database: engine.Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._line: collections.deque[_Part] = collections.deque()
        self._led = False
        """Somebody leads: whoever comes now gets in line."""

    def write(self, *, full: bool) -> contextlib.AbstractContextManager[engine.Connection]:
        """A transaction, or a part in one: committed at the end, alone or with others; `full` synced."""
        return self._database.write(full=full) if _is_main() else self._in_line(full=full)

    def transact(self, action: Callable[[engine.Connection], T], *, full: bool) -> T:
        """The same around one call."""
        if _is_main():
            return self._database.transact(action, full=full)
        with self._in_line(full=full) as connection:
            return action(connection)

    @contextlib.contextmanager
    def _in_line(self, *, full: bool) -> Iterator[engine.Connection]:
        part = _Part(full=full)
        with self._lock:
            waits, self._led = self._led, True
            if waits:
                self._line.append(part)
        if waits:
            part.gate.acquire()
        if part.group is None:
            with self._lead(part) as connection:
                yield connection
        else:
            with self._follow(part, part.group) as connection:
                yield connection

    @contextlib.contextmanager
    def _lead(self, part: _Part) -> Iterator[engine.Connection]:
        group: _Group | None = None
        try:
            with self._lock:
                full = part.full or any(other.full for other in self._line)
            with self._database.write(full=full) as connection:
                yield connection
                if self._line:
                    group = _Group(part, connection, full=full)
                    self._share(group)
            if group is not None:
                trace("group:commit:after")
        except BaseException as error:
            if group is not None:
                group.failure = error
            raise
        finally:
            self._step_down()
            for member in () if group is None else group.members:
                member.gate.release()

    def _share(self, group: _Group) -> None:
        """Have everybody in line do their part, and come back to commit."""
        self._pass_on(group)
        group.leader.gate.acquire()
        if group.broken is not None:
            raise group.broken
        trace("group:commit:before")

    def _pass_on(self, group: _Group) -> None:
        """Give the turn to the next in line who may join, or back to the leader."""
        with self._lock:
            following = None
            if group.broken is None:
                following = next((p for p in self._line if group.full or not p.full), None)
            if following is not None:
                self._line.remove(following)
                group.members.append(following)
                following.group = group
        (group.leader if following is None else following).gate.release()

    def _step_down(self) -> None:
        """Whoever came too late for this transaction leads the next."""
        with self._lock:
            self._led = bool(self._line)
            following = self._line.popleft() if self._line else None
        if following is not None:
            following.gate.release()

    @contextlib.contextmanager
    def _follow(self, part: _Part, group: _Group) -> Iterator[engine.Connection]:
        try:
            try:
                group.connection.execute("SAVEPOINT part")
                trace("group:part:before")
                yield group.connection
                trace("group:part:after")
                group.connection.execute("RELEASE part")
            except BaseException as error:
                self._take_back(group, error)
                raise
        except engine.DriverError as error:
            self._end(part, group)
            raise faults.explain(self._database.path, error) from error
        except BaseException:
            self._end(part, group)
            raise
        else:
            self._end(part, group)

    def _end(self, part: _Part, group: _Group) -> None:
        """Pass the turn on, and wait for the commit: also an error tells of what must be there."""
        self._pass_on(group)
        part.gate.acquire()
        if group.failure is not None:
            raise again(group.failure) from group.failure

    @staticmethod
    def _take_back(group: _Group, error: BaseException) -> None:
        """Roll one part back; where that cannot be, or the disk fails, the group fails."""
        try:
            group.connection.execute("ROLLBACK TO part")
            group.connection.execute("RELEASE part")
        except BaseException as second:  # noqa: BLE001 - the leader raises it
            group.broken = error if isinstance(error, engine.DriverError) else second
        else:
            if isinstance(error, engine.DriverError) and "disk I/O error" in str(error):
                group.broken = error


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def again(error: BaseException) -> BaseException:
    """The same error for another thread: a raised one belongs to the thread that raised it."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy
