"""Owns bringing the index of another program's tree to what that tree is, in one transaction; it must not
touch the tree, nor decide when.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from layerstore import (
    adoption_rows,
    description,
    foreign_layers,
    legacy,
    opening,
    place,
    projects,
    recovery,
)
from layerstore import events as e
from layerstore import model as m
from layerstore.audit import census
from layerstore.db import about as db_about
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import Refused
from layerstore.fs import mountinfo
from layerstore.fs.trace import trace
from layerstore.journal import MARK_STEP, Author, Journal, Transaction, database_of
from layerstore.legacy import living
from layerstore.legacy.detecting import Found
from layerstore.reader import check_database

_QUOTAS: Final = "backingFsBlockDev"
"""What Docker makes in its home where layers have limits."""
_COLUMNS: Final = (
    *("id", "link", "parent", "lower", "depth", "committed", "read_write", "labels"),
    *("storage_options", "damage", "diff_id", "size"),
)


@attrs.frozen
class Adopted:
    """What an adopt did. `home` is where the index is to be asked."""

    home: str
    tree: str
    kind: str
    layers: int
    """In the index now."""
    found: int
    """New ones, and those that are not as they were."""
    vanished: int
    damaged: int
    left: Mapping[str, str]
    """Directories that the index can have nothing of, with the reason."""
    again: bool
    settled: tuple[m.Settled, ...] = ()
    """What a take-over corrected."""


def refuse_living(found: Found) -> None:
    who = living.daemon(found)
    if who:
        raise Refused(
            f"{who}: what it makes at this moment is recorded nowhere.",
            hint="Stop it, adopt, and start it again; what it changes after that, adopting again finds.",
        )


def new_description() -> description.Description:
    """Of an index, which older versions refuse."""
    return description.new(m.MAX_DEPTH, format=description.ADOPTED_FORMAT)


@attrs.define
class Recording:
    """The index of a tree being brought to what the tree is, in one transaction."""

    home: Path
    found: Found
    again: bool
    run_root: str | None
    progress: census.Progress | None

    def record(self) -> Adopted:
        """The tree first and the records after it: what is in the tree by then has had time for them."""
        seen = census.take(self.found.home, progress=self.progress)
        manifest = legacy.read(self.found, run_root=self.run_root)
        wanted = foreign_layers.wanted(seen, manifest)
        database = database_of(self.home, timeout=30)
        try:
            about = self._about(database)
            journal = _journal(database, about)
            with journal.transaction(full=True) as tx:
                changed, vanished = self._write(tx, wanted)
                refuse_living(self.found)
                trace("adopt:journal:before")
            trace("adopt:journal:after")
            self._describe(about, journal.last_seq)
        finally:
            database.close()
        return Adopted(
            home=os.fspath(self.home),
            tree=self.found.home,
            kind=self.found.kind,
            layers=len(wanted.layers),
            found=changed,
            vanished=vanished,
            damaged=sum(layer.damage is not None for layer in wanted.layers),
            left=wanted.left,
            again=self.again,
        )

    def _about(self, database: engine.Database) -> description.Description:
        """What the store says about itself; of a new one, what its database does."""
        if self.again:
            about = description.read(self.home)
            check_database(database, about)
            return about
        ((epoch,),) = database.read("SELECT epoch FROM events ORDER BY seq LIMIT 1")
        meta = db_about.meta(database)
        return attrs.evolve(new_description(), store_id=meta["store_id"], epoch=epoch)

    def _write(self, tx: Transaction, wanted: foreign_layers.Wanted) -> tuple[int, int]:
        """Append what differs; how many were found and vanished."""
        tx.all("PRAGMA defer_foreign_keys=ON")
        _sign(tx, self.home)
        index = {row[0]: row for row in tx.all(f"SELECT {', '.join(_COLUMNS)} FROM layers")}
        there = {layer.layer: layer for layer in wanted.layers}
        moved = {
            name for name, row in index.items() if name in there and row[1] != there[name].link
        }
        gone = [name for name in index if name not in there]
        for name in (*gone, *sorted(moved)):
            tx.append(e.LayerVanished(name))
        changed = 0
        for layer in wanted.layers:
            event = self._with_quota(tx, layer)
            row = index.get(layer.layer)
            if row is None or layer.layer in moved or row != _as_row(event):
                tx.append(event)
                changed += 1
        tx.append(
            e.TreeAdopted(
                kind=self.found.kind,
                driver=self.found.driver,
                root=self.found.root,
                tree=self.found.home,
                again=self.again,
                found=changed,
                vanished=len(gone),
                left=len(wanted.left),
            )
        )
        return changed, len(gone)

    def _with_quota(self, tx: Transaction, layer: e.LayerFound) -> e.LayerFound:
        if not os.path.lexists(f"{self.found.home}/{_QUOTAS}"):
            return layer
        known = tx.project(layer.layer)
        project, limit = known if known[0] else projects.found_at(tx, self.found.home, layer.layer)
        return attrs.evolve(layer, project=project, limit=limit)

    def _describe(self, about: description.Description, seq: int) -> None:
        """The place, and at last what makes it a store."""
        here = place.here(self.home)
        if place.recorded(self.home) != here:
            place.write(self.home, here)
            trace("adopt:place:after")
        if not self.again or seq > about.high_water - MARK_STEP // 2:
            description.write(self.home, attrs.evolve(about, high_water=seq + MARK_STEP))
            trace("adopt:describe:after")


def _as_row(event: e.LayerFound) -> tuple[Any, ...]:
    values = adoption_rows.columns(event)
    return tuple(values[name] for name in _COLUMNS)


def _journal(database: engine.Database, about: description.Description) -> Journal:
    return Journal(
        database,
        Author(recovery.new_name(), opening.boot_id(), about.epoch),
        now=opening.now,
        raise_mark=lambda seq: seq + MARK_STEP,  # whoever described the store last did it, or will
        mark=about.high_water,
    )


def _sign(tx: Transaction, home: Path) -> None:
    """Say which process writes: an owner that was never open to anybody else."""
    pid, at = os.getpid(), tx.now()
    tx.execute(
        sql.INSERT_OWNER,
        id=tx.author.owner,
        pid=pid,
        started=mountinfo.process_start(pid),
        boot_id=tx.author.boot_id,
        mount_id=mountinfo.mount_id(os.fspath(home)),
        command=" ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])[:200],
        durability=m.Durability.FULL.value,
        opened_at=at,
        closed_at=at,
    )


def append(home: Path, event: e.Event, name: str) -> None:
    database = database_of(home, timeout=30)
    try:
        about = description.read(home)
        check_database(database, about)
        journal = _journal(database, about)
        with journal.transaction(full=True) as tx:
            _sign(tx, home)
            tx.append(event)
            trace(f"{name}:journal:before")
        trace(f"{name}:journal:after")
    finally:
        database.close()
