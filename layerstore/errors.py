"""Owns every error that layerstore raises, with its exit code; it must not decide when to raise one.

    LayerstoreError                     1   failed
    ├── InvalidArgument                16   an argument that no store could accept
    │   ├── InvalidLayerId
    │   ├── InvalidHolder
    │   └── InvalidOption
    ├── InvalidArchive                  1   an archive that no layer can be made of
    │   └── WrongDiffId
    ├── InvalidImage                    1   an image that is not whole, or not what its digests say
    ├── CannotPack                      1   a layer of which no archive can be made
    ├── CannotCompare                   1   a layer whose own files do not say what it changed
    ├── NoStore                        10   nothing at this path is a layerstore
    ├── StoreDamaged                    1   a store whose database is gone, garbled or another's
    │   └── StoreUnreachable            1   the database may be whole, and cannot be read or written now
    ├── SchemaTooNew                   12   the database was written by a newer layerstore
    ├── Busy                           11   somebody else is at it; trying again may help
    │   ├── UpperBusy
    │   └── LostMountStays
    ├── DiskFull                       14   no bytes or no inodes are left; nothing was changed
    ├── Refused                        13   the store's rules forbid it now
    │   ├── StoreExists
    │   ├── NotAStoresPlace
    │   ├── StoreCopied
    │   ├── AdoptedTree
    │   ├── LayerExists
    │   ├── LayerDiffers
    │   ├── HasChildren
    │   ├── LayerHeld
    │   ├── LayerNotEmpty
    │   ├── AlreadyApplied
    │   └── TooDeep
    ├── UnknownLayer                    1
    ├── UnknownHolder                   1
    ├── NotHeld                         1
    ├── LayerDamaged                    1   this layer only; every other one is usable
    ├── JournalDamaged                  1   a row of the journal cannot be read
    ├── NoLongerKept                    1   the past that was asked for is in no archive any more
    ├── CannotCarryOverlay              1   the file system or kernel cannot do it
    ├── OwnerLost                       1   this process was taken for dead and its work settled
    ├── ForkedStore                     1   a Store used in another process than its own
    ├── StoreClosed                     1
    └── WritesRefused                   1   after a failed sync, until the store is reopened

Each error says what the thing is (`message`) and, where there is one, the way out (`hint`).
"""

from __future__ import annotations

from typing import ClassVar


class LayerstoreError(Exception):
    """The root of the tree: `message` is a full sentence, `hint` the way out or empty."""

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def code(self) -> str:
        """A stable word for programs: the class name in lower case with dashes."""
        name = type(self).__name__
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


class InvalidArgument(LayerstoreError):
    exit_code = 16
    meaning = "usage: an argument that no store could accept"


class InvalidLayerId(InvalidArgument):
    def __init__(self, text: str, why: str) -> None:
        super().__init__(
            f"{text!r} cannot be a layer id: {why}.",
            hint="A layer id is 1 to 128 of A-Z a-z 0-9 _ . - and starts with a letter or digit.",
        )


class InvalidHolder(InvalidArgument):
    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} cannot be a holder's name.",
            hint="A holder's name is 1 to 255 of A-Z a-z 0-9 _ . : / @ - and starts with a letter "
            "or digit; names that start with 'owner:' are the store's own.",
        )


class InvalidOption(InvalidArgument):
    pass


class InvalidArchive(LayerstoreError):
    """An archive that is damaged, cut off, hostile, or says what no layer can hold."""

    def __init__(self, why: str, *, member: str | None = None, hint: str = "") -> None:
        where = "The archive cannot be used" if member is None else f"{member!r} in the archive"
        way_out = hint or "Make or fetch the archive again."
        super().__init__(f"{where}: {why}.", hint=f"Nothing of it was kept. {way_out}")
        self.member = member


class WrongDiffId(InvalidArchive):
    """An archive that is well made and is another one than was asked for."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"it unpacks to {found}, and {expected} was expected")
        self.found = found


class InvalidImage(LayerstoreError):
    """An image that is incomplete, hostile, of a kind that is not known, or not what it says it is."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint or "Make or fetch the archive again.")


class CannotPack(LayerstoreError):
    """A file of a layer that an archive cannot hold, or that changed while it was read."""

    def __init__(self, path: str, why: str, *, hint: str = "") -> None:
        super().__init__(f"{path!r} cannot go into an archive: {why}.", hint=hint)
        self.path = path


class CannotCompare(LayerstoreError):
    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"{path!r} cannot be compared with what is below it: {why}.",
            hint="The layer was mounted by somebody else with redirect_dir or metacopy.",
        )
        self.path = path


class NoStore(LayerstoreError):
    exit_code = 10
    meaning = "there is no store at this path"


class StoreDamaged(LayerstoreError):
    pass


class StoreUnreachable(StoreDamaged):
    """An I/O error, a limit or a right: what to repair is not the database."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"The database {path} cannot be read or written now: {why}.",
            hint="The disk, a limit of this process or its rights are in the way; that is no sign of a "
            "damaged database. 'layerstore doctor' looks at them; then open the store again.",
        )


class SchemaTooNew(LayerstoreError):
    exit_code = 12
    meaning = "the database was written by a newer layerstore"


class Busy(LayerstoreError):
    exit_code = 11
    meaning = "busy: another operation or process is at it"


class UpperBusy(Busy):
    """The kernel says that an overlay somewhere still has this layer's `diff` as its upper."""

    def __init__(self, layer: str, users: str) -> None:
        super().__init__(
            f"Layer {layer} is still in use by the kernel: {users}.",
            hint="It is free when the last process that uses it ends; "
            f"'layerstore holders {layer}' shows who that is.",
        )


class LostMountStays(Busy):
    """A mount of the journal that the kernel does not have here, and that could not be ended."""

    def __init__(self, layer: str, why: str) -> None:
        super().__init__(
            f"The lost mount of layer {layer} could not be ended: {why.rstrip('.')}.",
            hint="It may be mounted in another mount namespace; try again later.",
        )


class DiskFull(LayerstoreError):
    exit_code = 14
    meaning = "the disk is full: no bytes, no inodes or no quota left"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"There is no room left on the file system of {path}.",
            hint="Remove layers, or free space (bytes and inodes: 'df', 'df -i').",
        )


class Refused(LayerstoreError):
    exit_code = 13
    meaning = "refused: the store's rules forbid it now (children, holders)"


class StoreExists(Refused):
    pass


class NotAStoresPlace(Refused):
    """The directory holds what is not a store's: it is not made one by accident."""


class StoreCopied(Refused):
    """Two stores with one id: only their user knows which is which."""

    def __init__(self, home: str, original: str, store_id: str) -> None:
        super().__init__(
            f"{home} is a copy of the store at {original}, which is still there: both are store "
            f"{store_id}.",
            hint="'layerstore db adopt-copy' makes this one a store of its own; 'layerstore db "
            "adopt-move' says that this is the store and the other one is not used any more.",
        )
        self.home = home
        self.original = original
        self.store_id = store_id


class AdoptedTree(Refused):
    """The layers are another program's, and this store is only an index of them."""

    def __init__(self, tree: str, owner: str, *, releasing: bool = False) -> None:
        if releasing:
            said, hint = f"{tree} is being released", "'layerstore release-tree' ends that."
        else:
            said = f"The layers in {tree} are {owner}'s, and this store is only an index of them"
            hint = (
                "Questions and audits work, and 'layerstore mount --at DIR'. 'layerstore adopt "
                "--take-over' makes it a store of its own, 'layerstore release-tree' ends it."
            )
        super().__init__(f"{said}: nothing is changed there.", hint=hint)


class LayerExists(Refused):
    """`same_and_unused`: it was created with the same arguments and never used since."""

    def __init__(self, layer: str, *, same_and_unused: bool = False, where: str = "index") -> None:
        message = f"Layer {layer} exists already."
        hint = f"'layerstore inspect {layer}' shows it; remove it first, or take another id."
        if where == "tree":
            message = f"The tree has {layer} already, and the index does not know it."
            hint = "'layerstore audit' says what it is."
        super().__init__(message, hint=hint)
        self.layer = layer
        self.same_and_unused = same_and_unused


class LayerDiffers(Refused):
    """A layer has the id that an image's layer gets, and another content, or perhaps."""

    def __init__(self, layer: str, diff_id: str, why: str) -> None:
        super().__init__(
            f"Layer {layer} exists and is not the image's {diff_id}: {why}.",
            hint="Keep what was changed in it ('layerstore diff'), remove it, and import again.",
        )
        self.layer = layer


class HasChildren(Refused):
    def __init__(self, layer: str, children: tuple[str, ...], count: int) -> None:
        names = ", ".join(children)
        more = f" and {count - len(children)} more" if count > len(children) else ""
        super().__init__(
            f"Layer {layer} has children: {names}{more}.", hint="Remove the children first."
        )
        self.layer = layer
        self.children = children


class LayerHeld(Refused):
    def __init__(self, layer: str, holders: tuple[str, ...]) -> None:
        super().__init__(
            f"Layer {layer} is held by {', '.join(holders)}.",
            hint=f"'layerstore holders {layer}' shows since when and from where; "
            f"'layerstore umount {layer} --holder NAME' gives a hold back.",
        )
        self.layer = layer
        self.holders = holders


class LayerNotEmpty(Refused):
    def __init__(self, layer: str) -> None:
        super().__init__(
            f"Layer {layer} has content already.",
            hint="An archive is applied to an empty layer: remove this one and create it again.",
        )
        self.layer = layer


class AlreadyApplied(Refused):
    """Whether that apply succeeded or broke off: a repetition may carry the rest of a stream."""

    def __init__(self, layer: str) -> None:
        super().__init__(
            f"An archive was applied to layer {layer} before, or that broke off.",
            hint="A layer takes one in its life: remove it and create it again.",
        )
        self.layer = layer


class TooDeep(Refused):
    def __init__(self, layer: str, depth: int, limit: int) -> None:
        super().__init__(
            f"Layer {layer} would have {depth} lower layers; the limit is {limit}.",
            hint="The limit is a setting of the store (max_depth, at most 499).",
        )


class UnknownLayer(LayerstoreError):
    def __init__(self, layer: str) -> None:
        super().__init__(f"There is no layer {layer}.", hint="'layerstore ls' lists the layers.")
        self.layer = layer


class UnknownHolder(LayerstoreError):
    def __init__(self, holder: str) -> None:
        super().__init__(
            f"{holder} holds nothing.", hint="'layerstore holders' lists who holds what."
        )


class NotHeld(LayerstoreError):
    def __init__(self, layer: str, holder: str) -> None:
        super().__init__(
            f"Layer {layer} is not held by {holder}.",
            hint=f"'layerstore holders {layer}' lists who holds it.",
        )
        self.layer = layer
        self.holder = holder


class LayerDamaged(LayerstoreError):
    def __init__(self, layer: str, damage: str) -> None:
        super().__init__(
            f"Layer {layer} cannot be used: {damage}.",
            hint="Every other layer is usable; 'layerstore audit' says what is wrong with this one.",
        )
        self.layer = layer
        self.damage = damage


class JournalDamaged(LayerstoreError):
    pass


class NoLongerKept(LayerstoreError):
    def __init__(self, seq: int, first: int) -> None:
        super().__init__(
            f"Event {seq} is not kept any more: the journal and its archives reach back to event "
            f"{first}.",
            hint="Older archives were deleted, or are missing from .layerstore/archive.",
        )


class CannotCarryOverlay(LayerstoreError):
    pass


class OwnerLost(LayerstoreError):
    def __init__(self, operation: str) -> None:
        super().__init__(
            f"Operation {operation} was taken over: this process was found dead and its work was "
            "settled by another.",
            hint="Close the store and open it again.",
        )


class ForkedStore(LayerstoreError):
    def __init__(self, opened_in: int, used_in: int) -> None:
        super().__init__(
            f"This Store was opened by process {opened_in} and cannot be used in {used_in}.",
            hint="Open the store anew in the child process.",
        )


class StoreClosed(LayerstoreError):
    def __init__(self) -> None:
        super().__init__("This Store is closed.", hint="Open it again with Store.open().")


class WritesRefused(LayerstoreError):
    def __init__(self, why: str) -> None:
        super().__init__(
            f"The store takes no more writes: {why}.",
            hint="Close it, see to the disk, and open it again.",
        )
