"""Owns the questions about the content of one layer: its archive, its changes, its size; it must not
write, mount or hold.

They read the tree. A removal renames a layer away before it deletes anything of it, so that whoever
finds the layer in its place at the end has seen all of it; else the answer is an error.
`Diffs` is a part of Reader, in a module of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from layerstore import model as m
from layerstore.errors import InvalidArgument, LayerDamaged, UnknownLayer
from layerstore.fs import layout

if TYPE_CHECKING:
    from layerstore.answers import Change
    from layerstore.fs.archive import MapIds
    from layerstore.fs.tree import Size


class Diffs:
    """What a Reader tells about the content of layers."""

    if TYPE_CHECKING:  # a Reader has these
        _home: str

        def layer(self, layer: str) -> m.Layer: ...
        def lower_dirs(self, layer: str) -> tuple[str, ...]: ...

    def diff(
        self,
        layer: str,
        *,
        parent: str | None = None,
        note: Callable[[str], None] | None = None,
    ) -> Iterator[bytes]:
        """The archive of what a layer has above its parent: a tar, in pieces, the same each time.

        `parent`: only its own can be asked for. `note` is told of what was left out: sockets. An
        error on the way, also that the layer was removed, leaves the stream without its end. Raises
        UnknownLayer, LayerDamaged, CannotPack, InvalidArgument.
        """
        descriptor = self._open_content(layer, parent)
        return self._packed(layer, descriptor, note)

    def _packed(
        self, layer: str, descriptor: int, note: Callable[[str], None] | None
    ) -> Iterator[bytes]:
        from layerstore.fs import archive

        try:
            yield from archive.pack(
                descriptor,
                map_ids=self._map_ids(),
                prefix=self._prefix(),
                note=note,
                finish=lambda: self._check_there(layer, descriptor),
            )
        finally:
            os.close(descriptor)

    def changes(self, layer: str, *, parent: str | None = None) -> list[Change]:
        """What a layer changed of its parent, sorted by path. Nothing is mounted for it.

        Raises UnknownLayer, LayerDamaged, CannotCompare, InvalidArgument, as `diff` does.
        """
        from layerstore.fs import changes

        descriptor = self._open_content(layer, parent)
        try:
            content = f"{self._home}/{layout.diff(layer)}"
            found = changes.of_layer(content, self.lower_dirs(layer), prefix=self._prefix())
            self._check_there(layer, descriptor)
        finally:
            os.close(descriptor)
        return found

    def diff_size(self, layer: str) -> int:
        """Bytes of the files that a layer has above its parent, hard links once, as Docker counts."""
        return self.usage(layer).bytes

    def usage(self, layer: str) -> Size:
        """Bytes and inodes of a layer's own content, hard links once; bytes are apparent sizes."""
        from layerstore.fs import tree

        descriptor = self._open_content(layer, None)
        try:
            found = tree.tree_size(f"{self._home}/{layout.diff(layer)}")
            self._check_there(layer, descriptor)
        finally:
            os.close(descriptor)
        return found

    def _map_ids(self) -> MapIds | None:
        """From owners on disk to those in archives; a Reader knows of no maps."""
        return None

    def _prefix(self) -> str:
        """How this store marks its layers, whoever asks."""
        from layerstore.fs import files, whiteout

        return whiteout.namespace(files.uses_user_xattrs(self._home))

    def _open_content(self, layer: str, parent: str | None) -> int:
        found = self.layer(layer)
        if found.damage:
            raise LayerDamaged(layer, found.damage)
        if parent is not None and parent != found.parent:
            raise InvalidArgument(
                f"{parent} is not the parent of {layer}.",
                hint="A layer is compared with its own parent.",
            )
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(f"{self._home}/{layout.diff(layer)}", flags)
        except FileNotFoundError as error:
            raise UnknownLayer(layer) from error

    def _check_there(self, layer: str, descriptor: int) -> None:
        """Whether the directory that was read is still the layer's."""
        try:
            now = os.lstat(f"{self._home}/{layout.diff(layer)}")
        except FileNotFoundError as error:
            raise UnknownLayer(layer) from error
        if not os.path.samestat(now, os.fstat(descriptor)):
            raise UnknownLayer(layer)
