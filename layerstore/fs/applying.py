"""Owns unpacking an archive into a staging directory, and what is written down of it; it must not
decide when, nor publish it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from typing import Final

import attrs

from layerstore.errors import WrongDiffId
from layerstore.fs import archive, durable, files, layout, quota, syscalls, tree, whiteout
from layerstore.fs.steps import Performed, Unpack

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@attrs.frozen
class Feed:
    """What a live apply unpacks, how far, what it has to be, and who is told how many files there are."""

    stream: archive.Readable
    limits: archive.Limits | None = None
    map_ids: archive.MapIds | None = None
    diff_id: str | None = None
    progress: Callable[[int], None] | None = None


def unpack(home: str, step: Unpack, feed: Feed, performed: Performed) -> None:
    """Unpack into a new staging directory, and sync all of it with one call if the step says so.

    OSError and InvalidArchive as unpacking raises them; WrongDiffId; SyncFailed.
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
        project = quota.project_of(f"{home}/{layout.diff(step.layer)}")
        if project is not None and project.id:  # the kernel does not rename across projects
            quota.set_project(f"{stage}/{layout.DIFF}", project.id)
        os.fchown(new, status.st_uid, status.st_gid)
        os.fchmod(new, status.st_mode & 0o7777)
        found = archive.unpack(
            feed.stream,
            new,
            base=step.base,
            map_ids=feed.map_ids,
            limits=feed.limits,
            prefix=whiteout.namespace(files.uses_user_xattrs(home)),
            progress=feed.progress,
        )
        if feed.diff_id not in (None, found.diff_id):
            raise WrongDiffId(found.diff_id, str(feed.diff_id))
        performed.size, performed.inodes = found.size, found.inodes
        performed.diff_id = found.diff_id
        empty = files.is_empty(f"{stage}/{layout.DIFF}")
        text = json.dumps(
            {
                "size": found.size,
                "inodes": found.inodes,
                "diff_id": found.diff_id,
                "empty": empty,
            }
        )
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
    size, inodes = found.get("size"), found.get("inodes")
    if not isinstance(size, int) or not isinstance(inodes, int):
        measured = tree.tree_size(f"{home}/{layout.diff(step.layer)}")
        size, inodes = measured.bytes, measured.inodes
    performed.size, performed.inodes = size, inodes


def _open(stack: contextlib.ExitStack, path: str) -> int:
    descriptor = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    stack.callback(os.close, descriptor)
    return descriptor
