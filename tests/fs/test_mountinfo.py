"""What is mounted is read exactly, and who uses it is told in words."""

from __future__ import annotations

import os

import attrs
import pytest

from layerstore.fs import syscalls
from layerstore.fs.mount import STYLES, mount_overlay, unmount
from layerstore.fs.mountinfo import (
    MountEntry,
    is_mount_root,
    mount_id,
    mount_namespace,
    mounts_below,
    parse_mountinfo,
    who_uses,
)

LINE = (
    rb"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:7 - overlay over\134lay"
    rb" rw,lowerdir=l/A:l/B,upperdir=/a\054b" + b"\n"
)


def test_parse():
    """A line becomes an entry, its optional fields of any number and octal escapes decoded."""
    expected = MountEntry(
        mount_id=36,
        parent_id=35,
        device="98:0",
        root="/mnt1",
        mount_point="/mnt 2",
        options=("rw", "noatime"),
        fs_type="overlay",
        source="over\\lay",
        super_options=("rw", "lowerdir=l/A:l/B", "upperdir=/a,b"),
        tags=("master:1", "shared:7"),
    )

    assert [expected] == parse_mountinfo(LINE)
    without = attrs.evolve(expected, tags=())
    assert [without] == parse_mountinfo(LINE.replace(b" master:1 shared:7", b""))


def test_parse_passes_over_what_is_none():
    """A line that was cut short is passed over."""
    assert [] == parse_mountinfo(b"\n36 35 98:0 / /mnt\n" + LINE[:60])


@pytest.mark.root
def test_mount_root(layer_home):
    """A mount point is a mount root while it is mounted, with an id that never comes back."""
    before = is_mount_root(layer_home.merged)
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    during, first = is_mount_root(layer_home.merged), mount_id(layer_home.merged)
    unmount(layer_home.merged)
    after = is_mount_root(layer_home.merged)
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)

    assert (False, True, False) == (before, during, after)
    assert first != mount_id(layer_home.merged)
    assert not is_mount_root(f"{layer_home.path}/missing")


@pytest.mark.root
def test_mount_root_before_5_8(layer_home, monkeypatch):
    """A kernel whose statx does not tell is asked through mountinfo."""
    real = syscalls.statx
    monkeypatch.setattr(
        syscalls,
        "statx",
        lambda path: real(path)._replace(mount_root=False, tells_root=False),
    )
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)

    assert (True, False) == (is_mount_root(layer_home.merged), is_mount_root(layer_home.upper))


@pytest.mark.root
def test_mounts_below_knows_paths(scratch):
    """Mounts below a directory are those below it, not those of a neighbour whose name starts alike."""
    for name in ("b", "b/x y", "bc"):
        os.mkdir(f"{scratch}/{name}")
    for name in ("b/x y", "bc"):
        syscalls.mount("none", f"{scratch}/{name}", "tmpfs", 0, "")

    assert [f"{scratch}/b/x y"] == [entry.mount_point for entry in mounts_below(f"{scratch}/b")]
    assert [] == mounts_below(f"{scratch}/bc")
    assert mounts_below("/")


@pytest.mark.root
@pytest.mark.parametrize("style", STYLES)
def test_who_uses_a_leaked_mount(scratch, make_home, elsewhere, style):
    """A process in another namespace that keeps a mount is found, whether paths are relative or not."""
    home = make_home(f"{scratch}/a,b \\c")
    mount_overlay(home.merged, home.options(), home=home.path, styles=(style,))
    pid = elsewhere()
    unmount(home.merged)

    users = who_uses(home.upper, home.merged)
    assert [(pid, home.merged)] == [(user.pid, user.mount_point) for user in users]
    assert "mounted at" in users[0].how
    assert mount_namespace() != users[0].namespace


@pytest.mark.root
def test_who_uses_tells_homes_apart(scratch, make_home):
    """A layer of the same name that another home has mounted is not taken for this one."""
    home, other = make_home(f"{scratch}/home"), make_home(f"{scratch}/other")
    mount_overlay(other.merged, other.options(), home=other.path, styles=("relative",))

    assert [] == who_uses(home.upper, home.merged)
    assert who_uses(other.upper, other.merged)


@pytest.mark.root
def test_who_uses_an_open_file(layer_home, monkeypatch):
    """A process that has a file open, or its current directory, in the mount is found."""
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    fd = os.open(f"{layer_home.merged}/common", os.O_RDONLY)
    monkeypatch.chdir(layer_home.merged)
    try:
        users = who_uses(layer_home.upper, layer_home.merged)
    finally:
        os.close(fd)
    ours = {user.how for user in users if user.pid == os.getpid()}

    assert f"has a file open at {layer_home.merged}/common" in ours
    assert f"has its current directory at {layer_home.merged}" in ours


@pytest.mark.root
@pytest.mark.parametrize("name", ["", "/new"])
def test_who_uses_a_detached_mount(layer_home, name):
    """A process with the root or a new file of a detached mount open is found; nobody is, once it closed."""
    mount_overlay(layer_home.merged, layer_home.options(), home=layer_home.path)
    os.mkdir(f"{layer_home.merged}/new")
    fd = os.open(f"{layer_home.merged}{name}", os.O_RDONLY)
    try:
        unmount(layer_home.merged, wait=0)
        users = who_uses(layer_home.upper, layer_home.merged)
    finally:
        os.close(fd)

    assert [os.getpid()] == [user.pid for user in users]
    assert "detached" in users[0].how
    assert [] == who_uses(layer_home.upper, layer_home.merged)
