"""Owns the questions about the past, and the connection that all questions use; it must not write.

No read transaction outlives a page of rows, so a slow reader never stops a checkpoint. What was
moved to archives is read from there, as if it were in the journal.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import weakref
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from layerstore import adoption, archives, description
from layerstore import model as m
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import ForkedStore, InvalidArgument

if TYPE_CHECKING:
    from layerstore import answers

_LAST = 2**62


class Chronicle:
    """The journal of a store, opened to be read."""

    def __init__(
        self, home: Path, about: description.Description, database: engine.ReadDatabase
    ) -> None:
        self.home = home
        self.tree = adoption.tree_of(home)
        """Where the layers are: the home, but for an index of another program's tree."""
        self._home = os.fspath(self.tree)
        self._about = about
        self._database = database
        self._pid = os.getpid()
        self._links: dict[str, str] = {}
        self._chains: dict[str, str] = {}
        _OPEN.add(self)

    def close(self) -> None:
        """Close it; safe to repeat."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, statement: str, **parameters: Any) -> engine.Rows:
        if os.getpid() != self._pid:
            raise ForkedStore(self._pid, os.getpid())
        try:
            return self._database.read(statement, parameters)
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"{error.object!r} is not a text in UTF-8.") from error

    def _leak(self) -> None:
        """In a forked child: leave everything as it is, for the parent."""
        self._database.leak()

    def select(self, query: str, **parameters: Any) -> engine.Rows:
        """Rows of a query, for the audit. It cannot change anything: the connection is read-only."""
        return self._read(query, **parameters)

    # --- the journal ----------------------------------------------------------------------------

    def rows(
        self,
        *,
        layer: str | None = None,
        kind: str | None = None,
        after_seq: int = 0,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The rows of the journal in order, as plain values: `data` is the event's fields.

        `kind` is a whole tag or its beginning; `since` and `until` include their ends.
        """
        for row in self._select(layer, kind, after_seq, since, until, limit):
            yield _plain(row)

    def events(
        self,
        *,
        layer: str | None = None,
        kind: str | None = None,
        after_seq: int = 0,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[answers.Entry]:
        """The same rows, with their events decoded; JournalDamaged for one that cannot be."""
        for row in self._select(layer, kind, after_seq, since, until, limit):
            yield _entry(row)

    def _select(
        self,
        layer: str | None,
        kind: str | None,
        after: int,
        since: datetime | None,
        until: datetime | None,
        limit: int | None,
    ) -> Iterator[tuple[Any, ...]]:
        low = -1 if since is None else m.to_micros(since)
        high = _LAST if until is None else m.to_micros(until)
        wanted = _LAST if limit is None else limit
        pages = archives.pages(
            self._home, self._read, layer=layer, after=after, last=self.last_seq()
        )
        for row in itertools.chain.from_iterable(pages) if wanted > 0 else ():
            if low <= row[5] <= high and (kind is None or row[6].startswith(kind)):
                yield row
                wanted -= 1
                if wanted <= 0:
                    return

    def last_seq(self) -> int:
        """The number of the newest event."""
        return int(self._read(sql.LAST_SEQ)[0][0])

    def history(self, layer: str) -> tuple[answers.Entry, ...]:
        """Every event of a layer, also of one that is gone."""
        return tuple(self.events(layer=layer))

    def watch(self, after_seq: int, *, poll: float = 0.2) -> Iterator[answers.Entry]:
        """Events as they come, from the first after `after_seq`; never ends by itself."""
        for row in self._follow(after_seq, None, poll):
            yield _entry(row)

    def watch_rows(
        self, after_seq: int, *, layer: str | None = None, poll: float = 0.2
    ) -> Iterator[dict[str, Any]]:
        """The same as plain values, like `rows`."""
        for row in self._follow(after_seq, layer, poll):
            yield _plain(row)

    def _follow(self, after: int, layer: str | None, poll: float) -> Iterator[tuple[Any, ...]]:
        while True:
            seen = after
            for row in self._select(layer, None, after, None, None, None):
                yield row
                after = row[0]
            if after == seen:
                time.sleep(poll)

    def state_at(self, seq: int) -> answers.State:
        """The store as it was after event `seq`, folded anew from the journal and its archives.

        NoLongerKept where the archives that reached back so far are gone.
        """
        from layerstore import replay

        connection = self.fold(seq)
        try:
            return replay.state_of(connection, seq)
        finally:
            connection.close()

    def fold(self, last: int | None = None) -> engine.Connection:
        """A database in memory with everything folded into it up to event `last`; close it."""
        from layerstore import replay

        after, parts = archives.base(self._home, self._read, last)
        return replay.replay(self.events(after_seq=after), last=last, base=parts)


def _plain(row: tuple[Any, ...]) -> dict[str, Any]:
    value = dict(zip(sql.EVENTS_COLUMNS, row, strict=True))
    value["at"] = m.from_micros(value["at"]).isoformat()
    value["data"] = json.loads(value["data"])
    return value


def _entry(row: tuple[Any, ...]) -> answers.Entry:
    from layerstore import answers, codec

    value = dict(zip(sql.EVENTS_COLUMNS, row, strict=True))
    return answers.Entry(
        seq=value["seq"],
        epoch=value["epoch"],
        operation=value["operation"],
        owner=value["owner"],
        boot_id=value["boot_id"],
        at=m.from_micros(value["at"]),
        kind=value["kind"],
        layer=value["layer"],
        event=codec.decode(value["kind"], value["data"], seq=value["seq"]),
    )


_OPEN: weakref.WeakSet[Chronicle] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A child neither keeps its parent's owner alive nor closes its parent's database."""
    for opened in list(_OPEN):
        opened._leak()


os.register_at_fork(after_in_child=_after_fork_in_child)
