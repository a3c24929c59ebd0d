"""Owns the way from an intent to its steps, forwards and backwards; it must not touch disk or database.

Everything here is a pure function of the intent and the operation's name, so that recovery computes
the steps that the first run computed. The step that publishes comes last but for the syncs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from layerstore import events as e
from layerstore import repair_steps
from layerstore.fs import layout
from layerstore.fs import steps as s

Steps = tuple[s.Step, ...]

CORRECTIONS: Final = (
    "restore-link",
    "drop-link",
    "mark-committed",
    "sweep-staging",
    "drop-merged",
)


def forward(operation: str, intent: e.Intent) -> Steps:
    """The steps that carry an intent out. Repeated after a crash they finish what was begun."""
    return _FORWARD[type(intent)](operation, intent)


def again(operation: str, intent: e.Intent) -> Steps:
    """The steps that finish what a dead owner began: forward, and what only its death makes needed.

    A mount that its owner was ending can have lived on elsewhere: the kernel is asked.
    """
    steps = forward(operation, intent)
    match intent:
        case e.LayerUnmountIntended(reason=reason, read_only=False) if reason != "lost":
            return (*steps, s.ProbeUpper(intent.layer, layout.staging(operation)))
    return steps


def backward(operation: str, intent: e.Intent) -> Steps:
    """The steps that undo an intent, from any point of its forward steps."""
    return _BACKWARD[type(intent)](operation, intent)


def done(intent: e.Intent, performed: s.Performed) -> e.Done:
    """The outcome of an intent whose forward steps have all been performed."""
    match intent:
        case e.LayerCreateIntended():
            return e.LayerCreated(intent.layer, intent.parent, intent.durable)
        case e.LayerMountIntended():
            return e.LayerMounted(
                intent.layer, intent.holder, intent.read_only, performed.mount_id, performed.style
            )
        case e.LayerUnmountIntended():
            return e.LayerUnmounted(intent.layer, performed.detached)
        case e.LayerRemoveIntended():
            return e.LayerRemoved(intent.layer)
        case e.TrashEmptyIntended():
            return e.TrashEmptied(intent.layer, performed.entries, performed.bytes)
        case e.TreeCorrectIntended():
            return e.TreeCorrected(intent.layer)
        case e.LayerApplyIntended():
            return e.LayerApplied(
                intent.layer,
                performed.size,
                performed.diff_id,
                intent.durable,
                performed.inodes or None,
            )
        case e.ManifestRecordIntended():
            return e.ManifestRecorded(
                intent.layer, performed.digest, performed.entries, performed.bytes
            )
        case e.RepairIntended():
            return e.Repaired(intent.layer)


def undone(intent: e.Intent, reason: str, *, in_use: bool) -> e.Undone:
    """The outcome of an intent that was undone; `in_use`: the kernel still has its upper."""
    match intent:
        case e.LayerMountIntended():
            return e.LayerMountUndone(intent.layer, reason, in_use)
        case e.LayerCreateIntended():
            return e.LayerCreateUndone(intent.layer, reason)
        case e.LayerUnmountIntended():
            return e.LayerUnmountUndone(intent.layer, reason)
        case e.LayerRemoveIntended():
            return e.LayerRemoveUndone(intent.layer, reason, in_use)
        case e.TrashEmptyIntended():
            return e.TrashEmptyUndone(intent.layer, reason)
        case e.TreeCorrectIntended():
            return e.TreeCorrectUndone(intent.layer, reason)
        case e.LayerApplyIntended():
            return e.LayerApplyUndone(intent.layer, reason)
        case e.ManifestRecordIntended():
            return e.ManifestRecordUndone(intent.layer, reason)
        case e.RepairIntended():
            return e.RepairUndone(intent.layer, reason)


def _create(operation: str, intent: e.LayerCreateIntended) -> Steps:
    stage = layout.staging(operation)
    sync = intent.durable
    steps: list[s.Step] = []
    if intent.parent is not None:
        steps.append(_verify_parent(intent))
    if intent.parent is not None and intent.probe_parent:
        steps.append(s.ProbeUpper(intent.parent, f"{stage}-probe"))
    uid, gid = intent.uid, intent.gid
    # The daemon's own, with a way through for the container's root: the layout since 20.10.9.
    steps.append(s.MakeDirectory(stage, layout.LAYER_MODE, fresh=True, gid=gid))
    if intent.project:
        steps.append(s.SetLimit(intent.project, intent.size))
    steps += [
        s.MakeDirectory(layout.diff(stage), layout.DIFF_MODE, uid=uid, gid=gid),
        *_belongs(layout.diff(stage), intent.project),
        s.WriteFile(layout.link_file(stage), intent.link, layout.FILE_MODE, sync),
    ]
    if intent.parent is not None:
        steps += [
            s.MakeDirectory(layout.work(stage), layout.PRIVATE_MODE, uid=uid, gid=gid),
            *_belongs(layout.work(stage), intent.project),
            s.WriteFile(layout.lower_file(stage), intent.lower, layout.FILE_MODE, sync),
            s.WriteFile(layout.committed(intent.parent), "", layout.FILE_MODE, False),
        ]
    steps.append(s.MakeSymlink(layout.short_link(intent.link), layout.link_target(intent.layer)))
    if sync:
        steps += _sync_stage(stage, intent)
    steps.append(s.Publish(stage, intent.layer, intent.link))
    if sync:
        steps.append(s.SyncDirectory(""))
    return tuple(steps)


def _sync_stage(stage: str, intent: e.LayerCreateIntended) -> Steps:
    """What a create syncs before it publishes: after all of it is written, since the first sync may
    bring most of the others along; and what a whole sync for the chain's content brings along, it does not
    sync again.
    """
    link = layout.link_file(stage)
    if intent.sync_parent:
        return (s.SyncFileSystem(link),)
    rest = (s.SyncDirectory(stage), s.SyncDirectory(layout.LINKS))
    if intent.parent is None:
        return (s.SyncFile(link), *rest)
    lower = layout.lower_file(stage)
    return (s.SyncFile(link), s.SyncFile(lower), s.SyncMark(intent.parent), *rest)


def _verify_parent(intent: e.LayerCreateIntended) -> s.Step:
    """The parent's own files must agree with the index before a child is built upon them."""
    assert intent.parent is not None
    _, _, parent_lower = intent.lower.partition(":")
    return s.VerifyLayer(
        intent.parent, intent.parent_link, parent_lower, ((intent.parent_link, intent.parent),)
    )


def _uncreate(operation: str, intent: e.LayerCreateIntended) -> Steps:
    away = layout.trash(operation)
    return (
        s.MoveToTrash(intent.layer, away, intent.link, others_stay=True),
        s.RemoveSymlink(layout.short_link(intent.link), layout.link_target(intent.layer)),
        s.RemoveTree(f"{layout.staging(operation)}-probe"),
        s.RemoveTree(layout.staging(operation)),
        s.RemoveTree(away),
        *_end_limit(intent.project),
    )


def _belongs(path: str, project: int) -> Steps:
    """Before anything is in it: what is made in it belongs to the project from the start.

    `diff` and `work` alone: files are renamed from one to the other, which takes the same project.
    With the whole layer in it, a full one would have no room for its mountpoint (on XFS).
    """
    return (s.SetProject(path, project),) if project else ()


def _end_limit(project: int) -> Steps:
    """Nothing belongs to the project any more; before its id is free, its limit ends."""
    return (s.ClearLimit(project),) if project else ()


def _mount(operation: str, intent: e.LayerMountIntended) -> Steps:
    lowers = tuple(layout.short_link(link) for link in layout.lower_links(intent.lower))
    merged = layout.merged(intent.layer)
    chain = tuple(zip(layout.lower_links(intent.lower), intent.chain, strict=True))
    verify = s.VerifyLayer(
        intent.layer, intent.link, intent.lower, ((intent.link, intent.layer), *chain)
    )
    make = s.MakeDirectory(merged, layout.PRIVATE_MODE, uid=intent.uid, gid=intent.gid)
    if intent.read_only:
        lowers = (layout.diff(intent.layer), *lowers)
        return (verify, make, s.MountOverlay(merged, lowers, None, None, intent.mount_label))
    # A full layer has no room for what the kernel makes in `work` when it mounts (on XFS).
    lift, limit = _end_limit(intent.project), _limit_again(intent)
    remapped = intent.uid is not None or intent.gid is not None
    inner = f"{layout.work(intent.layer)}/work"  # the kernel made it, as root of its own
    return (
        verify,
        s.ProbeUpper(intent.layer, layout.staging(operation)),
        make,
        *lift,
        s.MountOverlay(
            merged,
            lowers,
            layout.diff(intent.layer),
            layout.work(intent.layer),
            intent.mount_label,
        ),
        *((s.Own(inner, intent.uid, intent.gid),) if remapped else ()),
        *limit,
    )


def _limit_again(intent: e.LayerMountIntended) -> Steps:
    if intent.read_only or not intent.project:
        return ()
    return (s.SetLimit(intent.project, intent.size, needed=False),)


def _unmount_mounted(operation: str, intent: e.LayerMountIntended) -> Steps:
    """What the mount made is taken away; a probe decides whether `merged` may go."""
    steps: list[s.Step] = [s.Unmount(layout.merged(intent.layer)), *_limit_again(intent)]
    if not intent.read_only:
        steps.append(s.ProbeUpper(intent.layer, layout.staging(operation)))
    steps.append(_remove_mountpoint(operation, intent.layer))
    return tuple(steps)


def _remove_mountpoint(operation: str, layer: str) -> s.Step:
    return s.RemoveDirectory(layout.merged(layer), aside=layout.quarantine(operation))


def _unmount(operation: str, intent: e.LayerUnmountIntended) -> Steps:
    gone = _remove_mountpoint(operation, intent.layer)
    if intent.reason != "lost":
        return (s.Unmount(layout.merged(intent.layer)), gone)
    if intent.read_only:
        return (s.CheckUnmounted(intent.layer), gone)
    return (s.ProbeUpper(intent.layer, layout.staging(operation)), gone)


def _remove(operation: str, intent: e.LayerRemoveIntended) -> Steps:
    steps: list[s.Step] = []
    if intent.mounted:
        steps.append(s.Unmount(layout.merged(intent.layer)))
    if intent.probe:
        steps.append(s.RemoveDirectory(layout.merged(intent.layer), full_is_fine=True))
        steps.append(s.ProbeUpper(intent.layer, layout.staging(operation)))
    steps += [
        s.MoveToTrash(intent.layer, layout.trash(operation), intent.link),
        s.RemoveSymlink(layout.short_link(intent.link), layout.link_target(intent.layer)),
        s.RemoveFile(layout.manifest(intent.layer)),
    ]
    if intent.durable:
        # A rename is in both directories or in neither; a link that comes back leads nowhere, and the
        # open after the power cut removes it (ADR 0025).
        steps.append(s.SyncDirectory(""))
    return tuple(steps)


def _unremove(operation: str, intent: e.LayerRemoveIntended) -> Steps:
    """The layer stays; the mount that the remove took down without holders stays down."""
    steps: list[s.Step] = []
    if intent.mounted:
        steps.append(s.Unmount(layout.merged(intent.layer)))
    steps.append(s.RemoveDirectory(layout.merged(intent.layer), full_is_fine=True))
    if intent.probe:
        # Whatever made the remove fail, or die: a mount that was detached may live on.
        steps.append(s.RemoveTree(layout.staging(operation)))
        steps.append(s.ProbeUpper(intent.layer, layout.staging(operation)))
    return tuple(steps)


def _empty(operation: str, intent: e.TrashEmptyIntended) -> Steps:
    del operation
    return (s.RemoveTree(layout.trash(intent.entry)), *_end_limit(intent.project))


def _correct(operation: str, intent: e.TreeCorrectIntended) -> Steps:
    if intent.correction == "restore-link":
        path = layout.short_link(intent.name)
        return (
            s.MakeSymlink(path, layout.link_target(intent.layer)),
            s.SyncDirectory(layout.LINKS),
        )
    if intent.correction == "drop-link":
        return (
            s.RemoveSymlink(layout.short_link(intent.name), ""),
            s.SyncDirectory(layout.LINKS),
        )
    if intent.correction == "mark-committed":
        mark = layout.committed(intent.layer)
        return (s.WriteFile(mark, "", layout.FILE_MODE, False), s.SyncMark(intent.layer))
    if intent.correction == "drop-merged":
        return (
            s.ProbeUpper(intent.layer, layout.staging(operation)),
            s.CheckUnmounted(intent.layer),
            s.RemoveDirectory(layout.merged(intent.layer), full_is_fine=True),
        )
    away = layout.trash(operation)
    swept = (s.MoveAside(layout.staging(intent.name), away), s.RemoveTree(away))
    return (*swept, *_end_limit(intent.project))


def _apply(operation: str, intent: e.LayerApplyIntended) -> Steps:
    stage = layout.staging(operation)
    steps: list[s.Step] = [
        s.Unpack(operation, intent.layer, intent.probe, intent.base, intent.durable),
        s.ReplaceDirectory(layout.diff(stage), intent.layer, intent.link),
    ]
    if intent.durable:
        steps.append(s.SyncDirectory(intent.layer))
    # What the archive was stands there until the outcome says it; the trash is emptied after that.
    steps.append(s.MoveAside(stage, layout.trash(operation)))
    return tuple(steps)


def _unapply(operation: str, intent: e.LayerApplyIntended) -> Steps:
    del intent
    stage = layout.staging(operation)
    return (
        s.RemoveTree(f"{stage}-probe"),
        s.RemoveTree(layout.applied(stage)),
        s.RemoveTree(stage),
    )


def _record(operation: str, intent: e.ManifestRecordIntended) -> Steps:
    steps: list[s.Step] = []
    if intent.probe:
        steps.append(s.ProbeUpper(intent.layer, layout.staging(operation)))
    if intent.sync_content:
        steps.append(s.SyncFileSystem())
    steps.append(s.MakeDirectory(layout.MANIFESTS, layout.PRIVATE_MODE))
    if intent.durable:
        steps.append(s.SyncDirectory(layout.OWN))
    steps.append(s.WriteManifest(intent.layer, intent.link))
    return tuple(steps)


def _unrecord(operation: str, intent: e.ManifestRecordIntended) -> Steps:
    return (
        s.RemoveTree(layout.staging(operation)),
        s.RemoveFile(layout.manifest(intent.layer)),
    )


def _nothing(operation: str, intent: Any) -> Steps:
    """There is nothing to take back: what was not done stays to be done, or was never wrong."""
    del operation, intent
    return ()


_FORWARD: Final[Mapping[type[Any], Callable[[str, Any], Steps]]] = {
    e.LayerCreateIntended: _create,
    e.LayerMountIntended: _mount,
    e.LayerUnmountIntended: _unmount,
    e.LayerRemoveIntended: _remove,
    e.TrashEmptyIntended: _empty,
    e.TreeCorrectIntended: _correct,
    e.LayerApplyIntended: _apply,
    e.ManifestRecordIntended: _record,
    e.RepairIntended: repair_steps.forward,
}
_BACKWARD: Final[Mapping[type[Any], Callable[[str, Any], Steps]]] = {
    e.LayerCreateIntended: _uncreate,
    e.LayerMountIntended: _unmount_mounted,
    e.LayerUnmountIntended: _nothing,
    e.LayerRemoveIntended: _unremove,
    e.TrashEmptyIntended: _nothing,
    e.TreeCorrectIntended: _nothing,
    e.LayerApplyIntended: _unapply,
    e.ManifestRecordIntended: _unrecord,
    e.RepairIntended: repair_steps.backward,
}
