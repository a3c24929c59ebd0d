"""Trees are removed and measured whatever their depth and names, and never through a mount."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from pathlib import Path

import pytest

from layerstore.fs import syscalls
from layerstore.fs.tree import Removed, Size, remove_tree, tree_size


@pytest.fixture
def parent(scratch):
    """A descriptor of the scratch directory."""
    fd = os.open(scratch, os.O_RDONLY)
    yield fd
    os.close(fd)


def make_deep(path, depth):
    """A chain of directories, far longer than a path may be, with a file in each."""
    os.mkdir(path)
    fd = os.open(path, os.O_RDONLY)
    for _ in range(depth - 1):
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def bind(source, target):
    """Show a directory or file at a second place."""
    syscalls.mount(source, target, "none", syscalls.MS_BIND, "")


def test_remove_counts(scratch, parent):
    """A removal counts every name, and the bytes of files that lost their last one."""
    os.makedirs(f"{scratch}/t/a/b")
    Path(f"{scratch}/t/file").write_bytes(b"x" * 10)
    os.link(f"{scratch}/t/file", f"{scratch}/t/a/hard")
    Path(f"{scratch}/kept").write_bytes(b"y" * 100)
    os.link(f"{scratch}/kept", f"{scratch}/t/shared")

    assert Removed(6, 10, (), 4) == remove_tree(parent, "t")
    assert ["kept"] == os.listdir(scratch)


def test_remove_what_is_missing(parent):
    """What is not there is removed already."""
    assert Removed(0, 0, ()) == remove_tree(parent, "missing")


def test_remove_follows_no_link(scratch, parent):
    """A link is removed and what it points to stays, at the top and below."""
    os.makedirs(f"{scratch}/target/x")
    os.mkdir(f"{scratch}/t")
    for link in ("link", "t/link"):
        os.symlink(f"{scratch}/target", f"{scratch}/{link}")

    assert (1, 2) == (remove_tree(parent, "link").entries, remove_tree(parent, "t").entries)
    assert ["x"] == os.listdir(f"{scratch}/target")


def test_remove_odd_names(scratch, parent):
    """Names are bytes: they may be no UTF-8, and have line ends, quotes and backslashes in them."""
    raw = os.fsencode(scratch)
    for name in (b"\xff\xfe", b"a\nb", b"'\"", b"back\\slash", b"-rf", b"x" * 255):
        os.makedirs(raw + b"/t/" + name + b"/" + name)

    assert Removed(13, 0, (), 13) == remove_tree(parent, "t")


def test_remove_many_names(scratch, parent):
    """Directories with more entries than one scan or one batch holds are emptied."""
    for number in range(3000):
        os.makedirs(f"{scratch}/t/d{number}")
        Path(f"{scratch}/t/f{number}").touch()

    assert Removed(6001, 0, (), 6001) == remove_tree(parent, "t")


def test_remove_deep(scratch, parent):
    """3,000 levels are measured and removed with few open descriptors."""
    make_deep(f"{scratch}/t", 3000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 24, hard))
    try:
        size = tree_size(f"{scratch}/t")
        removed = remove_tree(parent, "t")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert Size(0, 5999) == size
    assert Removed(5999, 0, (), 5999) == removed
    assert [] == os.listdir(scratch)


def test_remove_without_permissions(scratch, parent):
    """Directories without any permission, such as work/work, are removed."""
    os.makedirs(f"{scratch}/t/work/work")
    os.chmod(f"{scratch}/t/work/work", 0)

    assert Removed(3, 0, (), 3) == remove_tree(parent, "t")


def test_remove_stops_at_a_moved_directory(scratch, parent, monkeypatch):
    """A walk whose way back leads elsewhere stops instead of removing what it finds there."""
    make_deep(f"{scratch}/t", 40)
    os.mkdir(f"{scratch}/other")
    Path(f"{scratch}/other/precious").touch()
    real = syscalls.openat2

    def openat2(dir_fd, path, flags, **options):
        if path == "..":
            monkeypatch.setattr(syscalls, "openat2", real)
            return real(dir_fd, f"{scratch}/other", flags)
        return real(dir_fd, path, flags, **options)

    monkeypatch.setattr(syscalls, "openat2", openat2)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError) as caught:
        remove_tree(parent, "t")

    assert errno.ESTALE == caught.value.errno
    assert ["precious"] == os.listdir(f"{scratch}/other")
    assert before == os.listdir("/proc/self/fd")


@pytest.mark.root
def test_remove_detaches_what_is_mounted_below(scratch, parent):
    """Volumes mounted below the entry, directories, files and stacks of them, are detached, not emptied."""
    os.makedirs(f"{scratch}/volume/sub")
    Path(f"{scratch}/volume/data").write_text("precious")
    os.makedirs(f"{scratch}/t/merged/v")
    Path(f"{scratch}/t/file").touch()
    for _ in range(2):
        bind(f"{scratch}/volume", f"{scratch}/t/merged/v")
    bind(f"{scratch}/volume/data", f"{scratch}/t/file")

    assert Removed(4, 0, (), 4) == remove_tree(parent, "t")
    assert "precious" == Path(f"{scratch}/volume/data").read_text()
    assert ["volume"] == os.listdir(scratch)


@pytest.mark.root
def test_remove_does_not_detach_elsewhere(scratch, parent):
    """Mounts of a neighbour stay, and so does an entry that is itself a mount root."""
    for name in ("volume/x", "t", "tt/v"):
        os.makedirs(f"{scratch}/{name}")
    bind(f"{scratch}/volume", f"{scratch}/tt/v")
    bind(f"{scratch}/volume", f"{scratch}/t")

    assert Removed(0, 0, ("t",)) == remove_tree(parent, "t")
    assert ["x"] == os.listdir(f"{scratch}/t") == os.listdir(f"{scratch}/tt/v")


@pytest.mark.root
def test_remove_leaves_what_cannot_be_detached(scratch, parent, monkeypatch):
    """A mount that cannot be detached stays with the way to it; the rest goes; a second try finishes."""
    for name in ("volume/x", "t/a/v", "t/b/c"):
        os.makedirs(f"{scratch}/{name}")
    Path(f"{scratch}/t/a/file").touch()
    bind(f"{scratch}/volume", f"{scratch}/t/a/v")
    bind(f"{scratch}/t/a/file", f"{scratch}/t/a/file")

    def umount2(target, flags):
        raise PermissionError(errno.EPERM, "umount2", target)

    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "umount2", umount2)
        first = remove_tree(parent, "t")

    assert (2, {"t/a/v", "t/a/file"}) == (first.entries, set(first.left))
    assert ["x"] == os.listdir(f"{scratch}/volume")
    assert Removed(4, 0, (), 4) == remove_tree(parent, "t")
    assert ["x"] == os.listdir(f"{scratch}/volume")


@pytest.mark.root
def test_remove_leaves_immutable_files(ext4):
    """A file that even root may not unlink stays and is listed."""
    os.makedirs(f"{ext4}/t/a")
    Path(f"{ext4}/t/a/file").touch()
    Path(f"{ext4}/t/other").touch()
    subprocess.run(["chattr", "+i", f"{ext4}/t/a/file"], check=True)
    fd = os.open(ext4, os.O_RDONLY)
    try:
        assert Removed(1, 0, ("t/a/file",), 1) == remove_tree(fd, "t")
        subprocess.run(["chattr", "-i", f"{ext4}/t/a/file"], check=True)
        assert Removed(3, 0, (), 3) == remove_tree(fd, "t")
    finally:
        os.close(fd)


def test_size(scratch):
    """Sizes are apparent, hard links count once, directories are inodes without bytes, links are not followed."""
    os.makedirs(f"{scratch}/t/a")
    Path(f"{scratch}/t/file").write_bytes(b"x" * 10)
    os.link(f"{scratch}/t/file", f"{scratch}/t/a/hard")
    with open(f"{scratch}/t/sparse", "xb") as file:
        file.truncate(1000)
    os.symlink("/", f"{scratch}/t/root")

    assert Size(10 + 1000 + 1, 5) == tree_size(f"{scratch}/t")


@pytest.mark.root
def test_size_skips_mounts(scratch):
    """What is mounted below, on a directory or on a file, is not counted."""
    for name in ("volume", "t/v"):
        os.makedirs(f"{scratch}/{name}")
    Path(f"{scratch}/volume/data").write_bytes(b"x" * 10)
    Path(f"{scratch}/t/file").touch()
    before = tree_size(f"{scratch}/t")
    bind(f"{scratch}/volume", f"{scratch}/t/v")
    bind(f"{scratch}/volume/data", f"{scratch}/t/file")

    assert Size(0, 3) == before
    assert Size(0, 1) == tree_size(f"{scratch}/t")


def test_size_of_what_is_missing(scratch):
    """A missing tree has no size."""
    with pytest.raises(FileNotFoundError):
        tree_size(f"{scratch}/missing")
