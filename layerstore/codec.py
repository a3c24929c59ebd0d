"""Owns the tags of events and their JSON, both ways; it must not know tables or meanings.

A tag is explicit and versioned, so that a class can be renamed; where a v2 exists, v1 is upcast here
on read. An unknown tag or a bad field is one error that names the row.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, Final

import attrs

from layerstore import events as e
from layerstore.errors import JournalDamaged
from layerstore.model import Verb

if TYPE_CHECKING:
    import cattrs

TAGS: Final[dict[str, type[Any]]] = {
    "store.initialized.v1": e.StoreInitialized,
    "store.rebuilt.v1": e.StoreRebuilt,
    "store.moved.v1": e.StoreMoved,
    "store.copied.v1": e.StoreCopied,
    "store.restored.v1": e.StoreRestored,
    "journal.compacted.v1": e.JournalCompacted,
    "layer.create.intended.v2": e.LayerCreateIntended,
    "layer.created.v1": e.LayerCreated,
    "layer.create.undone.v1": e.LayerCreateUndone,
    "layer.mount.intended.v2": e.LayerMountIntended,
    "layer.mounted.v1": e.LayerMounted,
    "layer.mount.undone.v1": e.LayerMountUndone,
    "layer.unmount.intended.v1": e.LayerUnmountIntended,
    "layer.unmounted.v1": e.LayerUnmounted,
    "layer.unmount.undone.v1": e.LayerUnmountUndone,
    "hold.taken.v1": e.HoldTaken,
    "hold.released.v1": e.HoldReleased,
    "holds.ended.v1": e.HoldsEnded,
    "mount.found.v1": e.MountFound,
    "layer.remove.intended.v1": e.LayerRemoveIntended,
    "layer.removed.v1": e.LayerRemoved,
    "layer.remove.undone.v1": e.LayerRemoveUndone,
    "trash.empty.intended.v2": e.TrashEmptyIntended,
    "trash.emptied.v1": e.TrashEmptied,
    "trash.empty.undone.v1": e.TrashEmptyUndone,
    "layer.adopted.v3": e.LayerAdopted,
    "layer.found.v1": e.LayerFound,
    "layer.vanished.v1": e.LayerVanished,
    "layer.forgotten.v1": e.LayerForgotten,
    "layer.isolated.v1": e.LayerIsolated,
    "layer.restored.v1": e.LayerRestored,
    "tree.correct.intended.v2": e.TreeCorrectIntended,
    "tree.corrected.v1": e.TreeCorrected,
    "tree.correct.undone.v1": e.TreeCorrectUndone,
    "layer.apply.intended.v1": e.LayerApplyIntended,
    "layer.applied.v2": e.LayerApplied,
    "layer.apply.undone.v1": e.LayerApplyUndone,
    "manifest.record.intended.v1": e.ManifestRecordIntended,
    "manifest.recorded.v1": e.ManifestRecorded,
    "manifest.record.undone.v1": e.ManifestRecordUndone,
    "manifest.dropped.v1": e.ManifestDropped,
    "repair.intended.v1": e.RepairIntended,
    "repair.done.v1": e.Repaired,
    "repair.undone.v1": e.RepairUndone,
    "tree.adopted.v1": e.TreeAdopted,
    "tree.released.v1": e.TreeReleased,
    "tree.taken.v1": e.TreeTakenOver,
    "index.refolded.v1": e.IndexRefolded,
    "owner.died.v1": e.OwnerDied,
    "operation.claimed.v1": e.OperationClaimed,
    "operation.abandoned.v1": e.OperationAbandoned,
}
UPCASTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "layer.create.intended.v1": (
        "layer.create.intended.v2",
        {"uid": None, "gid": None, "project": 0, "size": 0},
    ),
    "layer.mount.intended.v1": (
        "layer.mount.intended.v2",
        {"uid": None, "gid": None, "project": 0, "size": 0},
    ),
    "trash.empty.intended.v1": ("trash.empty.intended.v2", {"project": 0}),
    "layer.adopted.v1": ("layer.adopted.v3", {"project": 0, "size": 0, "commits_parent": False}),
    "layer.adopted.v2": ("layer.adopted.v3", {"commits_parent": False}),
    "layer.applied.v1": ("layer.applied.v2", {"inodes": None}),
    "tree.correct.intended.v1": ("tree.correct.intended.v2", {"project": 0}),
}
"""Tags that are only read any more: the next version, and what it has that they did not say."""
_TAG_OF: Final = {
    cls: (tag, tuple((field.name, f'"{field.name}":') for field in attrs.fields(cls)))
    for tag, cls in TAGS.items()
}
"""The tag of a class, and its fields in the order that a row has them, each with its key in JSON."""
_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _exactly(value: Any, cls: type[Any]) -> Any:
    """A value of this very type. cattrs would make one: a layer "None" of a null."""
    if type(value) is not cls:
        raise TypeError(f"{value!r} is no {cls.__name__}")
    return value


def _strings(value: Any, _: Any) -> tuple[str, ...]:
    return tuple(_exactly(item, str) for item in _exactly(value, list))


@functools.cache
def _converter() -> cattrs.Converter:
    """What makes events of JSON. It is slow to import, and no verb reads an event unless it settles."""
    import cattrs
    from cattrs.gen import make_dict_structure_fn

    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    for plain in (str, int, bool):
        converter.register_structure_hook(plain, _exactly)
    converter.register_structure_hook(Verb, lambda value, _: Verb(value))
    converter.register_structure_hook_func(lambda cls: cls == tuple[str, ...], _strings)
    for cls in TAGS.values():
        converter.register_structure_hook(
            cls, make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)
        )
    return converter


def encode(event: e.Event) -> tuple[str, str]:
    """The tag and the JSON text of an event, whose fields are all of kinds that JSON has."""
    tag, names = _TAG_OF[type(event)]
    fields = [key + _json(getattr(event, name)) for name, key in names]
    return tag, "{" + ",".join(fields) + "}"


def _json(value: Any) -> str:
    """What `_encode` gives, which takes longer to set out than most values to write."""
    kind = type(value)
    if kind is str:
        return json.encoder.encode_basestring(value)
    return str(value) if kind is int else _encode(value)


def decode(kind: str, data: str, *, seq: int) -> e.Event:
    """The event of a row; raises JournalDamaged, naming the row, for one that cannot be read."""
    tag, added = UPCASTS.get(kind, (kind, {}))
    cls = TAGS.get(tag)
    if cls is None:
        raise JournalDamaged(
            f"Row {seq} of the journal has the unknown kind {kind!r}.",
            hint="It was written by a newer layerstore, or the row is damaged.",
        )
    try:
        fields = json.loads(data)
        _check_names(fields, cls, added)
        event: e.Event = _converter().structure({**fields, **added}, cls)
    except Exception as error:  # cattrs and json raise many kinds; all mean the same here
        raise JournalDamaged(
            f"Row {seq} of the journal ({kind}) cannot be read: {error}.",
            hint="'layerstore db rebuild' begins a new journal from the tree.",
        ) from error
    return event


def _check_names(fields: Any, cls: type[Any], added: dict[str, Any]) -> None:
    """Each version has its own fields, and all of them: a default is never read out of a row."""
    if not isinstance(fields, dict):
        raise TypeError(f"{fields!r} is no object")
    wanted = {name for name, _ in _TAG_OF[cls][1]} - added.keys()
    for word, names in (("missing", wanted - fields.keys()), ("unknown", fields.keys() - wanted)):
        if names:
            raise ValueError(f"{word}: {', '.join(sorted(names))}")
