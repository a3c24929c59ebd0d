"""Owns unpacking a layer's archive into a directory, as overlayfs has a layer; it must not reach
outside that directory, nor know what a store is.

Parents are opened by `place`, and the last component is made anew, never followed. Where an entry meets what an earlier
one made, it takes its place. Whiteouts become what the kernel takes for one; a whiteout beside an
entry of its own name hides only what is below, as the OCI image specification has it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

import attrs

from layerstore.errors import InvalidArchive
from layerstore.fs import tree, whiteout
from layerstore.fs.archive.member import Limits, MapIds, Member, bad, shown
from layerstore.fs.archive.place import HERE, PLNK, Place, components
from layerstore.fs.archive.reader import Reader
from layerstore.fs.archive.source import Readable, Source
from layerstore.fs.archive.times import Times

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOBODY: Final = (1 << 32) - 1
"""The kernel reads this as "leave it as it is"."""


@attrs.frozen
class Unpacked:
    """What an archive was: bytes of its files, hard links once; the digest of the uncompressed
    stream; its length; its headers.

    `inodes`: of what it became, with the directory itself, as `tree.tree_size` counts. `trailing`:
    bytes behind its end that are not zero. They are in the digest, and nothing else.
    """

    size: int
    inodes: int
    diff_id: str
    stream_bytes: int
    entries: int
    trailing: int


def unpack(
    stream: Readable,
    root_fd: int,
    *,
    base: bool = False,
    map_ids: MapIds | None = None,
    limits: Limits | None = None,
    prefix: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Unpacked:
    """Unpack a tar, plain or compressed with gzip or zstd, below an empty directory.

    `base`: there is no layer below, so that an opaque root means nothing; else it is refused, for
    the kernel does not heed it. `map_ids` maps owners to those on disk; the directory itself keeps
    its own owner, mode and times. `prefix`: of overlayfs's xattrs, by default as this process
    mounts. `progress` is told how many entries there were, whenever more is read. Raises
    InvalidArchive, which names the entry, and OSError with the entry as its file. What was unpacked
    before stays.
    """
    limits = limits or Limits()
    with Source(stream, limits) as source:
        reader = Reader(source, limits, progress)
        work = _Unpacking(reader, root_fd, base, map_ids, prefix or whiteout.namespace())
        try:
            work.run()
        finally:
            work.close()
        return Unpacked(
            work.size,
            work.inodes,
            source.digest(),
            source.bytes,
            reader.entries,
            reader.trailing,
        )


class _Unpacking:
    def __init__(
        self, reader: Reader, root_fd: int, base: bool, map_ids: MapIds | None, prefix: str
    ) -> None:
        self._reader = reader
        self._place = Place(root_fd, map_ids(0, 0) if map_ids else (0, 0), prefix)
        self._base = base
        self._map_ids = map_ids
        self._prefix = prefix
        self._times = Times(root_fd)
        """Directories and their times, which are set when nothing more is put into them."""
        self.size, self.inodes = 0, 1
        self._make: dict[bytes, Callable[[Member, bytes], None]] = {
            b"0": self._file,
            b"\0": self._file,
            b"7": self._file,
            b"1": self._hard_link,
            b"2": self._symlink,
            b"3": self._device,
            b"4": self._device,
            b"5": self._directory,
            b"6": self._fifo,
        }

    def close(self) -> None:
        self._times.close()
        self._place.close()

    def run(self) -> None:
        step, enter, make = self._reader.next, self._place.enter, self._make
        while (member := step()) is not None:
            name = member.name
            try:
                base = enter(member)
                if base is None:
                    continue
                if self._map_ids is not None:
                    member.uid, member.gid = self._map_ids(member.uid, member.gid)
                if member.uid >= _NOBODY or member.gid >= _NOBODY:
                    raise bad(name, "its owner or group is none that can be")
                if base.startswith(whiteout.PREFIX) and not self._place.is_plnk(base):
                    self._whiteout(member, base)
                else:
                    make[member.kind](member, base)
            except LookupError as error:
                raise bad(name, f"its owner is not mapped: {error}") from error
            except OSError as error:
                raise _at(name, error) from error
        self._set_times()
        plnk = tree.remove_tree(self._place.root, os.fsdecode(PLNK))
        self.size -= self._place.freed + plnk.bytes
        self.inodes += self._place.inodes - plnk.inodes

    # --- what -------------------------------------------------------------------------------

    def _file(self, member: Member, base: bytes) -> None:
        try:
            descriptor = os.open(base, _NEW, 0o600, dir_fd=self._place.fd)
        except FileExistsError:
            self._place.vacate(base)
            descriptor = os.open(base, _NEW, 0o600, dir_fd=self._place.fd)
        self.inodes += 1
        try:
            self.size += member.real_size
            if member.sparse is not None:
                self._sparse(member, descriptor)
            elif member.size:
                self._reader.body(lambda piece: os.write(descriptor, piece), member.size)
            # In this order: a change of owner takes setuid and capabilities away.
            os.fchown(descriptor, member.uid, member.gid)
            if member.xattrs:
                self._set_xattrs(member, descriptor)
            os.fchmod(descriptor, member.mode)
            os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(descriptor)

    def _sparse(self, member: Member, descriptor: int) -> None:
        for offset, length in member.sparse or ():
            if length:
                os.lseek(descriptor, offset, os.SEEK_SET)
                self._reader.body(lambda piece: os.write(descriptor, piece), length)
        os.ftruncate(descriptor, member.real_size)

    def _directory(self, member: Member, base: bytes) -> None:
        opaque = False
        try:
            os.mkdir(base, 0o700, dir_fd=self._place.fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(base, dir_fd=self._place.fd).st_mode):
                opaque = self._place.vacate(base)
                os.mkdir(base, 0o700, dir_fd=self._place.fd)
                self.inodes += 1
        else:
            self.inodes += 1
        descriptor = os.open(base, HERE, dir_fd=self._place.fd)
        try:
            os.fchown(descriptor, member.uid, member.gid)
            if member.xattrs:
                self._set_xattrs(member, descriptor)
            if opaque:
                whiteout.set_opaque(descriptor, self._prefix)
            os.fchmod(descriptor, member.mode)
        except BaseException:
            os.close(descriptor)
            raise
        # What follows is mostly in it.
        path = member.name.rstrip(b"/")
        self._times.add(path, member.mtime_ns)
        self._place.stay_in(descriptor, path)

    def _hard_link(self, member: Member, base: bytes) -> None:
        parts = components(member.link, member.name)
        if not parts:
            raise bad(member.name, "it is a hard link to the root directory")
        target = parts.pop()
        if target.startswith(whiteout.PREFIX):
            raise bad(member.name, "it is a hard link to a whiteout")
        try:
            descriptor = self._place.open(parts)
        except FileNotFoundError as error:
            raise self._no_target(member) from error
        try:
            status = os.lstat(target, dir_fd=descriptor)
            if stat.S_ISDIR(status.st_mode) or whiteout.is_whiteout(status):
                raise bad(member.name, "it is a hard link to what cannot have one")
            try:
                there = os.lstat(base, dir_fd=self._place.fd)
            except FileNotFoundError:
                pass
            else:
                if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                    return
                self._place.vacate(base)
            os.link(
                target,
                base,
                src_dir_fd=descriptor,
                dst_dir_fd=self._place.fd,
                follow_symlinks=False,
            )
        except FileNotFoundError as error:
            raise self._no_target(member) from error
        finally:
            os.close(descriptor)

    def _no_target(self, member: Member) -> InvalidArchive:
        why = f"it is a hard link to {shown(member.link)!r}, which is not in the archive"
        return bad(member.name, why)

    def _symlink(self, member: Member, base: bytes) -> None:
        if not member.link:
            raise bad(member.name, "it is a symbolic link to nothing")
        self._anew(base, lambda: os.symlink(member.link, base, dir_fd=self._place.fd))
        self.size += len(member.link)
        self._dress(member, base)

    def _device(self, member: Member, base: bytes) -> None:
        if not 0 <= member.major < 1 << 12 or not 0 <= member.minor < 1 << 20:
            raise bad(member.name, "its device number is none that can be")
        device = os.makedev(member.major, member.minor)
        kind = stat.S_IFCHR if member.kind == b"3" else stat.S_IFBLK
        if kind == stat.S_IFCHR and device == 0:
            raise bad(member.name, "it is the device 0/0, which would be a whiteout")
        self._anew(base, lambda: os.mknod(base, kind | 0o600, device, dir_fd=self._place.fd))
        self._dress(member, base)

    def _fifo(self, member: Member, base: bytes) -> None:
        self._anew(base, lambda: os.mkfifo(base, 0o600, dir_fd=self._place.fd))
        self._dress(member, base)

    def _anew(self, base: bytes, make: Callable[[], None]) -> None:
        try:
            make()
        except FileExistsError:
            self._place.vacate(base)
            make()
        self.inodes += 1

    def _dress(self, member: Member, base: bytes) -> None:
        """Owner, xattrs, mode and times of what is not opened: it was just made here."""
        parent = self._place.fd
        os.chown(base, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if member.xattrs:
            self._set_xattrs(member, whiteout.at(parent, base))
        if member.kind != b"2":
            os.chmod(base, member.mode, dir_fd=parent)
        times = (member.mtime_ns, member.mtime_ns)
        os.utime(base, ns=times, dir_fd=parent, follow_symlinks=False)

    def _set_xattrs(self, member: Member, target: int | bytes) -> None:
        for name, value in (member.xattrs or {}).items():
            if name.startswith((b"trusted.overlay.", b"user.overlay.")):
                raise bad(member.name, f"it has the xattr {shown(name)}, which is overlayfs's own")
            try:
                if isinstance(target, int):
                    os.setxattr(target, name, value)
                else:
                    os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as error:
                text = f"{os.strerror(error.errno or 0)} (its xattr {shown(name)})"
                raise OSError(error.errno, text) from error

    def _whiteout(self, member: Member, base: bytes) -> None:
        if base == whiteout.OPAQUE:
            self._opaque(member)
            return
        hidden = base.removeprefix(whiteout.PREFIX)
        if hidden in (b"", b".", b"..") or hidden.startswith(whiteout.PREFIX):
            raise bad(member.name, "it is a whiteout of nothing that can be")
        parent = self._place.fd
        try:
            whiteout.make_whiteout(parent, hidden, uid=member.uid, gid=member.gid)
        except FileExistsError:
            status = os.lstat(hidden, dir_fd=parent)
            if stat.S_ISDIR(status.st_mode):
                descriptor = os.open(hidden, HERE, dir_fd=parent)
                try:
                    whiteout.set_opaque(descriptor, self._prefix)
                finally:
                    os.close(descriptor)
            if not whiteout.is_whiteout(status):
                return
        else:
            self.inodes += 1
        times = (member.mtime_ns, member.mtime_ns)
        os.utime(hidden, ns=times, dir_fd=parent, follow_symlinks=False)

    def _opaque(self, member: Member) -> None:
        if os.path.sameopenfile(self._place.fd, self._place.root):
            if not self._base:
                raise bad(member.name, "the kernel does not heed an opaque root directory")
            return
        whiteout.set_opaque(self._place.fd, self._prefix)

    def _set_times(self) -> None:
        """The times of directories, in the order of the archive: the last one of a name stays."""
        for path, mtime_ns in self._times:
            try:
                descriptor = self._place.open([path], os.O_NOFOLLOW)
            except OSError:
                continue  # something else took its place
            try:
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(descriptor)


def _at(name: bytes, error: OSError) -> OSError | InvalidArchive:
    """The same error with the entry as its file, or what it says about the archive."""
    why = _FAULTS.get(error.errno or 0)
    if why is not None:
        return bad(name, why)
    return OSError(error.errno, f"{error.strerror}, unpacking", shown(name))


_FAULTS: Final = {
    errno.ENOENT: "what is above it is a link that leads nowhere",
    errno.ENOTDIR: "what is above it is no directory",
    errno.ELOOP: "what is above it is a link that leads in a circle",
    errno.ENAMETOOLONG: "its name is longer than the file system takes",
    errno.EXDEV: "what is above it leads out of the layer",
}
"""What the kernel says of an impossible entry; other errors are the machine's."""
