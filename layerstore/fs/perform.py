"""Owns the performing of steps: the one interpreter of them, with a trace point at each side of a step.

It must not decide which steps to perform. Only `store` and `recovery` may import it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final

from layerstore.errors import (
    CannotCarryOverlay,
    LayerDamaged,
    LayerExists,
    LayerNotEmpty,
    LayerstoreError,
    UpperBusy,
)
from layerstore.fs import (
    ballast,
    durable,
    files,
    layout,
    mount,
    mountinfo,
    namespaces,
    syscalls,
    whole,
)
from layerstore.fs import steps as s
from layerstore.fs.aside import perform as set_aside
from layerstore.fs.trace import trace
from layerstore.model import TAKING_ROOM


class Performer:
    """Performs steps below one home."""

    def __init__(self, home: str, styles: tuple[mount.Style, ...]) -> None:
        self._home = home
        self._styles = styles
        self.feeds: dict[str, Any] = {}
        """What live operations unpack, by the operation."""
        self._marks: dict[str, tuple[int, int]] = {}
        """The `committed` files that were synced here, by their layer: inode and time of change."""

    def run(self, steps: Iterable[s.Step], *, name: str, first: bool) -> s.Performed:
        """Perform steps in order. `first`: the first run of a plan, whose staging must be new."""
        performed = s.Performed()
        for _ in self.stepwise(steps, performed, name=name, first=first):
            pass
        return performed

    def stepwise(
        self, steps: Iterable[s.Step], performed: s.Performed, *, name: str, first: bool
    ) -> Generator[s.Step, bool | None]:
        """The same for who decides when: each step is given before it is performed; True skips it."""
        try:
            for index, step in enumerate(steps):
                if (yield step):
                    continue
                point = f"{name}:{index}:{type(step).__name__}"
                trace(f"{point}:before")
                self._perform(step, performed, first, name not in TAKING_ROOM)
                trace(f"{point}:after")
        finally:
            for descriptor in performed.written.values():
                os.close(descriptor)

    def _perform(self, step: s.Step, performed: s.Performed, first: bool, release: bool) -> None:
        """One step; on a full disk again for each piece of the ballast, if it may be released."""
        while True:
            try:
                return _PERFORM[type(step)](self, step, performed, first)
            except OSError as error:
                if not (release and durable.is_full(error) and ballast.release(self._home)):
                    raise

    def path(self, relative: str) -> str:
        return f"{self._home}/{relative}" if relative else self._home

    # Each method below performs one step; it tolerates that the step was performed before.

    def _verify(self, step: s.VerifyLayer, _: s.Performed, __: bool) -> None:
        files.verify_chain(self._home, step.layer, step.link, step.lower, step.chain)

    def _make_directory(self, step: s.MakeDirectory, _: s.Performed, first: bool) -> None:
        try:
            os.mkdir(self.path(step.path), step.mode)
        except FileExistsError:
            if first and step.fresh:
                raise
        if step.uid is not None or step.gid is not None:
            self._chown(step.path, step.uid, step.gid)
        # mkdir's mode is cut by the umask, and by the default ACL of the directory above.
        path = self.path(step.path)
        if stat.S_IMODE(os.stat(path).st_mode) != step.mode:
            os.chmod(path, step.mode, follow_symlinks=True)

    def _chown(self, path: str, uid: int | None, gid: int | None) -> None:
        whom = (-1 if uid is None else uid, -1 if gid is None else gid)
        os.chown(self.path(path), *whom, follow_symlinks=False)

    def _own(self, step: s.Own, _: s.Performed, __: bool) -> None:
        self._chown(step.path, step.uid, step.gid)

    def _set_project(self, step: s.SetProject, _: s.Performed, __: bool) -> None:
        from layerstore.fs import quota  # few layers have one

        quota.set_project(self.path(step.path), step.project)

    def _set_limit(self, step: s.SetLimit, _: s.Performed, __: bool) -> None:
        from layerstore.fs import quota

        quota.set_limit(self._home, step.project, step.size, needed=step.needed)

    def _clear_limit(self, step: s.ClearLimit, _: s.Performed, __: bool) -> None:
        from layerstore.fs import quota

        quota.set_limit(self._home, step.project, 0, needed=False)

    def _write_file(self, step: s.WriteFile, performed: s.Performed, _: bool) -> None:
        path = self.path(step.path)
        if step.sync:
            performed.written[step.path] = durable.begin_file(path, step.content, mode=step.mode)
        else:
            durable.write_file(path, step.content, mode=step.mode, synced=False)

    def _sync_file(self, step: s.SyncFile, performed: s.Performed, _: bool) -> None:
        durable.sync(performed.written[step.path], self.path(step.path))
        os.close(performed.written.pop(step.path))

    def _sync_mark(self, step: s.SyncMark, _: s.Performed, __: bool) -> None:
        path = self.path(layout.committed(step.layer))
        found = os.lstat(path)
        which = (found.st_ino, found.st_ctime_ns)  # another file of this name has another time
        if self._marks.get(step.layer) == which:
            return
        durable.sync_file(path)
        durable.sync_directory(self.path(step.layer))
        if len(self._marks) >= _MARKS:
            self._marks.clear()
        self._marks[step.layer] = which

    def _sync_directory(self, step: s.SyncDirectory, _: s.Performed, __: bool) -> None:
        durable.sync_directory(self.path(step.path))

    def _sync_file_system(self, step: s.SyncFileSystem, performed: s.Performed, _: bool) -> None:
        if step.since:
            whole.sync(performed.written[step.since], self._home)
        else:
            whole.sync_file_system(self._home)

    def _make_symlink(self, step: s.MakeSymlink, _: s.Performed, __: bool) -> None:
        path = self.path(step.path)
        try:
            os.symlink(step.target, path)
        except FileExistsError:
            if files.read_symlink(path) == step.target:
                return
            if files.read_symlink(path) or not os.path.islink(path):
                raise
            os.unlink(path)  # an empty link is what a power cut leaves on some file systems
            os.symlink(step.target, path)

    def _publish(self, step: s.Publish, _: s.Performed, __: bool) -> None:
        at, flags = syscalls.AT_FDCWD, syscalls.RENAME_NOREPLACE
        try:
            syscalls.renameat2(at, self.path(step.source), at, self.path(step.target), flags)
        except FileExistsError as error:
            raise LayerExists(step.target, where="tree") from error

    def _move_to_trash(self, step: s.MoveToTrash, _: s.Performed, __: bool) -> None:
        found = files.read_link(self._home, step.layer)
        if step.others_stay and found != step.link:
            return
        if found is None:
            if files.is_there(self.path(step.layer)):
                raise LayerDamaged(step.layer, "its link file is missing, so it is not touched")
            return
        if found != step.link:
            raise LayerDamaged(
                step.layer, f"its link file reads {found!r} instead of {step.link!r}"
            )
        os.rename(self.path(step.layer), self.path(step.target))

    def _move_aside(self, step: s.MoveAside, _: s.Performed, __: bool) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path(step.source), self.path(step.target))

    def _aside(self, step: Any, _: s.Performed, __: bool) -> None:
        set_aside(self._home, step)

    def _remove_symlink(self, step: s.RemoveSymlink, _: s.Performed, __: bool) -> None:
        path = self.path(step.path)
        if not os.path.islink(path):
            return
        if files.read_symlink(path) == step.target or not os.path.exists(path):
            os.unlink(path)

    def _require_link(self, step: s.ReplaceDirectory | s.WriteManifest) -> None:
        """The layer of that name must be the one that is meant."""
        found = files.read_link(self._home, step.layer)
        if found != step.link:
            raise LayerDamaged(step.layer, files.difference("link", found, step.link))

    def _write_manifest(self, step: s.WriteManifest, performed: s.Performed, _: bool) -> None:
        from layerstore.fs import manifest  # few layers get one

        self._require_link(step)
        written = manifest.write(
            self.path(layout.diff(step.layer)), self.path(layout.manifest(step.layer))
        )
        performed.digest, performed.bytes = written.digest, written.bytes
        performed.entries = written.files

    def _remove_directory(self, step: s.RemoveDirectory, _: s.Performed, __: bool) -> None:
        try:
            os.rmdir(self.path(step.path))
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not (step.full_is_fine or step.aside):
                raise
            if step.aside:
                self._set_aside(step)

    def _set_aside(self, step: s.RemoveDirectory) -> None:
        """Keep what was written into a mountpoint while nothing was mounted there."""
        place = self.path(step.aside)
        os.makedirs(place, layout.PRIVATE_MODE, exist_ok=True)
        note = f"{step.path} was not mounted, and not empty. Delete this when it is not needed.\n"
        durable.write_file(f"{place}/NOTE", note, mode=0o600, synced=False)
        os.rename(self.path(step.path), f"{place}/{os.path.basename(step.path)}")

    def _remove_tree(self, step: s.RemoveTree, performed: s.Performed, _: bool) -> None:
        from layerstore.fs import tree  # neither a create nor a put has use for it

        directory, name = os.path.split(self.path(step.path))
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            removed = tree.remove_tree(descriptor, name)
        finally:
            os.close(descriptor)
        performed.entries += removed.entries
        performed.bytes += removed.bytes
        performed.left += removed.left
        if removed.left:
            why, hint = "", "Something is mounted or busy there; the next recovery tries again."
            if namespaces.in_user_namespace():
                why = ", perhaps because it belongs to ids that this user namespace lacks"
                hint = "'layerstore unshare' brings the ids of /etc/subuid and /etc/subgid. " + hint
            stayed = ", ".join(removed.left[:3])
            raise LayerstoreError(
                f"{step.path} could not be removed whole: {stayed} stayed{why}.", hint=hint
            )

    def _unpack(self, step: s.Unpack, performed: s.Performed, first: bool) -> None:
        from layerstore.fs import applying  # what it takes to read archives is slow to import

        if not first:
            applying.recall(self._home, step, performed)
            return
        if step.probe:
            scratch = f"{layout.staging(step.operation)}-probe"
            self._probe_upper(s.ProbeUpper(step.layer, scratch), performed, first)
        applying.unpack(self._home, step, self.feeds[step.operation], performed)

    def _replace_directory(self, step: s.ReplaceDirectory, _: s.Performed, __: bool) -> None:
        source = self.path(step.source)
        if not files.is_there(source):
            return
        self._require_link(step)
        try:
            os.rename(source, self.path(layout.diff(step.layer)))
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise LayerNotEmpty(step.layer) from error
            raise

    def _probe_upper(self, step: s.ProbeUpper, _: s.Performed, __: bool) -> None:
        from layerstore.fs import upper

        diff, scratch = self.path(layout.diff(step.layer)), self.path(step.scratch)
        if not files.is_directory(diff):
            return  # what is not there is not in use
        try:
            os.mkdir(scratch)
            used = False
        except OSError:
            os.makedirs(scratch, exist_ok=True)
            used = True
        free = upper.upper_is_free(diff, scratch, may_have_been_used=used)
        if not free and not self._users(step.layer):
            # Nobody to blame: a namespace that was copied and is ending, or a process that is dying.
            free = upper.upper_is_free(diff, scratch, wait=_UNSEEN)
        os.rmdir(scratch)
        if not free:
            raise UpperBusy(step.layer, self._explain(step.layer))

    def _check_unmounted(self, step: s.CheckUnmounted, _: s.Performed, __: bool) -> None:
        if self._users(step.layer):
            raise UpperBusy(step.layer, self._explain(step.layer))

    def _mount(self, step: s.MountOverlay, performed: s.Performed, _: bool) -> None:
        target = self.path(step.target)
        options = mount.OverlayOptions(
            lowers=tuple(self.path(lower) for lower in step.lowers),
            upper=None if step.upper is None else self.path(step.upper),
            work=None if step.work is None else self.path(step.work),
            label=step.label,
            userxattr=self._user_xattrs(),
        )
        performed.style = mount.mount_overlay(target, options, home=self._home, styles=self._styles)
        performed.mount_id = mountinfo.mount_id(target)
        if step.work is not None and os.statvfs(target).f_flag & os.ST_RDONLY:
            # What the kernel does, with a line in its log, where it cannot use the work directory.
            full = not durable.has_room(f"{options.work}/room", files=4)
            number = errno.ENOSPC if full else errno.EROFS
            raise OSError(number, f"was mounted read-only: {os.strerror(number)}", target)

    def _user_xattrs(self) -> bool:
        """How this store marks its layers; an error where that cannot be read here."""
        if files.uses_user_xattrs(self._home):
            return True
        if namespaces.in_user_namespace():
            raise CannotCarryOverlay(
                f"The store at {self._home} was made outside of a user namespace, and cannot be "
                "mounted in one: the kernel would not see what its layers hide of each other.",
                hint="Mount as root outside, or make another store with 'layerstore unshare "
                "layerstore --home DIR init'.",
            )
        return False

    def _unmount(self, step: s.Unmount, performed: s.Performed, _: bool) -> None:
        target = self.path(step.target)
        for _again in range(_STACKED):
            found = mount.unmount(target)
            performed.detached |= found is mount.Unmounted.DETACHED
            if found is mount.Unmounted.NOT_MOUNTED or not mountinfo.is_mount_root(target):
                return

    def _users(self, layer: str) -> list[mountinfo.MountUser]:
        return mountinfo.who_uses(self.path(layout.diff(layer)), self.path(layout.merged(layer)))

    def _explain(self, layer: str) -> str:
        users = self._users(layer)
        if not users:
            return "by a process that is not to be seen from here, in another pid namespace perhaps"
        return ", ".join(f"process {user.pid} ({user.command}, {user.how})" for user in users[:4])


_UNSEEN: Final = 1.0
"""Seconds that an upper may stay in use by nobody who can be seen."""

_MARKS: Final = 10_000
"""Layers of which it is remembered that their `committed` was synced."""

_STACKED: Final = 16
"""Mounts on top of each other on one mountpoint that are taken off in one step."""

_PERFORM: Final[dict[type[Any], Callable[[Performer, Any, s.Performed, bool], None]]] = {
    s.VerifyLayer: Performer._verify,
    s.MakeDirectory: Performer._make_directory,
    s.Own: Performer._own,
    s.SetProject: Performer._set_project,
    s.SetLimit: Performer._set_limit,
    s.ClearLimit: Performer._clear_limit,
    s.WriteFile: Performer._write_file,
    s.SyncFile: Performer._sync_file,
    s.SyncMark: Performer._sync_mark,
    s.SyncDirectory: Performer._sync_directory,
    s.SyncFileSystem: Performer._sync_file_system,
    s.MakeSymlink: Performer._make_symlink,
    s.Publish: Performer._publish,
    s.MoveToTrash: Performer._move_to_trash,
    s.MoveAside: Performer._move_aside,
    **dict.fromkeys((s.SetAside, s.PutInPlace, s.RemoveFile, s.SetMode), Performer._aside),
    s.RemoveSymlink: Performer._remove_symlink,
    s.RemoveDirectory: Performer._remove_directory,
    s.RemoveTree: Performer._remove_tree,
    s.Unpack: Performer._unpack,
    s.ReplaceDirectory: Performer._replace_directory,
    s.WriteManifest: Performer._write_manifest,
    s.ProbeUpper: Performer._probe_upper,
    s.CheckUnmounted: Performer._check_unmounted,
    s.MountOverlay: Performer._mount,
    s.Unmount: Performer._unmount,
}
