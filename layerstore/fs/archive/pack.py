"""Owns packing a directory, as overlayfs has a layer, into an archive; it must not write a file.

The same directory gives the same bytes: entries in the order of their names on disk, whole seconds,
and of owners the names only in a dialect that has them. Files are opened by their directory and
never followed, so that nothing outside is read. What an archive cannot say is an error, and an error
breaks the stream off before its two closing blocks: no reader takes it for whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from layerstore.errors import CannotPack
from layerstore.fs import whiteout
from layerstore.fs.archive import header
from layerstore.fs.archive.dialect import OWN, Dialect, owner_names
from layerstore.fs.archive.member import BLOCK, LONGEST_NAME, MapIds, shown
from layerstore.fs.tree import Descent

CHUNK: Final = 1 << 17
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CAPABILITY_3: Final = 3
_SECOND: Final = 10**9


def pack(
    root_fd: int,
    *,
    map_ids: MapIds | None = None,
    prefix: str | None = None,
    note: Callable[[str], None] | None = None,
    finish: Callable[[], None] | None = None,
    only: Selection | None = None,
    progress: Callable[[int], None] | None = None,
    dialect: Dialect = OWN,
) -> Iterator[bytes]:
    """The archive of what is below a directory, in pieces of some 128 KiB.

    `map_ids` maps owners on disk to those of the archive. `prefix`: of overlayfs's xattrs, by
    default as this process mounts. `note` is told of what was left out: sockets. `finish` is
    called before the end is written, and may refuse it. `only`: what goes in, of a directory that
    is no layer but shows one mounted. `progress` is told before each piece how many files are packed.
    `dialect`: in which of tar's ways entries are told. Raises CannotPack and OSError, after pieces
    that make no whole archive.
    """
    packing = _Packing(root_fd, map_ids, prefix or whiteout.namespace(), note, only, dialect)
    for piece in packing.run():
        if progress is not None:
            progress(packing.files)
        yield piece
    if finish is not None:
        finish()
    yield header.END


@attrs.frozen
class Selection:
    """A part of a tree, and what is to be hidden below it; paths without a slash before them."""

    there: frozenset[bytes]
    gone: frozenset[bytes]
    gone_in: Mapping[bytes, Sequence[bytes]]
    """The names that are gone, by the path of their directory, which ends with a slash."""

    @classmethod
    def of(cls, there: Iterable[bytes], gone: Iterable[bytes]) -> Selection:
        hidden = frozenset(gone)
        inside: dict[bytes, list[bytes]] = {}
        for path in hidden:
            directory, slash, name = path.rpartition(b"/")
            inside.setdefault(directory + slash, []).append(name)
        return cls(frozenset(there), hidden, inside)


class _Packing:
    def __init__(
        self,
        root_fd: int,
        map_ids: MapIds | None,
        prefix: str,
        note: Callable[[str], None] | None,
        only: Selection | None,
        dialect: Dialect,
    ) -> None:
        self._root = root_fd
        self._dialect = dialect
        self._mode_bits = 0o177777 if dialect.type_bits else 0o7777
        self._map_ids = map_ids
        self._prefix = prefix
        self._note = note
        self._only = only
        self.files = 0
        """What was met so far, of every kind."""
        self._parts: list[bytes] = []
        self._held = 0
        self._linked: dict[tuple[int, int], bytes] = {}
        self._xattr_whiteouts: list[bool] = []
        """Whether a directory on the way may have whiteouts of the second kind."""

    def run(self) -> Iterator[bytes]:
        with Descent(self._root) as way:
            way.down(".")
            stack = [(b"", self._entries(way.fd, b""))]
            self._is_opaque(way.fd)
            while stack:
                path, entries = stack[-1]
                if not entries:
                    way.up()
                    stack.pop()
                    self._xattr_whiteouts.pop()
                    continue
                name, is_file, is_directory = entries.pop()
                full = path + name
                self.files += 1
                if self._only is not None and full in self._only.gone:
                    self._add(header.full(_hiding(full), b"0", 0o600, 0, 0, 0, 0))
                elif is_file:
                    large = self._file(way.fd, name, full)
                    if large is not None:
                        yield from self._stream(full, *large)
                elif is_directory:
                    way.down(os.fsdecode(name))
                    full += b"/"
                    self._directory(way.fd, full)
                    stack.append((full, self._entries(way.fd, full)))
                else:
                    self._other(way.fd, name, full)
                if self._held >= CHUNK:
                    yield self._flush()
        yield self._flush()

    def _add(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)

    def _flush(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        return data

    def _entries(self, dir_fd: int, path: bytes) -> list[tuple[bytes, bool, bool]]:
        """The names of a directory, the last one first, and whether each is a file or a directory."""
        found = []
        with os.scandir(dir_fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if self._only is not None and path + name not in self._only.there:
                    continue
                if name.startswith(whiteout.PREFIX):
                    why = "readers of archives would take its name for a whiteout"
                    raise CannotPack(shown(path + name), why)
                found.append(
                    (
                        name,
                        entry.is_file(follow_symlinks=False),
                        entry.is_dir(follow_symlinks=False),
                    )
                )
        if self._only is not None:
            found += [(name, False, False) for name in self._only.gone_in.get(path, ())]
        found.sort(reverse=True)
        if found and len(path) + max(len(name) for name, _, _ in found) >= LONGEST_NAME:
            raise CannotPack(shown(path), f"paths in it are longer than {LONGEST_NAME} bytes")
        return found

    # --- entries ----------------------------------------------------------------------------

    def _owner(self, status: os.stat_result, path: bytes) -> tuple[int, int]:
        if self._map_ids is None:
            return status.st_uid, status.st_gid
        try:
            return self._map_ids(status.st_uid, status.st_gid)
        except LookupError as error:
            raise CannotPack(shown(path), f"its owner is not mapped ({error})") from error

    def _file(self, dir_fd: int, name: bytes, path: bytes) -> tuple[int, int] | None:
        """Add a regular file; the open file and its size where that is too large to be added."""
        descriptor = os.open(name, _READ, dir_fd=dir_fd)
        try:
            status = os.fstat(descriptor)
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                raise CannotPack(shown(path), "it was replaced while it was read")
            if status.st_nlink > 1 and self._is_linked(path, status, descriptor):
                return None
            xattrs = self._xattrs(descriptor, path)
            if not size and self._xattr_whiteouts[-1] and self._is_xattr_whiteout(descriptor):
                self._whiteout(path, status)
                return None
            uid, gid = self._owner(status, path)
            mode, mtime = status.st_mode & self._mode_bits, status.st_mtime_ns // _SECOND
            names = self._names(status)
            if xattrs or any(names) or header.needs_records(path, uid, gid, size, mtime):
                self._full(path, b"0", mode, uid, gid, size, mtime, xattrs=xattrs, names=names)
            else:
                self._add(header.plain(path, mode, uid, gid, size, mtime))
            if size >= CHUNK:
                large, descriptor = descriptor, -1
                return large, size
            if size:
                data = os.read(descriptor, size)
                while len(data) < size:
                    data += self._more(descriptor, size - len(data), path)
                self._add(header.padded(data))
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _stream(self, path: bytes, descriptor: int, size: int) -> Iterator[bytes]:
        """The data of a large file, which are not gathered first."""
        try:
            yield self._flush()
            left = size
            while left:
                data = self._more(descriptor, min(left, CHUNK), path)
                left -= len(data)
                yield data
        finally:
            os.close(descriptor)
        self._add(header.PADDING[: -size % BLOCK])

    def _more(self, descriptor: int, size: int, path: bytes) -> bytes:
        data = os.read(descriptor, size)
        if not data:
            raise CannotPack(shown(path), "it became shorter while it was read")
        return data

    def _is_linked(self, path: bytes, status: os.stat_result, target: int | bytes) -> bool:
        """Add a hard link, if the file is in the archive under another name already."""
        key = (status.st_dev, status.st_ino)
        first = self._linked.setdefault(key, path)
        if first is path:
            return False
        xattrs = self._xattrs(target, path) if self._dialect.links_repeat else None
        self._entry(path, b"1", status, link=first, xattrs=xattrs)
        return True

    def _names(self, status: os.stat_result) -> tuple[bytes, bytes]:
        if not self._dialect.owner_names:
            return b"", b""
        return owner_names(status.st_uid, status.st_gid)

    def _full(self, path: bytes, kind: bytes, *numbers: int, **more: Any) -> None:
        """Add a header of any kind, in this archive's dialect."""
        self._add(header.full(path, kind, *numbers, dialect=self._dialect, **more))

    def _entry(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        link: bytes = b"",
        xattrs: dict[bytes, bytes] | None = None,
    ) -> None:
        """Add an entry without data."""
        special = kind in (b"3", b"4")
        device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if special else (0, 0)
        self._full(
            path,
            kind,
            status.st_mode & self._mode_bits,
            *self._owner(status, path),
            0,
            status.st_mtime_ns // _SECOND,
            link=link,
            device=device,
            xattrs=xattrs,
            names=self._names(status),
        )

    def _directory(self, descriptor: int, path: bytes) -> None:
        status = os.fstat(descriptor)
        self._entry(path, b"5", status, xattrs=self._xattrs(descriptor, path))
        if self._is_opaque(descriptor) and self._only is None:
            uid, gid = self._owner(status, path)
            name = path + whiteout.OPAQUE
            mode = status.st_mode & 0o777
            self._full(name, b"0", mode, uid, gid, 0, 0, names=self._names(status))

    def _is_opaque(self, descriptor: int) -> bool:
        value = whiteout.get(descriptor, f"{self._prefix}opaque")
        self._xattr_whiteouts.append(value == b"x")
        return value == b"y"

    def _other(self, dir_fd: int, name: bytes, path: bytes) -> None:
        status = os.lstat(name, dir_fd=dir_fd)
        if whiteout.is_whiteout(status):
            self._whiteout(path, status)
            return
        if stat.S_ISSOCK(status.st_mode):
            if self._note is not None:
                self._note(f"{shown(path)} is a socket, which an archive cannot hold")
            return
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            raise CannotPack(shown(path), "it was replaced while it was read")
        target = whiteout.at(dir_fd, name)
        if status.st_nlink > 1 and self._is_linked(path, status, target):
            return
        link = os.readlink(name, dir_fd=dir_fd) if kind == b"2" else b""
        xattrs = self._xattrs(target, path)
        self._entry(path, kind, status, link=link, xattrs=xattrs)

    def _whiteout(self, path: bytes, status: os.stat_result) -> None:
        uid, gid = status.st_uid, status.st_gid
        if self._map_ids is not None:
            try:
                uid, gid = self._map_ids(uid, gid)
            except LookupError:
                uid = gid = 0  # the kernel makes it as it likes; nobody will ever see its owner
        mtime, link = status.st_mtime_ns // _SECOND, b""
        if self._dialect.links_repeat and status.st_nlink > 1:  # the kernel links its whiteouts
            first = self._linked.setdefault((status.st_dev, status.st_ino), path)
            link = b"" if first is path else first
        names = self._names(status)
        self._full(_hiding(path), b"0", 0o600, uid, gid, 0, mtime, link=link, names=names)

    # --- xattrs -----------------------------------------------------------------------------

    def _xattrs(self, target: int | bytes, path: bytes) -> dict[bytes, bytes] | None:
        """What goes into the archive of a file's xattrs. Refuses what says that the file is
        elsewhere.
        """
        names = whiteout.names(target)
        if not names:
            return None
        kept: dict[bytes, bytes] = {}
        only = self._dialect.only_xattrs
        for name in names:
            if name.startswith(self._prefix):
                why = whiteout.ELSEWHERE.get(name.removeprefix(self._prefix))
                if why is not None:
                    raise CannotPack(shown(path), why, hint=_REDIRECT_HINT)
            elif whiteout.is_kept(name) and (only is None or name in only):
                if "=" in name:  # it ends the key of a record; no two programs agree on another way
                    why = f"the name of its xattr {shown(os.fsencode(name))} has an '=' in it"
                    raise CannotPack(shown(path), why)
                value = whiteout.get(target, name)
                if value is not None:
                    if name == "security.capability":
                        value = _capability(value)
                    kept[os.fsencode(name)] = value
        return kept

    def _is_xattr_whiteout(self, descriptor: int) -> bool:
        return whiteout.get(descriptor, f"{self._prefix}whiteout") is not None


_KINDS: Final = {
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFIFO: b"6",
}
_REDIRECT_HINT: Final = (
    "The layer was mounted by somebody else with redirect_dir or metacopy; "
    "compare it mounted with its parent instead."
)


def _hiding(path: bytes) -> bytes:
    """The name of the entry that hides a path."""
    directory, slash, base = path.rpartition(b"/")
    return directory + slash + whiteout.PREFIX + base


def _capability(value: bytes) -> bytes:
    """Version 3, which names a user namespace, as version 2, which any machine takes."""
    if len(value) == 24 and value[3] == _CAPABILITY_3:
        return value[:3] + b"\x02" + value[4:20]
    return value
