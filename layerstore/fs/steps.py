"""Owns the steps: every change of the disk as a value; it must not perform one, nor touch the disk.

Paths are relative to the home. A step can be repeated: performed twice it leaves what once leaves.
`perform` is the one interpreter; tests stop it before and after each step.
"""

from __future__ import annotations

import attrs

from layerstore.fs.aside_steps import PutInPlace as PutInPlace
from layerstore.fs.aside_steps import RemoveFile as RemoveFile
from layerstore.fs.aside_steps import SetAside as SetAside
from layerstore.fs.aside_steps import SetMode as SetMode
from layerstore.values import value


@attrs.define
class Performed:
    """What the steps of one run found out: it goes into the outcome."""

    mount_id: int = 0
    style: str = ""
    detached: bool = False
    entries: int = 0
    bytes: int = 0
    left: tuple[str, ...] = ()
    size: int = 0
    inodes: int = 0
    diff_id: str = ""
    digest: str = ""
    written: dict[str, int] = attrs.Factory(dict)
    """Descriptors of the files that are still to be synced."""


@value
@attrs.frozen(repr=False, eq=False)
class VerifyLayer:
    """Refuse to go on unless the files of a layer say what the index says. Changes nothing.

    `chain` pairs each link of `lower` with the layer it must lead to.
    """

    layer: str
    link: str
    lower: str
    chain: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return f"check the files of {self.layer} and its {len(self.chain)} lower links"


@value
@attrs.frozen(repr=False, eq=False)
class MakeDirectory:
    """`fresh`: the first run of a plan insists that the directory is new.

    `uid`, `gid`: who owns it; None: whoever makes it.
    """

    path: str
    mode: int
    fresh: bool = False
    uid: int | None = None
    gid: int | None = None

    def describe(self) -> str:
        return f"make directory {self.path}"


@value
@attrs.frozen(repr=False, eq=False)
class Own:
    """Give a directory to somebody; None: that half stays."""

    path: str
    uid: int | None
    gid: int | None

    def describe(self) -> str:
        return f"give {self.path} to {self.uid}:{self.gid}"


@value
@attrs.frozen(repr=False, eq=False)
class SetProject:
    """What is made in the directory from now on belongs to the project, too."""

    path: str
    project: int

    def describe(self) -> str:
        return f"make {self.path} belong to project {self.project}"


@value
@attrs.frozen(repr=False, eq=False)
class SetLimit:
    """`needed`: without it, it is fine that there are no quotas any more."""

    project: int
    size: int
    needed: bool = True

    def describe(self) -> str:
        return f"let project {self.project} have {self.size} bytes"


@value
@attrs.frozen(repr=False, eq=False)
class ClearLimit:
    """The end of a project's limit; where there are no quotas any more there is none."""

    project: int

    def describe(self) -> str:
        return f"end the limit of project {self.project}"


@value
@attrs.frozen(repr=False, eq=False)
class WriteFile:
    """`sync`: a sync of it follows, so that the kernel is to begin with it at once."""

    path: str
    content: str
    mode: int
    sync: bool

    def describe(self) -> str:
        return f"write {self.path}"


@value
@attrs.frozen(repr=False, eq=False)
class SyncFile:
    path: str

    def describe(self) -> str:
        return f"sync {self.path}"


@value
@attrs.frozen(repr=False, eq=False)
class SyncMark:
    """The sync of a layer's `committed`, and of its name: once for all children of that layer."""

    layer: str

    def describe(self) -> str:
        return f"sync the mark that {self.layer} has children"


@value
@attrs.frozen(repr=False, eq=False)
class SyncDirectory:
    path: str

    def describe(self) -> str:
        return f"sync directory {self.path or 'home'}"


@value
@attrs.frozen(repr=False, eq=False)
class SyncFileSystem:
    """`since`: a file that this plan wrote and keeps open, so that no error is missed since it was made."""

    since: str = ""

    def describe(self) -> str:
        return "sync the file system"


@value
@attrs.frozen(repr=False, eq=False)
class MakeSymlink:
    path: str
    target: str

    def describe(self) -> str:
        return f"link {self.path} to {self.target}"


@value
@attrs.frozen(repr=False, eq=False)
class Publish:
    """Rename onto a name that must not exist; done already if the target's `link` reads `link`."""

    source: str
    target: str
    link: str

    def describe(self) -> str:
        return f"publish {self.source} as {self.target}"


@value
@attrs.frozen(repr=False, eq=False)
class MoveToTrash:
    """Rename a layer away if its `link` reads `link`; nothing to do if it is gone.

    `others_stay`: what has another `link`, or none, was never the operation's, and is left alone.
    """

    layer: str
    target: str
    link: str
    others_stay: bool = False

    def describe(self) -> str:
        return f"move {self.layer} to {self.target}"


@value
@attrs.frozen(repr=False, eq=False)
class MoveAside:
    """Rename anything of the store's own to another name; nothing to do if it is gone."""

    source: str
    target: str

    def describe(self) -> str:
        return f"move {self.source} to {self.target}"


@value
@attrs.frozen(repr=False, eq=False)
class RemoveSymlink:
    """Unlink if it reads `target`, or cannot be read as a link that leads anywhere."""

    path: str
    target: str

    def describe(self) -> str:
        return f"remove link {self.path}"


@value
@attrs.frozen(repr=False, eq=False)
class RemoveDirectory:
    """rmdir; an absent one is fine. Evicts mounts of it in other mount namespaces.

    `full_is_fine`: one that is not empty is left to whoever removes the tree around it. `aside`: a
    new directory that one that is not empty is moved into, with a note.
    """

    path: str
    full_is_fine: bool = False
    aside: str = ""

    def describe(self) -> str:
        return f"remove directory {self.path}"


@value
@attrs.frozen(repr=False, eq=False)
class RemoveTree:
    path: str

    def describe(self) -> str:
        return f"remove tree {self.path}"


@value
@attrs.frozen(repr=False, eq=False)
class Unpack:
    """Unpack the stream of a live run into `staging/<operation>/diff`, which gets owner, mode and
    project of the layer's own; what it was is written down beside it.

    `probe`: the kernel is asked first whether the layer is in use. `sync`: all of it is on disk
    then. Without a stream, because that is long gone, only what was written down is read.
    """

    operation: str
    layer: str
    probe: bool
    base: bool
    sync: bool

    def describe(self) -> str:
        return f"unpack the archive for {self.layer}"


@value
@attrs.frozen(repr=False, eq=False)
class ReplaceDirectory:
    """Rename over `<layer>/diff`, which is empty, if the layer's `link` reads `link`; nothing to do
    if `source` is gone.
    """

    source: str
    layer: str
    link: str

    def describe(self) -> str:
        return f"make {self.source} the content of {self.layer}"


@value
@attrs.frozen(repr=False, eq=False)
class WriteManifest:
    """Read all of `<layer>/diff`, if the layer's `link` reads `link`, and write down what it holds.

    The file appears when it is whole and synced; one that was there is replaced.
    """

    layer: str
    link: str

    def describe(self) -> str:
        return f"write down what {self.layer} holds"


@value
@attrs.frozen(repr=False, eq=False)
class ProbeUpper:
    """Ask the kernel whether any overlay has `<layer>/diff` as upper; refuse to go on if so."""

    layer: str
    scratch: str

    def describe(self) -> str:
        return f"ask the kernel whether {self.layer} is in use"


@value
@attrs.frozen(repr=False, eq=False)
class CheckUnmounted:
    """Refuse to go on while any process's mount table shows `<layer>/merged`."""

    layer: str

    def describe(self) -> str:
        return f"look for mounts of {self.layer} in other mount namespaces"


@value
@attrs.frozen(repr=False, eq=False)
class MountOverlay:
    """`lowers` nearest first; without an upper the mount is read-only."""

    target: str
    lowers: tuple[str, ...]
    upper: str | None
    work: str | None
    label: str

    def describe(self) -> str:
        kind = "read-write" if self.upper else "read-only"
        return f"mount {self.target} {kind} over {len(self.lowers)} lower layers"


@value
@attrs.frozen(repr=False, eq=False)
class Unmount:
    """Without MNT_DETACH first; where it stays busy it is detached, and the layer is draining."""

    target: str

    def describe(self) -> str:
        return f"unmount {self.target}"


Step = (
    VerifyLayer
    | MakeDirectory
    | Own
    | SetProject
    | SetLimit
    | ClearLimit
    | WriteFile
    | SyncFile
    | SyncMark
    | SyncDirectory
    | SyncFileSystem
    | MakeSymlink
    | Publish
    | MoveToTrash
    | MoveAside
    | SetAside
    | PutInPlace
    | RemoveFile
    | SetMode
    | RemoveSymlink
    | RemoveDirectory
    | RemoveTree
    | Unpack
    | ReplaceDirectory
    | WriteManifest
    | ProbeUpper
    | CheckUnmounted
    | MountOverlay
    | Unmount
)
