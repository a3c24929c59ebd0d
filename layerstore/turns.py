"""Owns who of several threads has the turn, and who waits behind; it must not know what for.

Whoever finds nobody at it has the turn. Those who come meanwhile get in line. Whoever has the turn may
take the work of those in line along with its own; then they are told that they were served. Else the
first in line has the turn next.
"""

from __future__ import annotations

import collections
import threading
from typing import Final, Generic, TypeVar

PATIENCE: Final = 0.5
"""Seconds in line after which a thread no longer waits for one that may hang."""


class Place:
    """Where one thread stands."""

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.leads = False
        """It has the turn."""


P = TypeVar("P", bound=Place)


class Turns(Generic[P]):
    """The line, and whether anybody has the turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: collections.deque[P] = collections.deque()
        self._taken = False

    def wait(self, place: P) -> bool:
        """Wait for the turn, or to be served; False: neither came in time, and the place is given up."""
        with self._lock:
            if not self._taken:
                self._taken = place.leads = True
                return True
            self._line.append(place)
        if place.gate.acquire(timeout=PATIENCE):
            return True
        with self._lock:
            if place in self._line:
                self._line.remove(place)
                return False
        place.gate.acquire()  # somebody is at it
        return True

    def gather(self, most: int) -> list[P]:
        """Take the first `most` in line along; `leave` serves them."""
        with self._lock:
            return [self._line.popleft() for _ in range(min(most, len(self._line)))]

    def leave(self, served: list[P]) -> None:
        """Tell those who were served, and give the turn to the next."""
        for place in served:
            place.gate.release()
        with self._lock:
            following = self._line.popleft() if self._line else None
            self._taken = following is not None
            if following is not None:
                following.leads = True
        if following is not None:
            following.gate.release()
