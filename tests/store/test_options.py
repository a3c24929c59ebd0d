"""Options, id maps and labels on a store: who owns what, who may write, what is refused whole."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layerstore import Store
from layerstore.errors import InvalidOption
from layerstore.fs import layout, mount, mountinfo, quota
from tests.cli.running import Program
from tests.store.support import check_settled

pytestmark = pytest.mark.root

MAPS = ["0:100000:65536"]
GROUPS = ["0:200000:65536"]
CLONE_NEWUSER = 0x10000000


def owner(path: Path) -> tuple[int, int, int]:
    """Who a directory belongs to, and its mode."""
    found = path.lstat()
    return found.st_uid, found.st_gid, found.st_mode & 0o7777


def child_says(home: Path, work: object) -> int:
    """How a child ends that is root of its own user namespace, with the ids that MAPS gives it."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            from layerstore.fs import syscalls

            syscalls.unshare(CLONE_NEWUSER)
            os.write(ready[1], b".")
            os.read(go[0], 1)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            work()  # type: ignore[operator]
            code = 0
        except OSError as error:
            code = error.errno or 98
        finally:
            os._exit(code)
    os.read(ready[0], 1)
    Path(f"/proc/{child}/gid_map").write_text("0 200000 65536")
    Path(f"/proc/{child}/uid_map").write_text("0 100000 65536")
    os.write(go[1], b".")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for end in (*ready, *go):
        os.close(end)
    return status


def test_remapped_directories_belong_to_the_root_inside(home: Path) -> None:
    """diff, work, merged and work/work are the mapped root's; the ways to them stay the daemon's."""
    me = os.geteuid()
    with Store.open(home, uid_maps=MAPS, gid_maps=GROUPS) as store:
        store.create("base")
        store.create("top", parent="base")
        store.get("top")
        store.put("top")
        assert (me, 200000, 0o710) == owner(home)
        assert (me, os.getegid(), 0o700) == owner(home / layout.LINKS)
        for layer in ("base", "top"):
            assert (me, 200000, 0o710) == owner(home / layer)
            assert (100000, 200000, 0o755) == owner(home / layer / "diff")
        assert (100000, 200000, 0o700) == owner(home / "top" / "work")
        assert (100000, 200000) == owner(home / "top" / "work" / "work")[:2]
    check_settled(Store.open(home))


def test_the_mountpoint_belongs_to_the_root_inside(home: Path) -> None:
    """`merged` itself, which the mount covers, is the mapped root's and closed to others."""
    seen = []
    from layerstore.testing import hooked

    def look(point: str) -> None:
        if "MountOverlay:before" in point:
            seen.append(owner(home / "top" / "merged"))

    with Store.open(home, uid_maps=MAPS, gid_maps=GROUPS) as store:
        store.create("base")
        store.create("top", parent="base")
        with hooked(look), store.mounted("top"):
            assert (100000, 200000, 0o755) == owner(home / "top" / "merged")
    assert [(100000, 200000, 0o700)] == seen


def test_without_maps_directories_belong_to_the_process(home: Path) -> None:
    """Nothing is given away, and an open does not touch the owner of the home."""
    os.chown(home, -1, 4711)
    with Store.open(home) as store:
        store.create("base")
        store.create("top", parent="base")
        with store.mounted("top"):
            pass
        mine = (os.geteuid(), os.getegid())
        for name in ("base", "base/diff", "top", "top/diff", "top/work", "top/work/work"):
            assert mine == owner(home / name)[:2], name
    assert 4711 == home.stat().st_gid


def test_only_one_map_moves_only_that_id(home: Path) -> None:
    """With a uid map alone, groups stay as they are."""
    with Store.open(home, uid_maps=MAPS) as store:
        store.create("base")
        assert (100000, os.getegid()) == owner(home / "base" / "diff")[:2]


def test_a_container_writes_to_its_layer_and_reaches_no_other_way_in(
    bare: Path, home: Path
) -> None:
    """A process with the mapped ids, in a user namespace, works in the mounted layer as its root."""
    bare.chmod(0o711)
    with Store.open(home, uid_maps=MAPS, gid_maps=GROUPS) as store:
        store.create("base")
        (home / "base" / "diff" / "etc").mkdir()
        os.chown(home / "base" / "diff" / "etc", 100000, 200000)
        store.create_read_write("top", parent="base")
        merged = store.get("top")

        def work() -> None:
            (merged / "etc" / "new").write_text("written inside\n")
            (merged / "mine").mkdir()
            os.chown(merged / "mine", 7, 7)

        assert 0 == child_says(home, work)
        assert (100007, 200007) == owner(home / "top" / "diff" / "mine")[:2]
        assert "written inside\n" == (home / "top" / "diff" / "etc" / "new").read_text()
        for closed in (home, home / layout.LINKS, home / "base"):
            assert 13 == child_says(home, lambda closed=closed: os.listdir(closed)), closed
        store.put("top")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"options": ["overlay2.nonsense=1"]}, "overlay2.nonsense"),
        ({"uid_maps": ["5:100000:10"]}, "does not map id 0"),
        ({"gid_maps": ["0:x:10"]}, "0:x:10"),
    ],
)
def test_an_open_that_is_refused_changes_nothing(home: Path, arguments: Any, named: str) -> None:
    """A bad option or map is refused before anything is locked or written."""
    before = sorted(path for path in home.rglob("*"))
    with pytest.raises(InvalidOption, match=named):
        Store.open(home, **arguments)
    assert before == sorted(path for path in home.rglob("*"))


def test_the_kernel_check_is_taken_with_a_warning(home: Path, caplog) -> None:
    """Docker's old option has no effect, and status and log say so."""
    with Store.open(home, options={"overlay2.override_kernel_check": "true"}) as store:
        assert [w for w in store.status().warnings if "override_kernel_check" in w]
    assert "override_kernel_check" in caplog.text


def test_size_zero_needs_no_quota(home: Path) -> None:
    """No limit can be had everywhere."""
    with Store.open(home, options=["overlay2.size=0"]) as store:
        layer = store.create_read_write("a", storage_options={"size": "0"})
        assert ({"size": "0"}, None) == (dict(layer.storage_options), store.quota("a"))
        assert {} == dict(store.create_read_write("b").storage_options)


# -- where there are no quotas ---------------------------------------------------------------------


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, bare: Path) -> Iterator[Path]:
    """A file system that could have project quotas, mounted without them."""
    image, place = bare / "image", bare / request.param
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run([f"mkfs.{request.param}", "-q", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def refuses_sizes(home: Path, *words: str) -> None:
    """Every way to ask for a limit is refused with these words, and nothing is left."""
    with pytest.raises(InvalidOption) as caught:
        Store.open(home, options=["overlay2.size=1g"])
    messages = [f"{caught.value.message} {caught.value.hint}"]
    with Store.open(home) as store:
        before = store.last_seq()
        with pytest.raises(InvalidOption) as refused:
            store.create_read_write("a", storage_options={"size": "1g"})
        messages.append(f"{refused.value.message} {refused.value.hint}")
        assert (before, False) == (store.last_seq(), store.exists("a"))
        check_settled(store)
    for message in messages:
        assert all(word in message for word in words), message


def test_a_file_system_without_quotas_is_named(home: Path) -> None:
    """On a tmpfs the message says which file systems have project quotas."""
    if quota.problem(str(home)) is None:
        pytest.fail("LAYERSTORE_TEST_DIR has project quotas: this test needs one without")
    refuses_sizes(home, "project quotas", "XFS", "ext4")


def test_a_missing_mount_option_is_named(disk: Path) -> None:
    """Where quotas could be had, the message says which mount option is missing."""
    Store.initialize(disk / "home")
    option = {"ext4": "prjquota", "xfs": "pquota"}[disk.name]
    refuses_sizes(disk / "home", "mounted without project quotas", option)
    if disk.name == "xfs":
        # The id of a directory is handed on also where nothing is counted.
        quota.set_project(str(disk), 4711)
        (disk / "below").mkdir()
        assert quota.Project(4711, True) == quota.project_of(str(disk / "below"))
    else:
        with pytest.raises(OSError, match="no project can be set"):
            quota.set_project(str(disk), 4711)
    assert quota.project_of(str(disk / "absent")) is None


# -- labels ----------------------------------------------------------------------------------------


def test_a_label_that_fits_nowhere_says_how_long_it_is(bare: Path) -> None:
    """A label that no interface can hold is refused with its length, and nothing is mounted."""
    for name in ("lower", "upper", "work", "merged"):
        (bare / name).mkdir()
    label = "system_u:object_r:container_file_t:s0:" + ",".join(f"c{n}" for n in range(1000))
    wanted = mount.OverlayOptions((f"{bare}/lower",), f"{bare}/upper", f"{bare}/work", label=label)
    with pytest.raises(OSError, match=f"mount label too large {len(label)}"):
        mount.mount_overlay(f"{bare}/merged", wanted, home=str(bare))
    assert not mountinfo.is_mount_root(f"{bare}/merged")


# -- the command line ------------------------------------------------------------------------------


def test_maps_and_options_on_the_command_line(home: Path, tmp_path: Path) -> None:
    """Flags, variables and the file give maps and options; what is wrong is named with its source."""
    program = Program(home)
    program("--uid-map", "0:100000:10", "--uid-map", "10:300000:5", "create", "a")
    program("create", "b", LAYERSTORE_UID_MAP="0:7:1", LAYERSTORE_GID_MAP="0:8:1,1:1000:5")
    file = tmp_path / "settings.toml"
    file.write_text('storage_opts = ["overlay2.size=0"]\nuid_map = ["0:9:1"]\n')
    program("create", "c", LAYERSTORE_CONFIG=str(file))
    found = [owner(home / name / "diff")[:2] for name in "abc"]
    assert [(100000, 0), (7, 8), (9, 0)] == found
    done = program("--uid-map", "1:2:3", "create", "d", code=16)
    assert "flags: uid_map" in done.err and "does not map id 0" in done.err
    done = program("create", "d", code=16, LAYERSTORE_STORAGE_OPTS="overlay2.sice=1")
    assert "the environment: storage_opts" in done.err and "overlay2.sice" in done.err
    done = program("--storage-opt", "overlay2.size=1g", "create", "d", code=16)
    assert "project quotas" in done.err
    done = program("create", "d", "--read-write", "--storage-opt", "size=1g", code=16)
    assert "project quotas" in done.err
    done = program("create", "d", "--storage-opt", "size=1g", code=16)
    assert "read-write" in done.err
    assert program("--json", "inspect", "a").json["quota"] is None


@pytest.mark.crash
def test_a_kill_is_no_reason_to_skip_a_chown(home: Path) -> None:
    """Killed at each step of a create and a first get with maps, the next open has all or nothing."""
    from layerstore.testing import dying_at, points

    def work(store: Store) -> None:
        store.create("top", parent="base")
        store.get("top", holder="web")

    with Store.open(home, uid_maps=MAPS, gid_maps=GROUPS) as store:
        store.create("base")
        with points() as passed:
            work(store)
        store.put("top", holder="web")
        store.remove("top")
    for index in range(len(passed)):
        child = os.fork()
        if child == 0:
            try:
                store = Store.open(home, uid_maps=MAPS, gid_maps=GROUPS)
                with dying_at(index):
                    work(store)
            finally:
                os._exit(1)
        assert -signal.SIGKILL == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), passed[index]
        with Store.open(home, uid_maps=MAPS, gid_maps=GROUPS) as store:
            check_settled(store)
            if store.exists("top"):
                assert (100000, 200000, 0o755) == owner(home / "top" / "diff")
                if not store.holders("top"):
                    store.get("top", holder="web")
                assert (100000, 200000) == owner(home / "top" / "work" / "work")[:2]
                store.put("top", holder="web")
                store.remove("top")
