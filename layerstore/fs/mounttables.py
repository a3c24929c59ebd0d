"""Owns reading the mount tables of every mount namespace; it must not decide whether a layer is free.

What it says only explains: processes of other pid namespaces are invisible in /proc, and whoever is
not root does not see the tables of others' processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from layerstore.fs import layout, mountinfo
from layerstore.fs.mountinfo import MountEntry

_DELETED: Final = "//deleted"
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


@attrs.frozen
class Place:
    """An overlay of a home, as one mount namespace has it."""

    entry: MountEntry
    layer: str
    """The layer that it is of, which may be gone."""
    mine: bool
    """It is in the namespace of whoever asks."""
    namespace: int
    pid: int
    """A process that lives in it, and keeps it alive; the lowest pid."""
    command: str
    processes: int
    """How many processes live in it."""

    @property
    def keeper(self) -> str:
        """Who keeps it alive, in words."""
        more = self.processes - 1
        others = f" and {more} more" if more else ""
        return f"process {self.pid} ({self.command}){others}"


def overlays(home: str, *, everywhere: bool = True) -> tuple[Place, ...]:
    """Every overlay of a layer of this home, in every mount namespace that can be seen.

    Not `everywhere`: only in this one, which spares asking every process.
    """
    mine = mountinfo.mount_namespace()
    found: dict[int, tuple[int, int]] = {}
    names = os.listdir("/proc") if everywhere else ()
    for pid in sorted(int(name) for name in names if name.isdigit()):
        try:
            namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
        except OSError:
            continue  # it ended, or is not ours to look at
        first, count = found.get(namespace, (pid, 0))
        found[namespace] = first, count + 1
    found[mine] = os.getpid(), found.get(mine, (0, 1))[1]
    places: list[Place] = []
    for namespace, (pid, count) in found.items():
        try:
            entries = list(_entries(f"/proc/{pid}/mountinfo", home))
            command = _command(pid) if entries else ""
        except OSError:
            continue
        places += [
            Place(entry, layer, namespace == mine, namespace, pid, command, count)
            for entry in entries
            if (layer := layer_of(entry, home)) is not None
        ]
    return tuple(places)


def others(home: str) -> dict[str, MountEntry]:
    """What is no overlay and is mounted last at some layer's `merged`, in this namespace, by the layer."""
    found: dict[str, MountEntry] = {}
    mark = f"/{layout.MERGED} ".encode()
    with open("/proc/self/mountinfo", "rb") as table:
        lines = [line for line in table if mark in line]
    for entry in mountinfo.parse_mountinfo(b"".join(lines)):
        above, _, layer = entry.mount_point.removesuffix(f"/{layout.MERGED}").rpartition("/")
        if above == home and entry.mount_point.endswith(f"/{layout.MERGED}"):
            found[layer] = entry
    return {layer: entry for layer, entry in found.items() if entry.fs_type != "overlay"}


_SERVED: Final = re.compile(
    rb" - (?:fuse[^ ]*|nfs[^ ]*|cifs|smb3|9p|ceph|afs|coda|orangefs|lustre|glusterfs) "
)
"""File systems whose answers come from a process, or from another machine: either may never come."""


def served(home: str) -> dict[str, str]:
    """The mounts below a home whose server has to answer whoever looks there, in this namespace: where,
    relative to the home, and the kind of file system. Nothing of them is asked here.
    """
    with open("/proc/self/mountinfo", "rb") as table:
        lines = [line for line in table if _SERVED.search(line)]
    return {
        entry.mount_point[len(home) + 1 :]: entry.fs_type
        for entry in mountinfo.parse_mountinfo(b"".join(lines))
        if entry.mount_point.startswith(f"{home}/")
    }


def at_or_below(served: Mapping[str, str], path: str) -> str | None:
    """The first of what `served` found that is there or further down; `path` relative to the home."""
    return next((place for place in served if f"{place}/".startswith(f"{path}/")), None)


def unasked(served: Mapping[str, str]) -> dict[str, str]:
    """Of what `served` found: the names in the home that cannot be looked at without asking, and why.

    What lies upon `merged` is known without, and of what is deep in `diff` no listing of layers asks.
    """
    found: dict[str, str] = {}
    for path, kind in served.items():
        name, _, rest = path.partition("/")
        if name in (layout.LINKS, layout.OWN) or rest.startswith(
            (layout.MERGED, f"{layout.DIFF}/")
        ):
            continue
        found[name] = f"{path} is a mount of {kind}, whose server is not asked: it may never answer"
    return found


def _entries(path: str, home: str) -> Iterator[MountEntry]:
    """The overlays that may be of this home: a table can be long, and others' lines are not parsed."""
    name = os.fsencode(os.path.basename(home))
    plain = not re.search(rb"[\s\\,]", name)
    with open(path, "rb") as table:
        lines = [line for line in table if b" - overlay " in line and (not plain or name in line)]
    yield from mountinfo.parse_mountinfo(b"".join(lines))


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/comm", "rb") as file:
        return os.fsdecode(file.read()).strip()


def layer_of(entry: MountEntry, home: str) -> str | None:
    """The layer of this home that an overlay is of; None if it is of none.

    By its upper, or by the mount's place, or by the first lower of one that is read-only.
    """
    point = entry.mount_point.removesuffix(_DELETED)
    if point.startswith(f"{home}/"):
        name, _, rest = point[len(home) + 1 :].partition("/")
        if rest == layout.MERGED:
            return name
        if name == layout.OWN:
            trash, _, below = point[len(home) + 1 :].removeprefix(f"{layout.TRASH}/").partition("/")
            return f"{layout.TRASH}/{trash}" if below == layout.MERGED else None
        return None
    # Seen from another namespace the home may lie elsewhere: its own name must be in the path.
    upper = next(
        (o[len("upperdir=") :] for o in entry.super_options if o.startswith("upperdir=")), ""
    )
    path = _ESCAPED.sub(r"\1", upper) or next(iter(lowers(entry)), "")
    name = ""
    if path.startswith(f"{home}/"):
        name = path[len(home) + 1 :]
    elif not path.startswith("/") and point.endswith(
        f"/{os.path.basename(home)}/{path}"[:-4] + "merged"
    ):
        name = path
    layer, _, rest = name.partition("/")
    return layer if rest == layout.DIFF else None


def lowers(entry: MountEntry) -> tuple[str, ...]:
    """The lower directories of an overlay, as they were given, nearest first."""
    found: list[str] = []
    for option in entry.super_options:
        key, _, value = option.partition("=")
        if key == "lowerdir":
            parts = re.split(r"(?<!\\):", value)
            found += [_ESCAPED.sub(r"\1", part) for part in parts if part]
        elif key == "lowerdir+":
            found.append(value)
    return tuple(found)


def lower_name(path: str) -> tuple[str, str]:
    """What a lower directory is named by: ("link", LINK), ("layer", id), or ("path", itself)."""
    above, _, last = path.rpartition("/")
    directory, _, name = above.rpartition("/")
    del directory
    if name == layout.LINKS:
        return "link", last
    if last == layout.DIFF:
        return "layer", name
    return "path", path
