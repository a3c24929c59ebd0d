"""The wrappers keep the kernel's names and errors."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from layerstore.fs import syscalls


def test_error_names_call_and_path(scratch):
    """A failed call is an OSError with errno, the name of the call and the path."""
    with pytest.raises(FileNotFoundError) as caught:
        syscalls.statx(f"{scratch}/missing")

    assert (errno.ENOENT, f"{scratch}/missing") == (caught.value.errno, caught.value.filename)
    assert "statx: " in str(caught.value)


def test_rename_noreplace(scratch):
    """RENAME_NOREPLACE refuses a taken name and reports both paths."""
    for name in ("a", "b"):
        os.mkdir(f"{scratch}/{name}")
    with pytest.raises(FileExistsError) as caught:
        syscalls.renameat2(
            syscalls.AT_FDCWD,
            f"{scratch}/a",
            syscalls.AT_FDCWD,
            f"{scratch}/b",
            syscalls.RENAME_NOREPLACE,
        )

    assert (f"{scratch}/a", f"{scratch}/b") == (caught.value.filename, caught.value.filename2)


def test_missing_symbol_is_enosys(monkeypatch):
    """A symbol that the libc lacks is reported as a call that the kernel lacks."""
    monkeypatch.setattr(syscalls, "_libc", object())
    with pytest.raises(OSError) as caught:
        syscalls.syncfs(0)

    assert errno.ENOSYS == caught.value.errno


def test_nul_is_refused(scratch):
    """A NUL in a path is refused instead of cutting the path short."""
    with pytest.raises(ValueError, match="NUL"):
        syscalls.umount2(f"{scratch}\0x", 0)


def test_statx_agrees_with_stat(scratch):
    """statx gives device, inode and mode as stat does, by path, by descriptor and below a descriptor."""
    status = os.stat(scratch)
    fd = os.open(os.path.dirname(scratch), os.O_RDONLY)
    own = os.open(scratch, os.O_RDONLY)
    try:
        answers = [
            syscalls.statx(scratch),
            syscalls.statx(own),
            syscalls.statx(os.path.basename(scratch), dir_fd=fd),
        ]
    finally:
        os.close(fd)
        os.close(own)

    for answer in answers:
        assert (status.st_dev, status.st_ino, status.st_mode) == (
            answer.dev,
            answer.ino,
            answer.mode,
        )
        assert not answer.mount_root


def test_statx_does_not_follow(scratch):
    """statx of a symbolic link is about the link."""
    os.symlink("/", f"{scratch}/link")

    assert os.lstat(f"{scratch}/link").st_ino == syscalls.statx(f"{scratch}/link").ino


def test_openat2_refuses_to_leave(scratch):
    """RESOLVE_BENEATH refuses `..`, and RESOLVE_NO_SYMLINKS a link."""
    os.symlink(scratch, f"{scratch}/link")
    fd = os.open(scratch, os.O_RDONLY)
    try:
        with pytest.raises(OSError) as beneath:
            syscalls.openat2(fd, "..", os.O_RDONLY, resolve=syscalls.RESOLVE_BENEATH)
        with pytest.raises(OSError) as link:
            syscalls.openat2(fd, "link", os.O_RDONLY, resolve=syscalls.RESOLVE_NO_SYMLINKS)
    finally:
        os.close(fd)

    assert (errno.EXDEV, errno.ELOOP) == (beneath.value.errno, link.value.errno)


def test_openat2_closes_on_exec(scratch):
    """A descriptor from openat2 is not inherited."""
    fd = syscalls.openat2(syscalls.AT_FDCWD, scratch, os.O_RDONLY)
    try:
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_getdents64_gives_names_and_types(scratch):
    """getdents64 gives each entry with its type, names that are not UTF-8 too, and then an empty list."""
    os.mkdir(f"{scratch}/directory")
    os.mkdir(os.fsencode(scratch) + b"/\xff")
    fd = os.open(scratch, os.O_RDONLY)
    try:
        entries = syscalls.getdents64(fd)
        end = syscalls.getdents64(fd)
    finally:
        os.close(fd)

    assert {(name, 4) for name in (".", "..", "directory", "\udcff")} == set(entries)
    assert [] == end


@pytest.mark.root
def test_statmount_and_listmount(scratch):
    """listmount finds a new mount by its unique id, and statmount tells its type and its place."""
    syscalls.mount("none", scratch, "tmpfs", 0, "")
    status = syscalls.statx(scratch)
    ids, last = [], 0
    while page := syscalls.listmount(after=last, limit=2):
        ids += page
        last = page[-1]

    assert (True, True) == (status.mount_root, status.unique)
    assert status.mnt_id in ids
    answer = syscalls.statmount(status.mnt_id)
    assert ("tmpfs", scratch, syscalls.statfs(scratch)) == (
        answer.fs_type,
        answer.mount_point,
        answer.magic,
    )


GLIBC = [
    "mount",
    "umount2",
    "fsopen",
    "fsconfig",
    "fsmount",
    "move_mount",
    "renameat2",
    "syncfs",
    "statx",
    "unshare",
]


@pytest.mark.parametrize("name", GLIBC)
def test_calls_can_be_interposed(name):
    """What glibc exports is called through its symbol, where a preloaded library can stand in."""
    program = f"""
        from layerstore.fs import syscalls
        called = []
        class Libc:
            def __getattr__(self, name):
                return lambda *arguments: called.append(name) or 0
        syscalls._libc = Libc()
        arguments = {{
            "mount": ("a", "b", "c", 0, ""), "umount2": ("a", 0), "fsopen": ("a", 0),
            "fsconfig": (3, 0, "a", None, 0), "fsmount": (3, 0, 0),
            "move_mount": (3, "", 4, "a", 0), "renameat2": (3, "a", 4, "b", 0),
            "syncfs": (3,), "statx": ("a",), "unshare": (0,),
        }}
        getattr(syscalls, "{name}")(*arguments["{name}"])
        print(*called)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)

    assert name == result.stdout.strip()
