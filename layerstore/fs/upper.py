"""Owns asking the kernel whether an upper directory is in use; it must not decide what follows."""

from __future__ import annotations

import errno
import os
import time

import attrs

from layerstore.fs import durable, files, namespaces
from layerstore.fs.mount import (
    OverlayOptions,
    Unmounted,
    Unusable,
    configured,
    mount_overlay,
    unmount,
)
from layerstore.fs.tree import remove

_ASKING = (("index", "on"),)
_QUICK = (*_ASKING, ("ro", ""))
"""Without `ro` the kernel syncs the whole file system when the probe's superblock ends. With it, it
still makes an index, and refuses what is in use; and it leaves less behind than with `volatile`."""
_NO_UUID = (("uuid", "off"),)
"""Or the kernel would write one into the upper; Linux 5.12 has the option, 6.6 is the first to write."""


_MADE = 4
"""Files and directories that a mount makes for itself; it goes on without them on a full disk."""


def upper_is_free(
    diff: str, scratch: str, *, wait: float = 0.05, may_have_been_used: bool = True
) -> bool:
    """Whether no overlay in any mount namespace, visible or lazily detached, has ``diff`` as its
    upper directory.

    The kernel is asked with a mount that has ``diff`` as its only *lower* directory and
    ``index=on``: EBUSY while ``diff`` is in use. (With ``diff`` as its upper it would write an
    attribute into it, and answer ESTALE for ever in a home that was copied.) ``scratch`` is an
    empty directory on the same file system, emptied again. A superblock dies some time after its
    last user, so EBUSY is believed only after ``wait`` seconds. EOPNOTSUPP: this file system cannot
    answer, because its files have no handles.

    In a user namespace the kernel trusts no file handles: it turns the index off, and with it every
    answer about a lower. But it looks at the upper before, so there ``diff`` is asked about as the
    upper; without an index nothing is written into it, and a copy is not told from the original.
    """
    probe = _probe_as_upper if namespaces.in_user_namespace() else _probe
    deadline = time.monotonic() + wait
    pause = 0.001
    if may_have_been_used:
        _clear(scratch)
    try:
        while True:
            try:
                probe(diff, scratch)
                return True
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 2, 0.01)
            _clear(scratch)
    finally:
        _clear(scratch)


def _probe(diff: str, scratch: str) -> None:
    upper, work, merged = (f"{scratch}/{name}" for name in ("upper", "work", "merged"))
    os.mkdir(upper, 0o700)
    os.mkdir(work, 0o700)
    options = OverlayOptions((diff,), upper, work, extra=_ASKING)
    base = os.path.commonpath((diff, scratch))
    try:
        # Created and dropped without being attached: nobody can see it, a kill leaves nothing
        # mounted.
        configured(diff, attrs.evolve(options, extra=_QUICK), base, lambda _: None)
    except Unusable:
        os.mkdir(merged, 0o700)
        mount_overlay(merged, options, home=base, styles=("absolute", "relative"))
        unmount(merged)
    # Where files have no handles the kernel turns the index off, with a line in its log, and would
    # say yes to all.
    if not files.is_directory(f"{work}/index"):
        if not durable.has_room(f"{work}/room", files=_MADE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), work)
        raise OSError(errno.EOPNOTSUPP, "this file system cannot tell whether it is mounted", diff)


def _probe_as_upper(diff: str, scratch: str) -> None:
    lower, work, merged = (f"{scratch}/{name}" for name in ("upper", "work", "merged"))
    os.mkdir(lower, 0o700)
    os.mkdir(work, 0o700)
    options = OverlayOptions((lower,), diff, work, userxattr=True, extra=(*_ASKING, *_NO_UUID))
    base = os.path.commonpath((diff, scratch))
    try:
        quick = attrs.evolve(options, extra=(*_QUICK, *_NO_UUID))
        configured(diff, quick, base, lambda _: None)
    except Unusable:
        os.mkdir(merged, 0o700)
        mount_overlay(merged, options, home=base, styles=("absolute", "relative"))
        unmount(merged)
    if os.path.isdir(f"{work}/index"):
        # Then a copy of this home could be refused for ever; no kernel is known that does this.
        raise OSError(errno.EOPNOTSUPP, "this kernel keeps an index in a user namespace", diff)


def _clear(scratch: str) -> None:
    """Remove what a probe makes, also what one that was killed has left."""
    if _is_cleared_at_once(scratch):
        return
    while unmount(f"{scratch}/merged") is not Unmounted.NOT_MOUNTED:
        pass
    for name in ("upper", "work", "merged"):
        remove(f"{scratch}/{name}")


def _is_cleared_at_once(scratch: str) -> bool:
    """Remove what a probe usually leaves, four empty directories. False: there is more, or less."""
    if os.path.lexists(f"{scratch}/merged"):
        return False
    try:
        for name in ("work/index", "work/work", "work", "upper"):
            os.rmdir(f"{scratch}/{name}")
    except OSError:
        return False
    return True
