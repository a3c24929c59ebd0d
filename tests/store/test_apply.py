"""Archives become layers and come out again: apply_diff, diff, changes, usage."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import Reader, Store
from layerstore.answers import ChangeKind
from layerstore.errors import (
    AlreadyApplied,
    Busy,
    HasChildren,
    InvalidArchive,
    InvalidArgument,
    LayerHeld,
    LayerNotEmpty,
    LayerstoreError,
    UnknownLayer,
    UpperBusy,
    WrongDiffId,
)
from layerstore.fs import layout
from layerstore.fs.archive import Limits
from layerstore.model import LayerState
from layerstore.testing.compare import snapshot
from tests.fs.archive.trees import END, entry
from tests.store.support import findings, points_of, traced

pytestmark = pytest.mark.root

ARCHIVE = entry("d/", kind=b"5", mode=0o750) + entry("d/f", b"content") + entry("e", b"12") + END
CHILD = entry("d/", kind=b"5", mode=0o750) + entry("d/.wh.f", mode=0o600) + entry("new", b"3") + END


class Failing:
    """A stream that breaks after so many bytes."""

    def __init__(self, data: bytes, error: BaseException) -> None:
        self._data = io.BytesIO(data)
        self._error = error

    def read(self, size: int, /) -> bytes:
        data = self._data.read(size)
        if not data:
            raise self._error
        return data


def digest(data: bytes) -> str:
    """What the index keeps of an archive."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def nothing_left(home: Path) -> bool:
    """Whether staging and trash are empty."""
    return not os.listdir(home / layout.STAGING) and not os.listdir(home / layout.TRASH)


def test_an_archive_becomes_the_content_of_a_layer(home: Path) -> None:
    """Answer, index and journal keep its size and digest; it comes out with the same bytes."""
    with Store.open(home) as store:
        store.create("base")
        made = store.apply_diff("base", io.BytesIO(ARCHIVE))
        assert (digest(ARCHIVE), 9, True, True) == (
            made.diff_id,
            made.size,
            made.applied,
            made.durable,
        )
        assert ARCHIVE == b"".join(store.diff("base"))
        store.create("child", parent="base")
        child = store.apply_diff("child", io.BytesIO(CHILD))
        assert CHILD == b"".join(store.diff("child", parent="base"))
        with store.mounted("child") as path:
            assert ["d", "e", "new"] == sorted(os.listdir(path))
            assert [] == os.listdir(path / "d")
        assert nothing_left(home)
        assert [] == findings(home)
    with Reader.open(home) as reader:
        assert digest(CHILD) == reader.layer("child").diff_id == child.diff_id
        found = {change.path: change.kind for change in reader.changes("child")}
        expected = {
            "/d": ChangeKind.MODIFY,
            "/d/f": ChangeKind.DELETE,
            "/new": ChangeKind.ADD,
        }
        assert expected == found
        assert (1, 9) == (reader.diff_size("child"), reader.diff_size("base"))
        assert (9, 4) == (reader.usage("base").bytes, reader.usage("base").inodes)


def test_owners_go_through_the_maps_and_back(home: Path) -> None:
    """What is root's in an archive is the mapped root's on disk, and root's again in the diff."""
    maps = ["0:100000:65536"]
    with Store.open(home, uid_maps=maps, gid_maps=maps) as store:
        store.create("base")
        store.apply_diff("base", io.BytesIO(ARCHIVE))
        for path in (home / "base" / "diff").rglob("*"):
            assert (100000, 100000) == (path.lstat().st_uid, path.lstat().st_gid)
        assert ARCHIVE == b"".join(store.diff("base"))
        store.create("strange")
        with pytest.raises(InvalidArchive, match="not mapped"):
            store.apply_diff("strange", io.BytesIO(entry("f", uid=b"0210560\x00") + END))


def test_the_store_decides_how_its_layers_are_marked(home: Path) -> None:
    """In one that was made in a user namespace root, too, marks and reads `user.overlay.*`."""
    (home / layout.USER_XATTRS).touch()
    with Store.open(home) as store:
        store.create("base")
        store.apply_diff("base", io.BytesIO(ARCHIVE))
        store.create("child", parent="base")
        hiding = entry("d/", kind=b"5", mode=0o755) + entry("d/.wh..wh..opq") + END
        store.apply_diff("child", io.BytesIO(hiding))
        assert b"y" == os.getxattr(home / "child" / "diff" / "d", "user.overlay.opaque")
        with store.mounted("child") as path:
            assert [] == os.listdir(path / "d")
        assert b"d/.wh..wh..opq" in b"".join(store.diff("child"))
        assert "/d/f" in [change.path for change in store.changes("child")]


def test_the_directory_keeps_owner_and_mode(home: Path) -> None:
    """What the layer's `diff` had of its own is not the archive's business."""
    with Store.open(home) as store:
        store.create("a")
        diff = home / "a" / "diff"
        os.chown(diff, 12, 13)
        os.chmod(diff, 0o2711)
        store.apply_diff("a", io.BytesIO(entry("./", kind=b"5", mode=0o777) + ARCHIVE))
        status = diff.stat()
        assert (12, 13, 0o42711) == (status.st_uid, status.st_gid, status.st_mode)


def test_the_project_goes_along(bare: Path) -> None:
    """A layer that belongs to a project can be renamed into, and what comes belongs to it."""
    image, point = bare / "image", bare / "fs"
    with image.open("xb") as file:
        file.truncate(512 << 20)
    point.mkdir()
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    home = point / "home"
    Store.initialize(home)
    with Store.open(home) as store:
        store.create("a")
        subprocess.run(["chattr", "-R", "+P", "-p", "77", home / "a"], check=True)
        store.apply_diff("a", io.BytesIO(ARCHIVE))
        listed = subprocess.run(
            ["lsattr", "-pd", home / "a" / "diff" / "d" / "f"], check=True, capture_output=True
        )
        assert b"77" == listed.stdout.split()[0]
        store.remove("a")


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (io.BytesIO(ARCHIVE[:-512]), InvalidArchive),
        (io.BytesIO(b""), InvalidArchive),
        (io.BytesIO(entry("../x", b"1") + END), InvalidArchive),
        (Failing(ARCHIVE[:1600], OSError(5, "broken by the test")), OSError),
        (Failing(ARCHIVE[:1600], KeyboardInterrupt()), KeyboardInterrupt),
    ],
    ids=["cut", "empty", "hostile", "broken", "interrupted"],
)
def test_what_breaks_off_leaves_the_layer_as_it_was(
    home: Path, stream: io.BytesIO, error: type[BaseException]
) -> None:
    """Nothing of it is there, and the layer takes no other one until it is removed."""
    with Store.open(home) as store:
        store.create("a")
        with pytest.raises(error):
            store.apply_diff("a", stream)
        layer = store.layer("a")
        assert (True, None, LayerState.READY) == (layer.applied, layer.diff_id, layer.state)
        assert {} == snapshot(home / "a" / "diff")
        assert nothing_left(home)
        with pytest.raises(AlreadyApplied):
            store.apply_diff("a", io.BytesIO(ARCHIVE))
        store.remove("a")
        store.create("a")
        store.apply_diff("a", io.BytesIO(ARCHIVE))
    assert [] == findings(home)


def test_another_archive_than_was_asked_for_is_refused(home: Path) -> None:
    """The error says which one it was; nothing of it is there. The one that was meant is taken."""
    with Store.open(home) as store:
        store.create("a")
        with pytest.raises(InvalidArgument, match="is no DiffID"):
            store.apply_diff("a", io.BytesIO(ARCHIVE), diff_id="sha256:0")
        with pytest.raises(WrongDiffId, match=digest(CHILD)) as caught:
            store.apply_diff("a", io.BytesIO(ARCHIVE), diff_id=digest(CHILD))
        assert digest(ARCHIVE) == caught.value.found
        assert {} == snapshot(home / "a" / "diff")
        assert nothing_left(home)
        store.remove("a")
        store.create("a")
        made = store.apply_diff("a", io.BytesIO(ARCHIVE), diff_id=digest(ARCHIVE))
        assert digest(ARCHIVE) == made.diff_id
    assert [] == findings(home)


def test_limits_hold(home: Path) -> None:
    """The caller's limits reach the reader of the archive."""
    with Store.open(home) as store:
        store.create("a")
        with pytest.raises(InvalidArchive, match="more than 2 entries"):
            store.apply_diff("a", io.BytesIO(ARCHIVE), limits=Limits(entries=2))


def test_what_is_in_use_is_refused(home: Path) -> None:
    """Held, with children, with content, applied to, unknown: each has its error."""
    with Store.open(home) as store:
        store.create("base")
        store.create("child", parent="base")

        def refused(layer: str, error: type[LayerstoreError]) -> None:
            with pytest.raises(error):
                store.apply_diff(layer, io.BytesIO(ARCHIVE))

        refused("nothing", UnknownLayer)
        refused("base", HasChildren)
        store.get("child", holder="docker")
        refused("child", LayerHeld)
        store.put("child", holder="docker")
        (home / "child" / "diff" / "x").touch()
        refused("child", LayerNotEmpty)
        os.unlink(home / "child" / "diff" / "x")
        store.apply_diff("child", io.BytesIO(ARCHIVE))
        refused("child", AlreadyApplied)


def test_a_layer_that_somebody_else_mounted_is_refused(home: Path) -> None:
    """The kernel is asked: an overlay that has it as upper would not see the new directory."""
    with Store.open(home) as store:
        store.create("base")
        store.create("child", parent="base")
        (home / "at").mkdir()
        options = f"lowerdir={home}/base/diff,upperdir={home}/child/diff,workdir={home}/child/work"
        subprocess.run(["mount", "-t", "overlay", "o", "-o", options, home / "at"], check=True)
        try:
            with pytest.raises(UpperBusy):
                store.apply_diff("child", io.BytesIO(ARCHIVE))
        finally:
            subprocess.run(["umount", home / "at"], check=True)
            (home / "at").rmdir()
    assert nothing_left(home)


def test_a_stranger_who_writes_meanwhile_is_not_overwritten(home: Path) -> None:
    """What came into the empty layer while the archive was unpacked stays, and the apply is undone."""

    def write(point: str) -> None:
        if point == "apply:1:ReplaceDirectory:before":
            (home / "a" / "diff" / "precious").touch()

    with Store.open(home) as store:
        store.create("a")
        with traced(write), pytest.raises(LayerNotEmpty):
            store.apply_diff("a", io.BytesIO(ARCHIVE))
        assert ["precious"] == os.listdir(home / "a" / "diff")
    assert nothing_left(home)


def test_others_wait_while_it_unpacks(home: Path) -> None:
    """A get comes after it, and one that does not want to wait is told what is in flight."""
    reached, go = threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reached.set()
            assert go.wait(20)
            return super().read(size)

    with Store.open(home, timeout=0.1) as store, Store.open(home, timeout=20) as patient:
        store.create("a")
        thread = threading.Thread(target=lambda: store.apply_diff("a", Slow(ARCHIVE)))
        thread.start()
        assert reached.wait(20)
        assert LayerState.APPLYING is store.layer("a").state
        with pytest.raises(Busy, match="apply in flight"):
            store.get("a")
        waiting = threading.Thread(target=lambda: patient.get("a"))
        waiting.start()
        time.sleep(0.05)
        assert () == store.holders("a")
        go.set()
        thread.join()
        waiting.join()
        assert 1 == len(store.holders("a"))
        assert digest(ARCHIVE) == store.layer("a").diff_id


def test_an_apply_that_was_killed_is_undone(home: Path) -> None:
    """In the middle of its stream; the next open says so, and nothing is left."""
    reader, writer = os.pipe()
    with Store.open(home) as store:
        store.create("a")
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writer)
            with Store.open(home) as store, os.fdopen(reader, "rb", buffering=0) as stream:
                store.apply_diff("a", stream)
        finally:
            os._exit(1)
    os.close(reader)
    os.write(writer, ARCHIVE[:1600])
    deadline = time.monotonic() + 20
    while not list((home / layout.STAGING).glob("*/diff/d")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list((home / layout.STAGING).glob("*/diff/d"))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(writer)
    with Store.open(home) as store:
        assert ["apply of a was undone"] == [s.message for s in store.settled if s.layer == "a"]
        assert {} == snapshot(home / "a" / "diff")
        assert nothing_left(home)


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_one_that_was_renamed_is_finished(home: Path, lost: bool) -> None:
    """After the rename it is done: with its digest, or where a power cut took that, without."""

    def die(point: str) -> None:
        if point == "apply:1:ReplaceDirectory:after":
            os._exit(9)

    pid = os.fork()
    if pid == 0:
        try:
            with Store.open(home) as store:
                store.create("a")
                with traced(die):
                    store.apply_diff("a", io.BytesIO(ARCHIVE))
        finally:
            os._exit(1)
    assert 9 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if lost:
        (path,) = (home / layout.STAGING).glob("*/applied")
        path.write_text("")
    with Store.open(home) as store:
        layer = store.layer("a")
        assert (None if lost else digest(ARCHIVE), 9) == (layer.diff_id, layer.size)
        assert ARCHIVE == b"".join(store.diff("a"))
        assert nothing_left(home)
    assert [] == findings(home)


@pytest.mark.parametrize("ask", [Store.diff, Store.changes, Store.usage])
def test_a_removal_meanwhile_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., object]
) -> None:
    """An answer about a layer that was removed while it was read is never half an answer."""
    with Store.open(home) as store, Store.open(home) as other:
        store.create("a")
        store.apply_diff("a", io.BytesIO(entry("big", bytes(1 << 20)) + ARCHIVE))
        if ask is Store.diff:
            pieces = store.diff("a")
            got = [next(pieces)]
            other.remove("a")
            with pytest.raises((UnknownLayer, OSError, LayerstoreError)):
                got.extend(pieces)
            store.create("b")
            with pytest.raises(InvalidArchive):
                store.apply_diff("b", io.BytesIO(b"".join(got)))
            return
        check = Store._check_there

        def removed_first(self: Store, layer: str, descriptor: int) -> None:
            other.remove("a")
            check(self, layer, descriptor)

        monkeypatch.setattr(Store, "_check_there", removed_first)
        monkeypatch.setattr(Store, "_counted", lambda *_: None)  # as if it had been written to
        with pytest.raises(UnknownLayer):
            ask(store, "a")


def test_an_archive_for_another_parent_is_refused(home: Path) -> None:
    """In words, and the layer can take another one; the right parent, or none, is accepted."""
    with Store.open(home) as store:
        store.create("a")
        store.create("b", parent="a")
        for layer, parent, why in (
            ("a", "b", "on b, and a is on nothing"),
            ("b", "", "on nothing"),
        ):
            with pytest.raises(InvalidArgument, match=why):
                store.apply_diff(layer, io.BytesIO(END), parent=parent)
        assert store.apply_diff("b", io.BytesIO(END), parent="a").applied
        store.create("c")
        assert store.apply_diff("c", io.BytesIO(END), parent="").applied


@pytest.mark.parametrize("durability", ["full", "process"])
@pytest.mark.parametrize("error", [OSError(5, "broken by the test"), KeyboardInterrupt()])
def test_an_exception_at_any_point_leaves_all_or_nothing(
    home: Path, error: BaseException, durability: str
) -> None:
    """The layer is empty and says that it was tried, or whole with its digest; nothing is left over."""
    with Store.open(home, durability=durability) as store:
        store.create("base")
        store.create("dry", parent="base")
        points = points_of(lambda: store.apply_diff("dry", io.BytesIO(ARCHIVE)))
        assert "apply:0:Unpack:before" in points
        for number, point in enumerate(points):
            layer = f"layer{number}"
            store.create(layer, parent="base")
            with traced(_raise_at(number, error)), contextlib.suppress(OSError, KeyboardInterrupt):
                store.apply_diff(layer, io.BytesIO(ARCHIVE))
            found = store.layer(layer)
            content = {} if found.diff_id is None else snapshot(home / "dry" / "diff")
            assert content == snapshot(home / layer / "diff"), point
            intended = point != "apply:intent:before"
            assert (intended, LayerState.READY) == (found.applied, found.state), point
            assert () == store.operations()
    assert nothing_left(home)
    assert [] == findings(home)


def _raise_at(number: int, error: BaseException) -> Callable[[str], None]:
    seen: list[str] = []

    def hook(point: str) -> None:
        seen.append(point)
        if len(seen) == number + 1:
            raise error

    return hook
