"""A full disk and a dying one: what still works, what fails whole, and what a mark makes of the next open."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from layerstore import Store
from layerstore import description as descriptions
from layerstore.db import reserve
from layerstore.db import statements as sql
from layerstore.errors import Busy, DiskFull, UnknownLayer, WritesRefused
from layerstore.fs import ballast, durable, layout
from layerstore.reader import Reader
from tests.fs.archive.trees import END, entry
from tests.store.support import (
    Worker,
    WorkerError,
    check_settled,
    findings,
    index,
    mounted,
    run,
    traced,
)

pytestmark = pytest.mark.root


# --- a full disk ----------------------------------------------------------------------------------


class Full:
    """A small file system with a store in it, and somebody who fills it."""

    def __init__(self, point: Path, *, small: bool, kind: str = "") -> None:
        """`small`: down to the last byte; the kind `inodes`: to the last inode, too."""
        self.point = point
        self.home = point / "home"
        self.kind = kind
        self._small = small
        self._number = 0

    def fill(self) -> None:
        """Leave no room."""
        for size in (1 << 20, 1 << 16, 4096, *((1,) * self._small)):
            with contextlib.suppress(OSError):
                while True:
                    self._number += 1
                    with (self.point / f"filler-{self._number}").open("xb", buffering=0) as file:
                        while size > file.tell():
                            file.write(bytes(size - file.tell()))
            os.sync() if self._small else None
        with contextlib.suppress(OSError):
            while self.kind == "inodes":
                self._number += 1
                (self.point / f"filler-{self._number}").touch()


def _loop(bare: Path, kind: str, mib: int) -> Path:
    image, point = bare / "image", bare / kind
    with image.open("xb") as file:
        file.truncate(mib << 20)
    point.mkdir()
    run(f"mkfs.{kind}", "-q", *(["-F"] if kind == "ext4" else ["-f"]), image)
    run("mount", "-o", "loop", image, point)
    return point


def _tmpfs(bare: Path, options: str) -> Path:
    point = bare / "tmpfs"
    point.mkdir()
    run("mount", "-t", "tmpfs", "-o", options, "tmpfs", point)
    return point


FILE_SYSTEMS = {
    "bytes": lambda bare: _tmpfs(bare, "size=48m"),
    "inodes": lambda bare: _tmpfs(bare, "size=48m,nr_inodes=400"),
    "ext4": lambda bare: _loop(bare, "ext4", 48),
    "xfs": lambda bare: _loop(bare, "xfs", 300),
    "btrfs": lambda bare: _loop(bare, "btrfs", 256),
}


@pytest.fixture(params=sorted(FILE_SYSTEMS))
def full(request: pytest.FixtureRequest, bare: Path) -> Full:
    """A store with a chain, a held layer and some others, on a file system without any room."""
    place = Full(
        FILE_SYSTEMS[request.param](bare), small=request.param != "btrfs", kind=request.param
    )
    build(place)
    place.fill()
    place.fill()
    return place


def build(place: Full, others: int = 12) -> None:
    """A base with three children, of which one is held, and other layers."""
    Store.initialize(place.home)
    with Store.open(place.home, durability="process") as store:
        store.create("base")
        for name in ("a", "b", "c"):
            store.create(name, parent="base")
        for number in range(others):
            store.create(f"other-{number}")
        store.get("a", holder="web")


def test_on_a_full_disk_a_store_is_read_emptied_and_closed(full: Full) -> None:
    """Without room, opening, asking, put, remove, recover, audit and closing work."""
    with Reader.open(full.home) as reader:
        assert 16 == len(list(reader.layers()))
    assert [] == findings(full.home)

    with Store.open(full.home) as store:
        assert () == store.recover()
        store.put("a", holder="web")
        assert [] == mounted(full.home)
        store.remove("a")
        full.fill()
        for number in range(12):
            store.remove(f"other-{number}")
            full.fill()
        check_settled(store)
    with Store.open(full.home) as store:
        assert () == store.settled
        assert ["b", "base", "c"] == [layer.id for layer in store.layers()]
    assert [] == findings(full.home)
    assert [] == os.listdir(full.home / layout.TRASH)


@pytest.mark.parametrize("full", ["bytes", "inodes", "ext4", "xfs"], indirect=True)
def test_what_a_full_disk_refuses_it_refuses_whole(full: Full) -> None:
    """A create and a first get raise DiskFull, and leave index, tree and mounts as they were."""
    before = index(full.home)
    calls: tuple[Callable[[Store], object], ...] = (
        lambda store: store.create("new"),
        lambda store: store.create("new", parent="c"),
        lambda store: store.get("b", holder="other"),
    )
    # Directories take no bytes of a tmpfs, and a mount makes nothing else.
    for call in calls[:2] if full.kind == "bytes" else calls:
        with Store.open(full.home) as store:
            full.fill()  # what the opening released
            with pytest.raises(DiskFull) as caught:
                call(store)
            assert (14, True) == (caught.value.exit_code, "Remove layers" in caught.value.hint)
            check_settled(store)
    after = index(full.home)
    assert before[1:] == after[1:]
    assert [layer.id for layer in before[0]] == [layer.id for layer in after[0]]
    assert ["a"] == mounted(full.home)
    assert [] == findings(full.home)


@pytest.mark.crash
@pytest.mark.campaign
def test_a_thousand_removes_on_a_full_disk(bare: Path) -> None:
    """While somebody takes every byte that they free, a thousand removes go through."""
    place = Full(_loop(bare, "ext4", 128), small=True)
    build(place, others=1000)
    place.fill()
    with Store.open(place.home, durability="process") as store:
        for number in range(1000):
            store.remove(f"other-{number}")
            if number % 100 == 0:
                place.fill()
        assert 4 == len(list(store.layers()))
    assert [] == findings(place.home)


def test_a_remove_is_not_repeated_once_it_is_written(home: Path) -> None:
    """A full disk behind the outcome of a remove neither fails it nor makes it begin anew."""
    with Store.open(home) as store:
        store.create("a")
        failed: list[str] = []

        def fails(point: str) -> None:
            if point in ("remove:outcome:after", "empty:0:RemoveTree:before") and not failed:
                failed.append(point)
                raise OSError(errno.ENOSPC, "No space left on device")

        with traced(fails), contextlib.suppress(DiskFull):
            store.remove("a")
        assert 1 == len(failed)
        with pytest.raises(UnknownLayer):
            store.layer("a")
        assert 1 == sum(entry.kind == "layer.removed.v1" for entry in store.events())
    with Store.open(home) as store:
        check_settled(store)


def test_a_mark_that_cannot_be_moved_fails_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for store.json a remove goes through, and the next event moves the mark."""
    with Store.open(home) as store:
        store.create("a")
        real = descriptions.write
        real(home, attrs.evolve(descriptions.read(home), high_water=store.last_seq()))
        store._hands.journal._mark = store.last_seq()

        def fails(path: Path, about: descriptions.Description) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(descriptions, "write", fails)
        store.remove("a")
        monkeypatch.setattr(descriptions, "write", real)
        assert store.last_seq() > descriptions.read(home).high_water
        store.create("b")
        assert store.last_seq() < descriptions.read(home).high_water


# --- what is kept for it --------------------------------------------------------------------------


def test_the_ballast_gives_way_and_comes_back(home: Path) -> None:
    """A piece that was released is one that status misses, and the next open makes it again."""
    assert ballast.PIECES == ballast.pieces(str(home))
    blocks = sum(os.stat(home / layout.BALLAST / name).st_blocks for name in ("00", "15"))
    assert 2 * ballast.SMALLEST <= 512 * blocks
    assert ballast.release(str(home))
    with Reader.open(home) as reader:
        status = reader.status()
    assert ballast.PIECES - 1 == status.ballast
    assert any("1 of 16 pieces" in warning for warning in status.warnings)
    (home / layout.BALLAST / "07.tmp").touch()
    with Store.open(home) as store:
        assert ballast.PIECES == store.status().ballast
        assert not any("ballast" in warning for warning in store.status().warnings)
    assert ballast.PIECES == len(os.listdir(home / layout.BALLAST))


def test_the_log_keeps_its_size(home: Path) -> None:
    """After every close the WAL is there, with what it needs, and the database has free pages."""
    size = reserve.wanted(str(home))
    assert 0 < size
    wal = home / f"{layout.DATABASE}-wal"
    for number in range(3):
        with Store.open(home) as store:
            store.create(f"layer-{number}")
        assert size <= wal.stat().st_size <= 2 * size
        with Reader.open(home) as reader:
            assert size // 4096 // 4 < reader.select("PRAGMA freelist_count")[0][0]
            assert ["store_id"] == [row[0] for row in reader.select("SELECT key FROM meta")]


def test_a_kill_leaves_no_row_of_the_reserve_for_long(home: Path) -> None:
    """The row that makes room for the journal is deleted by the next open, where a kill left it."""
    with Store.open(home) as store, store._hands.journal.database.write(full=False) as connection:
        row = {"key": reserve.KEY, "value": bytes(reserve.wanted(str(home)))}
        connection.execute(sql.PUT_META, row)
    with Reader.open(home) as reader:
        assert {"reserve", "store_id"} == {row[0] for row in reader.select(sql.SELECT_META)}
    with Store.open(home) as store:
        assert ["store_id"] == [row[0] for row in store.select(sql.SELECT_META)]


@pytest.mark.parametrize("full", ["btrfs"], indirect=True)
def test_on_btrfs_the_journal_is_written_in_place_and_layers_are_not(full: Full) -> None:
    """The files of the journal have the flag of `chattr +C`; staging, and so each layer, has not."""

    def flag(path: Path) -> bool:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            word = fcntl.ioctl(descriptor, 0x80086601, struct.pack("l", 0))
        finally:
            os.close(descriptor)
        return bool(struct.unpack("l", word)[0] & 0x00800000)

    assert flag(full.home / layout.OWN)
    assert not flag(full.home / layout.STAGING)
    assert not flag(full.home / "b" / "diff")
    assert flag(full.home / layout.PROBES)  # as journal.db, which nobody but SQLite may open


# --- a dying disk -----------------------------------------------------------------------------------


@pytest.fixture
def broken(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store of which a create met a sync that failed."""
    store = Store.open(home)
    store.create("p")
    real = durable.sync

    def fails(descriptor: int, path: str) -> None:
        if path.endswith("/l"):
            raise durable.SyncFailed(5, "cannot be synced", path)
        real(descriptor, path)

    monkeypatch.setattr(durable, "sync", fails)
    with pytest.raises(durable.SyncFailed):
        store.create("x")
    monkeypatch.undo()
    yield store
    store.close()


def test_after_a_failed_sync_the_journal_is_written_anew(broken: Store, home: Path) -> None:
    """The next open has a new file with all that was acknowledged; the old one is in quarantine."""
    old = os.stat(home / layout.DATABASE)
    seq = broken.last_seq()
    with Reader.open(home) as reader:
        assert any("I/O error" in warning for warning in reader.status().warnings)
    with pytest.raises(WritesRefused):
        broken.remove("p")
    broken.close()

    with Store.open(home) as store:
        assert os.stat(home / layout.DATABASE).st_ino != old.st_ino
        assert ["p"] == [layer.id for layer in store.layers()]
        assert seq < store.last_seq()
        assert any(item.layer == "x" for item in store.settled)
        check_settled(store)
        assert not any("I/O" in warning for warning in store.status().warnings)
        store.remove("p")
    (place,) = (home / layout.QUARANTINE).iterdir()
    assert {"NOTE", "journal.db", "journal.db-wal"} <= set(os.listdir(place))
    assert old.st_ino == os.stat(place / "journal.db").st_ino
    assert not os.path.lexists(home / layout.SUSPECT)
    assert "wal" == Reader.open(home).status().journal_mode


def test_no_other_process_writes_after_an_io_error(
    home: Path, worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the store open learns of the error, and nobody opens it until all have closed it."""
    other = worker(home)
    other.do("store.create('other').id")
    with Store.open(home) as store:
        store._hands.journal.database.refuse("a sync failed")
    with pytest.raises(WorkerError, match=r"WritesRefused.*another process met an I/O error"):
        other.do("store.create('more')")
    assert ["other"] == other.do("[layer.id for layer in store.layers()]")
    with pytest.raises(Busy):
        Store.open(home, timeout=0.1)
    assert 0 == other.end()
    with Store.open(home) as store:
        assert ["other"] == [layer.id for layer in store.layers()]
        check_settled(store)


def test_a_copy_that_is_whole_is_the_journal(broken: Store, home: Path) -> None:
    """Killed before the old file was replaced, the copy is what is read, and the next open goes on."""
    broken.close()

    class Killed(BaseException):
        pass

    def kill(point: str) -> None:
        if point == "rewrite:replace:before":
            raise Killed

    with traced(kill), pytest.raises(Killed):
        Store.open(home)
    assert not (home / f"{layout.DATABASE}-wal").exists()
    with Reader.open(home) as reader:
        assert ["p"] == [layer.id for layer in reader.layers()]
    with Store.open(home) as store:
        assert ["p"] == [layer.id for layer in store.layers()]
        check_settled(store)
    assert not list((home / layout.OWN).glob("journal.db.*"))


def test_a_mark_needs_no_inode(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file can be made, another name of one that is there marks the error."""
    real = os.open

    def fails(path: object, *arguments: object, **more: object) -> int:
        if str(path).endswith("/suspect"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *arguments, **more)  # type: ignore[arg-type]

    with Store.open(home) as store:
        monkeypatch.setattr(os, "open", fails)
        store._hands.journal.database.refuse("a sync failed")
        monkeypatch.undo()
    assert os.path.lexists(home / layout.SUSPECT)
    with Store.open(home) as store:
        store.create("a")


def test_a_rebuild_is_another_way_out(broken: Store, home: Path) -> None:
    """Where the journal cannot be copied, a new one from the tree takes the mark away."""
    broken.close()
    assert not [item for item in Store.rebuild(home) if item.what == "failed"]
    assert not os.path.lexists(home / layout.SUSPECT)
    with Store.open(home) as store:
        assert ["p"] == [layer.id for layer in store.layers()]


def test_an_archive_has_no_share_in_what_is_kept(full: Full) -> None:
    """An apply without room fails whole and says so; the ballast stays for what frees some."""
    with Store.open(full.home) as store:
        full.fill()
        kept = store.status().ballast
        with pytest.raises(DiskFull):
            store.apply_diff("other-0", io.BytesIO(entry("file", bytes(8 << 20)) + END))
        assert kept == store.status().ballast
        assert [] == os.listdir(full.home / "other-0" / "diff")
        check_settled(store)
        store.remove("other-0")
