"""Owns what follows when a store is found where it was not: moved, copied, or with an older database.

It must not touch the directory that a copy was made of, nor act on the tree for an operation of
another place: that is ended in the journal alone, and then the tree decides.

A home that moved goes on by itself. A copy whose original is still there is refused until somebody
says which of the two it is, because nothing on the disk does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from layerstore import decide, description, log, place, plan, rows
from layerstore import events as e
from layerstore import model as m
from layerstore.db import about as db_about
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import JournalDamaged, LayerstoreError, Refused, StoreCopied
from layerstore.fs import files, layout, mountinfo
from layerstore.fs.trace import trace
from layerstore.journal import MARK_STEP, InFlight, Transaction, database_of
from layerstore.reader import check_not_newer, revision
from layerstore.recovery import Hands
from layerstore.values import value

MOVED, COPIED, RESTORED, BEHIND = "moved", "copied", "restored", "behind"
STALE: Final = "stale"
"""The value of the COMPARE row where the index is older than the tree."""


@value
@attrs.frozen(repr=False, eq=False)
class Arrival:
    """How a database came to be where it is; kept in its ARRIVED row until it was acted upon."""

    how: str
    came_from: str
    """The home that it was last opened in, or the file that it was restored from."""
    was: str = ""
    """The store that a copy was."""
    same_directory: bool = False

    @property
    def foreign(self) -> bool:
        """Whether holds and operations belong to processes that work, or worked, elsewhere."""
        return self.how in (COPIED, RESTORED)


# --- before a store is opened -------------------------------------------------------------------


def refuse_copy(home: Path, about: description.Description) -> None:
    """Raise StoreCopied where the store is still there that this home is a copy of."""
    original = place.original(home, about.store_id)
    if original is not None:
        raise StoreCopied(os.fspath(home), os.fspath(original), about.store_id)


def arrive(home: Path) -> None:
    """Remember where the store is, and leave word in the database if it was somewhere else.

    The caller has the store to itself. Killed anywhere, it is done again by the next one.
    """
    record = place.recorded(home)
    if record is not None and record.becomes_id:
        become_another(home, record)
        return
    found = place.here(home)
    same = record is not None and found.is_directory_of(record)
    if same and not place.is_elsewhere(home, record):
        return
    about = description.read(home)
    refuse_copy(home, about)
    if record is not None:
        announce(home, about.store_id, Arrival(MOVED, record.path, same_directory=same))
        trace("arrive:announce:after")
        found = attrs.evolve(found, came_from=record.path)
    try:
        if record is not None and not same:  # where it was it may live on, unseen from here
            description.write(home, attrs.evolve(about, epoch=description.new_epoch()))
            trace("arrive:describe:after")
        place.write(home, found)
    except OSError as error:  # on a full disk a store has to open: the next one remembers it
        log.warning("%s could not be written: %s", home / layout.PLACE_FILE, error)


def announce(home: Path, store_id: str, arrival: Arrival, *, becomes: str = "") -> None:
    """Leave word in the database of a store that nobody has open; `becomes`: its new id."""
    database = database_of(home, timeout=30)
    try:
        check_not_newer(database.path, revision(database))
        with database.write(full=True) as connection:
            meta = dict(connection.execute(sql.SELECT_META).fetchall())
            if meta.get("store_id") not in (store_id, becomes):
                return  # another store's: whoever opens it says so
            if becomes:
                connection.execute(sql.PUT_META, {"key": "store_id", "value": becomes})
                former = f"{meta.get(place.FORMER_IDS, '')} {store_id}".strip()
                connection.execute(sql.PUT_META, {"key": place.FORMER_IDS, "value": former})
            put_word(connection, arrival)
    finally:
        database.close()


def put_word(connection: engine.Connection, arrival: Arrival) -> None:
    """The rows of `meta` that the next open acts upon."""
    word = json.dumps(attrs.asdict(arrival))
    connection.execute(sql.PUT_META, {"key": place.ARRIVED, "value": word})
    compare = STALE if arrival.how == RESTORED else "needed"
    connection.execute(sql.PUT_META, {"key": place.COMPARE, "value": compare})


# --- a copy is told what it is ------------------------------------------------------------------


def is_usable(home: Path) -> bool:
    """Whether SQLite finds the database whole: one that was copied while it was written may not be."""
    try:
        database = engine.ReadDatabase(os.fspath(home / layout.DATABASE), timeout=30)
        try:
            return database.read("PRAGMA integrity_check(1)") == [("ok",)]
        finally:
            database.close()
    except (LayerstoreError, OSError):
        return False


def check_copy(home: Path) -> place.Place:
    """Raise Refused unless this home is a copy, or may be one: the store was elsewhere before."""
    record = place.recorded(home)
    about = description.read(home)
    original = place.original(home, about.store_id)
    if record is None or (original is None and not _has_moved(home, record)):
        raise Refused(
            f"{home} is no copy: store {about.store_id} is where it was.",
            hint="Run it with the home that was made by copying.",
        )
    if original is not None and _is_shared(home, original):
        raise Refused(
            f"{home} is a copy of {original} by hard links: both have one database file.",
            hint="Make a copy that shares no files ('cp -a'), or remove this one.",
        )
    return record


def begin_another(home: Path, *, store_id: str, epoch: str) -> None:
    """Make a copy a store of its own. From the first write on it is decided."""
    decided = attrs.evolve(check_copy(home), becomes_id=store_id, becomes_epoch=epoch)
    place.write(home, decided)
    trace("adopt:decide:after")
    become_another(home, decided)


def _has_moved(home: Path, record: place.Place) -> bool:
    return bool(record.came_from) or place.is_elsewhere(home, record)


def _is_shared(home: Path, original: Path) -> bool:
    try:
        return os.path.samefile(home / layout.DATABASE, original / layout.DATABASE)
    except OSError:
        return False


def become_another(home: Path, record: place.Place) -> None:
    """Finish what `begin_another` decided, from wherever it was interrupted."""
    about = description.read(home)
    if about.store_id != record.becomes_id:
        came_from = record.came_from or record.path
        arrival = Arrival(COPIED, came_from, was=about.store_id)
        announce(home, about.store_id, arrival, becomes=record.becomes_id)
        trace("adopt:announce:after")
        changed = attrs.evolve(about, store_id=record.becomes_id, epoch=record.becomes_epoch)
        description.write(home, changed)
        trace("adopt:describe:after")
    place.write(home, place.here(home))
    trace("adopt:place:after")


def check_move(home: Path) -> place.Place:
    """Raise Refused unless this home is taken for a copy."""
    record = place.recorded(home)
    about = description.read(home)
    if record is None or place.original(home, about.store_id) is None:
        raise Refused(
            f"{home} is not taken for a copy: there is nothing to tell.",
            hint="A store that moved is recognised by itself, when it is opened.",
        )
    return record


def carry_on(home: Path) -> None:
    """The home that looks like a copy is the store, which has moved; the other is none any more."""
    record, about, found = check_move(home), description.read(home), place.here(home)
    same = found.is_directory_of(record)
    announce(home, about.store_id, Arrival(MOVED, record.path, same_directory=same))
    trace("carry-on:announce:after")
    description.write(home, attrs.evolve(about, epoch=description.new_epoch()))
    trace("carry-on:describe:after")
    place.write(home, attrs.evolve(found, came_from=record.path))
    trace("carry-on:place:after")


# --- at the open --------------------------------------------------------------------------------


def restart_numbers(
    home: Path, database: engine.Database, about: description.Description
) -> description.Description:
    """Give no number twice where the database is older than what `store.json` says was given out.

    The mark runs ahead of the newest event by one step, and a power cut takes a few events at most.
    """
    if db_about.last_number(database) >= about.high_water - 2 * MARK_STEP:
        return about
    with database.write(full=True) as connection:
        db_about.restart_numbers(connection, about.high_water)
        put_word(connection, Arrival(BEHIND, ""))
    changed = attrs.evolve(about, epoch=description.new_epoch())
    description.write(home, changed)
    return changed


def settle(hands: Hands) -> Iterator[m.Settled]:
    """Act upon the word that was left: one transaction, before anything of dead owners is settled."""
    if place.ARRIVED not in db_about.meta(hands.journal.database):
        return
    with hands.journal.transaction(full=True) as tx:
        meta = {row[0]: row[1] for row in tx.all(sql.SELECT_META)}
        if place.ARRIVED not in meta:
            return  # another open was faster
        arrival = Arrival(**json.loads(meta[place.ARRIVED]))
        event, message = _told(hands, meta["store_id"], arrival)
        tx.append(event)
        if not arrival.same_directory:
            _end_operations(hands, tx, f"the store was {arrival.how}")
        if arrival.foreign:
            _end_holds(hands, tx, f"the store was {arrival.how}")
        tx.execute(sql.DELETE_META, key=place.ARRIVED)
        trace("arrive:settle:before")
    trace("arrive:settle:after")
    what = "reverted" if arrival.how in (RESTORED, BEHIND) else arrival.how
    yield m.Settled(what, None, message)


def _told(hands: Hands, store_id: str, arrival: Arrival) -> tuple[e.Event, str]:
    """The event of an arrival, and what is said about it."""
    home, source = _text(hands.home), _text(arrival.came_from)
    if arrival.how == MOVED:
        how = "was moved here from" if source != home else "is in another directory than before, at"
        moved = e.StoreMoved(store_id, source, home, arrival.same_directory)
        return moved, f"the store {how} {source}"
    if arrival.how == COPIED:
        copied = e.StoreCopied(store_id, arrival.was, source)
        return copied, f"the copy of {source} is now store {store_id}"
    if arrival.how == RESTORED:
        return e.StoreRestored(store_id, source), f"the database was restored from {source}"
    message = "the database is older than the store: it was put back by hand, or lost its end"
    return e.StoreRestored(store_id, ""), message


def _text(path: str) -> str:
    """A path as a text that a row can hold."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _end_operations(hands: Hands, tx: Transaction, reason: str) -> None:
    """End what was in flight without acting: its owner worked, or works on, in another place.

    Undoing a create by its steps would remove the layer that it has become since.
    """
    for row in tx.all(sql.SELECT_OPERATIONS):
        operation = rows.operation(row)
        if hands.is_alive(operation.owner):
            continue
        try:
            intent = hands.journal.intent_of(operation)
        except JournalDamaged:
            continue  # settling it says so, and does nothing
        outcome: e.Done | e.Undone = plan.undone(intent, reason, in_use=False)
        if isinstance(intent, e.LayerCreateIntended) and (
            files.read_link(hands.home, intent.layer) == intent.link
        ):
            outcome = e.LayerCreated(intent.layer, intent.parent, durable=False)
        tx.append(outcome, operation=operation.id)


def _end_holds(hands: Hands, tx: Transaction, reason: str) -> None:
    """Keep the holds of names where the layer is mounted; those of the dead end with their owners.

    What is mounted gets a hold more, by nobody known: somebody may have taken one since.
    """
    mounted: dict[str, bool] = {}
    for row in tx.all(sql.SELECT_HOLDS):
        layer, holder = rows.hold(row).layer, rows.hold(row).holder
        if layer not in mounted:
            mounted[layer] = mountinfo.is_mount_root(f"{hands.home}/{layout.merged(layer)}")
        owner = holder.removeprefix(m.OWNER_PREFIX)
        if not mounted[layer] and not (owner != holder and hands.is_alive(owner)):
            tx.append(e.HoldsEnded(layer, holder, reason))
    for row in tx.all(sql.SELECT_MOUNTS):
        layer = rows.mount(row).layer
        known = tx.one(sql.SELECT_HOLD, layer=layer, holder=decide.UNKNOWN) is not None
        if not known and mountinfo.is_mount_root(f"{hands.home}/{layout.merged(layer)}"):
            tx.append(e.HoldTaken(layer, decide.UNKNOWN))


def forget_removed(hands: Hands) -> Iterator[m.Settled]:
    """Drop the layers of an older index that were removed since: neither directory nor link is there.

    A tree without any layer decides nothing: it may be the wrong one.
    """
    from layerstore.audit.tree import survey

    tree = survey(hands.home)
    if not tree.layers:
        return
    in_trash = set(tree.trash.values())
    for layer, link, *_ in reversed(hands.journal.database.read(sql.SELECT_INDEX)):
        found = tree.layers.get(layer)
        another = found is not None and found.link != link and tree.broken(layer) is None
        if link in tree.links or link in in_trash or (found is not None and not another):
            continue
        try:
            with hands.journal.transaction(full=hands.full) as tx:
                tx.require_idle(layer)
                if tx.layer(layer) is None or tx.one(sql.COUNT_CHILDREN, id=layer) != (0,):
                    continue
                tx.append(e.LayerForgotten(layer, "it was removed since the database was saved"))
        except InFlight:
            continue
        yield m.Settled("forgotten", layer, f"{layer} was removed since the database was saved")
