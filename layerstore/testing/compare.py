"""Owns making two trees comparable: a tree as data, to the last xattr; it must not change a tree.

What is read is read without touching access times, where that is allowed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Final

from layerstore.fs import files

Snapshot = dict[str, dict[str, Any]]
"""By path below the root: `mode`, `owner` and `xattrs`, and as far as the kind of file has it `mtime`,
`data`, `link`, `device` and `same as`, the first name of the same file."""

_WHOLE: Final = 1 << 20
"""Bytes of a file up to which a snapshot holds them; of more it holds the digest."""
_SHOWN: Final = 20
_CONTEXT: Final = 16


def snapshot(
    root: Path | str,
    *,
    times: bool = True,
    top: bool = False,
    leave_out: Container[str] = (),
    untouched: bool = False,
) -> Snapshot:
    """Everything below a directory, by path; the same for two trees that an archive cannot tell apart.

    `times`: the times of modification, too. `top`: the directory itself, too, as `.`. `leave_out`:
    paths below the root that are not looked at, with all that is below them. `untouched`: inode
    number and times of access and change, too, of which none stays the same where somebody did
    anything at all. Raises OSError.
    """
    found: Snapshot = {}
    first: dict[tuple[int, int], str] = {}
    base = os.fspath(root)

    def look(name: str) -> bool:
        """Whether it is a directory."""
        path = base if name == "." else f"{base}/{name}"
        status = os.lstat(path)
        entry = _entry(path, status, times=times, untouched=untouched)
        inside = stat.S_ISDIR(status.st_mode)
        if not inside:
            entry["same as"] = first.setdefault((status.st_dev, status.st_ino), name)
        found[name] = entry
        return inside

    if top:
        look(".")
    pending = [""]
    while pending:
        above = pending.pop()
        paths = [above + name for name in sorted(_names(f"{base}/{above}"))]
        inside = [path for path in paths if path not in leave_out and look(path)]
        pending += [f"{path}/" for path in reversed(inside)]
    return found


def _entry(path: str, status: os.stat_result, *, times: bool, untouched: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        },
    }
    if times:
        entry["mtime"] = status.st_mtime_ns
    if untouched:
        entry |= {"inode": status.st_ino, "ctime": status.st_ctime_ns, "atime": status.st_atime_ns}
    if stat.S_ISREG(status.st_mode):
        entry["data"] = _data(path)
    elif stat.S_ISLNK(status.st_mode):
        entry["link"] = os.readlink(path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        entry["device"] = status.st_rdev
    return entry


def _names(path: str) -> list[str]:
    descriptor = quietly(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def _data(path: str) -> bytes | str:
    with open(path, "rb", opener=quietly) as file:
        data = file.read(_WHOLE + 1)
        if len(data) <= _WHOLE:
            return data
        digest, size = hashlib.sha256(data), len(data)
        while data := file.read(_WHOLE):
            digest.update(data)
            size += len(data)
    return f"sha256:{digest.hexdigest()} of {size} bytes"


def quietly(path: str, flags: int) -> int:
    """open(2), without touching the time of access where that is allowed."""
    return files.open_quietly(path, flags | os.O_NOFOLLOW)


def assert_same(
    first: Path | str | Snapshot, second: Path | str | Snapshot, *, times: bool = True
) -> None:
    """Raise AssertionError, with what differs in words, unless two trees, or snapshots, are alike.

    `times` is about trees; a snapshot has them or has them not.
    """
    one, other = (
        tree if isinstance(tree, dict) else snapshot(tree, times=times) for tree in (first, second)
    )
    lines = difference(one, other)
    if lines:
        more = [f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        many = "1 difference" if len(lines) == 1 else f"{len(lines)} differences"
        raise AssertionError("\n".join([f"{many}:", *lines[:_SHOWN], *more]))


def difference(first: Snapshot, second: Snapshot) -> list[str]:
    """What differs between two snapshots: a line each, by path."""
    lines: list[str] = []
    for name in sorted({*first, *second}):
        if name not in second:
            lines.append(f"{name}: only in the first ({_kind(first[name])})")
        elif name not in first:
            lines.append(f"{name}: only in the second ({_kind(second[name])})")
        else:
            lines += (f"{name}: {line}" for line in _fields(first[name], second[name]))
    return lines


def _kind(entry: Mapping[str, Any]) -> str:
    mode = int(entry["mode"], 8)
    if stat.S_ISCHR(mode) and entry.get("device") == 0:
        return "whiteout"
    kinds = {
        stat.S_IFDIR: "directory",
        stat.S_IFREG: "file",
        stat.S_IFLNK: "symlink",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
    }
    return kinds[stat.S_IFMT(mode)]


def _fields(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    if _kind(first) != _kind(second):
        return [f"{_kind(first)} in the first, {_kind(second)} in the second"]
    lines = []
    for field in sorted({*first, *second}):
        one, other = first.get(field), second.get(field)
        if one == other:
            continue
        if isinstance(one, bytes) and isinstance(other, bytes):
            lines.append(_bytes(one, other))
        elif field == "xattrs" and isinstance(one, dict) and isinstance(other, dict):
            lines += [
                f"xattr {name}: {_shown(one.get(name))} in the first, {_shown(other.get(name))} in the second"
                for name in sorted({*one, *other})
                if one.get(name) != other.get(name)
            ]
        else:
            lines.append(f"{field}: {_shown(one)} in the first, {_shown(other)} in the second")
    return lines


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _bytes(one: bytes, other: bytes) -> str:
    """Where two contents part, and what follows there."""
    at = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    end = at + _CONTEXT
    return (
        f"data: {len(one)} bytes in the first, {len(other)} in the second; "
        f"from byte {at} on {one[at:end]!r}, {other[at:end]!r}"
    )
