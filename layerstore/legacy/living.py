"""Owns finding the program that a tree belongs to, if it runs; it must not lock anything.

dockerd keeps its databases open, and locked, as long as it lives. containers/storage has no daemon:
its programs have a file locked while they change something, and nothing in between.
"""

from __future__ import annotations

from typing import Final

from layerstore.fs import inuse
from layerstore.legacy.detecting import CONTAINERS_STORAGE, Found

_DATABASES: Final = (
    "volumes/metadata.db",
    "network/files/local-kv.db",
    "buildkit/snapshots.db",
    "buildkit/cache.db",
    "buildkit/metadata_v2.db",
    "buildkit/metadata.db",
    "buildkit/containerdmeta.db",
)


def daemon(found: Found) -> str:
    """Who has the tree's records open, in words; empty if nobody is to be seen."""
    if found.kind == CONTAINERS_STORAGE:
        names = [
            f"{found.driver}-{what}/{what}.lock" for what in ("layers", "images", "containers")
        ]
        names.append("storage.lock")
    else:
        names = list(_DATABASES)
    users = inuse.having_open(f"{found.root}/{name}" for name in names)
    return str(users[0]) if users else ""
