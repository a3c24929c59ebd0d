"""Creates that are done together, killed and made to fail at each point that any of them passes."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from layerstore import Store, turns
from layerstore.fs import whole
from layerstore.fs.trace import set_trace
from tests.store.support import apart, check_settled, until

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

NAMES = ("a", "b", "c")


def _crowd(store: Store, at_point: Callable[[str], None], tell: Callable[[str], None]) -> list[str]:
    """One create, and three that wait for it and are done together; `at_point` sees what these pass.

    `tell` hears of each that is acknowledged; the errors of those that are not are given.
    """
    inside, go = threading.Event(), threading.Event()

    def hook(point: str) -> None:
        if go.is_set():
            at_point(point)
        elif point == "create:outcome:after" and not inside.is_set():
            inside.set()
            assert go.wait(30)

    def create(name: str) -> None:
        store.create(name, parent="base")
        tell(name)

    set_trace(hook)
    try:
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(store.create, "first")
            assert inside.wait(30)
            line = store._hands.turns._line
            others = []
            for count, name in enumerate(NAMES, 1):
                others.append(pool.submit(create, name))
                until(lambda count=count: len(line) == count, what="a place in line")  # type: ignore[misc]
            go.set()
            first.result(30)
            errors = [other.exception(30) for other in others]
    finally:
        set_trace(None)
    return [type(error).__name__ for error in errors if error is not None]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody leaves the line, and whatever else is written on this machine does not matter."""
    monkeypatch.setattr(turns, "PATIENCE", 60)
    monkeypatch.setattr(whole, "LITTLE", 1 << 60)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with one layer."""
    Store.initialize(tmp_path / "home")
    with Store.open(tmp_path / "home") as store:
        store.create("base")
    return tmp_path / "home"


def _take_away(store: Store) -> None:
    for name in ("first", *NAMES):
        if store.exists(name):
            store.remove(name)


def test_a_kill_at_each_point_loses_nothing_acknowledged(home: Path) -> None:
    """What was acknowledged is there, what was not is whole or gone, and everything is settled."""
    seen: list[str] = []
    for index in itertools.count():
        read, write = os.pipe()

        def work(index: int = index, write: int = write) -> None:
            signal.alarm(60)
            passed = itertools.count()

            def kill(point: str) -> None:
                if next(passed) == index:
                    os.write(write, f"at {point}\n".encode())
                    os.kill(os.getpid(), signal.SIGKILL)

            def tell(layer: str, told: int = write) -> None:
                os.write(told, f"{layer}\n".encode())

            with Store.open(home) as store:
                _crowd(store, kill, tell)

        status = apart(work)
        os.close(write)
        with open(read, encoding="utf-8") as lines:
            said = lines.read().splitlines()
        killed = [line.removeprefix("at ") for line in said if line.startswith("at ")]
        assert killed or status == 0, status
        with Store.open(home) as store:
            assert not [x for x in store.settled if x.what in ("failed", "isolated")]
            missing = [name for name in said if name in NAMES and not store.exists(name)]
            assert not missing, killed
            check_settled(store)
            _take_away(store)
        if not killed:
            break
        seen += killed
    assert len(seen) >= 3 * 12
    assert "together:sync:before" in seen
    for part in ("intent:before", "MakeSymlink:after", "Publish:before", "Publish:after"):
        assert len([point for point in seen if point.endswith(part)]) >= len(NAMES), part


def test_an_error_at_each_point_hurts_one(home: Path) -> None:
    """At most one create fails, but for the sync that all of them have in common."""
    failed = 0
    for index in itertools.count():
        met: list[str] = []
        passed = itertools.count()

        def fail(point: str, passed: itertools.count = passed, index: int = index) -> None:
            if next(passed) == index:
                met.append(point)  # noqa: B023 - it is called before the next round
                raise OSError(errno.EUCLEAN, "not clean")

        told: list[str] = []
        with Store.open(home) as store:
            errors = _crowd(store, fail, told.append)
            common = bool(met) and (met[0].startswith("together:") or "SyncDirectory" in met[0])
            assert len(errors) <= (len(NAMES) if common else 1), met
            assert len(NAMES) == len(told) + len(errors)
            assert [] == [name for name in told if not store.exists(name)]
            check_settled(store)
            _take_away(store)
        failed += bool(errors)
        if not met:
            break
    assert failed >= 3 * 6
