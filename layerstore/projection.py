"""Owns what each event does to the tables; it must not append events or read files.

The same fold projects a new event in its own transaction, replays the journal for an audit, and
rebuilds the index. It never looks at anything but the event and its row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from layerstore import adoption_rows, state
from layerstore import events as e
from layerstore.db import statements as sql
from layerstore.db.engine import Connection
from layerstore.fs import layout
from layerstore.model import OWNER_PREFIX
from layerstore.values import value


@value
@attrs.frozen(repr=False, eq=False)
class RowFacts:
    """What the row of an event adds to it."""

    seq: int
    operation: str | None
    owner: str
    boot_id: str
    at: int


def fold(connection: Connection, row: RowFacts, event: e.Event) -> None:
    """Apply one event to the tables."""
    verb = state.VERB_OF_INTENT.get(type(event))
    if verb is not None:
        connection.execute(
            sql.INSERT_OPERATION,
            {
                "id": row.operation,
                "verb": verb,
                "layer": event.layer,  # type: ignore[union-attr]  # every intent has one
                "owner": row.owner,
                "intent_seq": row.seq,
                "started_at": row.at,
                "abandoned": 0,
            },
        )
    elif type(event) in state.OUTCOMES:
        connection.execute(sql.DELETE_OPERATION, {"operation": row.operation})
    project = _PROJECT.get(type(event))
    if project is not None:
        project(connection, row, event)


def _insert_layer(connection: Connection, row: RowFacts, **values: Any) -> None:
    base = {
        "read_write": 0,
        "committed": 0,
        "labels": "{}",
        "storage_options": "{}",
        "mount_label": "",
        "created_at": row.at,
        "created_seq": row.seq,
        "durable": 0,
        "used": 0,
        "draining": 0,
        "damage": None,
        "applied": 0,
        "diff_id": None,
        "size": None,
        "inodes": None,
    }
    connection.execute(sql.INSERT_LAYER, base | values)


def _create_intended(connection: Connection, row: RowFacts, event: e.LayerCreateIntended) -> None:
    _insert_layer(
        connection,
        row,
        id=event.layer,
        link=event.link,
        parent=event.parent,
        lower=event.lower,
        depth=event.depth,
        read_write=int(event.read_write),
        labels=json.dumps(dict(event.labels), sort_keys=True),
        storage_options=json.dumps(dict(event.storage_options), sort_keys=True),
        mount_label=event.mount_label,
        durable=int(event.durable),
    )
    if event.project:
        _take_project(connection, row, event.layer, event.project, event.size)


def _take_project(
    connection: Connection, row: RowFacts, layer: str, project: int, size: int
) -> None:
    connection.execute(
        sql.INSERT_PROJECT, {"id": project, "layer": layer, "size": size, "since_seq": row.seq}
    )


def _created(connection: Connection, row: RowFacts, event: e.LayerCreated) -> None:
    connection.execute(sql.CREATED_LAYER, {"id": event.layer, "at": row.at, "seq": row.seq})
    if event.parent is not None:
        connection.execute(sql.COMMIT_PARENT, {"id": event.parent, "durable": int(event.durable)})


def _create_undone(connection: Connection, row: RowFacts, event: e.LayerCreateUndone) -> None:
    del row
    connection.execute(sql.DELETE_PROJECT, {"layer": event.layer})
    connection.execute(sql.DELETE_LAYER, {"id": event.layer})


def _mount_intended(connection: Connection, row: RowFacts, event: e.LayerMountIntended) -> None:
    del row
    connection.execute(sql.MOUNT_LAYER, {"id": event.layer, "read_only": int(event.read_only)})


def _mounted(connection: Connection, row: RowFacts, event: e.LayerMounted) -> None:
    connection.execute(sql.DRAIN_LAYER, {"id": event.layer, "draining": 0})
    _insert_mount(connection, row, event.layer, event.mount_id, read_only=event.read_only)
    _take(connection, row, event.layer, event.holder)


def _insert_mount(
    connection: Connection, row: RowFacts, layer: str, mount_id: int, *, read_only: bool
) -> None:
    connection.execute(
        sql.INSERT_MOUNT,
        {
            "layer": layer,
            "read_only": int(read_only),
            "mount_id": mount_id,
            "boot_id": row.boot_id,
            "since_at": row.at,
            "since_seq": row.seq,
        },
    )


def _take(connection: Connection, row: RowFacts, layer: str, holder: str) -> None:
    connection.execute(
        sql.TAKE_HOLD,
        {
            "layer": layer,
            "holder": holder,
            "owner": row.owner,
            "since_at": row.at,
            "since_seq": row.seq,
        },
    )


def _mount_undone(connection: Connection, row: RowFacts, event: e.LayerMountUndone) -> None:
    del row
    if event.draining:
        connection.execute(sql.DRAIN_LAYER, {"id": event.layer, "draining": 1})


def _unmounted(connection: Connection, row: RowFacts, event: e.LayerUnmounted) -> None:
    del row
    connection.execute(sql.END_HOLDS_ON, {"layer": event.layer})
    connection.execute(sql.DELETE_MOUNT, {"layer": event.layer})
    connection.execute(sql.DRAIN_LAYER, {"id": event.layer, "draining": int(event.draining)})


def _hold_taken(connection: Connection, row: RowFacts, event: e.HoldTaken) -> None:
    connection.execute(sql.HOLD_LAYER, {"id": event.layer})
    _take(connection, row, event.layer, event.holder)


def _hold_released(connection: Connection, row: RowFacts, event: e.HoldReleased) -> None:
    del row
    which = {"layer": event.layer, "holder": event.holder}
    if not connection.execute(sql.RELEASE_HOLD, which).rowcount:
        connection.execute(sql.END_HOLDS, which)  # it was the last one


def _holds_ended(connection: Connection, row: RowFacts, event: e.HoldsEnded) -> None:
    del row
    connection.execute(sql.END_HOLDS, {"layer": event.layer, "holder": event.holder})


def _mount_found(connection: Connection, row: RowFacts, event: e.MountFound) -> None:
    connection.execute(sql.MOUNT_LAYER, {"id": event.layer, "read_only": int(event.read_only)})
    if not event.read_only:  # whoever mounted it may have written to it
        connection.execute(sql.DELETE_MANIFEST, {"layer": event.layer})
    _insert_mount(connection, row, event.layer, event.mount_id, read_only=event.read_only)
    _take(connection, row, event.layer, event.holder)


def _remove_intended(connection: Connection, row: RowFacts, event: e.LayerRemoveIntended) -> None:
    del row
    connection.execute(sql.END_HOLDS, {"layer": event.layer, "holder": event.holder})


def _removed(connection: Connection, row: RowFacts, event: e.LayerRemoved) -> None:
    """The layer is gone; its project id is taken until its files in the trash are gone, too."""
    assert row.operation is not None
    place = {"layer": event.layer, "place": layout.trash(row.operation)}
    connection.execute(sql.MOVE_PROJECT, place)
    _drop(connection, event.layer)


def _forgotten(
    connection: Connection, row: RowFacts, event: e.LayerForgotten | e.LayerVanished
) -> None:
    """Its files are gone, and with them what its project id was for."""
    del row
    connection.execute(sql.DELETE_PROJECT, {"layer": event.layer})
    _drop(connection, event.layer)


def _drop(connection: Connection, layer: str) -> None:
    connection.execute(sql.END_HOLDS_ON, {"layer": layer})
    connection.execute(sql.DELETE_MOUNT, {"layer": layer})
    connection.execute(sql.DELETE_MANIFEST, {"layer": layer})
    connection.execute(sql.DELETE_LAYER, {"id": layer})


def _emptied(connection: Connection, row: RowFacts, event: e.TrashEmptied) -> None:
    del row
    connection.execute(sql.DELETE_PROJECT, {"layer": event.layer})


def _remove_undone(connection: Connection, row: RowFacts, event: e.LayerRemoveUndone) -> None:
    """The layer stays; where it was mounted, the mount is gone."""
    del row
    if event.draining:
        connection.execute(sql.DRAIN_LAYER, {"id": event.layer, "draining": 1})
    connection.execute(sql.END_HOLDS_ON, {"layer": event.layer})
    connection.execute(sql.DELETE_MOUNT, {"layer": event.layer})


def _apply_intended(connection: Connection, row: RowFacts, event: e.LayerApplyIntended) -> None:
    """A layer takes one apply in its life, also one that broke off."""
    del row
    connection.execute(sql.DELETE_MANIFEST, {"layer": event.layer})
    connection.execute(sql.APPLYING_LAYER, {"id": event.layer})


def _applied(connection: Connection, row: RowFacts, event: e.LayerApplied) -> None:
    del row
    connection.execute(
        sql.APPLIED_LAYER,
        {
            "id": event.layer,
            "durable": int(event.durable),
            "diff_id": event.diff_id or None,
            "size": event.size,
            # What is not known to be on disk can be another after a power cut.
            "inodes": event.inodes if event.durable else None,
        },
    )


def _recorded(connection: Connection, row: RowFacts, event: e.ManifestRecorded) -> None:
    connection.execute(
        sql.INSERT_MANIFEST,
        {
            "layer": event.layer,
            "digest": event.digest,
            "files": event.files,
            "bytes": event.bytes,
            "since_at": row.at,
            "since_seq": row.seq,
        },
    )


def _dropped(connection: Connection, row: RowFacts, event: e.ManifestDropped) -> None:
    del row
    connection.execute(sql.DELETE_MANIFEST, {"layer": event.layer})


def _elsewhere(connection: Connection, row: RowFacts, event: Any) -> None:
    """The tree is a copy, or the index an older one: what was counted need not be so here."""
    del row, event
    connection.execute(sql.FORGET_INODES)


def _moved(connection: Connection, row: RowFacts, event: e.StoreMoved) -> None:
    if not event.same_directory:
        _elsewhere(connection, row, event)


def _adopted(connection: Connection, row: RowFacts, event: e.LayerAdopted) -> None:
    _insert_layer(
        connection,
        row,
        id=event.layer,
        link=event.link,
        parent=event.parent,
        lower=event.lower,
        depth=event.depth,
        committed=int(event.committed),
        read_write=int(bool(event.project)),
        storage_options=json.dumps({"size": str(event.size)} if event.size else {}),
        used=1,
    )
    if event.project:
        _take_project(connection, row, event.layer, event.project, event.size)
    if event.commits_parent:
        connection.execute(sql.COMMIT_LAYER, {"id": event.parent})


def _found(connection: Connection, row: RowFacts, event: e.LayerFound) -> None:
    values = adoption_rows.columns(event)
    if not connection.execute(sql.FOUND_LAYER, values).rowcount:
        _insert_layer(connection, row, **values, used=1)
    connection.execute(sql.DELETE_PROJECT, {"layer": event.layer})
    if event.project:
        _take_project(connection, row, event.layer, event.project, event.limit)


def _isolated(connection: Connection, row: RowFacts, event: e.LayerIsolated) -> None:
    del row
    connection.execute(sql.DAMAGE_LAYER, {"id": event.layer, "damage": event.damage})


def _restored(connection: Connection, row: RowFacts, event: e.LayerRestored) -> None:
    del row
    connection.execute(sql.DAMAGE_LAYER, {"id": event.layer, "damage": None})


def _owner_died(connection: Connection, row: RowFacts, event: e.OwnerDied) -> None:
    connection.execute(sql.END_HOLDS_OF, {"holder": OWNER_PREFIX + event.owner})
    connection.execute(sql.CLOSE_OWNER, {"id": event.owner, "at": row.at})


def _claimed(connection: Connection, row: RowFacts, event: e.OperationClaimed) -> None:
    del event
    connection.execute(sql.CLAIM_OPERATION, {"operation": row.operation, "owner": row.owner})


def _abandoned(connection: Connection, row: RowFacts, event: e.OperationAbandoned) -> None:
    del event
    connection.execute(sql.ABANDON_OPERATION, {"operation": row.operation})


_PROJECT: Final[Mapping[type[Any], Callable[[Connection, RowFacts, Any], None]]] = {
    e.LayerCreateIntended: _create_intended,
    e.LayerCreated: _created,
    e.LayerCreateUndone: _create_undone,
    e.LayerMountIntended: _mount_intended,
    e.LayerMounted: _mounted,
    e.LayerMountUndone: _mount_undone,
    e.LayerUnmounted: _unmounted,
    e.HoldTaken: _hold_taken,
    e.HoldReleased: _hold_released,
    e.HoldsEnded: _holds_ended,
    e.MountFound: _mount_found,
    e.LayerRemoveIntended: _remove_intended,
    e.LayerRemoved: _removed,
    e.LayerRemoveUndone: _remove_undone,
    e.TrashEmptied: _emptied,
    e.LayerApplyIntended: _apply_intended,
    e.LayerApplied: _applied,
    e.ManifestRecorded: _recorded,
    e.ManifestDropped: _dropped,
    e.StoreMoved: _moved,
    e.StoreCopied: _elsewhere,
    e.StoreRestored: _elsewhere,
    e.LayerAdopted: _adopted,
    e.LayerForgotten: _forgotten,
    e.LayerFound: _found,
    e.LayerVanished: _forgotten,
    e.LayerIsolated: _isolated,
    e.LayerRestored: _restored,
    e.OwnerDied: _owner_died,
    e.OperationClaimed: _claimed,
    e.OperationAbandoned: _abandoned,
}
"""Events without a row here change no table but `events` and `operations`."""
