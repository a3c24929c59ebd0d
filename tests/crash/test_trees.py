"""Deep and wide layers go in bounded memory with few descriptors, also when they are killed at it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from layerstore import Reader, Store
from layerstore.fs.tree import Size, tree_size
from tests.crash.bench import in_child
from tests.crash.invariants import OWN_NAMES, check
from tests.crash.model import Facts, State
from tests.crash.test_soak import SECONDS

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

FILES = 1_000_000 if SECONDS >= 600 else 100_000
DEPTH = 3000
MORE_MEMORY = 8 << 10
"""KiB that a walk may need on top of what an open store does, however large the tree is."""
MORE_DESCRIPTORS = 28
FRAMES = 120
"""Far fewer than the tree is deep; an import needs some of them."""


def make_wide(top: Path) -> None:
    """Half of the files in one directory, half of them a thousand to each, with the longest names."""
    descriptor = os.open(top, os.O_RDONLY)
    for number in range(FILES // 2):
        os.mknod(f"{number:0255}", dir_fd=descriptor)
    for directory in range(FILES // 2000):
        name = f"d{directory:0254}"
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        for number in range(1000):
            os.mknod(f"{number:0255}", dir_fd=below)
        os.close(below)
    os.close(descriptor)


def make_deep(top: Path) -> None:
    """Directories with the longest names, far beyond the length of any path, a file in each."""
    descriptor = os.open(top, os.O_RDONLY)
    for number in range(DEPTH):
        os.mknod("file", dir_fd=descriptor)
        name = f"{number:0255}"
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


KINDS: dict[str, tuple[str | None, Callable[[Path], None], Size]] = {
    "wide": (None, make_wide, Size(0, FILES + FILES // 2000 + 1)),
    "deep": ("base", make_deep, Size(0, 2 * DEPTH + 1)),
}
"""The layer's parent, its content, and its size. With a parent it is written through the mount."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, home: Path) -> str:
    """A home with a layer `x` that is deep or wide."""
    parent, make, _ = KINDS[request.param]

    def build() -> None:
        with Store.open(home) as store:
            store.create("base")
            store.create("x", parent=parent)
            with store.mounted("x") as top:
                make(top)

    in_child(build)
    return str(request.param)


def highest() -> int:
    """KiB of memory that this process had at its largest."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Few descriptors, few frames, and little more memory inside the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    frames, depth = sys.getrecursionlimit(), len(list(_frames()))
    before = highest()
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + MORE_DESCRIPTORS, hard))
    sys.setrecursionlimit(depth + FRAMES)
    try:
        yield
    finally:
        sys.setrecursionlimit(frames)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert highest() - before < MORE_MEMORY, f"{highest() - before} KiB more"


def _frames() -> Iterator[object]:
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def dies(work: Callable[[], None], *, after: int) -> None:
    """Do it in a child that is killed at the removal of so many names."""
    unlink, rmdir, left = os.unlink, os.rmdir, after

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def call(*words: object, **options: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*words, **options)

        return call

    pid = os.fork()
    if pid == 0:
        try:
            with mock.patch.multiple(os, unlink=counted(unlink), rmdir=counted(rmdir)):
                work()
        finally:
            os._exit(1)
    assert signal.SIGKILL == os.waitpid(pid, 0)[1]


def gone(home: Path) -> None:
    """Of the layer nothing is left, and nothing is in flight."""
    check(home, [State().with_layer("base", Facts())], {})
    assert set(os.listdir(home / ".layerstore")) <= OWN_NAMES


def test_it_is_measured_and_audited(home: Path, kind: str) -> None:
    """Its size is right and an audit is clean, in bounded memory."""

    def work() -> None:
        from layerstore.audit import audit

        with Reader.open(home) as reader:
            assert reader.exists("x")
        with bounded():
            assert KINDS[kind][2] == tree_size(f"{home}/x/diff")
        with bounded():
            assert () == tuple(audit(home).findings)

    in_child(work)


def test_it_is_removed(home: Path, kind: str) -> None:
    """It is removed in bounded memory."""

    def work() -> None:
        with Store.open(home) as store, bounded():
            store.remove("x")

    in_child(work)
    gone(home)


def test_it_is_removed_by_whoever_comes_next(home: Path, kind: str) -> None:
    """Killed in the middle, and its recovery too, it is removed by the next open, in bounded memory."""
    names = KINDS[kind][2].inodes

    def remove() -> None:
        with Store.open(home) as store:
            store.remove("x")

    def reopen() -> None:
        with bounded():
            store = Store.open(home)
        assert [] == [item for item in store.settled if item.what == "failed"]
        store.close()

    dies(remove, after=names // 3)
    left = tree_size(f"{home}/.layerstore/trash").inodes
    assert names // 3 < left < names
    dies(reopen, after=names // 3)
    assert tree_size(f"{home}/.layerstore/trash").inodes < left - names // 4
    in_child(reopen)
    gone(home)
