"""Owns the sockets that a server listens on: made, taken from systemd, given up; it must not speak HTTP.

A socket has mode 0600 from the moment that it has its name. The socket of a server that is dead is
replaced, that of a living one never: a lock file beside it tells them apart, and for other programs a
connection does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Mapping
from typing import Final

import attrs

from layerstore.errors import Busy, InvalidArgument, LayerstoreError

_FIRST_PASSED: Final = 3
_LONGEST_PATH: Final = 107
_BACKLOG: Final = 128


@attrs.define
class Listener:
    """One socket that accepts, with its path. A socket of systemd's own is not removed at the end."""

    path: str
    sock: socket.socket
    lock: int = -1
    _identity: tuple[int, int] | None = None

    @property
    def is_passed(self) -> bool:
        """Whether a service manager holds it, too."""
        return self._identity is None

    def close(self) -> None:
        """Accept no more; remove the socket if it is this one still."""
        with contextlib.suppress(OSError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)
        self.sock.close()
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def listen(path: str) -> Listener:
    """Listen at this path, whose directory is made. Raises Busy where somebody does already."""
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > _LONGEST_PATH - len(".new"):
        raise InvalidArgument(f"{path} is too long for a socket: {_LONGEST_PATH - 4} bytes.")
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    lock = _lock(path)
    try:
        _refuse_living(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            fresh = f"{path}.new"  # whoever has the lock is alone with it
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
            sock.bind(fresh)
            os.chmod(fresh, 0o600)
            sock.listen(_BACKLOG)
            found = os.lstat(fresh)
            os.rename(fresh, path)
        except BaseException:
            sock.close()
            raise
    except BaseException:
        os.close(lock)
        raise
    return Listener(path, sock, lock, (found.st_dev, found.st_ino))


def _lock(path: str) -> int:
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Busy(
            f"Another server listens at {path}.", hint="Stop it, or give another --socket."
        ) from None
    return descriptor


def _refuse_living(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise InvalidArgument(f"{path} is there and is no socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(5)
        try:
            trial.connect(path)
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise Busy(f"{path} cannot be tried: {error.strerror}.") from error
    raise Busy(f"Another program listens at {path}.", hint="Stop it, or give another --socket.")


def passed(environment: Mapping[str, str]) -> list[Listener]:
    """The sockets that systemd hands to this process (sd_listen_fds(3)); none is the usual case."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = int(environment.get("LISTEN_FDS", "0"))
    except ValueError as error:
        raise LayerstoreError("LISTEN_FDS is no number.") from error
    found = []
    for descriptor in range(_FIRST_PASSED, _FIRST_PASSED + count):
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        name = sock.getsockname()
        if sock.family != socket.AF_UNIX or not isinstance(name, str) or not name.startswith("/"):
            raise LayerstoreError(f"Descriptor {descriptor} of systemd is no unix socket.")
        found.append(Listener(name, sock))
    return found


def notify(address: str | None, message: str) -> None:
    """Tell the service manager (sd_notify(3)); nobody is told where there is none."""
    if not address or address[0] not in "/@":
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.settimeout(1)
        sock.connect(f"\0{address[1:]}" if address[0] == "@" else address)
        sock.sendall(message.encode())
