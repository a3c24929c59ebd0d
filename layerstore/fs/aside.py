"""Owns the performing of the steps that only repairs have; it must not decide about one.

`perform` calls it. Nothing here follows a symbolic link at the end of a path: whoever could write
into a store may have put one there.
"""

from __future__ import annotations

import contextlib
import os
import stat

from layerstore.errors import LayerstoreError
from layerstore.fs import steps as s
from layerstore.fs import syscalls

Step = s.SetAside | s.PutInPlace | s.RemoveFile | s.SetMode


def perform(home: str, step: Step) -> None:
    """Perform one step below a home; it may have been performed before."""
    match step:
        case s.SetAside():
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                _rename(home, step.source, step.target)
        case s.PutInPlace():
            _put(home, step)
        case s.RemoveFile():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{home}/{step.path}")
        case s.SetMode():
            _set_mode(f"{home}/{step.path}" if step.path else home, step)


def _rename(home: str, source: str, target: str) -> None:
    at, flags = syscalls.AT_FDCWD, syscalls.RENAME_NOREPLACE
    syscalls.renameat2(at, f"{home}/{source}", at, f"{home}/{target}", flags)


def _put(home: str, step: s.PutInPlace) -> None:
    try:
        _rename(home, step.source, step.target)
    except FileNotFoundError:
        return
    except FileExistsError:
        if not _alike(f"{home}/{step.source}", f"{home}/{step.target}"):
            raise LayerstoreError(
                f"{step.target} came to be while it was repaired, and is left as it is.",
                hint="'layerstore audit' says what it is.",
            ) from None
        os.unlink(f"{home}/{step.source}")


def _alike(one: str, other: str) -> bool:
    """Whether two small files have the same text."""
    texts = []
    for path in (one, other):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            texts.append(os.read(descriptor, 1 << 16) if regular else None)
        finally:
            os.close(descriptor)
    return texts[0] is not None and texts[0] == texts[1]


def _set_mode(path: str, step: s.SetMode) -> None:
    # chmod(2) of a path would follow a link; of a descriptor by its name in /proc it cannot.
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISLNK(os.fstat(descriptor).st_mode):
            return
        mine = f"/proc/self/fd/{descriptor}"
        if step.uid is not None:
            os.chown(mine, step.uid, -1)
        os.chmod(mine, step.mode)  # after the owner: chown(2) takes the bits of setuid away
    finally:
        os.close(descriptor)
