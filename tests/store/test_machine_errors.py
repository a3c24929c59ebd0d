"""What a machine refuses while a store works: descriptors, writing, and mounts that stay busy."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.errors import LayerstoreError, UpperBusy
from tests.store.support import check_settled, findings, run

pytestmark = [pytest.mark.root, pytest.mark.crash]

VERBS: dict[str, Callable[[Path], object]] = {
    "open": lambda home: Store.open(home).close(),
    "create": lambda home: _with(home, lambda store: store.create("new", parent="base")),
    "get": lambda home: _with(home, lambda store: store.get("a", holder="web")),
    "put": lambda home: _with(home, lambda store: store.put("held", holder="web")),
    "remove": lambda home: _with(home, lambda store: store.remove("b")),
    "cleanup": lambda home: _with(home, lambda store: store.cleanup()),
}


def _with(home: Path, act: Callable[[Store], object]) -> None:
    with Store.open(home) as store:
        act(store)


def _build(home: Path) -> None:
    with Store.open(home) as store:
        store.create("base")
        for name in ("a", "b", "held"):
            store.create(name, parent="base")
        store.get("held", holder="web")


def _is_clear(error: BaseException) -> bool:
    if isinstance(error, LayerstoreError):
        return "db rebuild" not in error.hint
    return isinstance(error, OSError) and error.filename is not None


@contextlib.contextmanager
def _descriptors(more: int) -> Iterator[None]:
    """So many more than are open now."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open("/", os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("verb", VERBS)
def test_without_descriptors_a_verb_fails_whole(home: Path, verb: str) -> None:
    """With a few descriptors, one more each time, a verb fails in words until it succeeds."""
    _build(home)
    failed = 0
    for more in range(24):
        try:
            with _descriptors(more):
                VERBS[verb](home)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
            assert _is_clear(error), repr(error)
            failed += 1
        else:
            break
    else:
        pytest.fail("it never had enough")
    assert failed > 3
    with Store.open(home) as store:
        check_settled(store)
    assert [] == findings(home)


@pytest.mark.parametrize("verb", VERBS)
def test_read_only_meanwhile(bare: Path, verb: str) -> None:
    """On a file system that was remounted read-only a verb fails in words, and works afterwards."""
    point = bare / "tmpfs"
    point.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", point)
    home = point / "home"
    Store.initialize(home)
    _build(home)
    run("mount", "-o", "remount,ro", point)
    with pytest.raises((LayerstoreError, OSError)) as caught:
        VERBS[verb](home)
    assert _is_clear(caught.value), repr(caught.value)
    run("mount", "-o", "remount,rw", point)
    VERBS[verb](home)
    with Store.open(home) as store:
        check_settled(store)
    assert [] == findings(home)


_SLEEP = "import os, sys; {}; print(flush=True); sys.stdin.read()"


@contextlib.contextmanager
def _process(does: str, *prefix: str) -> Iterator[int]:
    child = subprocess.Popen(
        [*prefix, sys.executable, "-c", _SLEEP.format(does)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert b"\n" == child.stdout.readline()
    try:
        yield child.pid
    finally:
        child.communicate(b"")


BUSY = {
    "open-file": ("f = os.open({merged!r} + '/file', os.O_RDWR)", ()),
    "directory": ("os.chdir({merged!r})", ()),
    # Only with a file open there: a mount elsewhere goes with the directory that it is mounted on.
    "namespace": (
        "f = os.open({merged!r} + '/file', os.O_RDWR)",
        ("unshare", "--mount", "--propagation", "private"),
    ),
}


@pytest.mark.parametrize("kind", BUSY)
@pytest.mark.parametrize("recovers", [False, True])
def test_a_mount_that_hangs_is_told_of_and_ends_later(
    home: Path, kind: str, recovers: bool
) -> None:
    """A put takes the mount away, a remove says in bounded time who has it, and works once it ended."""
    _build(home)
    merged = os.fspath(home / "held" / "merged")
    Path(merged, "file").write_text("x")
    does, prefix = BUSY[kind]
    with _process(does.format(merged=merged), *prefix) as pid:
        began = time.monotonic()
        with Store.open(home) as store:
            store.put("held", holder="web")
            if recovers:
                store.recover()
            with pytest.raises(UpperBusy) as caught:
                store.remove("held")
        assert f"process {pid} (" in caught.value.message
        assert time.monotonic() - began < 10
        with Store.open(home) as store:
            assert "held" == store.layer("held").id
    with Store.open(home) as store:
        store.remove("held")
        check_settled(store)
    assert [] == findings(home)
