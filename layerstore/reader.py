"""Owns every question about a store, answered from the index; it must not read the tree, nor write.

A command that only asks imports this and nothing heavier. No read transaction outlives a page of
rows, so a slow reader never stops a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from layerstore import archives, description, place, rows
from layerstore import model as m
from layerstore.chronicle import Chronicle
from layerstore.db import about as db_about
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.diffs import Diffs
from layerstore.errors import (
    DiskFull,
    InvalidArgument,
    SchemaTooNew,
    StoreDamaged,
    StoreUnreachable,
    UnknownLayer,
)
from layerstore.fs import durable, layout

if TYPE_CHECKING:
    from layerstore import answers

_KNOWN_LINKS = 200_000
"""How many link -> id pairs are remembered; a link never comes to mean another layer."""
_KNOWN_CHAINS = 256
"""How many chains are remembered as LowerDir: at depth 499 each takes some 50 KiB."""


def check_not_newer(path: str, stored: str) -> None:
    """Raise SchemaTooNew for a revision that this package does not know yet."""
    if stored > sql.REVISION:
        raise SchemaTooNew(
            f"{path} has schema {stored}; this layerstore knows {sql.REVISION}.",
            hint="Use the layerstore that wrote it, or a newer one.",
        )


def check_database(database: engine.ReadDatabase, about: description.Description) -> None:
    """Raise unless the database has the packaged schema and belongs to this store."""
    stored = revision(database)
    check_not_newer(database.path, stored)
    if stored < sql.REVISION:
        raise StoreDamaged(
            f"{database.path} has the older schema {stored}.",
            hint="Any command that writes upgrades it, and so does 'layerstore db upgrade'.",
        )
    meta = db_about.meta(database)
    if meta.get("store_id") != about.store_id:
        raise StoreDamaged(
            f"{database.path} belongs to store {meta.get('store_id')}, and this is store "
            f"{about.store_id}.",
            hint="'layerstore db restore' puts a copy of the right one in place, and 'layerstore "
            "db rebuild' makes it anew.",
        )


def revision(database: engine.ReadDatabase) -> str:
    """The schema revision that the database says it has."""
    try:
        found = database.read("SELECT version_num FROM alembic_version")
    except StoreUnreachable:
        raise
    except StoreDamaged as error:
        raise StoreDamaged(
            f"{database.path} is not the database of a layerstore.", hint=error.hint
        ) from error
    if not found:
        raise StoreDamaged(
            f"{database.path} does not say which schema it has.",
            hint="'layerstore db rebuild' sets it aside and makes it anew from the tree.",
        )
    return str(found[0][0])


def _database(home: Path) -> engine.ReadDatabase:
    """The journal, or the copy that is about to replace it after an I/O error."""
    copied = os.path.exists(home / layout.REWRITTEN)
    path = os.fspath(home / (layout.REWRITTEN if copied else layout.DATABASE))
    if durable.is_nearly_full(os.fspath(home)):
        from layerstore.fs import ballast

        ballast.make_way(os.fspath(home))
    try:
        return engine.ReadDatabase(path, timeout=30)
    except DiskFull:
        from layerstore import room

        return room.making(os.fspath(home), lambda: engine.ReadDatabase(path, timeout=30))


class Reader(Chronicle, Diffs):
    """A store, opened to ask it questions."""

    @classmethod
    def open(cls, home: str | os.PathLike[str]) -> Self:
        """Open the store at `home` read-only: nothing is settled, nothing is written.

        Raises NoStore, StoreDamaged, SchemaTooNew.
        """
        path = Path(home).resolve()
        about = description.read(path)
        database = _database(path)
        try:
            check_database(database, about)
        except BaseException:
            database.close()
            raise
        return cls(path, about, database)

    def original(self) -> Path | None:
        """Where the store is that this home is a copy of; None if it is the store itself."""
        return place.original(self.home, self._about.store_id)

    def backup(self, target: str | os.PathLike[str]) -> None:
        """Write a copy of the database to a file that does not exist; the store may be in use.

        It is of one moment, synced, of mode 0600, and `Store.restore` takes it. Raises
        InvalidArgument where the file exists or is inside a store.
        """
        from layerstore import backup

        self._read(sql.SELECT_META)  # it is open, and in its own process
        backup.backup(self.home, Path(os.path.abspath(target)))

    # --- layers and chains --------------------------------------------------------------------

    def layer(self, layer: str) -> m.Layer:
        """The layer with this id; UnknownLayer if there is none, or it is still being made."""
        found = self._read(sql.SELECT_LAYER, id=layer)
        if found:
            value = rows.layer(found[0])
            if value.state is not m.LayerState.CREATING:
                return value
        raise UnknownLayer(layer)

    def exists(self, layer: str) -> bool:
        try:
            self.layer(layer)
        except UnknownLayer:
            return False
        return True

    def layers(self, *, labels: Mapping[str, str] | None = None) -> Iterator[m.Layer]:
        """Every layer, in the order of ids; `labels` must all match, an empty value any value."""
        after = ""
        while page := self._read(sql.SELECT_LAYERS, after=after, page=engine.PAGE):
            for row in page:
                value = rows.layer(row)
                if value.state is not m.LayerState.CREATING and _matches(value, labels):
                    yield value
            after = page[-1][0]

    def parent(self, layer: str) -> m.Layer | None:
        parent = self.layer(layer).parent
        return None if parent is None else self.layer(parent)

    def ancestors(self, layer: str) -> tuple[m.Layer, ...]:
        """The layers below, nearest first."""
        self.layer(layer)
        return tuple(rows.layer(row) for row in self._read(sql.SELECT_ANCESTORS, id=layer))

    def children(self, layer: str) -> tuple[m.Layer, ...]:
        self.layer(layer)
        return rows.made(self._read(sql.SELECT_CHILDREN, id=layer, page=-1))

    def descendants(self, layer: str) -> tuple[m.Layer, ...]:
        """Every layer that has this one below it, nearest first."""
        self.layer(layer)
        return rows.made(self._read(sql.SELECT_DESCENDANTS, id=layer))

    def lower_dirs(self, layer: str) -> tuple[str, ...]:
        """`<home>/l/<LINK>` of each lower layer, nearest first."""
        lower = self._lower(layer)
        if not lower:
            return ()
        start = f"{self._home}/"
        # One replace is faster than many joins; a home may have colons in it, and no NUL.
        return tuple((start + lower.replace(":", f"\0{start}")).split("\0"))

    def metadata(self, layer: str) -> dict[str, str]:
        """UpperDir, WorkDir, MergedDir, and LowerDir where there are lowers: Docker's names.

        LowerDir is a list of `<home>/<id>/diff` joined by colons, nearest first.
        """
        lower = self._lower(layer)
        directory = f"{self._home}/{layer}"
        found = {
            "UpperDir": f"{directory}/{layout.DIFF}",
            "WorkDir": f"{directory}/{layout.WORK}",
            "MergedDir": f"{directory}/{layout.MERGED}",
        }
        if lower:
            found["LowerDir"] = self._chains.get(lower) or self._joined(layer, lower)
        return found

    def _lower(self, layer: str) -> str:
        """The `lower` text of a layer: what is hot builds no Layer for it."""
        found = self._read(sql.SELECT_LOWER, id=layer)
        if not found or found[0][1] == m.Verb.CREATE:
            raise UnknownLayer(layer)
        lower: str = found[0][0]
        return lower

    def _joined(self, layer: str, lower: str) -> str:
        """LowerDir, remembered by the `lower` text: its links never come to mean other layers."""
        start, end = f"{self._home}/", f"/{layout.DIFF}"
        joined = ":".join([start + i + end for i in self._chain(layer, lower)])
        if len(self._chains) >= _KNOWN_CHAINS:
            self._chains.clear()
        self._chains[lower] = joined
        return joined

    def _chain(self, layer: str, lower: str) -> list[str]:
        """The ids of the lower layers, nearest first."""
        links = layout.lower_links(lower)
        known = self._links
        try:
            return [known[link] for link in links]
        except KeyError:
            if len(known) > _KNOWN_LINKS:
                known.clear()
        chain = [row[0] for row in self._read(sql.SELECT_CHAIN_IDS, id=layer)]
        if len(chain) < len(links):
            raise UnknownLayer(layer)  # it was removed since its `lower` was read
        known.update(zip(links, chain, strict=True))
        return chain

    # --- holds, mounts, operations, owners ------------------------------------------------------

    def holders(self, layer: str | None = None) -> tuple[m.Hold, ...]:
        """Who holds this layer (or any), since when, and which process took the hold."""
        if layer is None:
            return tuple(rows.hold(row) for row in self._read(sql.SELECT_HOLDS))
        self.layer(layer)
        return tuple(rows.hold(row) for row in self._read(sql.SELECT_HOLDS_ON, layer=layer))

    def mount(self, layer: str) -> m.Mount | None:
        self.layer(layer)
        found = self._read(sql.SELECT_MOUNT, layer=layer)
        return rows.mount(found[0]) if found else None

    def mounts(self) -> tuple[m.Mount, ...]:
        return tuple(rows.mount(row) for row in self._read(sql.SELECT_MOUNTS))

    def operations(self) -> tuple[m.Operation, ...]:
        """What is in flight."""
        return tuple(rows.operation(row) for row in self._read(sql.SELECT_OPERATIONS))

    def owners(self, *, open_only: bool = True) -> tuple[m.Owner, ...]:
        statement = sql.SELECT_OPEN_OWNERS if open_only else sql.SELECT_OWNERS
        return tuple(rows.owner(row) for row in self._read(statement))

    def owner(self, owner: str) -> m.Owner | None:
        """An owner that is or was; of one that is long gone the archives tell."""
        found = self._read(sql.SELECT_OWNER, id=owner)
        row = found[0] if found else archives.owner_row(self._home, self._read, owner)
        return None if row is None else rows.owner(row)

    def removal_effect(self, layer: str) -> answers.Removal:
        """What `remove` would meet, and what would go."""
        from layerstore import answers

        value = self.layer(layer)
        children = self.children(layer)
        holders = self.holders(layer)
        blocked = []
        if children:
            names = ", ".join(child.id for child in children[:5])
            many = "a child" if len(children) == 1 else f"{len(children)} children"
            blocked.append(f"it has {many}: {names}")
        blocked += [f"{hold.holder} holds it ({hold.count})" for hold in holders]
        found = self._read(sql.SELECT_OPERATION_ON, layer=layer)
        if found:
            operation = rows.operation(found[0])
            blocked.append(f"a {operation.verb} is in flight")
        mounted = bool(self._read(sql.SELECT_MOUNT, layer=layer))
        frees = None
        if value.parent is not None:
            (count,) = self._read(sql.COUNT_CHILDREN, id=value.parent)[0]
            frees = value.parent if count == 1 else None
        return answers.Removal(
            layer=value.id,
            blocked_by=tuple(blocked),
            children=tuple(child.id for child in children),
            holders=holders,
            mounted=mounted,
            unmounts=mounted and not holders,
            frees_parent=frees,
        )

    # --- names ----------------------------------------------------------------------------------

    def resolve(self, text: str) -> m.LayerId:
        """The layer meant by an id, a unique prefix of one, a link id, or a path below a layer.

        UnknownLayer if there is none; InvalidArgument if a prefix fits several.
        """
        if self.exists(text):
            return m.LayerId(text)
        if m.LINK_PATTERN.fullmatch(text):
            found = self._read(sql.SELECT_LAYER_BY_LINK, link=text)
            if found:
                return rows.layer(found[0]).id
        if "/" in text:
            return self._resolve_path(text)
        found = (
            self._read(sql.SELECT_LAYERS_BY_PREFIX, low=text, high=text + "\x7f", page=6)
            if text
            else []
        )
        if len(found) > 1:
            names = ", ".join(row[0] for row in found[:5])
            raise InvalidArgument(f"{text!r} fits several layers: {names}{' …' * (len(found) > 5)}")
        if not found:
            raise UnknownLayer(text)
        return self.layer(found[0][0]).id

    def _resolve_path(self, text: str) -> m.LayerId:
        for form in (os.path.abspath, os.path.realpath):  # the second one reads the tree
            candidate = form(text)
            if not candidate.startswith(f"{self._home}/"):
                continue
            first, _, rest = candidate[len(self._home) + 1 :].partition("/")
            if first == layout.LINKS:
                return self.resolve(rest.partition("/")[0])
            if self.exists(first):
                return m.LayerId(first)
        raise UnknownLayer(text)

    def quota(self, id: str) -> answers.Quota | None:  # noqa: A002
        """The limit of a layer and what it uses, from the kernel; None where it has no limit.

        Raises OSError where the kernel does not tell: quotas are off, or this is not root.
        """
        found = self._read(sql.SELECT_PROJECT, layer=id)
        if not found:
            self.layer(id)  # raises UnknownLayer
            return None
        from layerstore import answers
        from layerstore.fs import quota

        project, _, size, _ = found[0]
        now = quota.usage(self._home, project)
        return answers.Quota(project, size, now.limit, now.used, now.inodes)

    # --- the store itself -----------------------------------------------------------------------

    def status(self, *, durability: str | None = None) -> answers.Status:
        """What the store is and runs on.

        `durability`: what whoever asks opens it with; None: what this one is open with, `full` if only
        for questions.
        """
        from layerstore import condition

        return condition.status(
            self.home,
            self._about,
            self._read,
            durability=durability or self._durability(),
            more_warnings=self._own_warnings(),
        )

    def _own_warnings(self) -> tuple[str, ...]:
        return ()

    def _durability(self) -> str:
        return "full"


def _matches(layer: m.Layer, labels: Mapping[str, str] | None) -> bool:
    return all(
        key in layer.labels and value in ("", layer.labels[key])
        for key, value in (labels or {}).items()
    )
