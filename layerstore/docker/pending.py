"""Owns which requests were begun and not answered, in a file that a kill leaves; it must not act on them.

dockerd asks again when a server died before it answered, but with an empty body: it gives the reader
that the first attempt emptied to the second one. So what was asked for is known only here. A record is
one page of a file beside the socket, written by one system call, so that a kill leaves all of it or
nothing. It is not synced: a reboot ends dockerd too.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Final

import attrs

_PAGE: Final = 4096
_MOST: Final = 2048
KEPT_FOR: Final = 32.0
"""Seconds: dockerd asks again for 30."""
_KEPT_AGAIN: Final = 5.0
"""Seconds after which the record of what is still at work says so."""


@attrs.define(eq=False)
class Lost:
    """A request that another server began and did not answer."""

    method: str
    body: bytes
    until: float
    """By the monotonic clock, which a restart of the server does not set back."""
    slot: int | None
    done: bool = False
    """Its verb was done, and the answer may even have been sent."""
    error: Exception | None = None
    before: int | None = None
    """How often docker held the layer before a Get or a Put that counts came to its verb."""


class Pending:
    """The records of one socket. Safe to use from many threads."""

    def __init__(self, path: str) -> None:
        """Reads what the servers before left, while it is young enough to be asked for again."""
        self._descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        self._lock = threading.Lock()
        self._lost: list[Lost] = []
        self._free: list[int] = []
        self._next = 0
        content = os.pread(self._descriptor, _PAGE * _MOST, 0)
        for at in range(0, len(content), _PAGE):
            found = _read(content[at : at + _PAGE], at // _PAGE)
            if found is None:
                self._free.append(at // _PAGE)
            else:
                self._lost.append(found)
            self._next = at // _PAGE + 1

    def close(self) -> None:
        os.close(self._descriptor)

    @contextlib.contextmanager
    def noted(self, method: str, body: bytes, again: Lost | None = None) -> Iterator[Lost]:
        """Have it on record that this was asked for, until it is answered.

        `again`: the lost request that it is, whose record becomes this one's in one write.
        """
        note = self.note(method, body, again)
        try:
            yield note
        finally:
            self.settle(note)

    def note(self, method: str, body: bytes, again: Lost | None = None) -> Lost:
        """One record; it has no slot where it is too long, or they are too many."""
        note = Lost(method, body, time.monotonic() + KEPT_FOR, None)
        if again is not None:
            note.done = again.done
            with self._lock:
                note.slot, again.slot = again.slot, None
        if note.slot is None and len(_text(note)) <= _PAGE:
            with self._lock:
                if self._free:
                    note.slot = self._free.pop()
                elif self._next < _MOST:
                    note.slot = self._next
                    self._next += 1
        self._write(note)
        return note

    def did(self, note: Lost) -> None:
        """Its verb is done, and is not to be done again, whether the answer arrives or not."""
        note.done = True
        self._write(note)

    def counts(self, note: Lost, before: int) -> None:
        """It comes to its verb, with so many holds before it."""
        note.before = before
        self._write(note)

    def keep(self, note: Lost) -> None:
        """It is still at work; where the server dies over it, it is asked for again only then.

        From any thread: what was settled meanwhile stays so.
        """
        if note.until - time.monotonic() < KEPT_FOR - _KEPT_AGAIN:
            note.until = time.monotonic() + KEPT_FOR
            self._write(note)

    def _write(self, note: Lost) -> None:
        with self._lock:  # else the page could be another one's by now, or newer than this
            if note.slot is not None:
                self._put(note.slot, _text(note))

    def _put(self, slot: int, text: bytes) -> None:
        os.pwrite(self._descriptor, text.ljust(_PAGE, b"\0"), slot * _PAGE)

    def lost(self, method: str) -> list[Lost]:
        """What other servers left unanswered and may be asked for again, the oldest first."""
        now = time.monotonic()
        with self._lock:
            old = [lost for lost in self._lost if lost.until < now]
            self._lost = [lost for lost in self._lost if lost.until >= now]
            found = sorted((x for x in self._lost if x.method == method), key=lambda x: x.until)
        for lost in old:
            self.settle(lost)
        return found

    def settle(self, lost: Lost) -> None:
        """It needs no record any more; it stays known in this life of the server."""
        with self._lock:
            slot, lost.slot = lost.slot, None
            if slot is not None:
                self._put(slot, b"")
                self._free.append(slot)

    def take(self, method: str) -> Lost | int:
        """The only one of its kind, or one of several that are alike, which nobody else gets then; or
        how many there are.
        """
        found = self.lost(method)
        with self._lock:
            if len({lost.body for lost in found}) == 1 and found[0] in self._lost:
                self._lost.remove(found[0])
                return found[0]
        return len(found)

    def forget(self) -> None:
        """Nobody asks again: another daemon has begun."""
        for method in {lost.method for lost in self._lost.copy()}:
            self.drop(method)

    def drop(self, method: str) -> None:
        """Nobody asks for one of these again."""
        with self._lock:
            old = [lost for lost in self._lost if lost.method == method]
            self._lost = [lost for lost in self._lost if lost.method != method]
        for lost in old:
            self.settle(lost)


def _text(note: Lost) -> bytes:
    told = [note.method, note.body.decode("latin-1"), note.until, note.done, note.before]
    return json.dumps(told).encode()


def _read(page: bytes, slot: int) -> Lost | None:
    try:
        method, body, until, done, *more = json.loads(page.rstrip(b"\0"))
        lost = Lost(str(method), body.encode("latin-1"), float(until), slot, done is True)
        lost.before = None if not more or more[0] is None else int(more[0])
    except (ValueError, TypeError, AttributeError):
        return None  # empty, or nothing of ours
    now = time.monotonic()
    return lost if now < lost.until <= now + KEPT_FOR else None
