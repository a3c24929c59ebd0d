"""Owns where the benchmarks run: a file system of their own, out of sight; it must not measure.

Not on the machine's own /tmp: what that costs says more about the machine than about the store. An
ext4 image on a loop device, in a mount namespace of this process, which the kernel takes down with
it. Where there are no loop devices, a tmpfs, on which syncs cost nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from layerstore.fs import syscalls

_GIB = 1 << 30


@attrs.frozen
class Place:
    """A directory on a file system of its own."""

    path: str
    file_system: str
    big: str = ""
    """Another one, with room for 2 x 100,000 layers, if that was asked for."""


@contextlib.contextmanager
def place(*, big: bool, cache: Path | None = None) -> Iterator[Place]:
    """Make a place, and take it down again. Needs root.

    `big`: one with room for 100,000 layers, too; its image is kept in `cache`, where it is found the
    next time.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
    top = tempfile.mkdtemp(prefix="lsbench-")
    path, wide = f"{top}/fs", f"{top}/big"
    os.mkdir(path)
    os.mkdir(wide)
    try:
        kind = _mount(f"{top}/image", path)
        if big:
            where = top if cache is None else os.fspath(cache.absolute())
            os.makedirs(where, exist_ok=True)
            _mount(f"{where}/{BIG_IMAGE}", wide, big=True)
        yield Place(path, kind, wide if big else "")
    finally:
        for mounted in (wide, path):
            with contextlib.suppress(OSError):
                syscalls.umount2(mounted, syscalls.MNT_DETACH)
        shutil.rmtree(top, ignore_errors=True)


BIG_IMAGE = "layerstore-bench-big.ext4"


def _mount(image: str, path: str, *, big: bool = False) -> str:
    try:
        if not os.path.exists(image):
            _make(image, big=big)
        _run("mount", "-o", "loop,noatime", image, path)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        print(f"note: no ext4 on a loop device ({reason.strip()}); using a tmpfs, where syncs")
        print("note: cost nothing: `full` rows say less than they do elsewhere")
        syscalls.mount("tmpfs", path, "tmpfs", 0, "size=80%,mode=0755")
        return "tmpfs"
    return "ext4 on loop"


def _make(image: str, *, big: bool) -> None:
    """An image with a file system in it, which gets its name when it is whole."""
    with open(f"{image}.new", "wb") as file:
        file.truncate((12 if big else 3) * _GIB)
    # The tables are written now: a kernel thread would write them during the first rows.
    options = "lazy_itable_init=0,lazy_journal_init=0"
    inodes = ["-N", "2000000"] if big else []
    _run("mkfs.ext4", "-q", "-F", "-E", options, *inodes, f"{image}.new")
    os.rename(f"{image}.new", image)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)
