"""Owns the look at a whole chain, as if it were mounted: an overlay that no directory shows, gone with
its descriptor; it must not write, nor decide what is looked at.

Such a mount is never attached, so that it is in no mount table, needs no unmounting, and ends with
the process at the latest: there is nothing for a journal to remember. It has no upper, and so keeps no
layer in use.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from layerstore.errors import LayerstoreError
from layerstore.fs import mount, syscalls
from layerstore.fs.namespaces import may_mount


@contextmanager
def view(dirs: Sequence[str], *, home: str, userxattr: bool) -> Iterator[str]:
    """A path to the merged content of `diff` directories, nearest first, for this process alone.

    A single one is seen as it is: the kernel wants two, and has nothing to merge. Raises
    LayerstoreError where the kernel or the user cannot mount so, OSError as mounting does.
    """
    if len(dirs) == 1:
        yield dirs[0]
        return
    if not may_mount():
        raise LayerstoreError(
            "Layers of different chains are compared mounted, and this process may not mount.",
            hint="Ask as root, or behind 'layerstore unshare'.",
        )
    options = mount.OverlayOptions(tuple(dirs), None, None, userxattr=userxattr)
    held: list[int] = []

    def hold(context: int) -> None:
        held.append(syscalls.fsmount(context, syscalls.FSMOUNT_CLOEXEC, syscalls.MOUNT_ATTR_RDONLY))

    try:
        mount.configured(dirs[0], options, home, hold)
        yield f"/proc/self/fd/{held[0]}"
    except mount.Unusable as reason:
        raise _unable(reason) from reason
    finally:
        for descriptor in held:
            os.close(descriptor)


def _unable(reason: mount.Unusable) -> LayerstoreError:
    hint = "It takes Linux 6.7." if reason.code == errno.ENOSYS else "Use a shorter home."
    return LayerstoreError(f"The layers cannot be compared mounted: {reason}.", hint=hint)
