"""Writes of several threads in one transaction: each part for itself, and the commit for all of them."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import threading
from collections.abc import Sized
from concurrent.futures import Future, ThreadPoolExecutor

import attrs
import pytest

from layerstore import Store, description
from layerstore import events as e
from layerstore.errors import (
    DiskFull,
    ForkedStore,
    LayerstoreError,
    OwnerLost,
    StoreDamaged,
)
from layerstore.journal import MARK_STEP
from tests.store.support import check_settled, run, traced, until

pytestmark = pytest.mark.root

COMMIT = ["group:commit:before", "group:commit:after"]


class _Line:
    """Threads that stand in line behind one that leads, in the order in which they came."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._go = threading.Event()
        self._pool = ThreadPoolExecutor(16)
        self._waiting = 0
        self.points: list[str] = []

    def __enter__(self) -> _Line:
        """Somebody leads, and stays in his part until `go`."""
        inside = threading.Event()

        def lead() -> None:
            with self._store._hands.journal.transaction(full=True) as tx:
                tx.append(e.OperationAbandoned("leader", "a test"))
                inside.set()
                assert self._go.wait(30)

        self.leader = self._pool.submit(lead)
        assert inside.wait(30)
        return self

    def add(self, call, *arguments, **more) -> Future:
        """One more, who is in line when this returns."""
        self._waiting += 1
        future = self._pool.submit(call, *arguments, **more)
        line = self._store._hands.journal._group._line
        until(lambda: len(line) == self._waiting, what="a place in line")
        return future

    def go(self) -> None:
        """Let the leader end its part."""
        self._go.set()

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._pool.shutdown()


def _note(
    store: Store, word: str, *, full: bool = False, error: BaseException | None = None
) -> int:
    """A transaction with one event, which then raises if it is to."""
    with store._hands.journal.transaction(full=full) as tx:
        seq = tx.append(e.OperationAbandoned(word, "a test"))
        if error is not None:
            raise error
    return seq


def _noted(store: Store) -> list[str]:
    return [str(row["layer"]) for row in store.rows(kind="operation.abandoned")]


def _is_long(line: Sized, length: int) -> bool:
    return len(line) == length


def _error(future: Future) -> BaseException | None:
    return future.exception(30)


# --- sharing ------------------------------------------------------------------------------------


def test_those_in_line_share_one_commit(store):
    """Whoever waits while another writes goes into the same transaction, in order of arrival."""
    points: list[str] = []
    with traced(points.append), _Line(store) as line:
        others = [line.add(_note, store, f"n{number}", full=number == 2) for number in range(5)]
        line.go()
        seqs = [other.result(30) for other in others]
    assert ["leader", "n0", "n1", "n2", "n3", "n4"] == _noted(store)
    assert list(range(seqs[0], seqs[0] + 5)) == seqs
    assert ["group:part:before", "group:part:after"] * 5 + COMMIT == points


def test_nobody_returns_before_the_commit(store):
    """A part that is done stays unseen, and its thread waits, until everything is committed."""
    with _Line(store) as line:
        stopped, go_on = threading.Event(), threading.Event()

        def stop(point: str) -> None:
            if point == "group:commit:before":
                stopped.set()
                assert go_on.wait(30)

        with traced(stop):
            other = line.add(_note, store, "n")
            line.go()
            assert stopped.wait(30)
            assert not other.done()
            assert [] == _noted(store)
            go_on.set()
            other.result(30)
    assert ["leader", "n"] == _noted(store)


def test_what_must_be_synced_waits_for_a_transaction_that_is(store):
    """Under a leader that does not sync, a part that needs it is left for the next transaction."""
    levels = []
    first, inside = threading.Event(), threading.Event()

    def level(full: bool) -> None:
        with store._hands.journal.transaction(full=full) as tx:
            levels.append((full, tx.one("PRAGMA synchronous")))
            inside.set()
            assert first.wait(30)

    line = store._hands.journal._group._line
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(level, False)]
        assert inside.wait(30)
        for number, full in enumerate((True, False, True)):
            futures.append(pool.submit(level, full))
            until(functools.partial(_is_long, line, number + 1), what="a place in line")
        first.set()
        for future in futures:
            future.result(30)
    assert (False, (1,)) == levels[0]
    assert {(True, (2,))} == {found for found in levels if found[0]}


def test_a_thread_that_is_alone_needs_no_savepoint(store):
    """Without anybody in line a thread writes as the main thread does."""
    points: list[str] = []
    with traced(points.append), ThreadPoolExecutor(1) as pool:
        pool.submit(_note, store, "alone").result(30)
    assert [] == points
    assert ["alone"] == _noted(store)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), GeneratorExit()])
def test_a_part_that_raises_is_rolled_back_alone(store, error):
    """The error comes out in its own thread, and everybody else's part is committed."""
    with _Line(store) as line:
        others = [line.add(_note, store, "before")]
        bad = line.add(_note, store, "bad", error=error)
        others.append(line.add(_note, store, "after"))
        line.go()
        assert error is _error(bad)
        assert [None, None, None] == [_error(future) for future in (line.leader, *others)]
    assert ["leader", "before", "after"] == _noted(store)
    assert [row["seq"] for row in store.rows()] == list(range(1, store.last_seq() + 1))


def test_a_leader_that_raises_takes_nobody_along(store):
    """Those behind a leader whose part fails are committed by the next of them."""
    inside, go = threading.Event(), threading.Event()

    def lead() -> None:
        with store._hands.journal.transaction(full=True) as tx:
            tx.append(e.OperationAbandoned("leader", "a test"))
            inside.set()
            assert go.wait(30)
            raise ValueError("the leader's")

    line = store._hands.journal._group._line
    with ThreadPoolExecutor(4) as pool:
        leader = pool.submit(lead)
        assert inside.wait(30)
        others = [pool.submit(_note, store, "other") for _ in range(3)]
        until(lambda: len(line) == 3, what="three in line")
        go.set()
        assert isinstance(_error(leader), ValueError)
        assert [None] * 3 == [_error(other) for other in others]
    assert ["other"] * 3 == _noted(store)


@pytest.mark.parametrize("point", ["group:part:before", "group:part:after"])
def test_an_error_at_the_edges_of_a_part_is_its_own(store, point):
    """A part that breaks off before its first or after its last statement leaves nothing."""
    left = [point]

    def fail(passed: str) -> None:
        if passed in left:
            left.remove(passed)
            raise ValueError(passed)

    with _Line(store) as line, traced(fail):
        bad, good = line.add(_note, store, "bad"), line.add(_note, store, "good")
        line.go()
        assert isinstance(_error(bad), ValueError)
        assert [None, None] == [_error(line.leader), _error(good)]
    assert ["leader", "good"] == _noted(store)


def test_an_error_before_the_commit_reaches_everybody(store):
    """Where the transaction is not committed, each thread gets an error of its own, and no part stays."""

    def fail(passed: str) -> None:
        if passed == "group:commit:before":
            raise StoreDamaged("a test", hint="none")

    with _Line(store) as line, traced(fail):
        others = [line.add(_note, store, f"n{number}") for number in range(3)]
        others.append(line.add(_note, store, "bad", error=ValueError("mine")))
        line.go()
        errors = [_error(future) for future in (line.leader, *others)]
    assert [StoreDamaged] * 5 == [type(error) for error in errors]
    assert {("a test", "none")} == {(str(error), getattr(error, "hint", "")) for error in errors}
    assert 5 == len({id(error) for error in errors})
    assert [] == _noted(store)
    assert _note(store, "later") == store.last_seq()


def test_a_full_disk_fails_the_whole_group(bare):
    """A commit for which there is no space is nobody's, and once there is some the store goes on."""
    place = bare / "small"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place)
    Store.initialize(place / "home")
    with Store.open(place / "home") as store:
        before = _note(store, "first")  # the high-water mark is raised in a file of its own
        with _Line(store) as line:
            others = [line.add(_note, store, "x" * 100_000) for _ in range(3)]
            ballast = place / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            line.go()
            errors = [_error(future) for future in (line.leader, *others)]
        assert [DiskFull] * 4 == [type(error) for error in errors]
        assert before == store.last_seq()
        ballast.unlink()
        assert _note(store, "later") == before + 1


def test_a_part_of_a_lost_owner_fails_alone(store):
    """The fence is asked in each part: an operation that is no longer ours stops its own thread."""
    with _Line(store) as line:
        lost = line.add(
            store._hands.journal.finish, "0" * 32, e.LayerRemoved("nobody's"), full=True
        )
        good = line.add(_note, store, "good")
        line.go()
        assert isinstance(_error(lost), OwnerLost)
        assert [None, None] == [_error(line.leader), _error(good)]
    assert ["leader", "good"] == _noted(store)


# --- the high-water mark ------------------------------------------------------------------------


def test_the_mark_is_above_everything_in_a_group(store):
    """Before a group is committed, the high-water mark on disk is above its last event."""
    journal = store._hands.journal
    marks = []

    def look(point: str) -> None:
        if point == "group:commit:before":
            marks.append(description.read(store.home).high_water)

    about = description.read(store.home)
    description.write(store.home, attrs.evolve(about, high_water=0))
    with _Line(store) as line, traced(look):
        journal._mark = store.last_seq() + 2  # the leader's event and one more
        others = [line.add(_note, store, f"n{number}") for number in range(4)]
        line.go()
        last = max(other.result(30) for other in others)
    assert last == store.last_seq()
    assert [True] == [mark >= last for mark in marks]


def test_a_mark_that_cannot_be_raised_is_tried_again(store, monkeypatch):
    """The part that needed a higher mark fails alone, and the next one raises it."""
    journal = store._hands.journal
    tries = []

    def raise_mark(seq: int) -> int:
        tries.append(seq)
        if len(tries) == 1:
            raise OSError("a test")
        return seq + MARK_STEP

    monkeypatch.setattr(journal, "_raise_mark", raise_mark)
    with _Line(store) as line:
        journal._mark = store.last_seq() + 1 + MARK_STEP // 2  # the leader's own is not above it
        bad, good = line.add(_note, store, "bad"), line.add(_note, store, "good")
        line.go()
        assert isinstance(_error(bad), OSError)
        assert [None, None] == [_error(line.leader), _error(good)]
    assert 2 == len(tries)
    assert ["leader", "good"] == _noted(store)


# --- the main thread ----------------------------------------------------------------------------


def test_the_main_thread_shares_with_nobody(store):
    """While others stand in line the main thread waits for its own transaction."""
    assert threading.current_thread() is threading.main_thread()
    points: list[str] = []
    with traced(points.append), _Line(store) as line:
        line.go()
        line.leader.result(30)
        _note(store, "main")
    assert [] == points
    assert ["leader", "main"] == _noted(store)


INTERRUPTED = """
import random, signal, threading, time
from layerstore.errors import LayerExists

made, errors, chance = {}, [], random.Random(SEED)
stop, open_season = threading.Event(), threading.Event()
main = threading.main_thread().ident

def work(number):
    mine = made[number] = []
    try:
        while not stop.is_set():
            store.create(f"t{number}-{len(mine)}")
            mine.append(f"t{number}-{len(mine)}")
    except BaseException as error:
        errors.append(repr(error))

def interrupt():
    while not stop.is_set():
        if open_season.wait(0.1):
            time.sleep(chance.uniform(0, 0.004))
            open_season.clear()
            signal.pthread_kill(main, signal.SIGINT)

def attempt(name):
    try:
        open_season.set()
        store.create(name)
    except LayerExists:
        pass
    finally:
        open_season.clear()

signal.signal(signal.SIGINT, signal.default_int_handler)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
threads.append(threading.Thread(target=interrupt))
for thread in threads:
    thread.start()
interruptions = number = 0
while interruptions < 60 and not errors:
    try:
        attempt(f"m{number}")
        time.sleep(0.001)
        number += 1
    except KeyboardInterrupt:
        interruptions += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
stop.set()
for thread in threads:
    thread.join(30)
stuck = [thread.name for thread in threads if thread.is_alive()]
made = [name for names in made.values() for name in names]
missing = sorted(set(made) - {str(layer.id) for layer in store.layers()})
"""


def test_interruptions_hurt_nobody_else(home, worker):
    """While the main thread is interrupted again and again, no other thread loses or waits."""
    other = worker(home)
    other.do(f"SEED = {random.randrange(1 << 30)}")
    other.do(INTERRUPTED)
    assert 60 == other.do("interruptions")
    assert ([], [], []) == (other.do("errors"), other.do("stuck"), other.do("missing"))
    assert 4 <= other.do("len(made)")
    assert 0 == other.end()
    with Store.open(home) as store:
        check_settled(store)


# --- many threads, processes, forks ---------------------------------------------------------------


BUSY = """
def busy(n):
    for i in range(4):
        store.get("shared", holder=f"h{n}")
        store.create(f"{NAME}-{n}-{i}", parent="base")
        store.get("shared", holder=f"h{n}")
        store.put("shared", holder=f"h{n}")
    return i + 1
"""


def test_counts_are_exact_with_many_threads_in_several_processes(home, worker):
    """Holds of one layer, taken and given back by threads of two processes, add up."""
    with Store.open(home) as store:
        store.create("base")
        store.create("shared", parent="base")
        others = [worker(home) for _ in range(2)]
        for name, other in zip("ab", others, strict=True):
            other.do(f"NAME = {name!r}\n{BUSY}")
            other.send("in_threads(*[f'busy({n})' for n in range(8)])")
        for other in others:
            assert ["4"] * 8 == other.value()
        held = {hold.holder: hold.count for hold in store.holders("shared")}
        assert {f"h{n}": 8 for n in range(8)} == held
        assert 2 + 2 * 8 * 4 == len(list(store.layers()))
        for other in others:
            assert 0 == other.end()
        store.cleanup()
        check_settled(store)


def test_a_fork_in_the_middle_of_a_group_changes_nothing(store):
    """A child that is forked while threads share a transaction cannot use it, nor end it."""
    with _Line(store) as line:
        other = line.add(_note, store, "n")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                store.create("child")
            except ForkedStore:
                code = 0
            finally:
                os._exit(code)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        line.go()
        other.result(30)
    assert ["leader", "n"] == _noted(store)
    check_settled(store)


def test_a_close_waits_for_the_group(home):
    """Whoever stands in line when the store is closed has written, or is told that it is closed."""
    store = Store.open(home)
    with _Line(store) as line:
        others = [line.add(_note, store, f"n{number}") for number in range(3)]
        line.go()
        store.close()
        errors = [_error(other) for other in others]
    with Store.open(home) as again:
        noted = _noted(again)
    for number, error in enumerate(errors):
        assert (error is None) == (f"n{number}" in noted)
        assert error is None or isinstance(error, LayerstoreError)
