"""Owns every fact the journal can hold, one class each; it must not know how they are stored or judged.

An operation is a triple: the intent, and one of its two outcomes. The intent holds every *fact*
that is needed to finish or undo the operation, never a list of steps: those are computed from it
by `plan`, at the first run and at recovery alike. Events outside a triple are single transactions.
Their tags, which rows carry, stand in `codec`; classes can be renamed, tags cannot. Those of
`home_events`, `content_events`, `repair_events` and `adoption_events` are had from here all the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from layerstore.adoption_events import LayerFound as LayerFound
from layerstore.adoption_events import LayerVanished as LayerVanished
from layerstore.adoption_events import TreeAdopted as TreeAdopted
from layerstore.adoption_events import TreeReleased as TreeReleased
from layerstore.adoption_events import TreeTakenOver as TreeTakenOver
from layerstore.content_events import LayerApplied as LayerApplied
from layerstore.content_events import LayerApplyIntended as LayerApplyIntended
from layerstore.content_events import LayerApplyUndone as LayerApplyUndone
from layerstore.content_events import ManifestDropped as ManifestDropped
from layerstore.content_events import ManifestRecorded as ManifestRecorded
from layerstore.content_events import ManifestRecordIntended as ManifestRecordIntended
from layerstore.content_events import ManifestRecordUndone as ManifestRecordUndone
from layerstore.home_events import JournalCompacted as JournalCompacted
from layerstore.home_events import OperationAbandoned as OperationAbandoned
from layerstore.home_events import OperationClaimed as OperationClaimed
from layerstore.home_events import OwnerDied as OwnerDied
from layerstore.home_events import StoreCopied as StoreCopied
from layerstore.home_events import StoreInitialized as StoreInitialized
from layerstore.home_events import StoreMoved as StoreMoved
from layerstore.home_events import StoreRebuilt as StoreRebuilt
from layerstore.home_events import StoreRestored as StoreRestored
from layerstore.repair_events import IndexRefolded as IndexRefolded
from layerstore.repair_events import Repaired as Repaired
from layerstore.repair_events import RepairIntended as RepairIntended
from layerstore.repair_events import RepairUndone as RepairUndone
from layerstore.repair_events import TreeCorrected as TreeCorrected
from layerstore.repair_events import TreeCorrectIntended as TreeCorrectIntended
from layerstore.repair_events import TreeCorrectUndone as TreeCorrectUndone
from layerstore.values import value


def _plain(value: Mapping[str, str]) -> dict[str, str]:
    return dict(value)


# --- create ---------------------------------------------------------------------------------


@value
@attrs.frozen(repr=False, eq=False)
class LayerCreateIntended:
    layer: str
    link: str
    parent: str | None
    parent_link: str
    """Empty for a base layer."""
    lower: str
    depth: int
    read_write: bool
    labels: Mapping[str, str] = attrs.field(converter=_plain, hash=False)
    storage_options: Mapping[str, str] = attrs.field(converter=_plain, hash=False)
    mount_label: str
    durable: bool
    """Made under durability `full`: every step syncs what it wrote."""
    sync_parent: bool
    """The content of the parent's chain is not known to be on disk, and is synced first."""
    probe_parent: bool
    """The parent may still be an upper somewhere: the kernel is asked whether it is free."""
    uid: int | None = None
    """Who owns `diff` and `work`: the root of the container. None: whoever makes them."""
    gid: int | None = None
    project: int = 0
    """The project id that the layer takes for its quota; 0: it has none."""
    size: int = 0
    """The limit of the project, in bytes."""


@value
@attrs.frozen(repr=False, eq=False)
class LayerCreated:
    layer: str
    parent: str | None
    durable: bool


@value
@attrs.frozen(repr=False, eq=False)
class LayerCreateUndone:
    layer: str
    reason: str


# --- mount: the first get -------------------------------------------------------------------


@value
@attrs.frozen(repr=False, eq=False)
class LayerMountIntended:
    layer: str
    link: str
    lower: str
    chain: tuple[str, ...]
    """The ids of the layers in `lower`, in its order."""
    holder: str
    read_only: bool
    mount_label: str
    uid: int | None = None
    """Who owns `merged` and `work/work`. None: whoever makes them."""
    gid: int | None = None
    project: int = 0
    """The project id of the layer, whose limit of `size` bytes waits until it is mounted."""
    size: int = 0


@value
@attrs.frozen(repr=False, eq=False)
class LayerMounted:
    layer: str
    holder: str
    read_only: bool
    mount_id: int
    style: str
    """By which interface: `new`, `absolute` or `relative`."""


@value
@attrs.frozen(repr=False, eq=False)
class LayerMountUndone:
    layer: str
    reason: str
    draining: bool


# --- unmount: the last put, cleanup, a mount that nobody living holds -------------------------


@value
@attrs.frozen(repr=False, eq=False)
class LayerUnmountIntended:
    layer: str
    holder: str | None
    """Whose last hold this ends; None: whatever holds there are."""
    reason: str
    """`put`, `cleanup`, `no holder`, or `lost` (the kernel has no such mount)."""
    read_only: bool


@value
@attrs.frozen(repr=False, eq=False)
class LayerUnmounted:
    layer: str
    draining: bool


@value
@attrs.frozen(repr=False, eq=False)
class LayerUnmountUndone:
    layer: str
    reason: str


# --- holds ----------------------------------------------------------------------------------


@value
@attrs.frozen(repr=False, eq=False)
class HoldTaken:
    layer: str
    holder: str


@value
@attrs.frozen(repr=False, eq=False)
class HoldReleased:
    layer: str
    holder: str


@value
@attrs.frozen(repr=False, eq=False)
class HoldsEnded:
    """All holds of `holder` on `layer` ended at once, because `reason`."""

    layer: str
    holder: str
    reason: str


@value
@attrs.frozen(repr=False, eq=False)
class MountFound:
    """The kernel has a mount that the journal did not know; `holder` stands for whoever made it."""

    layer: str
    holder: str
    mount_id: int
    read_only: bool


# --- remove and empty -----------------------------------------------------------------------


@value
@attrs.frozen(repr=False, eq=False)
class LayerRemoveIntended:
    layer: str
    link: str
    holder: str
    """Its own holds are dropped with the intent."""
    mounted: bool
    probe: bool
    """The layer can be an upper: the kernel is asked whether it still is."""
    durable: bool


@value
@attrs.frozen(repr=False, eq=False)
class LayerRemoved:
    layer: str


@value
@attrs.frozen(repr=False, eq=False)
class LayerRemoveUndone:
    layer: str
    reason: str
    draining: bool


@value
@attrs.frozen(repr=False, eq=False)
class TrashEmptyIntended:
    layer: str
    """`trash/<entry>`: not a layer's id, which has no slash."""
    entry: str
    project: int = 0
    """The project id that it had as a layer, free when this is done."""


@value
@attrs.frozen(repr=False, eq=False)
class TrashEmptied:
    layer: str
    entries: int
    bytes: int


@value
@attrs.frozen(repr=False, eq=False)
class TrashEmptyUndone:
    layer: str
    reason: str


# --- what the tree decides ------------------------------------------------------------------


@value
@attrs.frozen(repr=False, eq=False)
class LayerAdopted:
    """A whole layer that the journal did not know: the tree decides that it exists."""

    layer: str
    link: str
    parent: str | None
    lower: str
    depth: int
    committed: bool
    reason: str
    project: int = 0
    """The project id that its directory has, with the limit in bytes."""
    size: int = 0
    commits_parent: bool = False
    """The index has its parent as one that was never built upon: its create was lost with the rest."""


@value
@attrs.frozen(repr=False, eq=False)
class LayerForgotten:
    """A layer of the index whose directory and link were removed while nothing was journaled."""

    layer: str
    reason: str


@value
@attrs.frozen(repr=False, eq=False)
class LayerIsolated:
    layer: str
    damage: str


@value
@attrs.frozen(repr=False, eq=False)
class LayerRestored:
    """A layer that was isolated is whole again."""

    layer: str


Intent = (
    LayerCreateIntended
    | LayerMountIntended
    | LayerUnmountIntended
    | LayerRemoveIntended
    | TrashEmptyIntended
    | TreeCorrectIntended
    | LayerApplyIntended
    | ManifestRecordIntended
    | RepairIntended
)
Done = (
    LayerCreated
    | LayerMounted
    | LayerUnmounted
    | LayerRemoved
    | TrashEmptied
    | TreeCorrected
    | LayerApplied
    | ManifestRecorded
    | Repaired
)
Undone = (
    LayerCreateUndone
    | LayerMountUndone
    | LayerUnmountUndone
    | LayerRemoveUndone
    | TrashEmptyUndone
    | TreeCorrectUndone
    | LayerApplyUndone
    | ManifestRecordUndone
    | RepairUndone
)
Single = (
    StoreInitialized
    | StoreRebuilt
    | JournalCompacted
    | StoreMoved
    | StoreCopied
    | StoreRestored
    | HoldTaken
    | HoldReleased
    | HoldsEnded
    | MountFound
    | LayerAdopted
    | LayerForgotten
    | LayerIsolated
    | LayerRestored
    | LayerFound
    | LayerVanished
    | TreeAdopted
    | TreeReleased
    | TreeTakenOver
    | ManifestDropped
    | IndexRefolded
    | OwnerDied
    | OperationClaimed
    | OperationAbandoned
)
Event = Intent | Done | Undone | Single
