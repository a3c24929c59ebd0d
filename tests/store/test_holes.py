"""Interleavings that a first draft of the protocol got wrong, one test for each.

Each is played with real second processes, mount namespaces and kernels' answers, in the order that
did the damage.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.db import engine
from layerstore.errors import (
    Busy,
    DiskFull,
    HasChildren,
    LayerDamaged,
    LayerExists,
    LayerHeld,
    NotHeld,
    SchemaTooNew,
    UpperBusy,
    WritesRefused,
)
from layerstore.fs import durable, layout, locks
from tests.store.support import (
    HIDDEN,
    NAMESPACE,
    WorkerError,
    check_settled,
    findings,
    links,
    mounted,
    overlays,
    points_of,
    run,
    snapshot,
    traced,
)

pytestmark = pytest.mark.root


@pytest.fixture
def pair(store):
    """An open store with a base layer `p` and its child `c`."""
    store.create("p")
    store.create("c", parent="p")
    (store.home / "p/diff/p").touch()
    return store


def _attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


# --- 3: is it still mounted? --------------------------------------------------------------------


def test_mount_in_a_container_is_not_taken_for_history(pair, worker):
    """A mount in a namespace whose processes are not to be seen is neither doubled nor evicted."""
    home = pair.home
    other = worker(home, *HIDDEN)
    other.do("str(store.get('c'))")
    other.do("open(home + '/c/merged/theirs', 'w').close()")
    seen = "[line.split()[4] for line in open('/proc/self/mountinfo') if f' {home}/' in line]"
    assert [f"{home}/c/merged"] == other.do(seen)

    for verb in (lambda: pair.get("c"), lambda: pair.get("c", holder="cli")):
        with pytest.raises(Busy, match="still in use by the kernel"):
            verb()
    with pytest.raises(LayerHeld):
        pair.remove("c")
    assert [] == mounted(home)
    assert ["p", "theirs"] == other.do("sorted(os.listdir(home + '/c/merged'))")
    assert 1 == sum(hold.count for hold in pair.holders("c"))
    assert True is other.do("store.put('c')")
    assert pair.get("c").is_mount()
    assert ["p", "theirs"] == sorted(os.listdir(home / "c/merged"))


def test_mount_of_a_committed_layer_in_a_container_is_not_evicted(pair, worker):
    """A read-only mount that only its living holder can see stays, whoever else wants the layer."""
    pair.create("d", parent="c")
    other = worker(pair.home, *HIDDEN)
    other.do("str(store.get('c'))")

    with pytest.raises(Busy, match="c"):
        pair.get("c")
    with Store.open(pair.home) as third:
        assert [] == [item for item in third.settled if item.what == "unmounted"]
    assert ["p"] == other.do("os.listdir(home + '/c/merged')")
    assert 1 == sum(hold.count for hold in pair.holders("c"))
    assert True is other.do("store.put('c')")
    assert pair.get("c").is_mount()


@pytest.mark.parametrize("committed", [False, True])
def test_invented_boot_id_makes_no_mount_history(pair, bare, worker, committed):
    """A container with a boot id of its own loses no mount to the host, nor the host to it."""
    home = pair.home
    pair.create("e", parent="p")
    if committed:
        pair.create("d", parent="c")
        pair.create("f", parent="e")
    (bare / "boot_id").write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    place = "/proc/sys/kernel/random/boot_id"
    script = f'mount --bind {bare}/boot_id {place} && exec "$0" "$@"'
    other = worker(home, *NAMESPACE, "sh", "-c", script)
    assert "01234567" == other.do(f"open({place!r}).read()[:8]")
    other.do("str(store.get('c'))")
    pair.get("e")

    with Store.open(home) as third:
        assert [] == [item for item in third.settled if item.what == "unmounted"]
    assert [] == other.do("[str(i) for i in Store.open(home).settled if i.what == 'unmounted']")
    assert ["p"] == other.do("os.listdir(home + '/c/merged')")
    assert ["p"] == os.listdir(home / "e/merged")
    assert {"c", "e"} == {hold.layer for hold in pair.holders()}
    assert True is other.do("store.put('c')")


def test_home_through_a_bind_mount_does_not_hide_the_mount(pair, bare):
    """Through a bind mount that does not show it a mounted layer is refused, not mounted again."""
    (bare / "view").mkdir()
    run("mount", "--bind", "--make-private", pair.home, bare / "view")
    pair.get("c")
    assert not (bare / "view/c/merged").is_mount()

    with Store.open(bare / "view") as other:
        for holder in (None, "cli"):
            with pytest.raises(Busy, match="still in use by the kernel"):
                other.get("c", holder=holder)
    assert 1 == len(overlays(pair.home))
    assert [] == overlays(bare / "view")
    assert ["p"] == os.listdir(pair.home / "c/merged")


def test_detached_mount_with_an_open_file_is_still_a_mount(pair):
    """A layer that was detached while it was used is not mounted, removed or built upon until it is free."""
    path = pair.get("c")
    descriptor = os.open(path / "open", os.O_CREAT | os.O_RDWR)
    assert True is pair.put("c")
    assert [] == mounted(pair.home)

    calls = (lambda: pair.get("c"), lambda: pair.remove("c"), lambda: pair.create("d", parent="c"))
    for call in calls:
        with pytest.raises(UpperBusy, match=f"process {os.getpid()}"):
            call()
    assert () == pair.operations()
    os.write(descriptor, b"written late")
    os.close(descriptor)
    with pair.mounted("c") as path:
        assert "written late" == (path / "open").read_text()


def test_a_user_that_nobody_can_see_is_waited_for(pair):
    """What dies by itself in a moment, as a process that was killed does, refuses no get."""
    path = pair.get("c")
    near, far = socket.socketpair()
    descriptor = os.open(path, os.O_RDONLY)
    socket.send_fds(near, [b"x"], [descriptor])  # in flight it is in no process's table
    os.close(descriptor)
    pair.put("c")
    assert pair.layer("c").draining
    releasing = threading.Timer(0.3, far.close)
    releasing.start()
    began = time.monotonic()
    assert pair.get("c").is_mount()
    assert time.monotonic() - began > 0.2
    releasing.join()
    near.close()


def test_lost_put_of_a_detached_mount_is_still_a_mount(pair, worker):
    """A put that was killed after it detached leaves a layer that is refused while it is used."""
    other = worker(pair.home)
    path = Path(other.do("str(store.get('c'))"))
    descriptor = os.open(path / "open", os.O_CREAT | os.O_RDWR)
    other.do("stop_at('unmount:0:Unmount:after')")
    other.send("store.put('c')")
    other.stopped()
    other.kill()

    with pytest.raises(UpperBusy, match=f"process {os.getpid()}"):
        pair.get("c")
    assert pair.layer("c").draining
    os.close(descriptor)
    assert pair.get("c").is_mount()


def test_probe_writes_nothing_into_the_layer(pair):
    """Asking whether a layer is free leaves no attribute on its `diff`, before its first mount or after."""
    seen = []

    def hook(point):
        if "ProbeUpper" in point:
            seen.append(_attributes(pair.home / "c/diff"))

    with traced(hook):
        with pair.mounted("c"):
            pass
        before = _attributes(pair.home / "c/diff")
        with pair.mounted("c"):
            pass
    assert [{}, {}, before, before] == seen
    assert "trusted.overlay.origin" not in before
    assert [] == os.listdir(pair.home / layout.STAGING)


def test_copied_home_is_free(pair, bare):
    """In a home that was copied with all attributes no layer is busy for ever."""
    with pair.mounted("c") as path:
        (path / "new").touch()
    pair.close()
    run("cp", "-a", pair.home, bare / "copy")
    shutil.rmtree(pair.home)

    with Store.open(bare / "copy") as store, store.mounted("c") as path:
        assert ["new", "p"] == sorted(os.listdir(path))


# --- 4: get and put are not idempotent ----------------------------------------------------------


def test_repeated_get_counts_and_does_not_stop_a_remove_by_the_same(pair):
    """A get that was asked twice is a hold too many, and the holder's own remove drops it."""
    pair.get("c")
    pair.get("c")
    assert False is pair.put("c")
    assert ["c"] == mounted(pair.home)
    pair.remove("c")
    assert () == pair.holders()


def test_repeated_put_of_one_holder_takes_nothing_from_another(pair):
    """A put that was asked twice is refused the second time: another's hold keeps the mount."""
    pair.get("c", holder="docker")
    pair.get("c", holder="cli")
    assert False is pair.put("c", holder="docker")
    with pytest.raises(NotHeld, match="docker"):
        pair.put("c", holder="docker")
    assert ["c"] == mounted(pair.home)


# --- 5: only one SQLite, and only SQLite, opens the database -------------------------------------

HOOK = """
import sys
opened = []
def hook(event, arguments):
    if event == "open" and "journal.db" in str(arguments[0]) and ".new" not in str(arguments[0]):
        opened.append(str(arguments[0]))
sys.addaudithook(hook)
store = Store.open(home)
store.create("x"); store.create("y", parent="x")
with store.mounted("y"): pass
store.remove("y")
audit(home); store.status(); list(store.events())
with Store.open(home, read_only=True) as reader: list(reader.layers())
Store.revision(home)
store.close()
Store.rebuild(home)
"""


def test_nothing_but_sqlite_opens_the_database(home, worker):
    """No verb, audit, reader or rebuild opens a file of the database by itself."""
    other = worker(home, opened=False)
    other.do(HOOK)
    assert [] == other.do("opened")
    others = {"sqlite3", "pysqlite3"} - {engine.DRIVER}
    assert [] == other.do(f"sorted(set({sorted(others)}) & set(sys.modules))")


def test_audit_in_a_daemon_costs_no_commit(home, worker):
    """A daemon that audits and reads loses nothing when another process opens and closes meanwhile."""
    daemon = worker(home)
    daemon.do("store.create('first').id")
    daemon.do("audit(home).clean")
    daemon.do("Store.open(home, read_only=True).close()")
    daemon.do("Store.revision(home)")
    Store.open(home).close()
    for number in range(10):
        daemon.do(f"store.create('a{number}').id")
    daemon.kill()

    with Store.open(home) as store:
        assert {"first", *(f"a{n}" for n in range(10))} == {layer.id for layer in store.layers()}


# --- 6: emptying the trash ----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["merged", "diff"])
def test_remove_does_not_empty_a_volume(pair, bare, place):
    """A volume that is bind-mounted below a layer is detached with it, and keeps its files."""
    (bare / "volume/deep").mkdir(parents=True)
    (bare / "volume/deep/precious").write_text("x")
    pair.get("c")
    (pair.home / "c/merged/volume").mkdir()
    run("mount", "--bind", bare / "volume", pair.home / "c" / place / "volume")
    before = snapshot(bare / "volume")

    pair.remove("c")
    assert before == snapshot(bare / "volume")
    assert not (pair.home / "c").exists()
    assert [] == os.listdir(pair.home / layout.TRASH)
    check_settled(pair)


def test_remove_that_was_killed_does_not_empty_a_volume(pair, bare, worker):
    """A volume below a layer that lies in the trash keeps its files when recovery empties that."""
    (bare / "volume").mkdir()
    (bare / "volume/precious").write_text("x")
    (pair.home / "c/diff/volume").mkdir()
    run("mount", "--bind", bare / "volume", pair.home / "c/diff/volume")
    other = worker(pair.home, "nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt")
    other.do("stop_at('empty:0:RemoveTree:before')")
    other.send("store.remove('c')")
    other.stopped()
    other.kill()

    pair.recover()
    assert "x" == (bare / "volume/precious").read_text()
    assert [] == os.listdir(pair.home / layout.TRASH)
    check_settled(pair)


# --- 7: who settles, and when -------------------------------------------------------------------


def test_operation_of_a_killed_process_is_settled_without_an_open(pair, worker):
    """A store that stays open settles what a killed process left when it comes to that layer."""
    other = worker(pair.home)
    other.do("stop_at('remove:2:')")
    other.send("store.remove('c')")
    other.stopped()
    other.kill()

    assert pair.get("c").is_mount()
    assert () == pair.operations()


def test_full_disk_at_the_outcome_leaves_nothing_stuck(pair, monkeypatch):
    """A living process that cannot write an outcome leaves an operation that its next touch settles."""
    finish = pair._hands.journal.finish

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pair._hands.journal, "finish", full)
    with pytest.raises(DiskFull):
        pair.create("x", parent="p")
    monkeypatch.setattr(pair._hands.journal, "finish", finish)
    assert 1 == len(pair.operations())

    assert "x" == pair.create("x", parent="p").id
    check_settled(pair)


def test_two_settlers_of_one_operation(pair, worker):
    """While one process settles a dead operation, another waits for it instead of doing it too."""
    victim, settler = worker(pair.home), worker(pair.home)
    victim.do("stop_at('create:10:')")
    victim.send("store.create('x', parent='p').id")
    victim.stopped()
    victim.kill()
    settler.do("stop_at('settle:create:0:')")
    settler.send("store.create('x', parent='p').id")
    settler.stopped()

    with (
        Store.open(pair.home, timeout=0.05) as third,
        pytest.raises(Busy, match=f"process {settler.pid}"),
    ):
        third.create("x")
    settler.go_on()
    assert "x" == settler.value()
    with pytest.raises(LayerExists):
        pair.create("x", parent="p")


def test_child_that_unlocks_does_not_exist(pair):
    """A forked child has no descriptor of its parent's locks left that it could unlock."""
    held = {
        os.path.realpath(pair.home / layout.STORE_LOCK),
        os.path.realpath(
            pair.home / layout.owner_lock(pair._hands.journal.author.owner),
        ),
    }
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        names = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                names.add(os.readlink(f"/proc/self/fd/{name}"))
        os.write(theirs, str(len(names & held)).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        assert "0" == pipe.read()
    os.waitpid(pid, 0)
    mine = {os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if _is_open(n)}
    assert held <= mine


def _is_open(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


def test_soft_locks_are_not_used(home, monkeypatch):
    """Where flock is not to be had a store is refused rather than locked by a file that outlives a kill."""
    import fcntl

    def flock(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises((NotImplementedError, OSError)),
        locks.store_to_oneself(str(home / layout.STORE_LOCK), timeout=1),
    ):
        raise AssertionError("it was locked")


# --- 8: content that no apply wrote -------------------------------------------------------------


def test_child_of_written_content_syncs_it(pair):
    """A create under `full` syncs the file system where the parent was written through a mount: once,
    behind all that it writes itself, which is synced with it.
    """
    with pair.mounted("c") as path:
        (path / "written").touch()

    points = points_of(lambda: pair.create("d", parent="c"))
    steps = [point.split(":")[2] for point in points if point.endswith(":after")]
    written, *last = steps[steps.index("SyncFileSystem") - 1 :]
    assert "MakeSymlink" == written
    assert ["SyncFileSystem", "Publish", "SyncDirectory"] == last[:3]
    assert "SyncFile" not in steps
    assert pair.layer("c").durable
    again = points_of(lambda: pair.create("e", parent="c"))
    assert [] == [point for point in again if "SyncFileSystem" in point]


def test_child_of_a_process_layer_syncs_it(home):
    """A layer made under `process` is synced when one under `full` is built upon it."""
    with Store.open(home, durability="process") as store:
        store.create("p")
        store.create("c", parent="p")
    with Store.open(home) as store:
        points = points_of(lambda: store.create("d", parent="c"))
        assert 2 == len([point for point in points if "SyncFileSystem" in point])


def test_child_of_a_held_base_layer_syncs_it(pair):
    """A base layer whose `diff` was handed out may have been written to, and is synced."""
    pair.create("b")
    (pair.get("b") / "file").touch()
    pair.put("b")
    points = points_of(lambda: pair.create("d", parent="b"))
    assert 2 == len([point for point in points if "SyncFileSystem" in point])


def test_rebuilt_layers_are_synced_before_they_are_built_upon(pair):
    """A layer that was found in the tree is not known to be on disk, and is synced."""
    home = pair.home
    pair.close()
    Store.rebuild(home)
    with Store.open(home) as store:
        assert [False, False] == [layer.durable for layer in store.layers()]
        points = points_of(lambda: store.create("d", parent="c"))
        assert 2 == len([point for point in points if "SyncFileSystem" in point])


def test_process_durability_never_switches_syncing_off(home):
    """Under `process` commits are NORMAL, so that a checkpoint takes no full one along."""
    with Store.open(home, durability="process") as store:
        store.create("a")
        with store._hands.journal.database.write(full=False) as connection:
            assert (1,) == connection.execute("PRAGMA synchronous").fetchone()
        with store._hands.journal.database.write(full=True) as connection:
            assert (2,) == connection.execute("PRAGMA synchronous").fetchone()


# --- 9: the parent takes part in a create -------------------------------------------------------


def test_parent_cannot_go_while_a_child_is_made(pair, worker):
    """From a create's intent on its parent has a child: it is not removed, and mounts read-only."""
    other = worker(pair.home)
    other.do("stop_at('create:intent:after')")
    other.send("store.create('d', parent='c').id")
    other.stopped()

    with pytest.raises(HasChildren, match="d"):
        pair.remove("c")
    pair.get("c")
    assert pair.mount("c").read_only
    other.go_on()
    assert "d" == other.value()


def test_child_waits_while_its_parent_is_removed(pair, worker):
    """A create meets the removal of its parent in flight, waits, and is told that the parent is gone."""
    other = worker(pair.home)
    other.do("stop_at('remove:2:')")
    other.send("store.remove('c')")
    other.stopped()
    with Store.open(pair.home, timeout=0.05) as third, pytest.raises(Busy, match="remove"):
        third.create("d", parent="c")

    second = worker(pair.home)
    second.send("store.create('d', parent='c').id")
    other.go_on()
    other.value()
    with pytest.raises(WorkerError, match="There is no layer c"):
        second.value()
    assert {"p"} == {layer.id for layer in pair.layers()}
    check_settled(pair)


def test_no_child_over_a_parent_that_is_mounted_read_write(pair, worker):
    """A parent that another process has mounted read-write gets no child, nor while it is being mounted."""
    other = worker(pair.home)
    other.do("stop_at('mount:3:')")
    other.send("str(store.get('c'))")
    other.stopped()
    with Store.open(pair.home, timeout=0.05) as third, pytest.raises(Busy, match="mount"):
        third.create("d", parent="c")
    other.go_on()
    other.value()
    with pytest.raises(LayerHeld, match="Layer c is held by owner:"):
        pair.create("d", parent="c")
    assert not (pair.home / "c/committed").exists()
    other.do("store.put('c')")
    pair.create("d", parent="c")
    assert (pair.home / "c/committed").exists()


def test_undo_of_one_child_leaves_the_mark_of_another(pair, worker):
    """Undoing one create does not take `committed` from a parent that another child relies on."""
    other = worker(pair.home)
    other.do("stop_at('create:9:')")
    other.send("store.create('d1', parent='c').id")
    other.stopped()
    pair.create("d2", parent="c")
    other.kill()

    pair.recover()
    assert not pair.exists("d1")
    assert (pair.home / "c/committed").exists()
    with pair.mounted("c"):
        assert pair.mount("c").read_only
    check_settled(pair)


# --- 10: only what is one's own -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["layer", "bare-directory", "file", "link"])
def test_undo_leaves_a_directory_that_somebody_else_made(pair, how):
    """A directory that appears under the id while a create runs stays, and the create is undone."""
    place = pair.home / "x"

    def hook(point):
        if point.endswith("Publish:before") and point.startswith("create"):
            if how == "file":
                place.write_text("precious")
            elif how == "link":
                place.symlink_to("c")
            else:
                (place / "diff").mkdir(parents=True)
                (place / "diff/precious").write_text("x")
            if how == "layer":
                (place / "link").write_text("A" * 26)

    with traced(hook), pytest.raises(LayerExists, match="tree has x"):
        pair.create("x", parent="p")
    assert () == pair.operations()
    assert os.path.lexists(place)
    if how in ("layer", "bare-directory"):
        assert "x" == (place / "diff/precious").read_text()
    assert not pair.exists("x")
    assert 2 == len(links(pair.home))
    assert [] == os.listdir(pair.home / layout.STAGING)
    with pytest.raises(LayerExists, match="tree has x"):
        pair.create("x", parent="p")


def test_recovery_leaves_a_directory_that_somebody_else_made(pair, worker):
    """The same when the process is killed there, and its create is undone by the next open."""
    other = worker(pair.home)
    other.do("stop_at('create:12:Publish:before')")
    other.send("store.create('x', parent='p').id")
    assert "Publish" in other.stopped()
    (pair.home / "x/diff").mkdir(parents=True)
    (pair.home / "x/link").write_text("A" * 26)
    other.kill()

    with Store.open(pair.home) as store:
        assert [] == [item for item in store.settled if item.what == "failed"]
        assert () == store.operations()
    assert "A" * 26 == (pair.home / "x/link").read_text()


def test_remove_of_a_copy_leaves_the_original_its_link(pair):
    """An admin's copy of a layer in the home has the same `link`: its removal takes no link away."""
    home = pair.home
    link = pair.layer("c").link
    run("cp", "-a", home / "c", home / "copy")
    pair.close()
    Store.rebuild(home)

    with Store.open(home) as store:
        assert not store.exists("copy")
        assert not store.exists("c")  # two directories with one link: neither is taken in
        assert store.exists("p")
    shutil.rmtree(home / "copy")
    Store.rebuild(home)
    with Store.open(home) as store:
        assert "../c/diff" == links(home)[link]
        store.get("c")


def test_remove_leaves_a_link_that_leads_to_another(pair):
    """A remove unlinks `l/<LINK>` only if it leads to the layer that is removed."""
    pair.create("other", parent="p")
    link = pair.layer("c").link
    place = pair.home / "l" / link
    place.unlink()
    place.symlink_to("../other/diff")

    pair.remove("c")
    assert "../other/diff" == os.readlink(place)
    assert (pair.home / "other/diff").is_dir()


# --- 11: when the tree is compared --------------------------------------------------------------


def test_lost_device_under_a_living_host(ext4, worker):
    """After an unclean end the tree is compared where the file system was mounted anew, in one boot."""
    home = ext4 / "home"
    Store.initialize(home)
    other = worker(home, "nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt")
    other.do("store.create('p')")
    other.do("store.create('c', parent='p')")
    other.kill()
    (link,) = [name for name, target in links(home).items() if "/c/" in target]
    (home / "l" / link).unlink()

    with Store.open(home) as store:  # the same mount: nothing can have been lost
        assert ["released"] == [item.what for item in store.settled]
        assert link not in links(home)
    other = worker(home, "nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt")
    other.kill()
    run("umount", ext4)
    run("mount", "-o", "loop", ext4.parent / "ext4.img", ext4)
    with Store.open(home) as store:
        assert ["corrected", "released"] == [item.what for item in store.settled]
        assert "../c/diff" == links(home)[link]
        check_settled(store)


def test_restored_snapshot_of_the_volume(ext4, worker, bare):
    """A layer that a lost intent left whole is taken in; one whose directory is gone is set apart."""
    home = ext4 / "home"
    Store.initialize(home)
    with Store.open(home) as store:
        store.create("p")
        store.create("c", parent="p")
        store.create("d", parent="p")
    kept = bare / "kept"
    shutil.copytree(home / ".layerstore", kept, symlinks=True)
    other = worker(home, "nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt")
    other.do("store.create('late', parent='p')")
    other.kill()
    shutil.rmtree(home / "d")
    # The journal of before, with an owner that died since: as a cut leaves it that lost intents.
    shutil.rmtree(home / ".layerstore")
    shutil.copytree(kept, home / ".layerstore", symlinks=True)
    connection = engine.connect(str(home / layout.DATABASE), read_only=False, timeout=5)
    connection.execute("UPDATE owners SET closed_at = NULL, mount_id = 1")
    connection.close()

    with Store.open(home) as store:
        assert store.exists("late")
        assert "p" == store.layer("late").parent
        assert store.layer("d").damage is not None
        with pytest.raises(LayerDamaged, match="d cannot be used: its directory is gone"):
            store.get("d")
        with store.mounted("late"), store.mounted("c"):
            pass


def test_first_child_of_a_lost_intent_commits_its_parent(home):
    """A parent is committed in the index too where its first child was adopted, as in the tree."""
    with Store.open(home) as store:
        store.create("p")
        kept = home.parent / "kept.db"
        engine.vacuum_into(str(home / layout.DATABASE), str(kept), timeout=5)
        store.create("c", parent="p")
    for suffix in ("-wal", "-shm"):
        (home / f"{layout.DATABASE}{suffix}").unlink(missing_ok=True)
    kept.replace(home / layout.DATABASE)
    connection = engine.connect(str(home / layout.DATABASE), read_only=False, timeout=5)
    connection.execute("INSERT INTO meta (key, value) VALUES ('compare', 'needed')")
    connection.close()

    with Store.open(home) as store:
        assert ("adopted", "c") in [(item.what, item.layer) for item in store.settled]
        assert store.layer("p").committed
        check_settled(store)
    with Store.open(home) as store:
        store.remove("c")
        assert store.layer("p").committed
        check_settled(store)


def test_comparison_leaves_alone_what_the_living_are_at(pair, worker, home):
    """A whole comparison while another process creates neither drops its link nor sweeps its staging."""
    other = worker(home)
    other.do("stop_at('create:12:Publish:before')")
    other.send("store.create('x', parent='p').id")
    other.stopped()
    with pair._hands.journal.database.write(full=False) as connection:
        connection.execute("INSERT INTO meta (key, value) VALUES ('compare', 'needed')")

    with Store.open(home) as store:
        assert [] == [item for item in store.settled if item.what != "released"]
    other.go_on()
    assert "x" == other.value()
    assert pair.get("x").is_mount()
    check_settled(pair)


def test_lost_intent_of_a_remove_is_finished(pair, home):
    """A layer whose directory lies in the trash was being removed: that is finished, not reported as lost."""
    link = pair.layer("c").link
    pair.close()
    (home / "c").rename(home / layout.TRASH / ("0" * 32))
    connection = engine.connect(str(home / layout.DATABASE), read_only=False, timeout=5)
    connection.execute("INSERT INTO meta (key, value) VALUES ('compare', 'needed')")
    connection.close()

    with Store.open(home) as store:
        assert ("finished", "c") in [(item.what, item.layer) for item in store.settled]
        assert not store.exists("c")
        assert link not in links(home)
        assert [] == os.listdir(home / layout.TRASH)
        check_settled(store)


# --- 12: names that come back -------------------------------------------------------------------


def test_operations_and_owners_have_random_names(pair):
    """No operation or owner is called by a number that could come back with another meaning."""
    names = {entry.operation for entry in pair.events() if entry.operation}
    names |= {entry.owner for entry in pair.events() if entry.owner}
    assert [] == [name for name in names if not re.fullmatch("[0-9a-f]{32}", name)]


def test_first_run_finds_an_empty_staging(pair, monkeypatch):
    """A create does not build in a directory that is there already, with whoever's files in it."""
    name = "f" * 32
    stale = pair.home / layout.STAGING / name
    (stale / "diff").mkdir(parents=True)
    (stale / "diff/foreign").touch()
    monkeypatch.setattr("layerstore.recovery.new_name", lambda: name)

    with pytest.raises(FileExistsError):
        pair.create("x")
    monkeypatch.undo()
    assert not (pair.home / "x").exists()
    assert not pair.exists("x")
    assert () == pair.operations()


def test_seq_starts_above_the_mark_of_the_store(pair, home):
    """After the database is lost numbers begin above the highest that can have been given out."""
    before = pair.last_seq()
    (epoch,) = {entry.epoch for entry in pair.events()}
    pair.close()
    (home / layout.DATABASE).unlink()
    Store.rebuild(home)

    with Store.open(home) as store:
        entries = list(store.events())
        assert entries[0].seq > before
        assert epoch not in {entry.epoch for entry in entries}


# --- 13: two truths under one store id ----------------------------------------------------------


def test_rebuild_needs_the_store_to_itself(pair, worker, home):
    """While any process has the store open its database is not rebuilt, and its writes go on."""
    other = worker(home)
    pair.close()
    with pytest.raises(Busy, match="open in another process"):
        Store.rebuild(home, timeout=0.05)
    assert "x" == other.do("store.create('x').id")
    assert 0 == other.end()
    Store.rebuild(home, timeout=0.05)


@pytest.mark.parametrize("how", ["unlinked", "replaced"])
def test_writes_stop_when_the_database_is_swapped(pair, home, how):
    """A store whose database is no longer at its path takes no more writes, in words."""
    before = snapshot(home)
    path = home / layout.DATABASE
    path.rename(home / "aside")
    if how == "replaced":
        shutil.copy(home / "aside", path)

    for _ in range(2):
        with pytest.raises(WritesRefused, match="no longer the file that was opened"):
            pair.create("x")
        with pytest.raises(WritesRefused):
            pair.get("c")
    assert not (home / "x").exists()
    path.unlink(missing_ok=True)
    (home / "aside").rename(path)
    assert set(before) == set(snapshot(home))


def test_lost_database_under_a_daemon_gives_no_second_journal(pair, home):
    """While a daemon lives a rebuild is refused, also when the database is gone from its path."""
    (home / layout.DATABASE).rename(home / "aside")
    with pytest.raises(Busy):
        Store.rebuild(home, timeout=0.05)
    assert not (home / layout.DATABASE).exists()
    (home / "aside").rename(home / layout.DATABASE)


@pytest.mark.parametrize("holder", [None, "cli"])
def test_merged_that_is_full_and_no_mount_is_set_aside(pair, home, holder):
    """What was written into `merged` where nothing is mounted is kept in quarantine, and blocks nothing."""
    pair.get("c", holder=holder)
    run("umount", home / "c/merged")
    (home / "c/merged/stray").write_text("x")

    assert pair.get("c").is_mount()
    assert "stray" not in os.listdir(home / "c/merged")
    kept = list((home / layout.QUARANTINE).rglob("stray"))
    assert ["x"] == [path.read_text() for path in kept]
    pair.put("c")
    pair.remove("c")
    check_settled(pair)


def test_copy_of_a_live_home_opens(pair, home, bare):
    """A copy of a home with a mounted layer, whose `merged` is a full directory there, is usable."""
    pair.get("c", holder="docker")
    pair.get("c")
    run("cp", "-a", home, bare / "copy")
    assert ["p"] == os.listdir(bare / "copy/c/merged")

    with Store.open(bare / "copy", this_is="copy") as store:
        assert [] == [item for item in store.settled if item.what == "failed"]
        assert store.get("c").is_mount()
        assert ("c",) == store.cleanup()
        store.create("x", parent="p")
        assert () == store.operations()
    assert ["c"] == mounted(home)
    check_settled(pair)


# --- 14: sync errors ----------------------------------------------------------------------------


def test_failed_sync_refuses_writes_until_reopened(pair, home, monkeypatch):
    """After a sync that failed nothing more is acknowledged, and the next open settles the rest."""
    real = durable.sync

    def fails(descriptor, path):
        if path.endswith("/l"):
            raise durable.SyncFailed(5, "cannot be synced", path)
        real(descriptor, path)

    monkeypatch.setattr(durable, "sync", fails)
    with pytest.raises(OSError, match="cannot be synced"):
        pair.create("x", parent="p")
    monkeypatch.undo()
    for call in (lambda: pair.create("y"), lambda: pair.get("c"), lambda: pair.remove("c")):
        with pytest.raises(WritesRefused):
            call()
    assert ["c", "p"] == [layer.id for layer in pair.layers()]
    pair.close()

    with Store.open(home) as store:
        assert not store.exists("x")
        store.create("x", parent="p")
        check_settled(store)


# --- 16: schema ---------------------------------------------------------------------------------


def test_newer_schema_is_refused(pair, home):
    """A database of a newer schema is not opened to write or to read, and not changed."""
    pair.close()
    connection = engine.connect(str(home / layout.DATABASE), read_only=False, timeout=5)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = (home / layout.DATABASE).read_bytes()
    for call in (Store.open, Store.upgrade, lambda h: Store.open(h, read_only=True)):
        with pytest.raises(SchemaTooNew, match="9999"):
            call(home)
    assert before == (home / layout.DATABASE).read_bytes()


def test_unknown_operation_isolates_its_layer_alone(pair, home, worker):
    """An operation in flight whose event is of a newer program stays; every other layer is usable."""
    other = worker(home)
    other.do("stop_at('mount:intent:after')")
    other.send("str(store.get('c'))")
    other.stopped()
    (operation,) = pair.operations()
    other.kill()
    pair.close()
    connection = engine.connect(str(home / layout.DATABASE), read_only=False, timeout=5)
    connection.execute(
        "UPDATE events SET kind = 'layer.mount.intended.v9' WHERE operation = ?", (operation.id,)
    )
    connection.close()

    with Store.open(home) as store:
        (failed,) = [item for item in store.settled if item.what == "failed"]
        assert "c" == failed.layer
        assert "layer.mount.intended.v9" in failed.message
        for call in (store.get, store.remove):
            with pytest.raises(Busy, match="c has an unfinished mount"):
                call("c")
        store.create("d", parent="p")
        with store.mounted("d"):
            pass
        store.remove("d")


# --- 17: names that never return ----------------------------------------------------------------


def test_release_ends_the_holds_of_a_name_that_never_returns(pair, worker):
    """A container's hold outlives the process that took it, until its name is released."""
    other = worker(pair.home, "nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt")
    for _ in range(2):
        other.do("str(store.get('c', holder='container-1'))")
    other.kill()
    with Store.open(pair.home):
        pass
    assert ["c"] == mounted(pair.home)
    with pytest.raises(LayerHeld, match="container-1"):
        pair.remove("c")

    assert ("c",) == pair.release("container-1")
    assert [] == mounted(pair.home)
    pair.remove("c")


def test_reboot_ends_the_holds_of_what_was_mounted(pair, home):
    """After a reboot nothing is mounted, and nobody holds what was; no layer is lost."""
    pair.get("c", holder="docker")
    pair.create("d", parent="p")
    pair.create("e", parent="d")
    pair.get("d", holder="docker")
    pair.close()
    for name in ("c", "d"):
        run("umount", home / name / "merged")
    connection = engine.connect(str(home / layout.DATABASE), read_only=False, timeout=5)
    connection.execute("UPDATE owners SET boot_id = 'another', closed_at = NULL")
    connection.execute("UPDATE mounts SET boot_id = 'another'")
    connection.close()

    with Store.open(home) as store:
        assert [] == [item for item in store.settled if item.what == "failed"]
        assert () == store.holders()
        assert () == store.mounts()
        assert [".layerstore", "c", "d", "e", "l", "p"] == sorted(os.listdir(home))
        assert not (home / "c/merged").exists()
        check_settled(store)
        with store.mounted("c"), store.mounted("d"):
            pass


# --- 18: slow readers and hung settlers ---------------------------------------------------------


def test_paused_reader_does_not_stop_checkpoints(home):
    """Somebody who reads the journal halfway and pauses does not make the WAL grow."""
    with Store.open(home, durability="process") as store:
        store.create("a")
        with Store.open(home, read_only=True) as reader:
            for _ in range(600):
                store.get("a")
            entries = reader.events()
            read = [next(entries) for _ in range(550)]
            assert 550 == len(read)
            for _ in range(10_000):
                store.get("a")
                store.put("a")
            assert 8 << 20 > os.path.getsize(f"{home / layout.DATABASE}-wal")
            assert 50 < len(list(entries))
        for _ in range(600):
            store.put("a")
    assert [] == findings(home)


def test_no_lock_is_held_while_an_effect_runs(pair, home, worker):
    """While one settler hangs in an effect others open, work and settle other layers."""
    victim, settler = worker(home), worker(home)
    victim.do("stop_at('mount:4:')")
    victim.send("str(store.get('c'))")
    with contextlib.suppress(KeyError):
        victim.stopped()
    victim.kill()
    settler.do("stop_at('settle:')")
    settler.send("str(store.recover())")
    settler.stopped()

    began = time.monotonic()
    with Store.open(home, timeout=1) as store:
        store.create("y", parent="p")
        with store.mounted("y"):
            pass
        store.remove("y")
    assert 10 > time.monotonic() - began
    settler.go_on()
    settler.value()


# --- 20: small ones -----------------------------------------------------------------------------


def test_commits_are_as_durable_as_their_meaning(home, monkeypatch):
    """Intents, gets and puts commit with NORMAL, outcomes of everything else with FULL."""
    seen = []
    with Store.open(home) as store:
        database = store._hands.journal.database
        transact = database.transact

        def spy(action, *, full):
            def watched(connection):
                (level,) = connection.execute("PRAGMA synchronous").fetchone()
                before = connection.total_changes
                result = action(connection)
                (kind,) = connection.execute(
                    "SELECT kind FROM events ORDER BY seq DESC LIMIT 1"
                ).fetchone()
                if connection.total_changes > before:
                    seen.append((kind, level))
                return result

            return transact(watched, full=full)

        monkeypatch.setattr(database, "transact", spy)
        store.create("p")
        store.create("c", parent="p")
        store.get("c")
        store.get("c")
        store.put("c")
        store.put("c")
        store.remove("c")
        monkeypatch.undo()
    normal, full = 1, 2
    assert {
        ("layer.create.intended.v2", normal),
        ("layer.created.v1", full),
        ("layer.mount.intended.v2", normal),
        ("layer.mounted.v1", normal),
        ("hold.taken.v1", normal),
        ("hold.released.v1", normal),
        ("layer.unmount.intended.v1", normal),
        ("layer.unmounted.v1", normal),
        ("layer.remove.intended.v1", normal),
        # A remove's outcome and the intent to empty the trash are one transaction.
        ("trash.empty.intended.v2", full),
        ("trash.emptied.v1", normal),
    } == set(seen)


def test_reader_on_a_read_only_medium(pair, home, bare):
    """A store on a medium that cannot be written is read and audited as it stands."""
    pair.close()
    view = bare / "view"
    view.mkdir()
    run("mount", "--bind", home, view)
    run("mount", "-o", "remount,bind,ro", view)
    with Store.open(view, read_only=True) as reader:
        assert ["c", "p"] == [layer.id for layer in reader.layers()]
        assert [] == findings(view)


def test_staging_of_a_dead_create_is_moved_away_first(pair, worker, home):
    """An open does not walk what a killed create had built before it answers; it is in no one's way."""
    other = worker(home)
    other.do("stop_at('create:9:')")
    other.send("store.create('x', parent='p').id")
    other.stopped()
    other.kill()

    with Store.open(home) as store:
        assert [] == os.listdir(home / layout.STAGING)
        assert [] == os.listdir(home / layout.TRASH)
        check_settled(store)


def test_new_home_is_synced_with_its_parent(bare, monkeypatch):
    """A new store syncs its own directory, the home, and the directory that the home lies in."""
    synced = []
    real = durable.sync_directory

    def spy(path):
        synced.append(path)
        real(path)

    monkeypatch.setattr(durable, "sync_directory", spy)
    Store.initialize(bare / "home")
    assert {str(bare), str(bare / "home"), str(bare / "home/.layerstore")} <= set(synced)
    assert str(bare / "home/.layerstore") == synced[-1]
