"""Owns the nouns of what another program recorded about its layers; it must not do I/O or judge.

record     one thing that a program wrote down about one directory of its tree
image      what has layers by its config, from the lowest to the top
container  what has a layer to write to, and layers below it
trouble    a record that could not be read, or that names what is not there
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import attrs

VERSION: Final = 1
"""Of the manifest as JSON: a field may be added to it, none changes its meaning."""


class Source(StrEnum):
    """Where a record was found."""

    LAYERDB = "layerdb"
    REMOVING = "layerdb-removing"
    """Docker was removing the layer: it is condemned."""
    WRITE_SET = "layerdb-write-set"
    """Docker was making the layer, and did not end."""
    MOUNTS = "layerdb-mounts"
    BUILDKIT = "buildkit"
    LAYERS = "layers.json"
    INCOMPLETE = "layers.json-incomplete"
    """containers/storage was making or removing the layer: it is condemned."""
    RUNNING = "mountpoints.json"


CONDEMNED: Final = frozenset({Source.REMOVING, Source.INCOMPLETE})
HALF: Final = CONDEMNED | {Source.WRITE_SET}
"""Records that tell whose a directory is or was, nothing about what it holds, and do not keep it."""


class Role(StrEnum):
    """What the directory is to whoever made it."""

    IMAGE = "image"
    CONTAINER = "container"
    INIT = "init"
    """Docker's layer between an image and a container: the files that are mounted upon."""
    CACHE = "cache"


@attrs.frozen
class Record:
    """What one record says about one directory of the tree."""

    layer: str
    """The name of the directory."""
    source: Source
    name: str
    """What the record is called: a chain id, a container's id, a key of BuildKit's."""
    path: str
    role: Role = Role.IMAGE
    parent: str | None = None
    """The directory of its parent by this record; None: it has none, or none that is recorded."""
    diff_id: str = ""
    size: int | None = None
    """Bytes of its files, as recorded."""
    names: tuple[str, ...] = ()
    created: str = ""


@attrs.frozen
class Image:
    """`layers` are directories, the lowest first; `missing` are the layers that have no record."""

    id: str
    names: tuple[str, ...]
    layers: tuple[str, ...]
    missing: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


@attrs.frozen
class Container:
    id: str
    name: str
    image: str
    layers: tuple[str, ...]
    """The directories that it writes to, or that were made for it alone."""
    running: bool | None = None
    """By its record; None: it does not say."""


@attrs.frozen
class Trouble:
    """A record that cannot be used; `hides`: it names a layer, and which one is not known any more.

    `lost`: it is a whole document of records of layers; `missing`: the file is not there.
    """

    path: str
    message: str
    hides: bool = False
    lost: bool = False
    missing: bool = False


@attrs.frozen
class Manifest:
    """Everything that a program recorded about its layers, at one moment."""

    kind: str
    """`docker` or `containers-storage`."""
    driver: str
    root: str
    home: str
    """The directory with the layers."""
    records: tuple[Record, ...]
    images: tuple[Image, ...]
    containers: tuple[Container, ...]
    troubles: tuple[Trouble, ...] = ()
    kept_shapes: tuple[str, ...] = ()
    """Shapes of names (of `shapes`) whose records cannot be read: whatever has one is kept."""
    remarks: tuple[str, ...] = ()
    """What else lies there, and is not looked at."""
    version: int = VERSION

    def by_layer(self) -> Mapping[str, tuple[Record, ...]]:
        """The records of each directory, in their order."""
        found: dict[str, tuple[Record, ...]] = {}
        for record in self.records:
            found[record.layer] = (*found.get(record.layer, ()), record)
        return found

    @property
    def hidden(self) -> tuple[Trouble, ...]:
        """The troubles that hide which layer a record is of."""
        return tuple(trouble for trouble in self.troubles if trouble.hides)


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as plain values, for a JSON document."""
    import cattrs  # slow to import, and nothing that only asks needs it

    found: dict[str, Any] = cattrs.Converter().unstructure(manifest)
    return found


def from_json(value: Any) -> Manifest:
    """The manifest of plain values; ValueError for what is none, or of a newer version."""
    import cattrs

    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise ValueError(f"this is no manifest of version {VERSION}")
    try:
        return cattrs.Converter(forbid_extra_keys=True).structure(value, Manifest)
    except Exception as error:  # cattrs raises many kinds; all mean the same here
        raise ValueError(f"this is no manifest: {error}") from error
