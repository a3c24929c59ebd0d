"""Owns the preloaded library: building it, getting a process under it, and its controls."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("faultshim.c")
MODES = {
    "count": 0,
    "before": 1,
    "after": 2,
    "torn": 3,
    "eio": 4,
    "enospc": 5,
    "cut": 6,
    "error": 7,
}
SYNCS = ("fsync", "fdatasync", "syncfs")
"""The calls whose failure leaves nobody knowing what is on the disk."""
TORN = ("write", "pwrite", "pwrite64")
"""The calls that can be cut in half."""
TAKING = (
    *("mkdir", "mkdirat", "symlink", "creat", "creat64", "open", "open64", "openat", "openat64"),
    *("write", "pwrite", "pwrite64", "posix_fallocate", "posix_fallocate64"),
)
"""The calls that take room on the disk."""

_libc = ctypes.CDLL(None)
LOADED = hasattr(_libc, "fault_arm")
if LOADED:
    _libc.fault_name.restype = ctypes.c_char_p
    _libc.fault_seen.restype = ctypes.c_long


def compiler() -> str | None:
    """The C compiler, where there is one."""
    return shutil.which("gcc") or shutil.which("cc")


def build(directory: Path) -> Path:
    """Compile the library into a directory; the path of it."""
    target = directory / "faultshim.so"
    gcc = compiler()
    assert gcc is not None
    flags = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run([gcc, *flags, "-o", target, SOURCE, "-ldl"], check=True)
    return target


def preload(library: Path) -> None:
    """Run this very command again, with the library preloaded. Does not return."""
    os.environ["LD_PRELOAD"] = os.fspath(library)
    os.execv(sys.executable, [sys.executable, "-m", *_module(), *sys.argv[1:]])


def _module() -> list[str]:
    spec = sys.modules["__main__"].__spec__
    assert spec is not None
    return [spec.name]


def arm(number: int, mode: str) -> None:
    """Count from here, and die at the call with this number."""
    assert LOADED, "the library is not preloaded"
    _libc.fault_arm(ctypes.c_long(number), MODES[mode])


def fail_with(number: int, *, on: bool, of_opens: bool = False) -> None:
    """What `error` fails with, once or from then `on`; `of_opens`: only what gives a descriptor."""
    _libc.fault_error(number, int(on), int(of_opens))


def disarm() -> list[str]:
    """Stop counting; the names of the calls that were counted."""
    if not LOADED:
        return []
    _libc.fault_disarm()
    return [_libc.fault_name(ctypes.c_long(i)).decode() for i in range(_libc.fault_seen())]


def ignore(descriptor: int) -> None:
    """Do not count writes to this descriptor."""
    if LOADED:
        _libc.fault_ignore(descriptor)


def on_disk(descriptor: int) -> None:
    """Which file system goes down where a process dies of a cut."""
    _libc.fault_disk(descriptor)
