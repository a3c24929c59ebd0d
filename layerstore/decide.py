"""Owns the preconditions of the verbs: each function checks, in one transaction, and gives the intent.

It must not perform anything. A function that gives None has appended all there is to do; one that
meets an operation in flight raises InFlight, and the caller waits or settles it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import attrs

from layerstore import events as e
from layerstore import model as m
from layerstore import rows, values
from layerstore.db import statements as sql
from layerstore.description import Description
from layerstore.errors import (
    AlreadyApplied,
    HasChildren,
    InvalidArgument,
    LayerDamaged,
    LayerExists,
    LayerHeld,
    LayerNotEmpty,
    LayerstoreError,
    NotHeld,
    Refused,
    TooDeep,
    UnknownLayer,
)
from layerstore.fs import files, layout, mountinfo
from layerstore.journal import ManifestStands, Transaction

UNKNOWN: Final = "unknown"
"""The holder of a mount that is there and whose holders are not known."""


@values.value
@attrs.frozen(repr=False, eq=False)
class Wanted:
    """A layer that is to be created."""

    id: m.LayerId
    link: m.LinkId
    parent: m.LayerId | None
    read_write: bool
    labels: Mapping[str, str]
    storage_options: Mapping[str, str]
    mount_label: str
    uid: int | None = None
    gid: int | None = None
    size: int = 0
    """The limit that it is to have, in bytes; 0: none."""

    def same_as(self, existing: m.Layer) -> bool:
        """Whether the existing layer was created with these arguments."""
        names = ("parent", "read_write", "labels", "storage_options", "mount_label")
        return all(getattr(self, name) == getattr(existing, name) for name in names)


def checked_labels(labels: Mapping[Any, Any] | None) -> dict[str, str]:
    """Any text under any key that is not empty."""
    for key, value in (labels or {}).items():
        if not isinstance(key, str) or not isinstance(value, str) or not key or "=" in key:
            raise InvalidArgument(
                f"{key!r}={value!r} cannot be a label.",
                hint="Key and value are texts; the key is not empty and has no '='.",
            )
    return dict(labels or {})


def checked_mount_label(label: str) -> str:
    """A label that can be said to the kernel in its quotes."""
    if not label.isprintable() or '"' in label:
        raise InvalidArgument(
            f"{label!r} cannot be a mount label.", hint="It is an SELinux context, or empty."
        )
    return label


def create(
    tx: Transaction, wanted: Wanted, *, home: str, about: Description, durable: bool
) -> e.LayerCreateIntended:
    """A new layer, under an id that neither the index nor the tree has."""
    existing = tx.idle_layer(wanted.id)
    if existing is not None:
        unused = not existing.used and wanted.same_as(existing)
        raise LayerExists(wanted.id, same_and_unused=unused)
    if files.is_there(f"{home}/{wanted.id}"):
        raise LayerExists(wanted.id, where="tree")
    parent = None if wanted.parent is None else _usable_parent(tx, wanted.parent)
    depth = 0 if parent is None else parent.depth + 1
    if depth > about.max_depth:
        raise TooDeep(wanted.id, depth, about.max_depth)
    return e.LayerCreateIntended(
        layer=wanted.id,
        link=wanted.link,
        parent=wanted.parent,
        parent_link="" if parent is None else parent.link,
        lower="" if parent is None else layout.child_lower(parent.link, parent.lower),
        depth=depth,
        read_write=wanted.read_write,
        labels=wanted.labels,
        storage_options=wanted.storage_options,
        mount_label=wanted.mount_label,
        durable=durable,
        sync_parent=parent is not None and not parent.durable,
        probe_parent=parent is not None and _may_be_written_to(parent),
        uid=wanted.uid,
        gid=wanted.gid,
        project=_project_for(tx, wanted, home, about.store_id),
        size=wanted.size,
    )


def _project_for(tx: Transaction, wanted: Wanted, home: str, store_id: str) -> int:
    if not wanted.size:
        return 0
    from layerstore import projects  # few layers have a limit

    projects.require_quotas(home, "The storage option 'size'")
    return projects.allocate(tx, home, store_id)


def _usable_parent(tx: Transaction, parent: str) -> m.Layer:
    """A child would see what is written to a parent that is mounted read-write."""
    found = _usable(tx, parent)
    mount = tx.one(sql.SELECT_MOUNT, layer=parent)
    if mount is not None and not rows.mount(mount).read_only:
        raise LayerHeld(parent, holders(tx, parent))
    return found


def _may_be_written_to(parent: m.Layer) -> bool:
    """Whether a mount of it that ended here can live on elsewhere: only the kernel knows.

    A bind mount of `merged`, or a clone of the mount that somebody holds, does not keep the unmount
    busy. What is durable was not mounted read-write since it was made; what has a child never is.
    """
    if parent.parent is None:
        return False  # never an upper
    return parent.draining or (parent.used and not parent.durable and not parent.committed)


def _known(tx: Transaction, layer: str) -> m.Layer:
    """A layer of the index that is idle."""
    found = tx.idle_layer(layer)
    if found is None:
        raise UnknownLayer(layer)
    return found


def _usable(tx: Transaction, layer: str) -> m.Layer:
    found = _known(tx, layer)
    if found.damage:
        raise LayerDamaged(layer, found.damage)
    return found


def _require_childless(tx: Transaction, layer: str) -> None:
    count: Any = tx.one(sql.COUNT_CHILDREN, id=layer)
    if count[0]:
        children = tuple(row[0] for row in tx.all(sql.SELECT_CHILDREN, id=layer, page=5))
        raise HasChildren(layer, children, count[0])


def holders(tx: Transaction, layer: str) -> tuple[str, ...]:
    return tuple(rows.hold(row).holder for row in tx.all(sql.SELECT_HOLDS_ON, layer=layer))


@values.value
@attrs.frozen(repr=False, eq=False)
class Mounting:
    """How a layer is to be mounted, if it is not yet, and for whom."""

    holder: str
    mount_label: str = ""
    """Wins over the layer's own."""
    uid: int | None = None
    gid: int | None = None


@attrs.define(repr=False, eq=False)
class Place:
    """Where a layer's content is to be had: what a get finds out beside its intent."""

    path: str = ""
    """Relative to the home."""
    lost: m.Mount | None = None
    """A mount of the journal's that is not to be seen from here; nothing was decided then."""


def get(
    tx: Transaction, layer: str, wanted: Mounting, *, home: str, place: Place
) -> e.LayerMountIntended | None:
    """One hold more, or the first mount; `place` says where, or what is in the way."""
    place.lost = None
    holder = wanted.holder
    parent, is_known, recorded, counted = _if_usable(tx, layer)
    place.path = layout.diff(layer) if parent is None else layout.merged(layer)
    if parent is None:  # whoever has the path may write to it
        if recorded and not _usable(tx, layer).committed:
            raise ManifestStands(layer, "it was held, and may be written to")
        if counted:
            tx.require_full()
        tx.append(e.HoldTaken(layer, holder))
        return None
    mounted = mountinfo.is_mount_root(f"{home}/{layout.merged(layer)}")
    if is_known and not mounted:
        row = tx.one(sql.SELECT_MOUNT, layer=layer)
        assert row is not None
        place.lost = rows.mount(row)
        return None
    if mounted:
        foreign = None if is_known else found_mount(home, tx, layer)
        if foreign is not None:
            tx.append(foreign)
        tx.append(e.HoldTaken(layer, holder))
        return None
    found = _usable(tx, layer)
    read_only = _is_committed(tx, found)
    if recorded and not read_only:
        raise ManifestStands(layer, "it was mounted read-write")
    if counted and not read_only:
        tx.require_full()
    label = wanted.mount_label or found.mount_label
    if label:
        _require_selinux(layer, label)
    project, size = tx.project(layer)
    return e.LayerMountIntended(
        layer=layer,
        link=found.link,
        lower=found.lower,
        chain=tuple(row[0] for row in tx.all(sql.SELECT_CHAIN_IDS, id=layer)),
        holder=holder,
        read_only=read_only,
        mount_label=label,
        uid=wanted.uid,
        gid=wanted.gid,
        project=project,
        size=size,
    )


def _is_committed(tx: Transaction, found: m.Layer) -> bool:
    """Whether a layer has, or had, children: it is mounted read-only then."""
    return found.committed or tx.one(sql.COUNT_CHILDREN, id=found.id) != (0,)


def _require_selinux(layer: str, label: str) -> None:
    """The kernel would only say "invalid argument"."""
    if not mountinfo.has_selinux():
        raise LayerstoreError(
            f"Layer {layer} cannot be mounted with the label {label!r}: this kernel has no SELinux.",
            hint="Boot with SELinux enabled, or have layers without a mount label.",
        )


def _if_usable(tx: Transaction, layer: str) -> tuple[str | None, bool, bool, bool]:
    """The parent of a layer that is idle and usable; whether the index has a mount of it, a manifest,
    and the number of its inodes.

    One query for the get that is most frequent.
    """
    row = tx.one(sql.SELECT_USE, id=layer)
    if row is None or row[2] is not None:
        tx.require_idle(layer)
        raise UnknownLayer(layer)
    parent, damage, _, mounted, recorded, counted = row
    if damage:
        raise LayerDamaged(layer, damage)
    return parent, bool(mounted), bool(recorded), bool(counted)


def put(tx: Transaction, layer: str, holder: str) -> e.LayerUnmountIntended | None:
    """One hold less, or the unmount of the last one."""
    row = tx.one(sql.SELECT_HELD, id=layer, holder=holder)
    if row is None or row[0] is not None:
        tx.require_idle(layer)
        raise UnknownLayer(layer)
    _, held, read_only, holds = row
    if held is None:
        raise NotHeld(layer, holder)
    if read_only is None or holds != 1:
        tx.append(e.HoldReleased(layer, holder))
        return None
    return e.LayerUnmountIntended(layer, holder, "put", bool(read_only))


def unmount(tx: Transaction, layer: str, *, reason: str) -> e.LayerUnmountIntended | None:
    """The end of a mount: for `no holder` if there is none, for `cleanup` and `lost` whoever holds."""
    tx.require_idle(layer)
    row = tx.one(sql.SELECT_MOUNT, layer=layer)
    held = tx.one(sql.SUM_HOLDS, layer=layer) != (0,)
    if row is None or (reason == "no holder" and held):
        return None
    return e.LayerUnmountIntended(layer, None, reason, rows.mount(row).read_only)


def remove(tx: Transaction, layer: str, me: str, *, durable: bool) -> e.LayerRemoveIntended:
    """The removal of a layer that nothing is built upon and nobody else holds."""
    found = _known(tx, layer)
    _require_childless(tx, layer)
    others = tuple(holder for holder in holders(tx, layer) if holder != me)
    if others:
        raise LayerHeld(layer, others)
    return e.LayerRemoveIntended(
        layer=layer,
        link=found.link,
        holder=me,
        mounted=tx.one(sql.SELECT_MOUNT, layer=layer) is not None,
        probe=found.parent is not None,
        durable=durable,
    )


def apply(
    tx: Transaction, layer: str, *, parent: str | None = None, home: str, durable: bool
) -> e.LayerApplyIntended:
    """An archive for an empty layer that nobody uses, the only one in its life."""
    found = _usable(tx, layer)
    if parent is not None and parent != (found.parent or ""):
        above = f"on {found.parent}" if found.parent else "on nothing"
        raise InvalidArgument(
            f"The archive is meant for a layer on {parent or 'nothing'}, and {layer} is {above}.",
            hint=f"Create a layer with that parent; 'layerstore inspect {layer}' shows this one's.",
        )
    if found.applied:
        raise AlreadyApplied(layer)
    _require_childless(tx, layer)
    held = holders(tx, layer)
    if held or tx.one(sql.SELECT_MOUNT, layer=layer) is not None:
        raise LayerHeld(layer, held or ("nobody that is known, and is mounted",))
    if not files.is_empty(f"{home}/{layout.diff(layer)}"):
        raise LayerNotEmpty(layer)
    base = found.parent is None
    return e.LayerApplyIntended(layer, found.link, not base, base, durable)


def record(tx: Transaction, layer: str, *, durable: bool) -> e.ManifestRecordIntended | None:
    """The manifest of a layer that will not change; None: it has one that holds."""
    found = _usable(tx, layer)
    if tx.one(sql.SELECT_MANIFEST, layer=layer) is not None:
        return None
    committed = _is_committed(tx, found)
    if not committed:
        if not found.applied:
            raise InvalidArgument(
                f"Layer {layer} may still change: nothing was applied to it, and nothing is built "
                "upon it.",
                hint="A manifest is of a layer that an archive was applied to, or that has a child.",
            )
        held = holders(tx, layer)
        if held or tx.one(sql.SELECT_MOUNT, layer=layer) is not None:
            raise LayerHeld(layer, held or ("nobody that is known, and is mounted",))
    return e.ManifestRecordIntended(
        layer=layer,
        link=found.link,
        probe=found.parent is not None and (found.draining or not committed),
        sync_content=durable and not found.durable,
        durable=durable,
    )


def end_holds(tx: Transaction, layer: str, holder: str, *, reason: str) -> bool:
    """The end of all holds of one holder; whether there were any."""
    if tx.one(sql.SELECT_HOLD, layer=layer, holder=holder) is None:
        return False
    tx.append(e.HoldsEnded(layer, holder, reason))
    return True


def found_mount(home: str, tx: Transaction, layer: str) -> e.MountFound | None:
    """The event for a mount that the kernel has and the index has not."""
    merged = f"{home}/{layout.merged(layer)}"
    tx.require_idle(layer)
    if tx.layer(layer) is None or tx.one(sql.SELECT_MOUNT, layer=layer) is not None:
        return None
    if not mountinfo.is_mount_root(merged):
        return None
    if not mountinfo.is_overlay(merged):
        raise Refused(
            f"What is mounted at {merged} is no overlay, or does not answer.",
            hint=f"'umount -l {merged}' takes it away.",
        )
    read_only = bool(os.statvfs(merged).f_flag & os.ST_RDONLY)
    return e.MountFound(layer, UNKNOWN, mountinfo.mount_id(merged), read_only)
