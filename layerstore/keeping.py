"""Owns what a Store can be asked and told before it is opened: making it, its database; no verb."""

from __future__ import annotations

import os
from pathlib import Path

from layerstore import access, description, place, room
from layerstore import model as m
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.fs import layout
from layerstore.reader import check_not_newer, revision


class Keeping:
    """Class methods of a Store that have no open store yet; most need the store to themselves."""

    @classmethod
    def initialize(cls, home: str | os.PathLike[str], *, max_depth: int = m.DEFAULT_DEPTH) -> None:
        """Make `home` a store: an empty directory, or one that is made; its parent must exist.

        `max_depth`: how many lower layers a layer may have, 1 to 499. Raises StoreExists,
        NotAStoresPlace, CannotCarryOverlay, InvalidArgument.
        """
        from layerstore import making

        path = Path(home).resolve()
        with room.explained(path):
            making.initialize(path, max_depth=max_depth)

    @classmethod
    def rebuild(cls, home: str | os.PathLike[str], *, timeout: float = 30) -> tuple[m.Settled, ...]:
        """Begin a new journal from the tree; the old database goes to quarantine."""
        from layerstore import making

        path = Path(home).resolve()
        with room.explained(path):
            return tuple(making.rebuild(path, timeout=timeout))

    @classmethod
    def revision(cls, home: str | os.PathLike[str]) -> tuple[str, str]:
        """The schema revision of the database, and the packaged one."""
        path = Path(home).resolve()
        description.read(path)
        database = engine.ReadDatabase(os.fspath(path / layout.DATABASE), timeout=30)
        try:
            return revision(database), sql.REVISION
        finally:
            database.close()

    @classmethod
    def upgrade(cls, home: str | os.PathLike[str], *, timeout: float = 30) -> tuple[str, str]:
        """Bring the schema up to date, after a copy; the revision before and after."""
        before, after = cls.revision(home)
        check_not_newer(os.fspath(Path(home).resolve() / layout.DATABASE), before)
        if before < after:
            access.upgrade(Path(home).resolve(), timeout=timeout)
        return before, cls.revision(home)[0]

    @classmethod
    def _adopt_if_copy(cls, home: Path, this_is: str, timeout: float) -> tuple[m.Settled, ...]:
        if place.original(home, description.read(home).store_id) is None:
            return ()
        return cls.adopt(home, this_is=this_is, timeout=timeout)

    @classmethod
    def adopt(
        cls, home: str | os.PathLike[str], *, this_is: str, timeout: float = 30
    ) -> tuple[m.Settled, ...]:
        """Tell a copy what it is: a `copy` gets an id of its own, a `move` keeps the store's.

        Holds and operations of the original end in the journal of the copy alone. Raises Refused
        where the home is no copy, Busy where it is open.
        """
        from layerstore import making

        path = Path(home).resolve()
        with room.explained(path):
            return tuple(making.adopt(path, this_is, timeout=timeout))

    @classmethod
    def restore(
        cls,
        home: str | os.PathLike[str],
        source: str | os.PathLike[str],
        *,
        timeout: float = 30,
    ) -> tuple[m.Settled, ...]:
        """Put a copy of the database in place; the present one goes to quarantine.

        `source`: what `backup` wrote, or the copy from before an upgrade. Layers that it does not
        know are taken in from the tree, and those that were removed since are dropped. Raises
        InvalidArgument for a file that is no database of this store, SchemaTooNew, Busy.
        """
        from layerstore import making

        source = Path(os.path.abspath(source))
        path = Path(home).resolve()
        with room.explained(path):
            return tuple(making.restore(path, source, timeout=timeout))
