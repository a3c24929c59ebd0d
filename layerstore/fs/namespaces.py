"""Owns what a process may do in which user namespace it is in; it must not make one.

Apart from `fs.unshare`, because every open and every mount asks this, and start-up counts.
"""

from __future__ import annotations

import os
from typing import Final

_INITIAL_NAMESPACE: Final = 0xEFFFFFFD
"""PROC_USER_INIT_INO: the number of the first user namespace, the same on every Linux since 3.8."""
_CAP_SYS_ADMIN: Final = 21


def in_user_namespace() -> bool:
    """Whether this process is in another user namespace than the first one of the machine."""
    try:
        return os.stat("/proc/self/ns/user").st_ino != _INITIAL_NAMESPACE
    except OSError:
        return False  # a kernel without user namespaces, or a place without /proc


def may_mount() -> bool:
    """Whether this process may mount in its user namespace; True where that cannot be read."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            found = [line for line in file if line.startswith("CapEff:")]
    except OSError:
        return True
    return not found or bool(int(found[0].split()[1], 16) >> _CAP_SYS_ADMIN & 1)
