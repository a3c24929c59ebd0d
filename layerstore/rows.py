"""Owns the way from rows to the values of `model`; it must not query or judge."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from layerstore import model as m
from layerstore.db import statements as sql

Row = Sequence[Any]

_STATES: Final = {
    None: m.LayerState.READY,
    m.Verb.CREATE: m.LayerState.CREATING,
    m.Verb.MOUNT: m.LayerState.MOUNTING,
    m.Verb.UNMOUNT: m.LayerState.UNMOUNTING,
    m.Verb.REMOVE: m.LayerState.REMOVING,
    m.Verb.CORRECT: m.LayerState.READY,
    m.Verb.APPLY: m.LayerState.APPLYING,
    m.Verb.RECORD: m.LayerState.READY,
    m.Verb.REPAIR: m.LayerState.READY,
}


def _mapping(text: str) -> dict[str, str]:
    return {} if text == "{}" else json.loads(text)


def layer(row: Row) -> m.Layer:
    """A row of LAYER_COLUMNS."""
    value = dict(zip(sql.LAYER_COLUMNS, row, strict=True))
    return m.Layer(
        id=value["id"],
        link=value["link"],
        parent=value["parent"],
        lower=value["lower"],
        depth=value["depth"],
        state=_STATES[value["verb"]],
        read_write=bool(value["read_write"]),
        committed=bool(value["committed"]),
        created_at=m.from_micros(value["created_at"]),
        created_seq=value["created_seq"],
        labels=_mapping(value["labels"]),
        storage_options=_mapping(value["storage_options"]),
        mount_label=value["mount_label"],
        durable=bool(value["durable"]),
        used=bool(value["used"]),
        draining=bool(value["draining"]),
        damage=value["damage"],
        applied=bool(value["applied"]),
        diff_id=value["diff_id"],
        size=value["size"],
        inodes=value["inodes"],
    )


def made(found: Iterable[Row]) -> tuple[m.Layer, ...]:
    """The layers among rows of LAYER_COLUMNS: not those that a create has not finished."""
    values = (layer(row) for row in found)
    return tuple(value for value in values if value.state is not m.LayerState.CREATING)


def owner(row: Row) -> m.Owner:
    """A row of OWNERS_COLUMNS."""
    return _owner(dict(zip(sql.OWNERS_COLUMNS, row, strict=True)))


def _owner(value: dict[str, Any]) -> m.Owner:
    closed = value["closed_at"]
    return m.Owner(
        id=value["id"],
        pid=value["pid"],
        started=value["started"],
        boot_id=value["boot_id"],
        mount_id=value["mount_id"],
        command=value["command"],
        opened_at=m.from_micros(value["opened_at"]),
        closed_at=None if closed is None else m.from_micros(closed),
    )


def hold(row: Row) -> m.Hold:
    """A row of HOLD_COLUMNS: a hold with the owner that took it, where its row is still there."""
    value = dict(zip(sql.HOLD_COLUMNS, row, strict=True))
    taken_by = None if value["pid"] is None else _owner(value | {"id": value["owner"]})
    return m.Hold(
        layer=value["layer"],
        holder=value["holder"],
        count=value["count"],
        since=m.from_micros(value["since_at"]),
        since_seq=value["since_seq"],
        taken_by=taken_by,
    )


def mount(row: Row) -> m.Mount:
    """A row of MOUNTS_COLUMNS."""
    value = dict(zip(sql.MOUNTS_COLUMNS, row, strict=True))
    return m.Mount(
        layer=value["layer"],
        read_only=bool(value["read_only"]),
        mount_id=value["mount_id"],
        boot_id=value["boot_id"],
        since=m.from_micros(value["since_at"]),
        since_seq=value["since_seq"],
    )


def manifest(row: Row) -> m.Manifest:
    """A row of MANIFESTS_COLUMNS."""
    value = dict(zip(sql.MANIFESTS_COLUMNS, row, strict=True))
    since = m.from_micros(value.pop("since_at"))
    return m.Manifest(**value, since=since)


def operation(row: Row) -> m.Operation:
    """A row of OPERATIONS_COLUMNS."""
    value = dict(zip(sql.OPERATIONS_COLUMNS, row, strict=True))
    return m.Operation(
        id=value["id"],
        verb=m.Verb(value["verb"]),
        layer=value["layer"],
        owner=value["owner"],
        intent_seq=value["intent_seq"],
        started_at=m.from_micros(value["started_at"]),
        abandoned=bool(value["abandoned"]),
    )
