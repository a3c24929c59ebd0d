"""Owns the lock files: owners, and the store to oneself; it must not know the database.

An owner is alive as long as its lock file is locked: that survives kill -9, reuse of its pid, and
reboots. A forked child closes the descriptor without unlocking, or it would keep a dead parent alive
(flock belongs to the open file, https://man7.org/linux/man-pages/man2/flock.2.html).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from layerstore.errors import Busy, NoStore
from layerstore.fs.durable import naming


class OwnerLock:
    """The lock file of one living owner."""

    def __init__(self, path: str) -> None:
        """Lock under a temporary name, then rename: whoever sees the name sees it locked."""
        directory, name = os.path.split(path)
        temporary = f"{directory}/.{name}.tmp"
        self._path = path
        while not self._locked_and_named(temporary):
            pass

    def _locked_and_named(self, temporary: str) -> bool:
        """False: before it was locked, somebody took it for what a dead process left."""
        self._descriptor = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        try:
            with naming(temporary):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            os.rename(temporary, self._path)
        except BaseException as error:
            os.close(self._descriptor)
            if isinstance(error, FileNotFoundError) and os.path.isdir(os.path.dirname(temporary)):
                return False
            raise
        return True

    def release(self) -> None:
        """Unlink first: a lock file that can be taken means a death."""
        if self._descriptor >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            self.close()

    def close(self) -> None:
        """Close without unlinking or unlocking: what a forked child does."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


HOLDER: Final = "holder-"
"""How the names of lock files begin that stay: a holder outside may act again at any time."""


class HolderLock:
    """The lock of who acts in the name of an outside holder: one at a time."""

    def __init__(self, path: str, holder: str, *, timeout: float) -> None:
        """Busy if somebody else has it."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _ALONE.add(self._descriptor)
        try:
            with naming(path):
                had = _lock(self._descriptor, time.monotonic() + timeout)
        except BaseException:
            self.release()
            raise
        if not had:
            self.release()
            raise Busy(
                f"Another process acts in the name of {holder} already.",
                hint="'layerstore status' lists who has the store open.",
            )

    def release(self) -> None:
        if self._descriptor in _ALONE:
            _ALONE.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def is_alive(path: str) -> bool:
    """Whether somebody has the owner's lock. Shared, so that two who ask do not see each other."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # another user's, outside of this user namespace: when in doubt it lives
    try:
        with naming(path):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_dead(directory: str, *, keep: Callable[[str], bool]) -> None:
    """Unlink every lock file that nobody has, unless `keep(owner)` wants it.

    A process killed while it opened or closed a store leaves one that no row tells of.
    """
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        if name.startswith(HOLDER):
            continue
        if not is_alive(path) and not keep(name.removesuffix(".lock")):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


class SharedStoreLock:
    """Held by every owner while it is open, so that nobody has the store to itself."""

    def __init__(
        self, path: str, *, timeout: float, alone: Callable[[], None] = lambda: None
    ) -> None:
        """`alone` is called first where nobody has the store open, and while nobody can open it."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NoStore(
                f"The store's lock file {path} is missing.",
                hint="'layerstore db rebuild' makes the store's own files anew.",
            ) from error
        try:
            with contextlib.suppress(BlockingIOError), naming(path):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone()
        except BaseException:
            self.close()
            raise
        deadline = time.monotonic() + timeout
        pause = 0.001
        while True:
            try:
                self._share(path)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    self.close()
                    raise Busy(
                        "Another process has the store to itself: it migrates or rebuilds it.",
                        hint="Try again when it is done.",
                    ) from None
                time.sleep(pause)
                pause = min(pause * 2, 0.05)
            else:
                return

    def _share(self, path: str) -> None:
        try:
            with naming(path):
                fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_ALONE: set[int] = set()
"""Descriptors of locks that this process has alone."""


@contextlib.contextmanager
def alone(path: str, *, timeout: float) -> Iterator[bool]:
    """Hold a lock file exclusively, in this thread alone; False if it could not be had in time."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _ALONE.add(descriptor)
    try:
        with naming(path):
            had = _lock(descriptor, time.monotonic() + timeout)
        try:
            yield had
        finally:
            if had:
                with contextlib.suppress(OSError):  # closing it does, unless another has it
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # whoever else has the descriptor by now
    finally:
        _ALONE.discard(descriptor)
        os.close(descriptor)


def _lock(descriptor: int, deadline: float) -> bool:
    pause = 0.001
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        else:
            return True


def _forget_in_child() -> None:
    """A forked child keeps nobody out: it closes what it inherited, without unlocking."""
    for descriptor in _ALONE:
        os.close(descriptor)
    _ALONE.clear()


os.register_at_fork(after_in_child=_forget_in_child)


@contextlib.contextmanager
def store_to_oneself(path: str, *, timeout: float) -> Iterator[None]:
    """Hold the store exclusively: no owner is open meanwhile, and none can open."""
    import filelock

    lock = filelock.FileLock(path, mode=0o600, fallback_to_soft=False)
    try:
        with naming(path):
            lock.acquire(timeout=timeout)
    except filelock.Timeout as error:
        raise Busy(
            "The store is open in another process, and this needs it to itself.",
            hint="'layerstore status' lists who has it open.",
        ) from error
    try:
        yield
    finally:
        try:
            lock.release()
        except OSError:  # what was done is done; the lock goes with its descriptor
            descriptor = lock._context.lock_file_fd
            if descriptor is not None:
                os.close(descriptor)
                lock._context.lock_file_fd = None
