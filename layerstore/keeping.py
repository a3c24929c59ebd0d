"""Owns what a Store can be told about its home and its database before it is opened; no verb."""

from __future__ import annotations

import os
from pathlib import Path

from layerstore import description, place
from layerstore import model as m
from layerstore.errors import InvalidArgument


class Keeping:
    """Class methods of a Store that need the store to themselves."""

    @classmethod
    def _adopt_if_copy(cls, home: Path, this_is: str, timeout: float) -> tuple[m.Settled, ...]:
        if this_is not in ("copy", "move"):
            raise InvalidArgument(f"This home is a 'copy' or a 'move', not {this_is!r}.")
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

        return tuple(making.adopt(Path(home).resolve(), this_is, timeout=timeout))

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
        return tuple(making.restore(Path(home).resolve(), source, timeout=timeout))
