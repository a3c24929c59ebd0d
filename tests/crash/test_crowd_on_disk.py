"""Creates that are done together, with one sync for all: what a disk owes of them after a power cut."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from layerstore import Store, combining, recovery, turns
from layerstore.audit import audit
from layerstore.fs import syscalls, whole
from layerstore.fs.trace import set_trace
from tests.crash import bench, logdisk
from tests.crash.blocks import Epoch, RecordedDisk, epochs_of, sample
from tests.store.support import apart

pytestmark = [
    pytest.mark.crash,
    pytest.mark.campaign,
    pytest.mark.root,
    pytest.mark.skipif(ctypes.util.find_library("fuse3") is None, reason="needs libfuse3"),
]

NAMES = tuple(f"layer{number}" for number in range(8))
STATES = 60


@contextlib.contextmanager
def _disk(kind: str) -> Iterator[RecordedDisk]:
    """A disk with a store, in which one layer is a parent already."""
    place = Path(tempfile.mkdtemp(prefix="layerstore-crowd-", dir=bench.base()))
    disk = RecordedDisk(place / "fs", kind)
    disk.make()
    try:
        Store.initialize(disk.point / "home")
        with Store.open(disk.point / "home") as store:
            store.create("base")
            store.create("child", parent="base")
        os.sync()
        disk.keep()
        yield disk
    finally:
        disk.abandon()
        if os.path.ismount(disk.point):
            disk.unmount()
        shutil.rmtree(place)


def _crowd(home: Path, log: int, told: int) -> None:
    """Many creates at once; who is acknowledged says so, and puts a mark on record."""
    saying = threading.Lock()
    together = []

    def seen(hands: recovery.Hands, jobs: list[combining.Job]) -> None:
        together.append(len(jobs))
        do_all(hands, jobs)

    def others_sync(point: str) -> None:
        """What the store did so far may come to the disk at any moment, for somebody else's sake."""
        if point.endswith(("Publish:after", "MakeSymlink:after")):
            with (home.parent / "theirs").open("ab", buffering=0) as file:
                file.write(b"x")
                os.fsync(file.fileno())

    do_all, combining._together = combining._together, seen
    set_trace(others_sync)
    with Store.open(home) as store, ThreadPoolExecutor(len(NAMES)) as pool:

        def create(name: str) -> None:
            store.create(name, parent="base")
            with saying:
                os.write(told, f"{name}\n".encode())
                logdisk.append(log, logdisk.MARK)

        list(pool.map(create, NAMES))
    assert max(together, default=0) >= 3, together


def _recorded(disk: RecordedDisk) -> tuple[list[str], list[Epoch]]:
    """Who was acknowledged, in order, and what the disk was told."""
    disk.restore()
    disk.record()
    disk.mount()
    log = os.open(disk.log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    begin = os.fstat(log).st_size
    read, write = os.pipe()
    status = apart(lambda: _crowd(disk.point / "home", log, write))
    end = os.fstat(log).st_size
    os.close(log)
    os.close(write)
    with open(read, encoding="utf-8") as lines:
        said = lines.read().split()
    assert status == 0
    assert sorted(said) == sorted(NAMES)
    disk.unmount()
    disk.stop()
    return said, list(epochs_of(disk.log, begin, end))


def _lacking(disk: RecordedDisk, acknowledged: list[str]) -> str:
    """What a state of the disk lacks, after an open on a machine that was booted anew; empty: nothing."""
    home = disk.point / "home"
    disk.mount()
    try:
        with Store.open(home) as store:
            if bad := [x for x in store.settled if x.what in ("failed", "isolated")]:
                return f"not settled: {bad}"
            if missing := [name for name in acknowledged if not store.exists(name)]:
                return f"gone: {missing}"
            whole_ones = [name for name in NAMES if store.exists(name)]
            for name in whole_ones:
                with store.mounted(name) as merged:
                    Path(merged, "file").write_text(name, encoding="utf-8")
        return "; ".join(f"{x.code} {x.layer}" for x in audit(home).findings)
    finally:
        disk.unmount()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_no_state_lacks_a_create_that_was_acknowledged(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sync of the file system stands for those of all: whatever a disk kept, they are there, whole."""
    monkeypatch.setattr(turns, "PATIENCE", 60)
    monkeypatch.setattr(whole, "LITTLE", 1 << 60)
    with _disk(kind) as disk:
        said, epochs = _recorded(disk)
        cuts = sample(epochs, random.Random(kind), STATES)
        assert any(0 < cut.done < len(said) for cut in cuts)
        for cut in cuts:
            disk.flush_up_to(cut.epoch, epochs)
            disk.renew_as(cut.kept)
            lacking = _lacking(disk, said[: cut.done])
            assert not lacking, f"{cut.name}: {lacking}"


def test_a_sync_that_is_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that one sync some state of a btrfs lacks what was acknowledged."""
    monkeypatch.setattr(turns, "PATIENCE", 60)
    monkeypatch.setattr(whole, "LITTLE", 1 << 60)
    monkeypatch.setattr(syscalls, "syncfs", lambda _: None)
    # It promises nothing, and often does it.
    monkeypatch.setattr(syscalls, "sync_file_range", lambda *_, **__: None)
    with _disk("btrfs") as disk:
        said, epochs = _recorded(disk)
        monkeypatch.undo()
        for cut in reversed(sample(epochs, random.Random("left out"), 200)):
            disk.flush_up_to(cut.epoch, epochs)
            disk.renew_as(cut.kept)
            if _lacking(disk, said[: cut.done]):
                return
    pytest.fail("no state lacks anything")
