"""Owns the names on disk; it must not touch the disk.

    <home>/
    ├── l/<LINK> -> ../<id>/diff          LINK = 26 characters of A-Z2-7; the directory is 0700
    ├── <id>/
    │   ├── diff/                         the layer's own files (upper)
    │   ├── link                          LINK, no newline
    │   ├── lower                         l/<LINK>:l/<LINK>…, nearest first; absent without a parent
    │   ├── committed                     empty; the layer has children
    │   ├── work/                         only with a parent
    │   └── merged/                       only while mounted
    └── .layerstore/
        ├── store.json                    store id, format, epoch, settings, high-water mark of seq
        ├── adopted.json                 only where the layers are another program's: nothing writes
        ├── place.json                   which directory this was, to know a copy by
        ├── store.lock                    held shared by every owner, exclusively by rebuild and migration
        ├── journal.db (+ -wal, -shm)     0600
        ├── archive/<first>-<last>.db     events that were moved out of it; never changed
        ├── compact.lock                  locked while somebody moves them
        ├── userxattr                     only in a store that was made in a user namespace
        ├── staging/<operation>/          what a create or apply is building; never the only copy of
        │                                 anything
        ├── trash/<operation>/            what a remove has renamed away
        ├── quarantine/<operation>/<name> what was set aside, with a note saying why
        ├── ballast/<number>              room that is given back when the disk is full
        ├── manifests/<id>               what a layer held when it was recorded
        ├── images/<digest>.json          configs and names of images that were imported
        ├── suspect                       only after an I/O error: the journal is to be written anew
        └── owners/<owner>.lock           held by flock for the life of the process

Every function returns a path relative to the home, as a string: hot paths join strings.
"""

from __future__ import annotations

from typing import Final

LINKS: Final = "l"
OWN: Final = ".layerstore"
ORPHANS: Final = ".layerstore-orphans"
"""Beside Docker's layers: what `layerstore orphans --remove` set aside. No part of a store."""
STORE_FILE: Final = f"{OWN}/store.json"
PLACE_FILE: Final = f"{OWN}/place.json"
ADOPTED: Final = f"{OWN}/adopted.json"
STORE_LOCK: Final = f"{OWN}/store.lock"
DATABASE: Final = f"{OWN}/journal.db"
READY: Final = f"{DATABASE}.restored-"
"""How the name of a database begins that is to take the place of the present one."""
WRITE_LOCK: Final = f"{OWN}/write.lock"
ARCHIVES: Final = f"{OWN}/archive"
COMPACT_LOCK: Final = f"{OWN}/compact.lock"
PROBES: Final = f"{OWN}/probes.json"
USER_XATTRS: Final = f"{OWN}/userxattr"
"""Is there where the store was made in a user namespace: its marks are `user.overlay.*` from then on."""
STAGING: Final = f"{OWN}/staging"
TRIAL: Final = "probe-"
"""How the name of a directory in staging begins, in which a file system is tried out."""
TRASH: Final = f"{OWN}/trash"
QUARANTINE: Final = f"{OWN}/quarantine"
OWNERS: Final = f"{OWN}/owners"
BALLAST: Final = f"{OWN}/ballast"
IMAGES: Final = f"{OWN}/images"
MANIFESTS: Final = f"{OWN}/manifests"
SUSPECT: Final = f"{OWN}/suspect"
REWRITTEN: Final = f"{OWN}/journal.db.rewritten"
"""The journal written anew, whole, from the moment when it has this name until it replaces the old."""

DIFF: Final = "diff"
LINK: Final = "link"
LOWER: Final = "lower"
COMMITTED: Final = "committed"
WORK: Final = "work"
MERGED: Final = "merged"

HOME_MODE: Final = 0o710
LAYER_MODE: Final = 0o710
DIFF_MODE: Final = 0o755
PRIVATE_MODE: Final = 0o700
FILE_MODE: Final = 0o644


def diff(layer: str) -> str:
    return f"{layer}/{DIFF}"


def merged(layer: str) -> str:
    return f"{layer}/{MERGED}"


def work(layer: str) -> str:
    return f"{layer}/{WORK}"


def link_file(layer: str) -> str:
    return f"{layer}/{LINK}"


def lower_file(layer: str) -> str:
    return f"{layer}/{LOWER}"


def committed(layer: str) -> str:
    return f"{layer}/{COMMITTED}"


def short_link(link: str) -> str:
    """`l/<LINK>`, also a component of a `lower` text."""
    return f"{LINKS}/{link}"


def link_target(layer: str) -> str:
    """What `l/<LINK>` reads."""
    return f"../{layer}/{DIFF}"


def linked_layer(reads: str) -> str | None:
    """The layer whose link reads so; None for what no link of the layout reads."""
    layer = reads.removeprefix("../").removesuffix(f"/{DIFF}")
    return layer if reads == link_target(layer) and "/" not in layer else None


def staging(operation: str) -> str:
    return f"{STAGING}/{operation}"


def applied(stage: str) -> str:
    """Where a staged apply writes down what its archive was."""
    return f"{stage}/applied"


def trash(operation: str) -> str:
    return f"{TRASH}/{operation}"


def quarantine(operation: str) -> str:
    return f"{QUARANTINE}/{operation}"


def manifest(layer: str) -> str:
    """Where it is written down what a layer holds; it counts if a row tells of it."""
    return f"{MANIFESTS}/{layer}"


def owner_lock(owner: str) -> str:
    return f"{OWNERS}/{owner}.lock"


def holder_lock(holder: str) -> str:
    """Whoever acts in the name of an outside holder has it locked; the file stays."""
    return f"{OWNERS}/holder-{holder.replace('/', '%2F')}.lock"


def archive(first: int, last: int) -> str:
    """The archive of the events `first` to `last`; names sort as their events do."""
    return f"{ARCHIVES}/{first:012}-{last:012}.db"


def child_lower(parent_link: str, parent_lower: str) -> str:
    """The `lower` text of a child: the parent in front of the parent's own lowers."""
    head = short_link(parent_link)
    return f"{head}:{parent_lower}" if parent_lower else head


def lower_links(lower: str) -> tuple[str, ...]:
    """The links of a `lower` text that is known to be well-formed."""
    return tuple(part[2:] for part in lower.split(":")) if lower else ()
