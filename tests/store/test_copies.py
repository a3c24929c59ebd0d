"""A home that was moved, copied or put back is told from one that is where it was.

Copies are made with cp(1), renames, mounts of images and snapshots, as an administrator makes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from layerstore import Reader, Store, description, place
from layerstore.audit import audit
from layerstore.errors import InvalidArgument, LayerstoreError, Refused, StoreCopied
from layerstore.fs import layout
from layerstore.testing import die, dying_at, hooked, points
from tests.cli.running import Program
from tests.store.support import Worker, apart, check_settled, links, mounted, run, snapshot

pytestmark = pytest.mark.root


def copied(home: Path, to: Path) -> Path:
    """A copy as `cp -a` makes it."""
    run("cp", "-a", home, to)
    return to


def told(store: Store) -> list[str]:
    """What an open did, without what it does about any dead owner."""
    return [item.what for item in store.settled if item.what != "released"]


def kinds(home: Path) -> list[str]:
    """The kinds of the journal's events."""
    with Reader.open(home) as reader:
        return [row["kind"] for row in reader.rows()]


def own(home: Path) -> dict[str, bytes]:
    """The store's own files, but for those that SQLite makes for any connection."""
    names = ("journal.db", "place.json", "store.json", "store.lock", "probes.json")
    return {name: (home / layout.OWN / name).read_bytes() for name in names}


# --- the same store -----------------------------------------------------------------------------


def test_a_store_in_its_place_is_no_copy(pair: Path) -> None:
    """Opened where it was, nothing is settled, and `place.json` is not even written."""
    before = (pair / layout.PLACE_FILE).stat()
    with Store.open(pair) as store:
        assert () == store.settled
        assert (None, []) == (store.original(), [w for w in store.status().warnings if "copy" in w])
    assert before.st_ino == (pair / layout.PLACE_FILE).stat().st_ino


@pytest.mark.parametrize("way", ["bind", "link"])
def test_another_way_to_the_home_is_no_copy(pair: Path, bare: Path, way: str) -> None:
    """Through a bind mount or a symbolic link it is the same store, whoever has it open."""
    if way == "bind":
        (bare / "other").mkdir()
        run("mount", "--bind", pair, bare / "other")
    else:
        (bare / "other").symlink_to(pair)
    for _ in range(2):
        with Store.open(bare / "other") as store:
            assert () == store.settled
        with Store.open(pair) as first, Store.open(bare / "other") as second:
            assert ((), ()) == (first.settled, second.settled)
    assert str(pair) == place.here(pair).path


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, bare: Path) -> Path:
    """A file system on an image `disk.img`, mounted at `disk`."""
    image, point = bare / "disk.img", bare / "disk"
    with image.open("xb") as file:
        file.truncate(320 << 20)
    force = "-F" if request.param == "ext4" else "-f"
    run(f"mkfs.{request.param}", "-q", force, image)
    point.mkdir()
    run("mount", "-o", "loop", image, point)
    return point


def test_a_reboot_makes_no_copy(disk: Path, bare: Path) -> None:
    """Mounted again under another device number, as after a boot, it is the store that it was."""
    home = disk / "home"
    Store.initialize(home)
    with Store.open(home) as store:
        store.create("p")
        store.create("c", parent="p")
    before = os.stat(home).st_dev
    # Another loop device than the one that it still has.
    device = subprocess.check_output(
        ["losetup", "--find", "--show", bare / "disk.img"], text=True
    ).strip()
    try:
        run("umount", disk)
        run("mount", device, disk)
    finally:
        run("losetup", "--detach", device)  # once it is not mounted any more
    if "btrfs" not in Path("/proc/self/mountinfo").read_text():
        assert before != os.stat(home).st_dev
    with Store.open(home) as store:
        assert () == store.settled
        check_settled(store)


def test_what_a_reboot_takes_is_not_compared(pair: Path) -> None:
    """Neither the number of the device nor that of the boot is remembered."""
    record = json.loads((pair / layout.PLACE_FILE).read_text())
    assert os.stat(pair).st_ino == record["inode"]
    assert str(os.stat(pair).st_dev) not in map(str, record.values())
    assert {"path", "inode", "born", "file_system", "volume"} < set(record)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"path": 1, "inode": "x"}', "null"])
def test_a_store_that_remembers_no_place_is_where_it_is(pair: Path, content: str | None) -> None:
    """An older store, or one whose `place.json` is garbled, is completed and nothing else."""
    (pair / layout.PLACE_FILE).unlink()
    if content is not None:
        (pair / layout.PLACE_FILE).write_text(content)
    with Reader.open(pair) as reader:
        assert reader.original() is None
    with Store.open(pair) as store:
        assert () == store.settled
    record = place.recorded(pair)
    assert record is not None and record.is_directory_of(place.here(pair))


def test_fields_of_a_newer_program_are_passed_over(pair: Path) -> None:
    """A place with more fields, and files with other names, change nothing."""
    path = pair / layout.PLACE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"more": [1]}))
    (pair / layout.OWN / "archive").mkdir()
    (pair / layout.OWN / "archive/1.db").write_text("not ours")
    with Store.open(pair) as store:
        assert () == store.settled
    copy = copied(pair, pair.parent / "copy")
    with Store.open(copy, this_is="copy") as store:
        assert (copy / layout.OWN / "archive/1.db").exists()
        check_settled(store)


# --- moved --------------------------------------------------------------------------------------


def test_a_renamed_home_goes_on(pair: Path, bare: Path, worker: Callable[..., Worker]) -> None:
    """A rename takes mounts and holds along; the whole tree is compared once, and it is said."""
    other = worker(pair, "nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt")
    other.do("store.get('c', holder='docker')")
    other.kill()
    epoch = description.read(pair).epoch
    (pair / "l" / (pair / "c/link").read_text()).unlink()
    moved = pair.rename(bare / "moved")
    with Reader.open(moved) as reader:
        assert [str(pair) in warning for warning in reader.status().warnings if "was at" in warning]
    with Store.open(moved) as store:
        assert ["moved", "corrected"] == told(store)
        assert ["c"] == mounted(moved)
        assert [("c", "docker")] == [(hold.layer, hold.holder) for hold in store.holders()]
        check_settled(store)
    assert "store.moved.v1" in kinds(moved)
    assert epoch == description.read(moved).epoch
    with Store.open(moved) as store:
        assert () == store.settled
        assert store.put("c", holder="docker")


def test_a_home_moved_to_another_directory_goes_on(pair: Path, bare: Path) -> None:
    """Copied and removed where it was, it keeps its id and begins a new epoch; mounts are ended."""
    about = description.read(pair)
    with Store.open(pair) as store:
        store.get("c", holder="docker")
        store.get("p", holder="docker")
    moved = copied(pair, bare / "moved")
    run("umount", pair / "c/merged")
    shutil.rmtree(pair)
    with Store.open(moved) as store:
        assert ["moved", "unmounted"] == told(store)
        assert [("p", "docker")] == [(hold.layer, hold.holder) for hold in store.holders()]
        assert ["p"] == sorted(os.listdir(store.get("c")))
        check_settled(store)
    now = description.read(moved)
    assert about.store_id == now.store_id
    assert about.epoch != now.epoch


def test_a_home_put_back_is_compared(pair: Path, bare: Path) -> None:
    """Another directory in the same place, such as a backup of all of it, is compared once."""
    kept = copied(pair, bare / "kept")
    with Store.open(pair) as store:
        epoch = description.read(pair).epoch
        store.create("late")
    shutil.rmtree(pair)
    copied(kept, pair)
    shutil.rmtree(pair / "c")
    with Store.open(pair) as store:
        assert ["moved", "isolated"] == told(store)
        assert "another directory" in store.settled[0].message
        assert not store.exists("late")
    assert epoch != description.read(pair).epoch
    with Store.open(pair) as store:
        assert () == store.settled


def test_two_processes_that_find_a_moved_home(
    pair: Path, bare: Path, worker: Callable[..., Worker]
) -> None:
    """One of two that open at once says that it moved, and neither ends what the other does."""
    moved = pair.rename(bare / "moved")
    both = [worker(moved, opened=False), worker(moved, opened=False)]
    for one in both:
        one.send("store = Store.open(home)")
    for one in both:
        one.value()
    both[0].do("stop_at('create:intent:after')")
    both[0].send("store.create('x').id")
    both[0].stopped()
    assert 1 == both[1].do("len(store.recover()) + len(store.operations())")
    both[0].go_on()
    assert "x" == both[0].value()
    assert [0, 0] == [one.end() for one in both]
    assert 1 == kinds(moved).count("store.moved.v1")


def test_a_place_that_cannot_be_written(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk a store opens without remembering where it is, and the next open does."""
    (pair / layout.PLACE_FILE).unlink()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(place, "write", full)
        with Store.open(pair) as store:
            assert () == store.settled
    assert not (pair / layout.PLACE_FILE).exists()
    Store.open(pair).close()
    assert (pair / layout.PLACE_FILE).exists()


# --- copied -------------------------------------------------------------------------------------


@pytest.fixture
def used(pair: Path) -> Path:
    """A closed store in which `c` is mounted and held by a name, as is the base layer."""
    with Store.open(pair) as store:
        store.get("c", holder="docker")
        store.get("p", holder="docker")
    return pair


def test_a_copy_is_refused_for_writing(used: Path, bare: Path) -> None:
    """Whatever writes is refused in words, changes nothing, and the original is as it was."""
    copy = copied(used, bare / "copy")
    before = snapshot(copy), own(copy), snapshot(used), own(used)
    with pytest.raises(StoreCopied, match=f"copy of the store at {used}, which is still") as caught:
        Store.open(copy)
    assert (str(copy), str(used)) == (caught.value.home, caught.value.original)
    done = Program(copy)("create", "x", code=13)
    assert "adopt-copy" in done.err and "adopt-move" in done.err
    for words in (("recover",), ("db", "rebuild"), ("umount", "c", "--holder", "docker")):
        assert "is a copy of" in Program(copy)(*words, code=13).err
    assert before == (snapshot(copy), own(copy), snapshot(used), own(used))
    with Store.open(used) as store:
        assert () == store.settled


def test_a_copy_can_be_read_and_says_so(pair: Path, bare: Path) -> None:
    """Questions, status and audit work in a copy; the last two say what it is."""
    copy = copied(pair, bare / "copy")
    with Store.open(copy, read_only=True) as reader:
        assert ["c", "p"] == [layer.id for layer in reader.layers()]
        assert pair == reader.original()
        assert [True] == [str(pair) in w for w in reader.status().warnings if "copy of" in w]
    report = audit(copy)
    assert ["copied-store"] == [finding.code for finding in report.findings]
    assert report.clean
    assert ["c", "p"] == Program(copy)("ls", "-q").out.split()


def test_a_copy_becomes_a_store_of_its_own(used: Path, bare: Path) -> None:
    """adopt-copy: a new id, holds of the original gone, and the original's mounts untouched."""
    copy = copied(used, bare / "copy")
    about, before = description.read(used), (snapshot(used), own(used))
    done = Program(copy)("--json", "db", "adopt-copy").json
    assert ["copied", "unmounted"] == [item["what"] for item in done["settled"]]
    now = description.read(copy)
    assert about.store_id != now.store_id and about.epoch != now.epoch
    assert before == (snapshot(used), own(used))
    assert ["c"] == mounted(used)
    with Store.open(copy) as store:
        assert () == store.settled
        assert ((), ()) == (store.holders(), store.mounts())
        assert "v" == store.layer("p").labels["k"]
        with store.mounted("c") as path:
            assert ["p"] == os.listdir(path)
        store.create("x", parent="p")
        check_settled(store)
    (event,) = [row["data"] for row in Store.open(copy, read_only=True).rows(kind="store.copied")]
    assert (about.store_id, str(used)) == (event["copy_of"], event["came_from"])
    with Store.open(used) as store:
        assert () == store.settled
        assert {"docker"} == {hold.holder for hold in store.holders()}
        store.put("c", holder="docker")
        check_settled(store)


def test_a_copy_of_a_living_store(pair: Path, bare: Path, worker: Callable[..., Worker]) -> None:
    """What a living owner holds and is at ends in the copy's journal alone; the owner never notices."""
    other = worker(pair, "nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt")
    other.do("str(store.get('c'))")
    other.do("stop_at('create:outcome:before')")
    other.send("store.create('x', parent='p', labels={'of': 'x'}).id")
    other.stopped()
    copy = copied(pair, bare / "copy")
    with Store.open(copy, this_is="copy") as store:
        assert () == store.operations()
        assert "x" == store.layer("x").labels["of"]
        assert () == store.holders()
        check_settled(store)
    assert ["c"] == mounted(pair)
    assert links(pair)[(pair / "x/link").read_text()] == "../x/diff"
    other.go_on()
    assert "x" == other.value()
    assert ["c"] == other.do("[hold.layer for hold in store.holders()]")
    other.end()
    with Store.open(pair) as store:
        check_settled(store)


@pytest.mark.parametrize("point", ["intent:after", "5:WriteFile:after", "12:Publish:before"])
def test_a_create_in_flight_in_a_copy_is_as_if_it_never_was(
    pair: Path, bare: Path, worker: Callable[..., Worker], point: str
) -> None:
    """Before it is published, what a create had made is swept from the copy, and not the original."""
    other = worker(pair)
    other.do(f"stop_at('create:{point}')")
    other.send("store.create('x', parent='p').id")
    other.stopped()
    copy = copied(pair, bare / "copy")
    with Store.open(copy, this_is="copy") as store:
        assert not store.exists("x")
        assert [] == os.listdir(copy / layout.STAGING)
        assert 2 == len(links(copy))
        store.create("x", parent="p")
        check_settled(store)
    other.go_on()
    assert "x" == other.value()


def test_what_is_said_once_is_acted_upon_once(pair: Path, bare: Path) -> None:
    """A program that always says "copy" gives a new id to a copy, and to no other store."""
    with Store.open(pair, this_is="copy") as store:
        assert () == store.settled
    about = description.read(pair)
    copy = copied(pair, bare / "copy")
    ids = []
    for _ in range(3):
        Store.open(copy, this_is="copy").close()
        ids.append(description.read(copy).store_id)
    assert 1 == len(set(ids)) and about.store_id not in ids
    assert about == description.read(pair)


def test_a_copy_that_is_the_store_now(pair: Path, bare: Path) -> None:
    """adopt-move: the home keeps the store's id, in a new epoch, and opens by itself from then on."""
    copy = copied(pair, bare / "copy")
    done = Program(copy)("--json", "db", "adopt-move").json
    assert ["moved"] == [item["what"] for item in done["settled"]]
    about, now = description.read(pair), description.read(copy)
    assert (about.store_id, False) == (now.store_id, about.epoch == now.epoch)
    with Store.open(copy) as store:
        assert () == store.settled
        check_settled(store)
    with pytest.raises(Refused, match="not taken for a copy"):
        Store.adopt(copy, this_is="move")


def test_a_copy_that_lost_sight_of_its_original(pair: Path, bare: Path) -> None:
    """Taken for one that moved, a copy can still be given an id of its own, and once only."""
    copy = copied(pair, bare / "copy")
    hidden = pair.rename(bare / "hidden")
    about = description.read(hidden)
    with Store.open(copy) as store:
        assert ["moved"] == told(store)
    assert about.store_id == description.read(copy).store_id
    Store.adopt(copy, this_is="copy")
    assert about.store_id != description.read(copy).store_id
    with pytest.raises(Refused, match="is no copy"):
        Store.adopt(copy, this_is="copy")


@pytest.mark.parametrize("this_is", ["copy", "move"])
def test_the_store_itself_is_not_adopted(pair: Path, this_is: str) -> None:
    """Said by mistake to the store itself, neither changes anything."""
    before = own(pair)
    with pytest.raises(Refused):
        Store.adopt(pair, this_is=this_is)
    assert before == own(pair)
    with pytest.raises(InvalidArgument, match="'copy' or a 'move', not 'both'"):
        Store.adopt(pair, this_is="both")
    with pytest.raises(InvalidArgument, match="not 'both'"):
        Store.open(pair, this_is="both")


def test_a_copy_by_hard_links_is_not_adopted(pair: Path, bare: Path) -> None:
    """Two paths to one database file would each have a WAL of their own: refused, and changed by nobody."""
    run("cp", "-al", pair, bare / "copy")
    before = own(pair)
    with pytest.raises(Refused, match="hard links"):
        Store.adopt(bare / "copy", this_is="copy")
    with pytest.raises(StoreCopied):
        Store.open(bare / "copy")
    assert before == own(pair)


def test_a_copy_with_a_torn_database(pair: Path, bare: Path) -> None:
    """A database that was copied while it was written is set aside, and made anew from the tree."""
    copy = copied(pair, bare / "copy")
    path = copy / layout.DATABASE
    path.write_bytes(path.read_bytes()[: 3 * 4096] + b"\xff" * 4096)
    with Store.open(copy, this_is="copy") as store:
        assert ["c", "p"] == [layer.id for layer in store.layers()]
        check_settled(store)
    assert 1 == len(list((copy / layout.QUARANTINE).glob("*/journal.db")))
    assert description.read(copy).store_id != description.read(pair).store_id


def test_a_copied_image(disk: Path, bare: Path) -> None:
    """A copy of the file system has the same ids: seen beside the original it is a copy, else the store.

    btrfs and XFS refuse to mount two file systems of one id at once, and then there is no copy to
    be seen.
    """
    home = disk / "home"
    Store.initialize(home)
    with Store.open(home) as store:
        store.create("p")
    run("umount", disk)
    shutil.copy(bare / "disk.img", bare / "copy.img")
    (bare / "copy").mkdir()
    run("mount", "-o", "loop", bare / "copy.img", bare / "copy")
    run("mount", "--move", bare / "copy", disk)  # in the place of the original
    with Store.open(home) as store:
        assert () == store.settled
    run("umount", disk)
    run("mount", "-o", "loop", bare / "disk.img", disk)
    with contextlib.suppress(subprocess.CalledProcessError):
        run("mount", "-o", "loop", bare / "copy.img", bare / "copy")
        if (bare / "copy/home").exists():
            with pytest.raises(StoreCopied):
                Store.open(bare / "copy/home")
            run("umount", bare / "copy")
    run("umount", disk)
    run("mount", "-o", "loop", bare / "copy.img", bare / "copy")
    with Store.open(bare / "copy/home") as store:
        assert ["moved"] == told(store)
        assert "store.moved.v1" == list(store.rows())[-1]["kind"]


def test_a_snapshot_of_a_subvolume(bare: Path) -> None:
    """A snapshot beside the store is a copy, and one that is put in its place is compared."""
    with (bare / "disk.img").open("xb") as file:
        file.truncate(320 << 20)
    (bare / "disk").mkdir()
    run("mkfs.btrfs", "-q", "-f", bare / "disk.img")
    run("mount", "-o", "loop", bare / "disk.img", bare / "disk")
    home, snap = bare / "disk/home", bare / "disk/snap"
    run("btrfs", "subvolume", "create", home)
    Store.initialize(home)
    with Store.open(home) as store:
        store.create("p")
    run("btrfs", "subvolume", "snapshot", home, snap)
    with pytest.raises(StoreCopied):
        Store.open(snap)
    home.rename(bare / "disk/old")
    snap.rename(home)
    with Store.open(home) as store:
        assert ["moved"] == told(store)
        assert ["p"] == [layer.id for layer in store.layers()]


# --- killed meanwhile ---------------------------------------------------------------------------


@attrs.frozen
class Case:
    """What a user does with a home that is not where it was."""

    act: Callable[[Path], Any]
    original: bool
    """Whether the original is still there."""
    same_id: bool


CASES = {
    "copy": Case(lambda home: Store.adopt(home, this_is="copy"), original=True, same_id=False),
    "move": Case(lambda home: Store.adopt(home, this_is="move"), original=True, same_id=True),
    "arrive": Case(lambda home: Store.open(home).close(), original=False, same_id=True),
}


@pytest.mark.crash
@pytest.mark.parametrize("name", CASES)
def test_killed_at_any_point_it_can_be_said_again(used: Path, bare: Path, name: str) -> None:
    """Killed at every point, it is either still refused as a copy or what it was told to be.

    Done again it comes to its end, with one event in the journal, and nothing of the original was
    touched.
    """
    case, copy = CASES[name], bare / "copy"
    pristine = copied(used, bare / "pristine")
    if not case.original:
        run("umount", used / "c/merged")
        used = used.rename(bare / "hidden")
    about, before = description.read(used), (snapshot(used), own(used))
    copied(pristine, copy)
    with points() as passed:
        case.act(copy)
    assert len(passed) > 8
    refused = 0
    for index in range(len(passed)):
        shutil.rmtree(copy)
        copied(pristine, copy)

        def work(index: int = index) -> None:
            with dying_at(index):
                case.act(copy)

        assert 9 == apart(work)
        try:
            Store.open(copy).close()
        except StoreCopied:
            refused += 1
            assert about.store_id == description.read(copy).store_id
            case.act(copy)
        with Store.open(copy) as store:
            assert () == store.settled
            check_settled(store)
            assert ["c", "p"] == [layer.id for layer in store.layers()]
            events = [row["kind"] for row in store.rows(kind="store.")]
        assert case.same_id == (about.store_id == description.read(copy).store_id)
        told = "store.copied.v1" if name == "copy" else "store.moved.v1"
        assert ["store.initialized.v1", told] == events, passed[index]
        assert before == (snapshot(used), own(used))
    assert refused == {"copy": 0, "move": 2, "arrive": 0}[name]


def test_a_reader_of_a_copy_that_is_being_adopted(pair: Path, bare: Path) -> None:
    """Between the two files that carry the id, a reader is told, and an open finishes it."""
    copy = copied(pair, bare / "copy")

    def work() -> None:
        with hooked(lambda point: die() if point == "adopt:announce:after" else None):
            Store.adopt(copy, this_is="copy")

    assert 9 == apart(work)
    with pytest.raises(LayerstoreError, match="belongs to store"):
        Reader.open(copy)
    with Store.open(copy) as store:
        assert "copied" == store.settled[0].what
        check_settled(store)
