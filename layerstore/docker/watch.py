"""Owns that a request is answered within a time, and whether any still are; it must not know HTTP or Docker.

A verb that hangs in the kernel, over a disk that does not answer or a mount that does not, cannot be
interrupted. So its thread is left alone: the main thread looks at what is being answered, gives up for
it in time, and tells the service manager only as long as something gets to its end.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import attrs

from layerstore.errors import Busy

if TYPE_CHECKING:
    from layerstore.docker.pending import Lost

T = TypeVar("T")
ANSWER_WITHIN: Final = 300.0
"""Seconds that a verb may take."""


class Moving(Protocol):
    """A connection, as far as it is of interest here."""

    @property
    def moved(self) -> float:
        """When something was read or sent, by the monotonic clock."""


@attrs.define(eq=False)
class Request:
    """One that is being answered."""

    method: str
    connection: Any
    service: Any
    is_stream: bool
    began: float
    note: Lost | None = None
    """Its record, if it has one."""
    is_overdue: bool = False

    def waits_since(self) -> float:
        """A stream may take as long as bytes flow."""
        moved: Moving = self.connection
        return moved.moved if self.is_stream else self.began


class Watch:
    """The requests of one server. Begun and ended by many threads, looked at by one."""

    def __init__(self, within: float, *, streams_within: float) -> None:
        """Seconds for a verb; and for a stream, in which nothing moves."""
        self._within = within
        self._streams_within = max(within, streams_within)
        self._lock = threading.Lock()
        self._requests: set[Request] = set()
        self._ended = self._seen = 0
        self._next_look = 0.0
        self.every = min(within / 4, 5.0)
        """Seconds between two looks."""

    def begin(self, method: str, connection: Any, service: Any, *, is_stream: bool) -> Request:
        """A request whose head is there."""
        request = Request(method, connection, service, is_stream, time.monotonic())
        with self._lock:
            self._requests.add(request)
        return request

    def end(self, request: Request) -> None:
        """Its answer was sent, or cannot be."""
        with self._lock:
            self._requests.discard(request)
            self._ended += not request.is_overdue

    @contextlib.contextmanager
    def over(
        self, method: str, connection: Any, service: Any, *, is_stream: bool
    ) -> Iterator[Request]:
        """Both, around a block."""
        request = self.begin(method, connection, service, is_stream=is_stream)
        try:
            yield request
        finally:
            self.end(request)

    def look(self, *, give_up: Callable[[Request], None], keep: Callable[[Request], None]) -> None:
        """Give up what takes too long; of everything else that has a record, keep it."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self.every
        with self._lock:
            requests = [request for request in self._requests if not request.is_overdue]
        for request in requests:
            limit = self._streams_within if request.is_stream else self._within
            if now - request.waits_since() >= limit:
                request.is_overdue = True
                give_up(request)
            elif request.note is not None:
                keep(request)

    def overdue(self) -> int:
        """How many were given up and hang still."""
        with self._lock:
            return sum(request.is_overdue for request in self._requests)

    def goes_on(self, pulse: Pulse[Any]) -> bool:
        """Whether requests get to their end, since this was asked last.

        Always, while none is overdue. One that hangs is no reason to end all others: so where nobody
        asked for anything meanwhile, `pulse` asks, and has to come back.
        """
        with self._lock:
            before, self._seen = self._seen, self._ended
            if self._seen != before or not any(request.is_overdue for request in self._requests):
                return True
        return pulse.beats()


class Pulse(Generic[T]):
    """Asks something in a thread of its own, one at a time: whoever wants to know waits a bounded time."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._done: threading.Event | None = None
        self._answer: T
        self._error: Exception | None = None

    def latest(self, within: float) -> T:
        """The answer, or the error; Busy if there is none for `within` seconds."""
        with self._lock:
            if self._done is None or self._done.is_set():
                self._begin()
            done = self._done
        assert done is not None
        if not done.wait(within):
            raise Busy(f"It did not answer for {within:g} s.")
        if self._error is not None:
            raise self._error
        return self._answer

    def beats(self) -> bool:
        """Whether what was asked the last time came back, with an error even; ask again then."""
        with self._lock:
            if self._done is not None and not self._done.is_set():
                return False
            self._begin()
            return True

    def _begin(self) -> None:
        done = self._done = threading.Event()

        def run() -> None:
            try:
                self._answer, self._error = self._ask(), None
            except Exception as error:  # noqa: BLE001 - told to whoever waits
                self._error = error
            finally:
                done.set()

        threading.Thread(target=run, daemon=True).start()
