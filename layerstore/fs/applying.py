"""Owns unpacking an archive into a staging directory, and what is written down of it; it must not
decide when, nor publish it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import struct
from typing import Final

import attrs

from layerstore.fs import archive, durable, files, layout, syscalls, tree
from layerstore.fs.steps import Performed, Unpack

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GET_PROJECT: Final = 0x801C581F
_SET_PROJECT: Final = 0x401C5820
_FSXATTR: Final = struct.Struct("=IIIII8s")
"""linux/fs.h: flags, extent size, extents, project, copy-on-write extent size."""
_NO_PROJECTS: Final = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM})


@attrs.frozen
class Feed:
    """What a live apply unpacks, and how far."""

    stream: archive.Readable
    limits: archive.Limits | None = None


def unpack(home: str, step: Unpack, feed: Feed, performed: Performed) -> None:
    """Unpack into a new staging directory, and sync all of it with one call if the step says so.

    OSError and InvalidArchive as unpacking raises them; SyncFailed.
    """
    stage = f"{home}/{layout.staging(step.operation)}"
    with contextlib.ExitStack() as stack:
        # Opened before the first byte is written: errors of syncing before that are not reported.
        whole = _open(stack, home)
        os.mkdir(stage, layout.PRIVATE_MODE)
        os.mkdir(f"{stage}/{layout.DIFF}", layout.PRIVATE_MODE)
        old = _open(stack, f"{home}/{layout.diff(step.layer)}")
        new = _open(stack, f"{stage}/{layout.DIFF}")
        status = os.fstat(old)
        copy_project(old, new)
        os.fchown(new, status.st_uid, status.st_gid)
        os.fchmod(new, status.st_mode & 0o7777)
        found = archive.unpack(feed.stream, new, base=step.base, limits=feed.limits)
        performed.size, performed.diff_id = found.size, found.diff_id
        empty = files.is_empty(f"{stage}/{layout.DIFF}")
        text = json.dumps({"size": found.size, "diff_id": found.diff_id, "empty": empty})
        durable.write_file(layout.applied(stage), text, mode=0o600, synced=False)
        if step.sync:
            try:
                syscalls.syncfs(whole)
            except OSError as error:
                raise durable.SyncFailed(
                    error.errno, f"cannot be synced: {error.strerror}", home
                ) from error


def recall(home: str, step: Unpack, performed: Performed) -> None:
    """What was written down of an archive that is the layer's content by now. Where a power cut
    took that, its digest is not known.
    """
    found = files.read_applied(home, step.operation) or {}
    performed.diff_id = str(found.get("diff_id", ""))
    size = found.get("size")
    performed.size = (
        size if isinstance(size, int) else tree.tree_size(f"{home}/{layout.diff(step.layer)}").bytes
    )


def copy_project(source: int, target: int) -> None:
    """Give a directory the project of another one, and have what comes into it inherit that.

    Without it the kernel refuses to rename across projects.
    """
    try:
        data = fcntl.ioctl(source, _GET_PROJECT, bytes(_FSXATTR.size))
    except OSError as error:
        if error.errno in _NO_PROJECTS:
            return
        raise
    flags, _, _, project, _, _ = _FSXATTR.unpack(data)
    if project:
        mine = list(_FSXATTR.unpack(fcntl.ioctl(target, _GET_PROJECT, bytes(_FSXATTR.size))))
        mine[0], mine[3] = flags, project
        fcntl.ioctl(target, _SET_PROJECT, _FSXATTR.pack(*mine))


def _open(stack: contextlib.ExitStack, path: str) -> int:
    descriptor = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    stack.callback(os.close, descriptor)
    return descriptor
