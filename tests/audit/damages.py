"""The table of damages, which users of the library have, too."""

from __future__ import annotations

from layerstore.testing.damages import ALL, COMBINED, FILES, LAYERS, LINKS, MOUNTS, PODMANS, RECORDS
from layerstore.testing.damaging import (
    CHAIN,
    DOCKER,
    LINK,
    PODMAN,
    STORE,
    TREE,
    Damage,
    dying,
    edit,
    hand_made,
    held,
    link_of,
    make,
    moved_while_mounted,
    overlay,
    records_of,
    relink,
    short,
    unmounted,
)

__all__ = [
    "ALL", "CHAIN", "COMBINED", "DOCKER", "Damage", "FILES", "LAYERS", "LINK", "LINKS", "MOUNTS", "PODMAN",
    "PODMANS", "RECORDS", "STORE", "TREE", "dying", "edit", "hand_made", "held", "link_of", "make",
    "moved_while_mounted", "overlay", "records_of", "relink", "short", "unmounted",
]  # fmt: skip
