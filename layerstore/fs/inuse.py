"""Owns who has files open below a directory, as /proc shows it; it must not decide what that means.

It explains and warns: processes of other pid namespaces are invisible there, and those of others are
so to whoever is not root. A path that is seen differently from another mount namespace is not found.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

import attrs

from layerstore.fs import mountinfo, mounttables


@attrs.frozen
class User:
    """A process, and what it has open; `how` completes "the process …"."""

    pid: int
    command: str
    path: str
    how: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}) {self.how}"


def below(directory: str) -> Mapping[str, tuple[User, ...]]:
    """Who has what open below a directory, by the first name below it."""
    start = directory.rstrip("/") + "/"
    found: dict[str, tuple[User, ...]] = {}
    for pid, path, how in _links():
        if path.startswith(start):
            name = path[len(start) :].partition("/")[0]
            known = found.get(name, ())
            if all(user.pid != pid for user in known):
                found[name] = (*known, User(pid, _command(pid), path, how))
    return found


def having_open(paths: Iterable[str]) -> tuple[User, ...]:
    """Who has one of these files open, by its inode: also where another path leads to it."""
    wanted: dict[tuple[int, int], str] = {}
    for path in paths:
        try:
            status = os.stat(path, follow_symlinks=False)
        except OSError:
            continue
        wanted[status.st_dev, status.st_ino] = path
    names = {os.path.basename(path) for path in wanted.values()}
    found: dict[int, User] = {}
    for pid, path, how in _links():
        place = how.partition(" ")[2]
        if pid in found or not place or os.path.basename(path) not in names:
            continue
        try:
            status = os.stat(f"/proc/{pid}/{place}")
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in wanted:
            file = wanted[status.st_dev, status.st_ino]
            found[pid] = User(pid, _command(pid), file, f"has {file} open")
    return tuple(found.values())


def mounted(home: str) -> Mapping[tuple[str, str], str]:
    """What of a home some mount uses, in any mount namespace, and wherever that is: by whom, in words.

    The keys are ("layer", id) and ("link", LINK), of overlays' uppers and lowers and of whatever else
    has a root in a layer. Paths are told by the home's own name, or are relative: it may lie elsewhere
    in another namespace, and another home's layer of the same name counts, too.
    """
    above = f"/{os.path.basename(home)}/"
    found: dict[tuple[str, str], str] = {}
    namespaces: set[int] = set()
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            if namespace in namespaces:
                continue
            with open(f"/proc/{pid}/mountinfo", "rb") as table:
                lines = [x for x in table if b" - overlay " in x or os.fsencode(above) in x]
        except OSError:
            continue  # it ended, or is not ours to look at
        namespaces.add(namespace)
        for entry in mountinfo.parse_mountinfo(b"".join(lines)):
            for key in _parts(entry, above):
                found.setdefault(key, f"process {pid} ({_command(pid)}) has it mounted")
    return found


def _parts(entry: mountinfo.MountEntry, above: str) -> Iterator[tuple[str, str]]:
    if entry.fs_type != "overlay":
        if above in entry.root:
            yield "layer", entry.root.rpartition(above)[2].partition("/")[0]
        return
    uppers = [o[len("upperdir=") :] for o in entry.super_options if o.startswith("upperdir=")]
    for path in (*uppers, *mounttables.lowers(entry)):
        how, name = mounttables.lower_name(path)
        if how != "path" and (above in path or not path.startswith("/")):
            yield how, name


def _links() -> Iterator[tuple[int, str, str]]:
    """(pid, path, how) of what processes have open; this one apart."""
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        pid = int(name)
        links = ["cwd", "root"]
        try:
            links += [f"fd/{number}" for number in os.listdir(f"/proc/{name}/fd")]
        except OSError:
            pass  # not ours to look at; its directories may be
        for link in links:
            try:
                yield pid, os.readlink(f"/proc/{name}/{link}"), f"at {link}"
            except OSError:
                continue  # it ended, or closed it


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read()).strip()
    except OSError:
        return "?"
