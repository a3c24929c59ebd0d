"""Owns the journal: it appends events, projects them in the same transaction, and reads them back.

It must not decide what may happen, nor touch the tree. Every later transaction of an operation is
fenced: it says whose operation it believes it is, so that an owner that was taken for dead learns
it here and stops.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import attrs

from layerstore import codec, grouping, projection, rows, state
from layerstore import events as e
from layerstore import model as m
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import JournalDamaged, OwnerLost
from layerstore.fs import layout
from layerstore.values import value

T = TypeVar("T")


@value
@attrs.frozen(repr=False, eq=False)
class Author:
    """Who writes, and under which circumstances: the columns that every row gets."""

    owner: str
    boot_id: str
    epoch: str


class InFlight(Exception):
    """A precondition met an operation in flight; the caller waits for it or settles it."""

    def __init__(self, operation: m.Operation) -> None:
        super().__init__(operation.id)
        self.operation = operation


class ManifestStands(Exception):
    """A layer that is about to be writable has a manifest, which has to be dropped before that."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(layer)
        self.layer = layer
        self.reason = reason


class MustBeDurable(Exception):
    """What a transaction would take back must not come back by a power cut: it is to be repeated as
    one whose commit waits for the disk.
    """


class Transaction:
    """What may be asked and appended inside one write transaction."""

    def __init__(
        self,
        connection: engine.Connection,
        author: Author,
        now: Callable[[], int],
        *,
        full: bool = False,
    ):
        self._connection = connection
        self.author = self._author = author
        self._now = now
        self._full = full
        self.last_seq = 0

    def append(self, event: e.Event, *, operation: str | None = None) -> int:
        """Append one event, project it, and return its seq."""
        kind, data = codec.encode(event)
        author = self._author
        at = self._now()
        cursor = self._connection.execute(
            sql.INSERT_EVENT,
            {
                "epoch": author.epoch,
                "operation": operation,
                "owner": author.owner,
                "boot_id": author.boot_id,
                "at": at,
                "kind": kind,
                "layer": getattr(event, "layer", None),
                "data": data,
            },
        )
        seq: int = cursor.lastrowid
        facts = projection.RowFacts(seq, operation, author.owner, author.boot_id, at)
        projection.fold(self._connection, facts, event)
        self.last_seq = seq
        return seq

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """What is taken back alone where it raises."""
        self._connection.execute("SAVEPOINT job")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK TO job")
            self._connection.execute("RELEASE job")
            raise
        self._connection.execute("RELEASE job")

    def finish(
        self,
        operation: str,
        outcome: e.Done | e.Undone,
        *,
        then: Callable[[Transaction], None] | None = None,
    ) -> int:
        """Append an outcome, if the operation is still this owner's; `then` joins in."""
        found = self.require_own(operation)
        assert state.ends(found.verb, outcome), (found, outcome)
        seq = self.append(outcome, operation=operation)
        if then is not None:
            then(self)
        return seq

    def require_full(self) -> None:
        """Raise MustBeDurable unless the commit of this transaction waits for the disk."""
        if not self._full:
            raise MustBeDurable

    def now(self) -> int:
        """The time, as rows have times."""
        return self._now()

    def one(self, statement: str, **parameters: Any) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(statement, parameters).fetchone()
        return row

    def all(self, statement: str, **parameters: Any) -> engine.Rows:
        found: engine.Rows = self._connection.execute(statement, parameters).fetchall()
        return found

    def execute(self, statement: str, **parameters: Any) -> int:
        """How many rows that changed."""
        changed: int = self._connection.execute(statement, parameters).rowcount
        return changed

    def layer(self, layer: str) -> m.Layer | None:
        row = self.one(sql.SELECT_LAYER, id=layer)
        return None if row is None else rows.layer(row)

    def idle_layer(self, layer: str) -> m.Layer | None:
        """The same; InFlight while it has an operation in flight."""
        row = self.one(sql.SELECT_LAYER, id=layer)
        if row is None or row[-1] is not None:  # the verb of its operation
            self.require_idle(layer)
        return None if row is None else rows.layer(row)

    def project(self, layer: str) -> tuple[int, int]:
        """The project id and the limit of a layer, or of what lies in the trash; 0 where it has none."""
        row = self.one(sql.SELECT_PROJECT, layer=layer)
        return (0, 0) if row is None else (row[0], row[2])

    def operation(self, operation: str) -> m.Operation | None:
        row = self.one(sql.SELECT_OPERATION, operation=operation)
        return None if row is None else rows.operation(row)

    def operation_on(self, layer: str) -> m.Operation | None:
        row = self.one(sql.SELECT_OPERATION_ON, layer=layer)
        return None if row is None else rows.operation(row)

    def require_idle(self, layer: str) -> None:
        """Raise InFlight while the layer has an operation in flight."""
        blocking = self.operation_on(layer)
        if blocking is not None:
            raise InFlight(blocking)

    def require_own(self, operation: str) -> m.Operation:
        """The operation; OwnerLost unless it is still in flight and this owner's."""
        found = self.operation(operation)
        if found is None or found.owner != self._author.owner:
            raise OwnerLost(operation)
        return found


class Journal:
    """The journal of one open store, as one owner writes it."""

    def __init__(
        self,
        database: engine.Database,
        author: Author,
        *,
        now: Callable[[], int],
        raise_mark: Callable[[int], int],
        mark: int,
    ) -> None:
        """`raise_mark(seq)` moves the high-water mark of store.json well beyond `seq`, durably, if
        there is room for it; the mark that it has then.
        """
        self.database = database
        self.author = author
        self._now = now
        self._raise_mark = raise_mark
        self._mark = mark
        self.last_seq = 0
        """The newest event of this owner."""
        self._group = grouping.Grouping(database)

    @contextlib.contextmanager
    def transaction(self, *, full: bool) -> Iterator[Transaction]:
        """One write transaction; everything appended in it is there, or nothing of it."""
        with self._group.write(full=full) as connection:
            transaction = Transaction(connection, self.author, self._now, full=full)
            yield transaction
            self._appended(transaction.last_seq)

    def write(self, action: Callable[[Transaction], T], *, full: bool) -> T:
        """The same around one call, which costs a verb less than a `with` does."""

        def part(connection: engine.Connection) -> T:
            transaction = Transaction(connection, self.author, self._now, full=full)
            result = action(transaction)
            self._appended(transaction.last_seq)
            return result

        return self._group.transact(part, full=full)

    def _appended(self, seq: int) -> None:
        """To be called before the commit. Long before the mark is reached: on a full disk it cannot
        be moved.
        """
        self.last_seq = max(self.last_seq, seq)
        if seq > max(0, self._mark - MARK_STEP // 2):
            self._mark = self._raise_mark(seq)

    def intent_of(self, operation: m.Operation) -> e.Intent:
        """The intent event of an operation in flight."""
        found = self.database.read(sql.SELECT_EVENT, {"seq": operation.intent_seq})
        if not found:
            raise JournalDamaged(
                f"Row {operation.intent_seq} of the journal is missing: operation {operation.id} "
                "cannot be settled.",
                hint="'layerstore db rebuild' begins a new journal from the tree.",
            )
        row = dict(zip(sql.EVENTS_COLUMNS, found[0], strict=True))
        event = codec.decode(row["kind"], row["data"], seq=operation.intent_seq)
        if type(event) not in state.VERB_OF_INTENT:
            raise JournalDamaged(f"Row {operation.intent_seq} of the journal is no intent.")
        return event  # type: ignore[return-value]  # checked above

    def finish(
        self,
        operation: str,
        outcome: e.Done | e.Undone,
        *,
        full: bool,
        then: Callable[[Transaction], None] | None = None,
    ) -> int:
        """`Transaction.finish` in a transaction of its own."""
        return self.write(lambda tx: tx.finish(operation, outcome, then=then), full=full)

    def claim(self, operation: m.Operation) -> bool:
        """Move an operation to this owner, if it is still where it was seen."""
        with self.transaction(full=False) as transaction:
            found = transaction.operation(operation.id)
            seen = (operation.owner, operation.abandoned)
            if found is None or (found.owner, found.abandoned) != seen:
                return False
            if found.owner != self.author.owner or found.abandoned:
                transaction.append(
                    e.OperationClaimed(found.layer, found.verb, found.owner), operation=found.id
                )
        return True

    def rests(self, operation: m.Operation) -> bool:
        """Whether nobody could end it, again and again, and the last who tried did so just now.

        Each try is two events. After the first ones the pause doubles each time.
        """
        ((count, last),) = self.database.read(
            sql.COUNT_ABANDONED,
            {
                "layer": operation.layer,
                "after": operation.intent_seq,
                "operation": operation.id,
                "kind": ABANDONED,
            },
        )
        if count < TRIES_WITHOUT_PAUSE:
            return False
        pause: int = min(1 << min(count - TRIES_WITHOUT_PAUSE, 20), LONGEST_PAUSE) * 1_000_000
        # Where the clock was set back, the pause is over.
        since: int = self._now() - last
        return 0 <= since < pause

    def abandon(self, operation: str, layer: str, reason: str) -> None:
        """Say that this owner could not end an operation; anyone may."""
        with self.transaction(full=False) as transaction:
            transaction.require_own(operation)
            transaction.append(e.OperationAbandoned(layer, reason), operation=operation)


ABANDONED = next(tag for tag, cls in codec.TAGS.items() if cls is e.OperationAbandoned)
TRIES_WITHOUT_PAUSE = 3
LONGEST_PAUSE = 3600
"""Seconds."""
MARK_STEP = 10_000
"""The mark in store.json runs ahead of seq by this much, so that it is seldom written."""


def database_of(home: Path, *, timeout: float) -> engine.Database:
    """The database of a store, to be written; StoreDamaged if it is none."""
    return engine.Database(
        os.fspath(home / layout.DATABASE),
        timeout=timeout,
        fence=os.fspath(home / layout.WRITE_LOCK),
        suspect=os.fspath(home / layout.SUSPECT),
        spare=os.fspath(home / layout.STORE_LOCK),
    )
