"""Owns what a journal's past is made of: which archives count, and every event once; it must not write.

The journal decides. Its row `compacted` in `meta` says up to which event it was archived; an archive
that goes further belongs to a compaction that is not done, or was killed, and does not count. What
is read from the journal is read again where somebody compacted it meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import NoLongerKept
from layerstore.fs import layout

if TYPE_CHECKING:
    from layerstore.db.archive import Frozen

COMPACTED: Final = "compacted"
"""The row of `meta` with the last event that is in an archive."""
COMPACTED_AT: Final = "compacted_at"
"""The row of `meta` with the time of the last compaction, as rows have times."""

_AHEAD: Final = 64
"""Archives that one look into their directory gives to who reads one after the other."""

Read = Callable[..., engine.Rows]
"""Asks the journal: a statement, and its parameters by name."""


class Archive(NamedTuple):  # not attrs: every command imports this, and few make one
    """The archive of the events `first` to `last`."""

    first: int
    last: int
    path: str

    def open(self) -> Frozen:
        """FileNotFoundError where somebody removed it; StoreDamaged where it is no archive."""
        from layerstore.db.archive import Frozen

        return Frozen(self.path)


class Part(NamedTuple):
    """Some rows of a folded table, as a snapshot has them."""

    table: str
    fields: str
    """The names of the columns, as JSON."""
    content: str
    """The rows, as JSON: a list of lists."""


def _named(home: str) -> Iterator[Archive]:
    """Every file with the name of an archive, in no order.

    One at a time: archives are for ever unless somebody limits them, and to have thousands in hand
    at each look is memory that a process never gives back.
    """
    directory = f"{home}/{layout.ARCHIVES}"
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            first, dash, last = entry.name.removesuffix(".db").partition("-")
            if dash and first.isdigit() and last.isdigit():
                archive = Archive(int(first), int(last), f"{directory}/{entry.name}")
                if layout.archive(archive.first, archive.last).endswith(f"/{entry.name}"):
                    yield archive


def listed(home: str) -> list[Archive]:
    """Every file with the name of an archive, in the order of events."""
    return sorted(_named(home))


def counted(home: str, cut: int) -> list[Archive]:
    """The archives of a journal that was compacted up to event `cut`."""
    return sorted(archive for archive in _named(home) if archive.last <= cut) if cut else []


def _following(home: str, cut: int, after: int) -> list[Archive]:
    """The first of them with events after `after`: some, so that a look is not made for each."""
    if after >= cut:
        return []
    import heapq  # few commands read what was archived

    found = (archive for archive in _named(home) if after < archive.last <= cut)
    return heapq.nsmallest(_AHEAD, found)


def leftovers(home: str, cut: int) -> tuple[list[str], list[Archive]]:
    """What compactions that were killed left: unfinished files, and archives that do not count."""
    directory = f"{home}/{layout.ARCHIVES}"
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        return [], []
    with entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(".tmp"))
    beyond = sorted(archive for archive in _named(home) if archive.last > cut)
    return [f"{directory}/{name}" for name in names], beyond


def cut_of(read: Read) -> int:
    """Up to which event the journal was archived; 0 where it never was."""
    found = read(sql.SELECT_META_OF, key=COMPACTED)
    return int(found[0][0]) if found else 0


def pages(
    home: str, read: Read, *, layer: str | None, after: int, last: int
) -> Iterator[engine.Rows]:
    """The rows after `after` up to `last`, each seq once, wherever it lies; a page at a time."""
    ahead: list[Archive] = []
    while after < last:
        cut = cut_of(read)
        ahead = ahead[1:] or _following(home, cut, after)
        if ahead:
            archive = ahead[0]
            try:
                database = archive.open()
            except FileNotFoundError:
                ahead = []
                continue  # it was pruned a moment ago
            try:
                for page in pages_of(asking(database), layer, after, min(last, archive.last)):
                    after = page[-1][0]
                    yield page
            finally:
                database.close()
            after = max(after, archive.last)
            continue
        page = _page(read, layer, after, last)
        if cut_of(read) != cut:
            continue  # what is missing from the page lies in an archive now
        if not page:
            return
        after = page[-1][0]
        yield page


def asking(database: engine.ReadDatabase) -> Read:
    """A way to ask this database."""
    return lambda statement, **parameters: database.read(statement, parameters)


def _page(read: Read, layer: str | None, after: int, last: int) -> engine.Rows:
    bounds = {"after": after, "last": last, "page": engine.PAGE}
    if layer is None:
        return read(sql.SELECT_EVENTS, **bounds)
    return read(sql.SELECT_LAYER_EVENTS, layer=layer, **bounds)


def pages_of(read: Read, layer: str | None, after: int, last: int) -> Iterator[engine.Rows]:
    """The rows of one database alone, a page at a time."""
    while page := _page(read, layer, after, last):
        after = page[-1][0]
        yield page


_PARTS: Final = 16
"""Parts of a snapshot that one read transaction fetches."""


def parts_of(read: Read, *, of: int | None = None) -> list[Part] | None:
    """The snapshot; None if it is no longer that of event `of`, or becomes another one meanwhile."""
    parts: list[Part] = []
    after = 0
    while page := read(sql.SELECT_SNAPSHOT, after=after, page=_PARTS):
        for part, seq, *values in page:
            if of is not None and seq != of:
                return None
            parts.append(Part(*values))
            after = part
    return None if of is not None and cut_of(read) != of else parts


def base(home: str, read: Read, seq: int | None) -> tuple[int, list[Part]]:
    """Where to begin with folding up to event `seq` (None: all): an event, and what was then.

    NoLongerKept where that event is older than everything that is kept.
    """
    while True:
        cut = cut_of(read)
        if seq is None or seq >= cut:
            parts = parts_of(read, of=cut) if cut else []
            if parts is not None and cut_of(read) == cut:
                return cut, parts
            continue
        # The first event of an archive is the one after its snapshot, so 0 is before the first one.
        having = (a for a in _named(home) if a.first - 1 <= seq <= a.last <= cut)
        archive = min(having, default=None)
        if archive is None:
            raise NoLongerKept(seq, reaches_back_to(counted(home, cut), cut))
        try:
            database = archive.open()
        except FileNotFoundError:
            continue
        try:
            return archive.first - 1, parts_of(asking(database)) or []
        finally:
            database.close()


def reaches_back_to(archives: list[Archive], cut: int) -> int:
    """The first event from which on everything is kept."""
    first = cut + 1
    for archive in reversed(archives):
        if archive.last != first - 1:
            break
        first = archive.first
    return first


def owner_row(home: str, read: Read, owner: str) -> tuple[Any, ...] | None:
    """The row of an owner, from the newest archive that has it: compaction prunes old owners."""
    for archive in reversed(counted(home, cut_of(read))):
        try:
            database = archive.open()
        except FileNotFoundError:
            continue
        try:
            found = database.read(sql.SELECT_OWNER, {"id": owner})
        finally:
            database.close()
        if found:
            return found[0]
    return None
