"""Owns the rows that hold the library against itself: a large store, many threads; it must not print.

Their "floor" is the same work in a store of 10 layers, or by one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from cases import Lazy, Opener, Ours, create, remove, reopen
from measure import Clock, Row
from stores import PARENT
from weight import Fresh, same_library, weigh

from layerstore import Store

THREADS = 32


def rows(large: Lazy, size: str, small: Lazy) -> Iterator[Row]:
    """What grows with the store, which nothing should."""
    for verb, work in (("create", create), ("remove", remove)):
        for durability in ("process", "full"):
            full = durability == "full"
            yield Row(
                f"{verb}, {durability}, {size} layers against 10",
                lambda full=full: Ours(large().ours, full=full),
                lambda full=full: Ours(small().ours, full=full),
                work,
                same_library,
            )
    for killed, words in ((False, "clean close"), (True, "kill -9, 3 in flight")):
        yield Row(
            f"open after {words}, {size} layers against 10",
            _opener(large, killed=killed),
            _opener(small, killed=killed),
            reopen,
            same_library,
            turns=1 if killed else 5,
        )
    yield Row(
        f"memory of an open store, {size} layers against 10",
        lambda: Fresh("footprint.py", (large().ours,)),
        lambda: Fresh("footprint.py", (small().ours,)),
        weigh,
        same_library,
        turns=1,
        unit="MB",
    )


def _opener(lazy: Lazy, *, killed: bool) -> Callable[[], Opener]:
    def subject() -> Opener:
        home = lazy().ours
        return Opener("ours", home, lambda: Store.open(home), killed)

    return subject


# --- threads ----------------------------------------------------------------------------------


class _Crowd:
    """An open store, and some threads that create layers in it at once."""

    def __init__(self, home: str, parent: str | None, threads: int) -> None:
        self.store = Store.open(home)
        self.parent = parent
        self.pool = ThreadPoolExecutor(threads)

    def create(self, name: str) -> None:
        self.store.create(name, parent=self.parent)

    def close(self) -> None:
        self.pool.shutdown()
        self.store.close()


def _create_at_once(subject: _Crowd, clock: Clock, count: int) -> None:
    names = [f"new{number}" for number in range(count)]
    with clock:
        list(subject.pool.map(subject.create, names))
    list(subject.pool.map(subject.store.remove, names))


def threads_rows(lazy: Lazy) -> Iterator[Row]:
    """The time that a layer takes where many are made at once, and where one is made after another."""
    for parent, words in ((None, "base layers"), (PARENT, "upon one parent")):
        yield Row(
            f"create, full, {words}: {THREADS} threads against one",
            lambda parent=parent: _Crowd(lazy().ours, parent, THREADS),
            lambda parent=parent: _Crowd(lazy().ours, parent, 1),
            _create_at_once,
            same_library,
            turns=1,
            count=4 * THREADS,
        )
