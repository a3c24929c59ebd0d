"""Owns reading what other programs wrote about their layers, into a frozen manifest; it must not write.

`detecting.detect` says what lies at a path, `read` makes a manifest of it. Neither judges: what may
be removed, and what is damaged, others say. Nothing is locked, no time of access is changed where
the kernel lets us, and what changes meanwhile is a trouble in the manifest and no error.
"""

from __future__ import annotations

import os

from layerstore.legacy.detecting import Found
from layerstore.legacy.manifest import Manifest


def read(found: Found, *, run_root: str | None = None) -> Manifest:
    """The manifest of a tree of Docker's or containers/storage's.

    `run_root`: where containers/storage keeps what a reboot forgets. Refused for every other kind,
    and where layers stand on some of an additional image store.
    """
    from layerstore.legacy import additional, containers_storage, detecting, docker

    detecting.require_readable(found)
    if found.kind == detecting.DOCKER:
        return docker.read(found.root, found.driver, home=found.home)
    manifest = containers_storage.read(found.root, driver=found.driver, run_root=run_root)
    return additional.checked(manifest)


def read_beside(home: str) -> Manifest | None:
    """The manifest of a directory of layers, by the records that lie beside it; None: there are none.

    Also of what cannot be taken over. What is mounted by containers/storage's own count is not asked.
    """
    from layerstore.legacy import containers_storage, docker

    root, driver = os.path.split(home)
    if os.path.isdir(f"{root}/{driver}-layers"):
        return containers_storage.read(root, driver=driver)
    if os.path.isdir(f"{root}/image"):
        return docker.read(root, driver, home=home)
    return None
