"""Owns the facts about what layers hold: archives that were applied, and manifests; `events` has all others."""

from __future__ import annotations

import attrs

from layerstore.values import value

# --- apply --------------------------------------------------------------------------------------


@value
@attrs.frozen(repr=False, eq=False)
class LayerApplyIntended:
    """An archive is about to become the content of an empty layer."""

    layer: str
    link: str
    probe: bool
    """The layer can be an upper: the kernel is asked whether it is one."""
    base: bool
    """Nothing is below it, so that an opaque root means nothing."""
    durable: bool


@value
@attrs.frozen(repr=False, eq=False)
class LayerApplied:
    layer: str
    size: int
    """Bytes of its files, hard links once."""
    diff_id: str
    """`sha256:<hex>` of the uncompressed archive; empty where a power cut took it."""
    durable: bool
    inodes: int | None = None
    """Inodes of its content, with directories; None where nobody counted them."""


@value
@attrs.frozen(repr=False, eq=False)
class LayerApplyUndone:
    layer: str
    reason: str


# --- manifests ----------------------------------------------------------------------------------


@value
@attrs.frozen(repr=False, eq=False)
class ManifestRecordIntended:
    """What a layer holds, file by file, is about to be written down."""

    layer: str
    link: str
    probe: bool
    """The layer can be an upper: the kernel is asked whether it is one."""
    sync_content: bool
    """The content is not known to be on disk, and is synced first."""
    durable: bool


@value
@attrs.frozen(repr=False, eq=False)
class ManifestRecorded:
    layer: str
    digest: str
    """`sha256:<hex>` of the file."""
    files: int
    bytes: int
    """Its size."""


@value
@attrs.frozen(repr=False, eq=False)
class ManifestRecordUndone:
    layer: str
    reason: str


@value
@attrs.frozen(repr=False, eq=False)
class ManifestDropped:
    """The manifest of a layer counts no more, because `reason`."""

    layer: str
    reason: str
