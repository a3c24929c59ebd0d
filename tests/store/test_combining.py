"""Creates of several threads are done together, and each still fails, and is told, for itself."""

from __future__ import annotations

import errno
import functools
import threading
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from layerstore import Store, combining, turns
from layerstore.errors import LayerExists, UnknownLayer, WritesRefused
from layerstore.fs import durable, whole
from tests.store.support import check_settled, traced, until

pytestmark = pytest.mark.root

SYNC = "together:sync:before"


class _Crowd:
    """Threads in line behind one that is in a create of its own."""

    def __init__(self, store: Store, points: list[str]) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(40)
        self._go = threading.Event()
        self._inside = threading.Event()
        self.points = points
        self.hook: Callable[[str], None] | None = None
        """What happens at the points of those who are done together."""

    def __call__(self, point: str) -> None:
        if not self._go.is_set():
            if point == "create:intent:after" and not self._inside.is_set():
                self._inside.set()
                assert self._go.wait(30)
            return
        self.points.append(point)
        if self.hook is not None:
            self.hook(point)

    def begin(self) -> None:
        """Somebody is in a create, until `go`."""
        self.first = self._pool.submit(self._store.create, "first")
        assert self._inside.wait(30)

    def add(self, *names: str, parent: str | None = None) -> list[Future]:
        """More, who are in line when this returns, in this order."""
        line = self._store._hands.turns._line
        made = []
        for name in names:
            before = len(line)
            made.append(self._pool.submit(self._store.create, name, parent=parent))
            until(functools.partial(_is_longer, line, before), what="a place in line")
        return made

    def go(self) -> None:
        self._go.set()

    def close(self) -> None:
        self._go.set()
        self._pool.shutdown()


@contextmanager
def _crowded(store: Store) -> Iterator[_Crowd]:
    crowd = _Crowd(store, [])
    with traced(crowd):
        try:
            crowd.begin()
            yield crowd
        finally:
            crowd.close()
    assert crowd.first.result(30).id == "first"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody leaves the line, and whatever else is written on this machine does not matter."""
    monkeypatch.setattr(turns, "PATIENCE", 30)
    monkeypatch.setattr(whole, "LITTLE", 1 << 60)


def _is_longer(line: Sized, than: int) -> bool:
    return len(line) > than


def _errors(futures: list[Future]) -> list[type | None]:
    found = [future.exception(30) for future in futures]
    return [None if error is None else type(error) for error in found]


def _raising(number: int, at: str, error: BaseException) -> Callable[[str], None]:
    """A hook that raises where the point is passed for the n-th time, from 1 on."""
    passed = 0

    def hook(point: str) -> None:
        nonlocal passed
        if point.endswith(at):
            passed += 1
            if passed == number:
                raise error

    return hook


# --- together -----------------------------------------------------------------------------------


def test_those_in_line_are_made_together(store: Store) -> None:
    """One sync of the file system, one of the home, and one commit of each kind serve all of them."""
    store.create("parent")
    with _crowded(store) as crowd:
        futures = crowd.add("a", "b", "c", parent="parent") + crowd.add("d")
        crowd.go()
        layers = [future.result(30) for future in futures]
    assert [("a", "parent"), ("b", "parent"), ("c", "parent"), ("d", None)] == [
        (layer.id, layer.parent) for layer in layers
    ]
    assert layers == [store.layer(name) for name in "abcd"]
    at = crowd.points.index(SYNC)
    assert [SYNC] == [point for point in crowd.points if point == SYNC]
    # "first" had its own; the last step of a create syncs the home.
    published = [n for n, point in enumerate(crowd.points) if point.endswith(":Publish:after")]
    assert 5 == len(published)
    assert all(n > at for n in published[1:])
    synced = [n for n, p in enumerate(crowd.points) if p.endswith(":SyncDirectory:after")]
    assert [n for n in synced if n > at] == [synced[-1]]
    assert synced[-1] > published[-1]
    assert "create:outcome:before" not in crowd.points[at : synced[-1]]
    kinds = [row["kind"] for row in store.rows() if row["layer"] in set("abcd")]
    assert ["layer.create.intended"] * 4 == [kind[: kind.rindex(".")] for kind in kinds[:4]]
    assert ["layer.created"] * 4 == [kind[: kind.rindex(".")] for kind in kinds[4:]]
    check_settled(store)


def test_no_more_than_so_many_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not fit in is served next, and everybody is."""
    monkeypatch.setattr(combining, "MOST", 3)
    with _crowded(store) as crowd:
        futures = crowd.add(*(f"n{number}" for number in range(7)))
        crowd.go()
        assert [None] * 7 == _errors(futures)
    assert 2 == crowd.points.count(SYNC)  # three, three, and one alone
    check_settled(store)


def test_without_syncs_too(store: Store) -> None:
    """Under `process` they share their transactions, and nothing is synced."""
    home = store.home
    store.close()
    with Store.open(home, durability="process") as fast:
        with _crowded(fast) as crowd:
            futures = crowd.add("a", "b", "c")
            crowd.go()
            assert [None] * 3 == _errors(futures)
        assert not [point for point in crowd.points if "sync" in point.lower()]
        check_settled(fast)


def test_where_much_waits_to_be_written_each_syncs_its_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync of the whole file system would wait for all of that."""
    monkeypatch.setattr(whole, "LITTLE", -1)
    with _crowded(store) as crowd:
        futures = crowd.add("a", "b", "c")
        crowd.go()
        assert [None] * 3 == _errors(futures)
    assert SYNC not in crowd.points
    assert 4 == len([point for point in crowd.points if point.endswith(":SyncFile:after")])
    check_settled(store)


def test_who_waits_too_long_goes_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that hangs in its create does not hold up the others for ever; the main thread never waits."""
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    with _crowded(store), ThreadPoolExecutor(1) as pool:
        assert pool.submit(store.create, "other").result(20).id == "other"
        assert store.create("main").id == "main"
        assert not store._hands.turns._line
        monkeypatch.setattr(turns, "PATIENCE", 30)
    check_settled(store)


# --- each for itself ----------------------------------------------------------------------------


def test_who_is_refused_is_refused_alone(store: Store) -> None:
    """Each gets its own error, and nothing of it is left."""
    store.create("there")
    with _crowded(store) as crowd:
        futures = crowd.add("a", "there", "twice", "twice", "b")
        futures += crowd.add("c", parent="nobody")
        crowd.go()
        found = _errors(futures)
    assert [None, LayerExists, None, LayerExists, None, UnknownLayer] == found
    assert not store.exists("c")
    check_settled(store)


@pytest.mark.parametrize("number", [2, 3, 4])
@pytest.mark.parametrize(
    "at",
    [
        "intent:before",
        "MakeDirectory:before",
        "MakeSymlink:after",
        "Publish:before",
        "Publish:after",
    ],
)
def test_who_fails_fails_alone(store: Store, at: str, number: int) -> None:
    """A step that fails undoes one create, whether it is the leader's own or another's."""
    with _crowded(store) as crowd:
        futures = crowd.add("a", "b", "c", "d")
        error = OSError(errno.EUCLEAN, "not clean")
        times = 2 * number if at == "MakeDirectory:before" else number
        crowd.hook = _raising(times if at != "intent:before" else number - 1, at, error)
        crowd.go()
        found = _errors(futures)
    if at == "intent:before":  # its own thread began anew
        assert [None] * 4 == found
    else:
        assert 1 == len([error for error in found if error is OSError])
        assert 3 == found.count(None)
    made = [name for name in "abcd" if store.exists(name)]
    assert len(made) == found.count(None)
    check_settled(store)


def test_an_outcome_that_is_not_written_is_written_alone(store: Store) -> None:
    """What is wrong with one outcome keeps none of the others; its own thread tries again."""
    with _crowded(store) as crowd:
        futures = crowd.add("a", "b", "c")
        crowd.hook = _raising(3, "create:outcome:before", OSError(errno.EIO, "once"))
        crowd.go()
        assert [None] * 3 == _errors(futures)
    assert all(store.exists(name) for name in "abc")
    check_settled(store)


def test_a_sync_that_fails_fails_for_all_of_them(store: Store) -> None:
    """Nothing is known about what was written: nobody is told that it is there, and no more is written."""
    with _crowded(store) as crowd:
        futures = crowd.add("a", "b", "c")
        failure = durable.SyncFailed(errno.EIO, "cannot be synced", str(store.home))
        crowd.hook = _raising(1, SYNC, failure)
        crowd.go()
        found = [future.exception(30) for future in futures]
    assert all(isinstance(error, durable.SyncFailed) for error in found)
    assert 3 == len({id(error) for error in found})
    with pytest.raises(WritesRefused):
        store.create("more")
    home = store.home
    store.close()
    with Store.open(home) as again:
        assert not [name for name in "abc" if again.exists(name)]
        check_settled(again)
