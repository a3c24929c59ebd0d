"""Owns the nouns: what a layer, a hold, a mount and the rest are; it must not do I/O or read a clock.

Terms, used in this sense everywhere:

layer      a directory `<home>/<id>` in overlay2's layout, known by its id
parent     the layer that a layer is stacked on; a layer without one is a base layer
link       26 characters of A-Z2-7, a short name for a layer: `<home>/l/<LINK> -> ../<id>/diff`
lower      the parents of a layer, nearest first, as the text of its `lower` file: `l/AAA:l/BBB`
chain      a layer and its lowers
depth      the number of components in `lower`
upper      the `diff` directory of the layer that a mount writes to
merged     the mountpoint `<home>/<id>/merged`; it exists only while the layer is mounted
committed  a layer that has children: from then on it is mounted read-only
hold       a claim on a mounted layer, counted: (layer, holder, count)
holder     who has a hold: an owner, or a name outside that outlives the process which took it
owner      one open Store, in one process; alive as long as its lock file is locked
operation  one verb on one layer from its intent to its outcome
intent     the event that says what is about to be done, with every fact needed to finish or undo it
outcome    the event that ends an operation: done, or undone
settle     to end an operation whose owner is dead, by its recovery rule
draining   unmounted here while something still uses it: the upper is not free yet
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NewType

import attrs

from layerstore.errors import InvalidHolder, InvalidLayerId
from layerstore.values import value

LayerId = NewType("LayerId", str)
LinkId = NewType("LinkId", str)

MAX_DEPTH: Final = 499
"""A committed layer mounts with its own `diff` in front, and the kernel refuses 501 lowers."""
DEFAULT_DEPTH: Final = 128
"""The tradition of the layout: Docker's driver refuses more."""

LINK_PATTERN: Final = re.compile(r"[A-Z2-7]{26}")
_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
_HOLDER_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@\-]{0,254}")
OWNER_PREFIX: Final = "owner:"

_RESERVED: Final = frozenset({"l", "backingFsBlockDev", "staging", "tempdirs", "userxattr-check"})
"""Names that the layout uses itself, or that Docker and podman use in a home."""
_RESERVED_PREFIXES: Final = (
    "opaque-bug-check",
    "metacopy-check",
    "multiple-lowerdir-check",
    "check-overlayfs-support",
    "fsutils-dummy",
    "compat",
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def check_layer_id(text: str) -> LayerId:
    """Return `text` as a layer id, or raise InvalidLayerId that says what is wrong with it."""
    if not text:
        raise InvalidLayerId(text, "it is empty")
    if len(text) > 128:
        raise InvalidLayerId(text, f"it has {len(text)} characters, and 128 are allowed")
    if not _ID_PATTERN.fullmatch(text):
        raise InvalidLayerId(text, "it has a character that is not allowed there")
    if text in _RESERVED or text.startswith(_RESERVED_PREFIXES):
        raise InvalidLayerId(text, "the layout uses this name itself")
    return LayerId(text)


def check_holder(text: str) -> str:
    """Return `text` as the name of an outside holder, or raise InvalidHolder."""
    if not _HOLDER_PATTERN.fullmatch(text) or text.startswith(OWNER_PREFIX):
        raise InvalidHolder(text)
    return text


def to_micros(at: datetime) -> int:
    """Microseconds since 1970 in UTC, as rows keep times."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_micros(at: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at)


def _frozen_mapping(value: Mapping[str, str] | None) -> Mapping[str, str]:
    return MappingProxyType(dict(value or {}))


class Verb(StrEnum):
    """What an operation does."""

    CREATE = "create"
    MOUNT = "mount"
    UNMOUNT = "unmount"
    REMOVE = "remove"
    EMPTY = "empty"
    CORRECT = "correct"
    APPLY = "apply"
    RECORD = "record"
    REPAIR = "repair"


TAKING_ROOM: Final = frozenset({Verb.CREATE, Verb.MOUNT, Verb.APPLY, Verb.RECORD})
"""What is kept for a full disk is not for these, but for all others, and for undoing these."""


class Durability(StrEnum):
    """`full`: acknowledged work survives a power cut. `process`: it survives the process only."""

    FULL = "full"
    PROCESS = "process"


class LayerState(StrEnum):
    CREATING = "creating"
    READY = "ready"
    MOUNTING = "mounting"
    UNMOUNTING = "unmounting"
    REMOVING = "removing"
    APPLYING = "applying"


@value
@attrs.frozen(repr=False, eq=False)
class Layer:
    """One layer, as the index has it. Nothing here was read from the tree."""

    id: LayerId
    link: LinkId
    parent: LayerId | None
    lower: str
    """The text of the `lower` file, verbatim; empty for a base layer."""
    depth: int
    state: LayerState
    read_write: bool
    """Created with create_read_write: meant for a container rather than for an image."""
    committed: bool
    """It has, or had, children: it is mounted read-only."""
    created_at: datetime
    created_seq: int
    labels: Mapping[str, str] = attrs.field(converter=_frozen_mapping, hash=False)
    storage_options: Mapping[str, str] = attrs.field(converter=_frozen_mapping, hash=False)
    mount_label: str = ""
    durable: bool = False
    """Its content is known to have reached the disk."""
    used: bool = False
    """It was mounted, held, applied to or built upon since it was created."""
    draining: bool = False
    damage: str | None = None
    """Why it cannot be used, or None."""
    applied: bool = False
    """An archive was applied to it, or that was begun: it takes one in its life."""
    diff_id: str | None = None
    """`sha256:<hex>` of the uncompressed archive that was applied to it; None: none, or unknown."""
    size: int | None = None
    """Bytes of the files of that archive, hard links once."""
    inodes: int | None = None
    """Inodes of its content, with directories, as long as that is what was applied; None: nothing
    was, or it may have been written to since.
    """


@value
@attrs.frozen(repr=False, eq=False)
class Owner:
    """One open store: which process, since when. `alive` is only known where it was asked."""

    id: str
    pid: int
    started: int
    """Start time of the process, in clock ticks since boot: (pid, started) is one process."""
    boot_id: str
    command: str
    opened_at: datetime
    closed_at: datetime | None = None
    mount_id: int = 0
    """The unique id of the mount that the home was on."""


@value
@attrs.frozen(repr=False, eq=False)
class Hold:
    """`count` claims of `holder` on `layer`; `taken_by` is the process that took the first."""

    layer: LayerId
    holder: str
    count: int
    since: datetime
    since_seq: int
    taken_by: Owner | None = None


@value
@attrs.frozen(repr=False, eq=False)
class Mount:
    """A layer that the journal says is mounted at `<home>/<layer>/merged`."""

    layer: LayerId
    read_only: bool
    mount_id: int
    boot_id: str
    since: datetime
    since_seq: int


@value
@attrs.frozen(repr=False, eq=False)
class Manifest:
    """What a layer held, file by file, was written down at `since`, and holds since then."""

    layer: LayerId
    digest: str
    """`sha256:<hex>` of the file that says it."""
    files: int
    """How many files, directories and other things it tells of."""
    bytes: int
    """The size of that file."""
    since: datetime
    since_seq: int


@value
@attrs.frozen(repr=False, eq=False)
class Operation:
    """An operation in flight: its intent is in the journal and its outcome is not."""

    id: str
    verb: Verb
    layer: str
    owner: str
    intent_seq: int
    started_at: datetime
    abandoned: bool = False


class Severity(StrEnum):
    DAMAGE = "damage"
    LEFTOVER = "leftover"
    DRIFT = "drift"
    NOTE = "note"


@value
@attrs.frozen(repr=False, eq=False)
class Finding:
    """One thing that audit found: a stable `code`, what it is about, and a sentence."""

    code: str
    severity: Severity
    message: str
    layer: str | None = None
    path: str | None = None
    also: tuple[str, ...] = ()
    """Other layers that it is about."""
    dependents: int = 0
    """How many layers stand on this one, and how many holders hold it or one of these."""
    depends: tuple[str, ...] = ()
    """The first of them: ids of layers, and `holder NAME`."""
    bytes: int | None = None
    """What it takes on the disk, where nothing needs that; None: not measured."""
    repairs: tuple[str, ...] = ()
    """Repairs that exist, best first; `layerstore.audit.codes` says what each does."""


@value
@attrs.frozen(repr=False, eq=False)
class Settled:
    """One thing that recovery did at an open."""

    what: str
    """`undone`, `finished`, `released`, `unmounted`, `adopted`, `isolated`, `corrected`,
    `restored`, `forgotten`, `left`, `failed`; about the store itself `moved`, `copied`, and `reverted`
    to an older database."""
    layer: str | None
    message: str
    operation: str | None = None
