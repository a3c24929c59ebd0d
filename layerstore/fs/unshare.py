"""Owns making a user namespace, and whose ids are in it; it must not decide who needs one.

In a user namespace an ordinary user may mount overlays and keep files of several ids: its own id
shows as 0, and the subordinate ids that /etc/subuid and /etc/subgid give it follow from 1 on
(https://man7.org/linux/man-pages/man7/user_namespaces.7.html).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from layerstore.fs import syscalls

_GO_ON: Final = b"1"


@attrs.frozen
class Mapping:
    """What the ids in a user namespace are outside. `why_single`: why it is one id only."""

    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]
    """Rows of (id inside, id outside, count)."""
    why_single: str = ""


def subordinate(path: str, uid: int) -> tuple[tuple[int, int], ...]:
    """The (first, count) ranges that a file like /etc/subuid gives a user, by its name or number."""
    import pwd

    wanted = {str(uid)}
    with contextlib.suppress(KeyError):
        wanted.add(pwd.getpwuid(uid).pw_name)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return ()
    ranges = []
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in wanted and fields[1].isdigit() and fields[2].isdigit():
            ranges.append((int(fields[1]), int(fields[2])))
    return tuple(found for found in ranges if found[1] > 0)


def mapping(uid: int, gid: int) -> Mapping:
    """The mapping that this user can have: with subordinate ids where there are any."""
    import shutil

    users, groups = subordinate("/etc/subuid", uid), subordinate("/etc/subgid", uid)
    missing = [tool for tool in ("newuidmap", "newgidmap") if shutil.which(tool) is None]
    why = ""
    if missing:
        why = f"{' and '.join(missing)} of the package uidmap cannot be found"
    elif not users or not groups:
        name = " and ".join(
            path for path, found in (("/etc/subuid", users), ("/etc/subgid", groups)) if not found
        )
        why = f"{name} {'gives' if users or groups else 'give'} user {uid} no ids"
    if why:
        return Mapping(((0, uid, 1),), ((0, gid, 1),), why)
    return Mapping(_rows(uid, users), _rows(gid, groups))


def _rows(own: int, ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int, int], ...]:
    rows, inside = [(0, own, 1)], 1
    for first, count in ranges:
        rows.append((inside, first, count))
        inside += count
    return tuple(rows)


def enter() -> Mapping:
    """Move this process into a new user namespace, as its root, and a mount namespace of its own.

    The pid, the current directory and the terminal stay. Only a process with one thread can. With
    subordinate ids that newuidmap refuses to map it falls back on one id. PermissionError, ENOSPC
    or another OSError where the machine does not permit user namespaces.
    """
    uid, gid = os.geteuid(), os.getegid()
    wanted = mapping(uid, gid)
    if wanted.why_single:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        _map_own(uid, gid)
        return wanted
    # Only a process outside may run newuidmap for this one, which has to be inside by then.
    with _outside(wanted) as mapped:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        said = mapped()
    if said:
        _map_own(uid, gid)
        return Mapping(((0, uid, 1),), ((0, gid, 1),), said)
    return wanted


@contextlib.contextmanager
def _outside(wanted: Mapping) -> Iterator[Callable[[], str]]:
    """A child that stays outside and maps the ids of this process when it is told to."""
    start_read, start_write = os.pipe()
    said_read, said_write = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(start_write)
            os.close(said_read)
            if os.read(start_read, 1) == _GO_ON:
                os.write(said_write, _run_tools(parent, wanted).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(start_read)
    os.close(said_write)

    def mapped() -> str:
        os.write(start_write, _GO_ON)
        said = b""
        while more := os.read(said_read, 4096):
            said += more
        return said.decode(errors="replace")

    try:
        yield mapped
    finally:
        os.close(start_write)
        os.close(said_read)
        os.waitpid(child, 0)


def _run_tools(pid: int, wanted: Mapping) -> str:
    """Map the ids of a process; what the tool said where it failed."""
    import subprocess

    for tool, rows in (("newgidmap", wanted.gids), ("newuidmap", wanted.uids)):
        words = [str(number) for row in rows for number in row]
        done = subprocess.run(
            [tool, str(pid), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            said = " ".join(done.stderr.split()) or f"it exited with {done.returncode}"
            return said if said.startswith(tool) else f"{tool}: {said}"
    return ""


def _map_own(uid: int, gid: int) -> None:
    """Map the caller's own ids to 0, which the kernel permits without any tool.

    A map that is there already stays: newgidmap may have worked where newuidmap then did not.
    """
    for name, text in (
        ("setgroups", "deny"),
        ("gid_map", f"0 {gid} 1"),
        ("uid_map", f"0 {uid} 1"),
    ):
        try:
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
        except PermissionError:
            if not _has_map(name):
                raise


def _has_map(name: str) -> bool:
    if name == "setgroups":
        return _has_map("gid_map")
    with open(f"/proc/self/{name}", encoding="ascii") as file:
        return bool(file.read().strip())


def current_maps() -> Mapping:
    """What the ids of this process's user namespace are in its parent."""
    return Mapping(_read_map("uid_map"), _read_map("gid_map"))


def _read_map(name: str) -> tuple[tuple[int, int, int], ...]:
    try:
        with open(f"/proc/self/{name}", encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return ()
    return tuple((int(a), int(b), int(c)) for a, b, c in lines)


def why_refused(error: OSError) -> str:
    """What an OSError of `enter` says about the machine, with the way out."""
    hints = {
        errno.ENOSPC: "the limit user.max_user_namespaces is reached or 0 (sysctl)",
        errno.EUSERS: "user namespaces are nested too deep",
        errno.EPERM: "it is forbidden here: by kernel.unprivileged_userns_clone or "
        "kernel.apparmor_restrict_unprivileged_userns (sysctl), or by a container's seccomp profile",
        errno.EACCES: "a security module forbids it "
        "(kernel.apparmor_restrict_unprivileged_userns is Ubuntu's)",
        errno.EINVAL: "this kernel has no user namespaces, or the process has several threads",
    }
    return hints.get(error.errno or 0, error.strerror or str(error))
