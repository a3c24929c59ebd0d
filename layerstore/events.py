"""Owns every fact the journal can hold, one class each; it must not know how they are stored or judged.

An operation is a triple: the intent, and one of its two outcomes. The intent holds every *fact*
that is needed to finish or undo the operation, never a list of steps: those are computed from it
by `plan`, at the first run and at recovery alike. Events outside a triple are single transactions.
Their tags, which rows carry, stand in `codec`; classes can be renamed, tags cannot.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from layerstore.model import Verb


def _plain(value: Mapping[str, str]) -> dict[str, str]:
    return dict(value)


@attrs.frozen
class StoreInitialized:
    store_id: str
    max_depth: int


@attrs.frozen
class StoreRebuilt:
    """The journal was begun anew from the tree, because `reason`."""

    store_id: str
    reason: str


# --- create ---------------------------------------------------------------------------------


@attrs.frozen
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
    """The parent is draining: the kernel is asked whether it is free."""


@attrs.frozen
class LayerCreated:
    layer: str
    parent: str | None
    durable: bool


@attrs.frozen
class LayerCreateUndone:
    layer: str
    reason: str


# --- mount: the first get -------------------------------------------------------------------


@attrs.frozen
class LayerMountIntended:
    layer: str
    link: str
    lower: str
    chain: tuple[str, ...]
    """The ids of the layers in `lower`, in its order."""
    holder: str
    read_only: bool
    mount_label: str


@attrs.frozen
class LayerMounted:
    layer: str
    holder: str
    read_only: bool
    mount_id: int
    style: str
    """By which interface: `new`, `absolute` or `relative`."""


@attrs.frozen
class LayerMountUndone:
    layer: str
    reason: str
    draining: bool


# --- unmount: the last put, cleanup, a mount that nobody living holds -------------------------


@attrs.frozen
class LayerUnmountIntended:
    layer: str
    holder: str | None
    """Whose last hold this ends; None: whatever holds there are."""
    reason: str
    """`put`, `cleanup`, `no holder`, or `lost` (the kernel has no such mount)."""
    read_only: bool


@attrs.frozen
class LayerUnmounted:
    layer: str
    draining: bool


@attrs.frozen
class LayerUnmountUndone:
    layer: str
    reason: str


# --- holds ----------------------------------------------------------------------------------


@attrs.frozen
class HoldTaken:
    layer: str
    holder: str


@attrs.frozen
class HoldReleased:
    layer: str
    holder: str


@attrs.frozen
class HoldsEnded:
    """All holds of `holder` on `layer` ended at once, because `reason`."""

    layer: str
    holder: str
    reason: str


@attrs.frozen
class MountFound:
    """The kernel has a mount that the journal did not know; `holder` stands for whoever made it."""

    layer: str
    holder: str
    mount_id: int
    read_only: bool


# --- remove and empty -----------------------------------------------------------------------


@attrs.frozen
class LayerRemoveIntended:
    layer: str
    link: str
    holder: str
    """Its own holds are dropped with the intent."""
    mounted: bool
    probe: bool
    """The layer can be an upper: the kernel is asked whether it still is."""
    durable: bool


@attrs.frozen
class LayerRemoved:
    layer: str


@attrs.frozen
class LayerRemoveUndone:
    layer: str
    reason: str
    draining: bool


@attrs.frozen
class TrashEmptyIntended:
    layer: str
    """`trash/<entry>`: not a layer's id, which has no slash."""
    entry: str


@attrs.frozen
class TrashEmptied:
    layer: str
    entries: int
    bytes: int


@attrs.frozen
class TrashEmptyUndone:
    layer: str
    reason: str


# --- apply --------------------------------------------------------------------------------------


@attrs.frozen
class LayerApplyIntended:
    """An archive is about to become the content of an empty layer."""

    layer: str
    link: str
    probe: bool
    """The layer can be an upper: the kernel is asked whether it is one."""
    base: bool
    """Nothing is below it, so that an opaque root means nothing."""
    durable: bool


@attrs.frozen
class LayerApplied:
    layer: str
    size: int
    """Bytes of its files, hard links once."""
    diff_id: str
    """`sha256:<hex>` of the uncompressed archive; empty where a power cut took it."""
    durable: bool


@attrs.frozen
class LayerApplyUndone:
    layer: str
    reason: str


# --- what the tree decides ------------------------------------------------------------------


@attrs.frozen
class LayerAdopted:
    """A whole layer that the journal did not know: the tree decides that it exists."""

    layer: str
    link: str
    parent: str | None
    lower: str
    depth: int
    committed: bool
    reason: str


@attrs.frozen
class LayerIsolated:
    layer: str
    damage: str


@attrs.frozen
class LayerRestored:
    """A layer that was isolated is whole again."""

    layer: str


@attrs.frozen
class TreeCorrectIntended:
    """`correction`: `restore-link`, `drop-link` or `sweep-staging`."""

    layer: str
    """The layer, or `l/<LINK>` or `staging/<name>` where no layer is concerned."""
    correction: str
    name: str
    """The link, or the name in staging."""


@attrs.frozen
class TreeCorrected:
    layer: str


@attrs.frozen
class TreeCorrectUndone:
    layer: str
    reason: str


# --- owners and operations ------------------------------------------------------------------


@attrs.frozen
class OwnerDied:
    """An owner was found dead: its holds are over."""

    owner: str
    pid: int
    command: str


@attrs.frozen
class OperationClaimed:
    """An operation was moved from a dead owner (or an abandoned one) to the one that settles it."""

    layer: str
    verb: Verb
    previous: str


@attrs.frozen
class OperationAbandoned:
    """Its owner could neither finish nor undo it; anyone may settle it."""

    layer: str
    reason: str


Intent = (
    LayerCreateIntended
    | LayerMountIntended
    | LayerUnmountIntended
    | LayerRemoveIntended
    | TrashEmptyIntended
    | TreeCorrectIntended
    | LayerApplyIntended
)
Done = (
    LayerCreated
    | LayerMounted
    | LayerUnmounted
    | LayerRemoved
    | TrashEmptied
    | TreeCorrected
    | LayerApplied
)
Undone = (
    LayerCreateUndone
    | LayerMountUndone
    | LayerUnmountUndone
    | LayerRemoveUndone
    | TrashEmptyUndone
    | TreeCorrectUndone
    | LayerApplyUndone
)
Single = (
    StoreInitialized
    | StoreRebuilt
    | HoldTaken
    | HoldReleased
    | HoldsEnded
    | MountFound
    | LayerAdopted
    | LayerIsolated
    | LayerRestored
    | OwnerDied
    | OperationClaimed
    | OperationAbandoned
)
Event = Intent | Done | Undone | Single
