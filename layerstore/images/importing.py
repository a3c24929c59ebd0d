"""Owns bringing an image into a store: one layer for each of its own, named by its chain id; it must
not know the formats of archives.

A layer is created and then applied to, two operations. What is there is used where its content is
known to be right; a layer that an interrupted import left empty is filled, and one whose archive
broke off is removed and made again. An error takes away what this import made; being interrupted
leaves whole layers, so that the next import goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import IO, Final

import attrs

from layerstore import events as e
from layerstore import room
from layerstore.errors import (
    AlreadyApplied,
    HasChildren,
    InvalidArchive,
    InvalidImage,
    LayerDamaged,
    LayerDiffers,
    LayerExists,
    LayerHeld,
    LayerNotEmpty,
    LayerstoreError,
    Refused,
    UnknownLayer,
    WrongDiffId,
)
from layerstore.fs import files as on_disk
from layerstore.fs import layout
from layerstore.fs.archive import Limits
from layerstore.fs.trace import trace
from layerstore.images import files, model, reading, records
from layerstore.images.streams import LayerStream, check
from layerstore.model import Layer, LayerState
from layerstore.store import Store

Progress = Callable[[int, int, int], None]
"""Told how many bytes of how many were read, and how many files were unpacked."""

_TRIES: Final = 5
"""How often a layer is looked at again that somebody else makes or takes away meanwhile."""

_TAKEN: Final = (AlreadyApplied, HasChildren, LayerHeld, LayerNotEmpty, UnknownLayer)
"""Somebody else has an empty layer by now."""


def import_image(
    store: Store,
    source: str | os.PathLike[str] | IO[bytes],
    *,
    platform: str | None = None,
    name: str | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> model.Imported:
    """Make layers of the image in a docker-archive or an OCI layout, and remember its config.

    `source`: a tar or a directory, or an open binary file, a pipe too. `platform` (`linux/arm64`) and
    `name` say which image where there are several; `limits` hold for each layer. Every digest and
    DiffID is verified before its layer is there. Raises InvalidImage and InvalidArchive, after which
    the store is as it was; what Store.create and Store.apply_diff raise.
    """
    with files.opened(source) as opened:
        image = reading.find(opened, platform=platform, name=name)
        return _Import(store, opened, image, limits, progress).run()


@attrs.frozen
class _Wanted:
    id: str
    parent: str | None
    part: model.Part


class _There(Enum):
    """What there is of a wanted layer."""

    NOTHING = auto()
    EMPTY = auto()
    BROKEN = auto()
    WHOLE = auto()


class _Import:
    def __init__(
        self,
        store: Store,
        opened: files.Files,
        image: model.Image,
        limits: Limits | None,
        progress: Progress | None,
    ) -> None:
        self._store = store
        self._files = opened
        self._image = image
        self._limits = limits
        self._progress = progress
        ids = model.chain_ids(part.diff_id for part in image.parts)
        parents = [None, *ids[:-1]]
        self._chain = [_Wanted(*one) for one in zip(ids, parents, image.parts, strict=True)]
        self._made: dict[str, str] = {}
        """The links of the layers that this import made, by their ids."""
        self._read = self._total = 0
        self._before = self._now = 0
        """Files unpacked: when the current layer was begun, and when progress was told last."""

    def run(self) -> model.Imported:
        try:
            for left in reversed(range(_TRIES)):
                try:
                    return self._run()
                except UnknownLayer:
                    if not left:
                        raise  # somebody takes layers away that were there a moment ago
            raise AssertionError("the last try returned or raised")
        except Exception:
            self._undo()
            raise

    def _run(self) -> model.Imported:
        top = self._chain[-1].id
        missing = self._missing()
        self._open_all(missing)
        trace("image:layers:before")
        self._make(missing)
        layers = [self._store.layer(wanted.id) for wanted in self._chain]
        trace("image:record:before")
        with room.explained(self._store.home):
            record = records.Record(top, self._image.config, self._image.names)
            records.write(self._store.home, record)
        trace("image:record:after")
        records.sweep(self._store)
        return model.Imported(
            layer=top,
            chain=tuple(
                model.ImportedLayer(
                    one.id, wanted.part.diff_id, one.size, self._made.get(one.id) == one.link
                )
                for one, wanted in zip(layers, self._chain, strict=True)
            ),
            config_digest=self._image.config_digest,
            platform=str(self._image.platform),
            names=self._image.names,
        )

    def _missing(self) -> list[_Wanted]:
        """What has to be made: everything above the first layer that is not there."""
        for at, wanted in enumerate(self._chain):
            if self._look(wanted) is not _There.WHOLE:
                return self._chain[at:]
        return []

    def _open_all(self, missing: list[_Wanted]) -> None:
        """Look that every blob is there, with the size that is said, before anything is made."""
        self._read = self._total = self._before = self._now = 0
        for wanted in missing:
            file = self._files.open(wanted.part.path)
            file.close()
            if wanted.part.size not in (None, file.size):
                raise InvalidImage(
                    f"{wanted.part.path} has {file.size} bytes, and {wanted.part.size} are said."
                )
            self._total += file.size

    # --- layers -----------------------------------------------------------------------------

    def _make(self, missing: list[_Wanted]) -> None:
        """One layer after the other; the next one is read and verified ahead meanwhile."""
        with contextlib.ExitStack() as stack:
            streams: dict[str, LayerStream] = {}
            for at, wanted in enumerate(missing):
                for ahead in missing[at : at + 2]:
                    if ahead.id not in streams:
                        streams[ahead.id] = stream = self._stream(ahead.part)
                        stack.callback(stream.close)
                stream = streams[wanted.id]
                self._make_layer(wanted, stream)
                self._read += stream.size
                self._before = self._now
                stream.close()

    def _stream(self, part: model.Part) -> LayerStream:
        return LayerStream(self._files.open(part.path), part, self._limits or Limits())

    def _make_layer(self, wanted: _Wanted, stream: LayerStream) -> None:
        last: LayerstoreError | None = None
        for _ in range(_TRIES):
            there = self._look(wanted)
            if there is _There.WHOLE:
                return
            if there is _There.BROKEN:
                self._remove_broken(wanted)
                continue
            if there is _There.NOTHING and not self._create(wanted):
                continue  # another import was faster
            try:
                self._apply(wanted, stream)
            except _TAKEN as error:
                self._made.pop(wanted.id, None)  # another import fills it, or took it away
                if stream.touched:
                    raise
                last = error
                continue
            return
        raise last or LayerstoreError(
            f"Layer {wanted.id} is made and taken away by somebody else all the time.",
            hint="Wait until other imports have ended, then try again.",
        )

    def _create(self, wanted: _Wanted) -> bool:
        """Make an empty layer; False if there is one by now."""
        try:
            made = self._store.create(wanted.id, parent=wanted.parent)
        except LayerExists:
            if not self._store.exists(wanted.id):
                raise  # the tree has it, and the index does not
            return False
        except BaseException:
            with contextlib.suppress(LayerstoreError):  # it may be there all the same
                found = self._store.layer(wanted.id)
                if not found.applied:
                    self._take_away(wanted.id, found.link)
            raise
        self._made[wanted.id] = made.link
        return True

    def _apply(self, wanted: _Wanted, stream: LayerStream) -> None:
        """Fill an empty layer. One whose archive broke off goes away at once: nobody can use it."""
        link = self._store.layer(wanted.id).link
        try:
            self._store.apply_diff(
                wanted.id,
                stream,
                limits=self._limits,
                diff_id=wanted.part.diff_id,
                progress=lambda files: self._tell(stream.done, files),
            )
        except _TAKEN:
            raise
        except BaseException as error:
            self._take_away(wanted.id, link)
            if isinstance(error, InvalidArchive):
                self._blame(wanted.part, error)
            raise

    def _blame(self, part: model.Part, error: InvalidArchive) -> None:
        """Say of an archive that cannot be used what is wrong with the image, where that is it."""
        with contextlib.closing(self._files.open(part.path)) as file:
            check(file, part)
        if isinstance(error, WrongDiffId):
            raise InvalidImage(
                f"{part.path} unpacks to {error.found}, and its config says {part.diff_id}: it was "
                "damaged or replaced."
            ) from error

    def _tell(self, done: int, files: int) -> None:
        if self._progress is not None:
            self._now = self._before + files
            self._progress(self._read + done, self._total, self._now)

    def _remove_broken(self, wanted: _Wanted) -> None:
        try:
            self._store.remove(wanted.id)
        except UnknownLayer:
            pass
        except Refused as error:
            if self._look(wanted) is _There.BROKEN:  # and not made anew by another import
                raise LayerDamaged(
                    wanted.id, f"its archive broke off, and it cannot be removed ({error.message})"
                ) from error

    def _undo(self) -> None:
        """Take away what this import made, the highest first, unless others use it by now."""
        for layer, link in reversed(self._made.items()):
            self._take_away(layer, link)

    def _take_away(self, layer: str, link: str) -> None:
        with contextlib.suppress(LayerstoreError, OSError):  # there is an error to tell already
            if self._store.layer(layer).link == link:
                self._store.remove(layer)

    # --- what is there --------------------------------------------------------------------------

    def _look(self, wanted: _Wanted) -> _There:
        """How much there is of a layer. Raises LayerDiffers if it is not the one that is wanted."""
        try:
            found = self._store.layer(wanted.id)
        except UnknownLayer:
            return _There.NOTHING
        if found.damage:
            raise LayerDamaged(wanted.id, found.damage)
        if found.parent != wanted.parent:
            raise _another(wanted, f"its parent is {found.parent}")
        if found.diff_id is None:
            if found.state is not LayerState.READY:
                return _There.EMPTY  # an apply waits for whoever is at it, and then is refused
            if on_disk.is_empty(f"{self._store.home}/{layout.diff(wanted.id)}"):
                return _There.BROKEN if found.applied else _There.EMPTY
        if found.diff_id not in (None, wanted.part.diff_id):
            raise _another(wanted, f"its content is {found.diff_id}")
        if found.diff_id is None or _was_written_to(self._store, found):
            self._compare(wanted)
        return _There.WHOLE

    def _compare(self, wanted: _Wanted) -> None:
        """Read the content of a layer where the journal does not vouch for it."""
        digest = hashlib.sha256()
        for piece in self._store.diff(wanted.id):
            digest.update(piece)
        if f"sha256:{digest.hexdigest()}" != wanted.part.diff_id:
            raise _another(
                wanted,
                "its content was changed, or its archive was of another form than this store writes",
            )


def _another(wanted: _Wanted, why: str) -> LayerDiffers:
    return LayerDiffers(wanted.id, wanted.part.diff_id, why)


def _was_written_to(store: Store, layer: Layer) -> bool:
    """Whether somebody could write to a layer since it was made: its diff_id may be wrong then."""
    for event in _events(store, layer):
        match event:
            case e.LayerMountIntended(read_only=False) | e.MountFound(read_only=False):
                return True
            case e.HoldTaken() if layer.parent is None:
                return True  # a base layer is not mounted: its path is its content
    return False


def _events(store: Store, layer: Layer) -> Iterator[object]:
    after = layer.created_seq - 1
    return (entry.event for entry in store.events(layer=layer.id, after_seq=after))
