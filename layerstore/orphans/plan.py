"""Owns the steps by which an orphan goes and comes back; it must not touch the disk.

    <quarantine>/
    ├── lock                   locked while somebody acts here
    ├── .<operation>.tmp/      an entry in the making, or one that is going: swept by whoever comes next
    └── <operation>/           one orphan
        ├── note.json          what it was; there before the layer is
        ├── layer/             the directory itself
        └── links/<LINK>       its symbolic links, as they were in l/

A layer leaves before its links and comes back after them, so that whichever step a kill meets, a
layer without its links lies here, and never in the tree. What has left is on the disk in its new
place before anything else is moved.
"""

from __future__ import annotations

from typing import Final

import attrs

from layerstore.fs import layout
from layerstore.fs import steps as s

Steps = tuple[s.Step, ...]

NOTE: Final = "note.json"
LAYER: Final = "layer"
LINKS: Final = "links"
LOCK: Final = "lock"


@attrs.frozen
class Ways:
    """The paths of one entry, relative to what both the tree and the quarantine are below."""

    home: str
    quarantine: str
    operation: str
    layer: str
    links: tuple[str, ...]

    @property
    def entry(self) -> str:
        return f"{self.quarantine}/{self.operation}"

    @property
    def going(self) -> str:
        return going(self.quarantine, self.operation)

    @property
    def inside(self) -> str:
        """The layer while it is set aside."""
        return f"{self.entry}/{LAYER}"

    @property
    def outside(self) -> str:
        """The layer in its tree."""
        return f"{self.home}/{self.layer}" if self.home else self.layer

    @property
    def l_directory(self) -> str:
        return f"{self.home}/{layout.LINKS}" if self.home else layout.LINKS


def going(quarantine: str, operation: str) -> str:
    """What an entry is called while it is made, and while it goes."""
    return f"{quarantine}/.{operation}.tmp"


def quarantine(path: str) -> Steps:
    """The directory itself, if it is not there."""
    return (
        s.MakeDirectory(path, layout.PRIVATE_MODE),
        s.SyncDirectory(path.rpartition("/")[0]),
    )


def prepare(ways: Ways, note: str) -> Steps:
    """The entry, with its note, and nothing else in it yet."""
    made = ways.going
    return (
        s.MakeDirectory(made, layout.PRIVATE_MODE, fresh=True),
        s.MakeDirectory(f"{made}/{LINKS}", layout.PRIVATE_MODE),
        s.WriteFile(f"{made}/{NOTE}", note, 0o600, sync=True),
        s.SyncFile(f"{made}/{NOTE}"),
        s.SyncDirectory(f"{made}/{LINKS}"),
        s.SyncDirectory(made),
        s.SetAside(made, ways.entry),
        s.SyncDirectory(ways.quarantine),
    )


def away(ways: Ways) -> Steps:
    """The layer, and what leads to it, into the entry."""
    return (
        s.SetAside(ways.outside, ways.inside),
        s.SyncDirectory(ways.entry),
        s.SyncDirectory(ways.home),
        *links_away(ways, ways.links),
    )


def links_away(ways: Ways, links: tuple[str, ...]) -> Steps:
    """The links alone: all that is left to do where the layer is here already."""
    if not links:
        return ()
    return (
        *(s.SetAside(f"{ways.l_directory}/{x}", f"{ways.entry}/{LINKS}/{x}") for x in links),
        s.SyncDirectory(f"{ways.entry}/{LINKS}"),
        s.SyncDirectory(ways.l_directory),
    )


def links_follow(ways: Ways, links: tuple[str, ...]) -> Steps:
    """The same after a power cut: where one came back under both names, as on btrfs, the tree's goes."""
    if not links:
        return ()
    *moved, kept, left = links_away(ways, links)
    target = layout.link_target(ways.layer)
    again = (s.RemoveSymlink(f"{ways.l_directory}/{x}", target) for x in links)
    return (*moved, kept, *again, left)


def links_back(ways: Ways, links: tuple[str, ...]) -> Steps:
    """The links into the tree."""
    if not links:
        return ()
    return (
        *(s.PutInPlace(f"{ways.entry}/{LINKS}/{x}", f"{ways.l_directory}/{x}") for x in links),
        s.SyncDirectory(ways.l_directory),
        s.SyncDirectory(f"{ways.entry}/{LINKS}"),
    )


def back(ways: Ways, links: tuple[str, ...]) -> Steps:
    """All of it to where it was; then the entry goes."""
    return (
        *links_back(ways, links),
        s.PutInPlace(ways.inside, ways.outside),
        s.SyncDirectory(ways.home),
        s.SyncDirectory(ways.entry),
        *dispose(ways),
    )


def dispose(ways: Ways) -> Steps:
    """The entry and all that is in it, for good: first it is one no more, and then it goes."""
    return (
        s.SetAside(ways.entry, ways.going),
        s.SyncDirectory(ways.quarantine),
        *sweep(ways.going),
    )


def sweep(path: str) -> Steps:
    """What is no entry, or not any more."""
    return (s.RemoveTree(path),)
