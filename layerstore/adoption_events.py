"""Owns the facts about trees that other programs own and a store only keeps an index of; `events` has all others."""

from __future__ import annotations

import attrs

from layerstore.values import value


@value
@attrs.frozen(repr=False, eq=False)
class TreeAdopted:
    """The index was brought to what a tree of another program's is; nothing of that was touched."""

    kind: str
    """`docker` or `containers-storage`."""
    driver: str
    root: str
    """What the program's records lie in."""
    tree: str
    """The directory with the layers."""
    again: bool
    found: int
    """Layers that are new in the index, or not as they were there."""
    vanished: int
    left: int
    """Directories of which the index can have nothing: nobody can say which layer they are."""


@value
@attrs.frozen(repr=False, eq=False)
class TreeReleased:
    """The index is about to be removed; the tree is its program's as before."""

    tree: str


@value
@attrs.frozen(repr=False, eq=False)
class TreeTakenOver:
    """The program will not be asked for the tree any more: the store may change it from here on."""

    kind: str
    tree: str


@value
@attrs.frozen(repr=False, eq=False)
class LayerFound:
    """A layer of a tree that was adopted: as it is there, and what its program recorded of it."""

    layer: str
    link: str
    parent: str | None
    lower: str
    depth: int
    committed: bool
    damage: str | None
    """Why it cannot be used as it lies there."""
    origin: str
    """The program: the kind of the tree."""
    source: str
    """Where its record is, as `layerdb`; empty: it has none."""
    record: str
    """What the record is called: a chain id, a container's id."""
    role: str
    """`image`, `container`, `init` or `cache`; empty: no record says it."""
    names: tuple[str, ...]
    """The names of the images and containers whose topmost layer it is."""
    digests: tuple[str, ...]
    """The digests of these images."""
    diff_id: str
    size: int | None
    """Bytes of its files, as recorded."""
    created: str
    """When, as recorded."""
    project: int = 0
    """The project id that its directory has, with the limit in bytes."""
    limit: int = 0


@value
@attrs.frozen(repr=False, eq=False)
class LayerVanished:
    """A layer of the index is not in the adopted tree any more: its program has removed it."""

    layer: str
