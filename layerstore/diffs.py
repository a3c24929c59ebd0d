"""Owns the questions about the content of one layer: its archive, its changes, its size; it must not
write, mount or hold.

They read the tree. A removal renames a layer away before it deletes anything of it, so that whoever
finds the layer in its place at the end has seen all of it; else the answer is an error.
`Diffs` is a part of Reader, in a module of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from layerstore import model as m
from layerstore import rows
from layerstore.db import statements as sql
from layerstore.errors import LayerDamaged, UnknownLayer
from layerstore.fs import layout

if TYPE_CHECKING:
    from layerstore.answers import Change
    from layerstore.db.engine import Rows
    from layerstore.fs.archive import MapIds
    from layerstore.fs.tree import Size


class Diffs:
    """What a Reader tells about the content of layers."""

    if TYPE_CHECKING:  # a Reader has these
        _home: str

        def layer(self, layer: str) -> m.Layer: ...
        def lower_dirs(self, layer: str) -> tuple[str, ...]: ...

        def _read(self, statement: str, **parameters: object) -> Rows: ...

    def manifest(self, layer: str) -> m.Manifest | None:
        """What is recorded of the layer's content; None where nothing is, or no more."""
        found = self.manifest_or_none(layer)
        if found is None:
            self.layer(layer)  # raises UnknownLayer
        return found

    def manifest_or_none(self, layer: str) -> m.Manifest | None:
        """The same, None also for what is no layer."""
        found = self._read(sql.SELECT_MANIFEST, layer=layer)
        return rows.manifest(found[0]) if found else None

    def diff(
        self,
        layer: str,
        *,
        parent: str | None = None,
        note: Callable[[str], None] | None = None,
        progress: Callable[[int], None] | None = None,
        dialect: str = "own",
    ) -> Iterator[bytes]:
        """The archive of what a layer has above its parent: a tar, in pieces, the same each time.

        `parent`: any other layer, to be compared with instead, as `changes` does; the archive then
        makes this layer's content of that one's. `note` is told of what was left out: sockets;
        `progress` how many files are packed, before each piece. `dialect`: "docker-20.10",
        "docker-23" or "docker-24" for the bytes that these versions' own driver writes, which leave out
        `user.*` xattrs. An error on the way, also that the layer was removed, leaves the stream without its
        end. Raises UnknownLayer, LayerDamaged, CannotPack; before the first piece, what `changes` raises.
        """
        if self._is_other(layer, parent):
            return self._packed_against(layer, str(parent), note, progress, dialect)
        return self._packed(layer, self._open_content(layer), note, progress, dialect)

    def _packed(
        self,
        layer: str,
        descriptor: int,
        note: Callable[[str], None] | None,
        progress: Callable[[int], None] | None,
        dialect: str,
    ) -> Iterator[bytes]:
        from layerstore.fs import archive

        try:
            yield from archive.pack(
                descriptor,
                map_ids=self._map_ids(),
                prefix=self._prefix(),
                note=note,
                finish=lambda: self._check_there(layer, descriptor),
                progress=progress,
                dialect=archive.DIALECTS[dialect],
            )
        finally:
            os.close(descriptor)

    def changes(self, layer: str, *, parent: str | None = None) -> list[Change]:
        """What a layer changed of its parent, sorted by path. Nothing is mounted for it.

        `parent`: any other layer of the store. The two whole trees are compared then, through
        mounts that only this process sees (Linux 6.7, the right to mount). Raises UnknownLayer,
        LayerDamaged, CannotCompare, LayerstoreError.
        """
        from layerstore.fs import changes

        if self._is_other(layer, parent):
            with self._both(layer, str(parent)) as (new, old, _):
                return changes.of_trees(new, old)
        descriptor = self._open_content(layer)
        try:
            content = f"{self._home}/{layout.diff(layer)}"
            found = changes.of_layer(content, self.lower_dirs(layer), prefix=self._prefix())
            self._check_there(layer, descriptor)
        finally:
            os.close(descriptor)
        return found

    def diff_size(self, layer: str, *, parent: str | None = None) -> int:
        """Bytes of the files that a layer has above its parent, hard links once, as Docker counts.

        `parent`: as for `changes`, whose errors it raises.
        """
        if not self._is_other(layer, parent):
            return self.usage(layer).bytes
        from layerstore.fs import changes

        with self._both(layer, str(parent)) as (new, old, _):
            return changes.size_of(changes.of_trees(new, old), new)

    def usage(self, layer: str) -> Size:
        """Bytes and inodes of a layer's own content, hard links once; bytes are apparent sizes.

        From the index where the content is what was applied; else the tree is gone through. Raises
        UnknownLayer, LayerDamaged.
        """
        return self.usage_of(self.layer(layer))

    def usage_of(self, found: m.Layer) -> Size:
        """The same for a layer that was just asked for, whose row is not read once more."""
        from layerstore.fs import tree

        if found.damage:
            raise LayerDamaged(found.id, found.damage)
        known = self._counted(found)
        if known is not None:
            return known
        layer = found.id
        descriptor = self._open_content(layer)
        try:
            measured = tree.tree_size(f"{self._home}/{layout.diff(layer)}")
            self._check_there(layer, descriptor)
        finally:
            os.close(descriptor)
        return measured

    def _counted(self, found: m.Layer) -> Size | None:
        """What the index says of the content, unless somebody may have written to it.

        The index notes who mounts by way of it. A driver that knows nothing of it leaves what the
        kernel makes in `work` for every mount that writes.
        """
        from layerstore.fs import tree

        if found.inodes is None or found.size is None:
            return None
        if os.path.lexists(f"{self._home}/{layout.work(found.id)}/work"):
            return None
        return tree.Size(found.size, found.inodes)

    def _map_ids(self) -> MapIds | None:
        """From owners on disk to those in archives; a Reader knows of no maps."""
        return None

    def _prefix(self) -> str:
        """How this store marks its layers, whoever asks."""
        from layerstore.fs import files, whiteout

        return whiteout.namespace(files.uses_user_xattrs(self._home))

    def _is_other(self, layer: str, parent: str | None) -> bool:
        """Whether a layer is to be compared with one that it is not stacked on."""
        return parent is not None and parent != self.layer(layer).parent

    @contextmanager
    def _both(self, layer: str, other: str) -> Iterator[tuple[str, str, Callable[[], None]]]:
        """The whole content of two layers; at the end both have to be there still."""
        from layerstore.fs import files
        from layerstore.fs.viewing import view

        marks = files.uses_user_xattrs(self._home)
        with ExitStack() as stack:
            paths, opened = [], []
            for name in (layer, other):
                descriptor = self._open_content(name)
                stack.callback(os.close, descriptor)
                opened.append((name, descriptor))
                dirs = (f"{self._home}/{layout.diff(name)}", *self.lower_dirs(name))
                seen = view(dirs, home=self._home, userxattr=marks)
                paths.append(stack.enter_context(seen))

            def check() -> None:
                for name, descriptor in opened:
                    self._check_there(name, descriptor)

            yield paths[0], paths[1], check
            check()

    def _packed_against(
        self,
        layer: str,
        other: str,
        note: Callable[[str], None] | None,
        progress: Callable[[int], None] | None,
        dialect: str,
    ) -> Iterator[bytes]:
        from layerstore.answers import ChangeKind
        from layerstore.fs import archive, changes

        with self._both(layer, other) as (new, old, check):
            there: list[bytes] = []
            gone: list[bytes] = []
            for change in changes.of_trees(new, old):
                paths = gone if change.kind is ChangeKind.DELETE else there
                paths.append(os.fsencode(change.path[1:]))
            descriptor = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield from archive.pack(
                    descriptor,
                    map_ids=self._map_ids(),
                    prefix=self._prefix(),
                    note=note,
                    finish=check,
                    only=archive.Selection.of(there, gone),
                    progress=progress,
                    dialect=archive.DIALECTS[dialect],
                )
            finally:
                os.close(descriptor)

    def _open_content(self, layer: str) -> int:
        found = self.layer(layer)
        if found.damage:
            raise LayerDamaged(layer, found.damage)
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
