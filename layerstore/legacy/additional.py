"""Owns telling whether layers of a graph root stand on some in an additional image store; it must not read
what lies there.

The store that `additionalimagestores` of storage.conf names is another graph root. A layer here has its
parent on record then, and in `lower` a link that only the other's `l/` has: nothing in this tree says
where that is. A store that was named on a command line is therefore not to be told from a loss.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

import attrs

from layerstore.errors import Refused
from layerstore.legacy import quietly
from layerstore.legacy.manifest import Manifest

CONFIGS: Final = ("/etc/containers/storage.conf", "/usr/share/containers/storage.conf")
"""The first that there is counts, as for podman (containers-storage.conf(5))."""


def checked(manifest: Manifest, configs: tuple[str, ...] = CONFIGS) -> Manifest:
    """The manifest, with a remark where parents of layers are nowhere in the tree.

    Raises Refused where they lie in an additional image store.
    """
    known = manifest.by_layer()
    missing = {
        record.parent: record.layer
        for record in manifest.records
        if record.parent and record.parent not in known and not _has(manifest.home, record.parent)
    }
    if not missing:
        return manifest
    for store in _stores(configs):
        for parent, layer in missing.items():
            if _has(f"{store}/{manifest.driver}", parent):
                raise Refused(
                    f"{manifest.home} cannot be taken over: {layer} stands on {parent}, "
                    f"which lies in the additional image store {store}.",
                    hint="A store has all its layers in one directory. 'podman save' and 'podman load' "
                    "without additional stores bring an image into one.",
                )
    said = (
        f"{len(missing)} parents of layers are not in this tree, as {next(iter(missing))}: they are lost, "
        "or in an additional image store that storage.conf does not name"
    )
    return attrs.evolve(manifest, remarks=(*manifest.remarks, said))


def _has(home: str, layer: str) -> bool:
    return os.path.basename(layer) == layer and os.path.lexists(f"{home}/{layer}")


def _stores(configs: tuple[str, ...]) -> Iterator[str]:
    """The additional image stores of the first file of settings that there is."""
    import tomllib

    path = next((path for path in configs if os.path.lexists(path)), None)
    if path is None:
        return
    try:
        settings: Any = tomllib.loads(quietly.content(path, 1 << 20).decode())
    except (quietly.Unreadable, OSError, ValueError):
        return  # podman itself refuses to work with it
    options = quietly.mapping(quietly.mapping(settings.get("storage")).get("options"))
    for place in (options, quietly.mapping(options.get("overlay"))):
        for store in quietly.texts(place, "additionalimagestores"):
            yield os.path.realpath(store)
