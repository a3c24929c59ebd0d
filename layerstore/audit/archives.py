"""Owns the findings about the journal's archives; it changes nothing.

That the oldest ones were deleted is no finding: the past ends somewhere. A gap between two is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from layerstore import archives, place, replay
from layerstore import model as m
from layerstore.archives import Archive, Part
from layerstore.db import statements as sql
from layerstore.db.archive import Frozen
from layerstore.errors import LayerstoreError
from layerstore.fs import layout, locks

if TYPE_CHECKING:
    from layerstore.audit.view import View


def check(view: View, *, whole: bool) -> Iterator[m.Finding]:
    """Gaps and leftovers; with `whole` also the content of each archive."""
    cut = archives.cut_of(view.reader.select)
    kept = archives.counted(view.home, cut)
    yield from _gaps(view, kept, cut)
    yield from _leftovers(view, cut)
    if whole:
        for index, archive in enumerate(kept):
            after = kept[index + 1] if index + 1 < len(kept) else None
            yield from _content(view, archive, after, cut)


def _gaps(view: View, kept: list[Archive], cut: int) -> Iterator[m.Finding]:
    ends = [(archive.first, archive.last) for archive in kept]
    for (_, last), (first, _) in pairwise([*ends, (cut + 1, cut)] if ends else []):
        if first != last + 1:
            yield m.Finding(
                "archive-gap",
                m.Severity.DAMAGE,
                f"events {last + 1} to {first - 1} are in no archive"
                if first > last
                else f"events {first} to {last} are in two archives",
                path=f"{view.home}/{layout.ARCHIVES}",
            )


def _leftovers(view: View, cut: int) -> Iterator[m.Finding]:
    unfinished, beyond = archives.leftovers(view.home, cut)
    left = [*unfinished, *(archive.path for archive in beyond)]
    if not left or locks.is_alive(f"{view.home}/{layout.COMPACT_LOCK}"):
        return
    for path in left:
        yield m.Finding(
            "archive-leftover",
            m.Severity.LEFTOVER,
            f"{os.path.basename(path)} is of a compaction that did not end; the next open removes "
            "it",
            path=path,
        )


def _content(view: View, archive: Archive, after: Archive | None, cut: int) -> Iterator[m.Finding]:
    try:
        wrong = list(_problems(view, archive, after, cut))
    except FileNotFoundError:
        return  # it was pruned a moment ago
    except LayerstoreError as error:
        wrong = [error.message]
    for message in wrong:
        yield m.Finding(
            "damaged-archive",
            m.Severity.DAMAGE,
            f"{os.path.basename(archive.path)}: {message}",
            path=archive.path,
        )


def _problems(view: View, archive: Archive, after: Archive | None, cut: int) -> Iterator[str]:
    """It is whole, it is this store's, and what it folds to is what the next one begins with."""
    database = archive.open()
    try:
        for (message,) in database.read("PRAGMA quick_check(10)"):
            if message != "ok":
                yield f"SQLite says: {message}"
        about = database.meta()
        wanted = {"first": str(archive.first), "last": str(archive.last)}
        if about.get("store_id") not in _known_ids(view):
            yield f"it is of store {about.get('store_id')}"
        elif {name: about.get(name) for name in wanted} != wanted:
            yield f"it says that it has events {about.get('first')} to {about.get('last')}"
        elif about.get("events") != str(database.read(sql.COUNT_EVENTS)[0][0]):
            yield f"it has not the {about.get('events')} events that it says it has"
        else:
            following = _beginning(view, after, cut)
            if following is not None and _fold(database, archive) != following:
                yield "its events do not fold to the snapshot that follows"
    finally:
        database.close()


def _known_ids(view: View) -> set[str]:
    """Of this store, and of those that it is a copy of: a copy has their archives."""
    meta = {row[0]: row[1] for row in view.reader.select(sql.SELECT_META)}
    return {meta["store_id"], *meta.get(place.FORMER_IDS, "").split()}


def _fold(database: Frozen, archive: Archive) -> list[Part]:
    read = archives.asking(database)
    scratch = replay.begin(archives.parts_of(read) or [])
    try:
        for page in archives.pages_of(read, None, archive.first - 1, archive.last):
            replay.fold_rows(scratch, page)
        return list(replay.parts(scratch))
    finally:
        scratch.close()


def _beginning(view: View, after: Archive | None, cut: int) -> list[Part] | None:
    """The snapshot that follows an archive, in the form of `_fold`; None if it is another by now."""
    if after is None:
        parts = archives.parts_of(view.reader.select, of=cut)
    else:
        database = after.open()
        try:
            parts = archives.parts_of(archives.asking(database))
        finally:
            database.close()
    if parts is None:
        return None
    scratch = replay.begin(parts)
    try:
        return list(replay.parts(scratch))
    finally:
        scratch.close()
