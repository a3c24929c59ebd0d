"""Owns one look at a home: tree, mounts and index as they are; it must not judge, nor change anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from layerstore import model as m
from layerstore.audit import census
from layerstore.audit.census import Census, Progress
from layerstore.audit.codes import CODES
from layerstore.audit.tree import Indexed
from layerstore.fs import layout, locks, mounttables
from layerstore.fs.mounttables import Place
from layerstore.reader import Reader

_ROWS: Final = (
    "SELECT l.id, l.link, l.parent, l.lower, l.damage, l.committed, l.draining FROM layers l "
    "WHERE l.id > :after AND NOT EXISTS (SELECT 1 FROM operations o WHERE o.layer = l.id AND "
    "o.verb = 'create') ORDER BY l.id LIMIT 500"
)


@attrs.frozen
class Records:
    """What a database says; a tree without one has none."""

    reader: Reader
    index: Mapping[str, Indexed]
    mounts: Mapping[str, m.Mount]
    holds: tuple[m.Hold, ...]
    operations: tuple[m.Operation, ...]
    owners: tuple[m.Owner, ...]
    living: frozenset[str]
    """The owners that are alive."""
    busy: frozenset[str]
    """Layers and operations that a living owner is at."""
    in_flight: frozenset[str]
    """Layers and operations of every operation in flight, also of the dead."""


@attrs.frozen
class View:
    """One look: the tree first, the mounts, and the index after it."""

    home: str
    tree: Census
    places: Mapping[str, tuple[Place, ...]]
    """Where each layer is mounted, in any mount namespace."""
    records: Records | None
    known: Mapping[str, str]
    """Whose each link is: by the index, else by the `link` file."""
    led_to: frozenset[str]
    """What some link reads."""

    @property
    def reader(self) -> Reader:
        """Of a tree that has a database."""
        assert self.records is not None
        return self.records.reader

    @property
    def busy(self) -> frozenset[str]:
        return self.records.busy if self.records is not None else frozenset()

    def row(self, layer: str) -> Indexed | None:
        return self.records.index.get(layer) if self.records is not None else None

    def in_flight(self, name: str) -> bool:
        return self.records is not None and name in self.records.in_flight

    def who_has(self, link: str) -> str | None:
        """The layer that a link means, however damaged `l/` is."""
        return self.known.get(link) or self.tree.owner_of(link)


def finding(
    code: str,
    message: str,
    layer: str | None = None,
    path: str | None = None,
    *,
    also: tuple[str, ...] = (),
    severity: m.Severity | None = None,
) -> m.Finding:
    """A finding, with the severity of its code."""
    return m.Finding(code, severity or CODES[code].severity, message, layer, path, also)


def look(home: str, reader: Reader | None, *, progress: Progress | None = None) -> View:
    """List the tree, then the mounts, then read the index."""
    tree = census.take(home, progress=progress)
    places: dict[str, tuple[Place, ...]] = {}
    # A directory that another namespace has something mounted on is there, or that mount is not:
    # rmdir(2) takes it away in every namespace (Linux 3.18).
    on = any(layout.MERGED in found.names for found in tree.layers.values())
    for place in mounttables.overlays(home, everywhere=on or bool(tree.trash)):
        places[place.layer] = (*places.get(place.layer, ()), place)
    records = None if reader is None else _records(home, tree, reader)
    known: dict[str, str] = {}
    for layer, found in tree.layers.items():
        if found.link and found.link in tree.links:
            claimed = known.setdefault(found.link, layer)
            if claimed != layer and tree.owner_of(found.link) == layer:
                known[found.link] = layer
    for link, reads in tree.links.items():
        target = layout.linked_layer(reads)
        if target is not None and target in tree.unreadable:
            known.setdefault(link, target)  # what its own file says cannot be looked at
    if records is not None:
        known.update((row.link, row.id) for row in records.index.values())
    return View(home, tree, places, records, known, frozenset(tree.links.values()))


def _records(home: str, tree: Census, reader: Reader) -> Records:
    index: dict[str, Indexed] = {}
    after = ""
    while page := reader.select(_ROWS, after=after):
        for layer, link, parent, lower, damage, committed, draining in page:
            found = tree.layers.get(layer)
            index[layer] = Indexed(
                id=layer,
                # The texts that the tree has already are in memory once.
                link=_same(link, None if found is None else found.link),
                parent=parent,
                lower=_same(lower, None if found is None else found.lower),
                damage=damage,
                committed=committed,
                draining=draining,
            )
        after = page[-1][0]
    owners = reader.owners()
    living = frozenset(
        owner.id for owner in owners if locks.is_alive(f"{home}/{layout.owner_lock(owner.id)}")
    )
    operations = reader.operations()
    theirs = [o for o in operations if o.owner in living and not o.abandoned]
    return Records(
        reader=reader,
        index=index,
        mounts={mount.layer: mount for mount in reader.mounts()},
        holds=reader.holders(),
        operations=operations,
        owners=owners,
        living=living,
        busy=frozenset(name for o in theirs for name in (o.layer, o.id)),
        in_flight=frozenset(name for o in operations for name in (o.layer, o.id)),
    )


def _same(text: str, other: str | None) -> str:
    """The other of two texts that are alike."""
    return other if other == text else text
