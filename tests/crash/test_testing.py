"""The helpers for the tests of a program that uses a store."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.fs import trace
from layerstore.testing import dying_at, hooked, points

pytestmark = pytest.mark.root


def _create(home: Path, index: int) -> int:
    """The wait status of a process that creates a layer and dies at a point."""
    pid = os.fork()
    if pid == 0:
        try:
            with Store.open(home) as store, dying_at(index):
                store.create("a")
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_every_point_that_was_listed_is_one_to_die_at(home: Path) -> None:
    """A process dies at each point that a call passed, and the next open says that it did not happen."""
    with Store.open(home) as store, points() as passed:
        store.create("a")
    assert "create:intent:before" == passed[0]
    assert "create:outcome:after" == passed[-1]
    with Store.open(home) as store:
        store.remove("a")
    for index in range(len(passed) - 1):
        assert os.WTERMSIG(_create(home, index)) == signal.SIGKILL
        with Store.open(home) as store:
            assert not store.exists("a")
    assert 0 == _create(home, len(passed))


def test_a_hook_may_raise(home: Path) -> None:
    """What a hook raises comes out of the call, which has settled itself; then the hook is gone."""

    def hook(point: str) -> None:
        if point == "create:outcome:before":
            raise KeyboardInterrupt

    with Store.open(home) as store:
        with hooked(hook), pytest.raises(KeyboardInterrupt):
            store.create("a")
        assert not store.operations()
        assert not store.exists("a")
    assert trace.current() is None


def test_hooks_nest(home: Path) -> None:
    """The hook of an inner block gives way to the outer one again."""
    with Store.open(home) as store, points() as outer:
        with points() as inner:
            store.create("a")
        store.remove("a")
    assert inner[0].startswith("create:")
    assert outer[0].startswith("remove:")
