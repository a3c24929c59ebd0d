"""Owns listing a whole tree in detail: names, modes, small files; it must not judge, nor change a time.

Everything is opened by descriptor and without following links, directories and files without
touching their access times where the kernel lets us (open(2), O_NOATIME). What many layers have
alike is kept once, so that 100,000 layers fit into little memory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import attrs

from layerstore.audit.tree import LayerFiles, Tree
from layerstore.errors import InvalidLayerId
from layerstore.fs import files, layout, mountinfo, mounttables
from layerstore.model import LINK_PATTERN, check_layer_id

T = TypeVar("T")
Facts = tuple[tuple[str, int, int], ...]
"""(name, mode, uid) of each entry of a directory, itself first as `.`, in order of names."""
Progress = Callable[[str, int, int], None]
"""(what, how many were done, of how many)."""

HALF_UNPACKED: Final = (".pivot_root", "temp-docker-extract")
"""How names in `diff` begin that a killed extraction leaves."""
_VOLATILE: Final = f"{layout.WORK}/work/incompat/volatile"
_OURS: Final = frozenset(
    {
        layout.LINKS,
        layout.OWN,
        layout.ORPHANS,
        "backingFsBlockDev",
        "lost+found",
        ".has-mount-program",
    }
)
STEP: Final = 512
"""Layers between two words about how far it is."""


@attrs.frozen
class Seen(LayerFiles):
    """One layer's directory, in detail."""

    facts: Facts
    unpacking: tuple[str, ...]
    """Names in `diff` that a killed extraction left."""
    volatile: bool
    has_content: bool
    """Something is in `diff`."""


@attrs.frozen
class Census(Tree):
    """One detailed listing of a home."""

    home_facts: tuple[int, int]
    """Mode and uid of the home."""
    links_facts: tuple[int, int] | None
    """Mode and uid of `l/`; None: there is no such directory."""
    bad_links: tuple[str, ...]
    """Names in `l/` that are no link ids."""
    served: Mapping[str, str]
    """Mounts below the home whose server would have to answer, and of which kind: they are not entered."""


def refuse_served(home: str) -> None:
    """Raises OSError where a server would have to answer for the directory of all links, or the store's own.

    Then there is nothing to go on with; and whoever looked whether they are there would ask it.
    """
    served = mounttables.served(home)
    for name in (layout.LINKS, layout.OWN):
        if name in served:
            why = f"a mount of {served[name]} is upon it, whose server is not asked: it may never answer"
            raise OSError(errno.EREMOTE, why, f"{home}/{name}")


def take(home: str, *, progress: Progress | None = None) -> Census:
    """List the home. What vanishes meanwhile is left out. Raises OSError where it may not look."""
    lister = _Lister(home)
    try:
        return lister.census(progress)
    finally:
        os.close(lister.top)


class _Lister:
    """One census being taken."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._quiet = os.O_NOATIME
        self._same: dict[object, object] = {}
        self._served = mounttables.served(home)
        self._unreadable = mounttables.unasked(self._served)
        self.top = self._open(home, os.O_DIRECTORY)

    def census(self, progress: Progress | None) -> Census:
        layers: dict[str, LayerFiles] = {}
        strangers: list[str] = []
        names = sorted(os.listdir(self.top))
        for number, name in enumerate(names):
            if progress is not None and number % STEP == 0:
                progress("layers", number, len(names))
            if name in _OURS or name in self._unreadable:
                continue
            found = self._looked_at(name) if _may_be_layer(name) else None
            if found is not None:
                layers[name] = found
            elif name not in self._unreadable:
                strangers.append(name)
        if progress is not None:
            progress("layers", len(names), len(names))
        links_facts, links, bad = self._links()
        status = os.fstat(self.top)
        return Census(
            layers=layers,
            links=links,
            staging=frozenset(self._listed(layout.STAGING)),
            trash={name: self._link_in_trash(name) for name in self._listed(layout.TRASH)},
            strangers=tuple(name for name in strangers if os.path.lexists(f"{self._home}/{name}")),
            home_facts=(status.st_mode, status.st_uid),
            links_facts=links_facts,
            bad_links=tuple(bad),
            unreadable=self._unreadable,
            served=self._served,
        )

    def _link_in_trash(self, name: str) -> str:
        if mounttables.at_or_below(self._served, f"{layout.TRASH}/{name}") is not None:
            return ""
        return files.read_link(f"{self._home}/{layout.TRASH}", name) or ""

    def _looked_at(self, name: str) -> Seen | None:
        try:
            return self._layer(name)
        except PermissionError:
            raise  # whoever asks may not look, and nothing is wrong with the layer
        except OSError as error:
            self._unreadable[name] = error.strerror or str(error)
            return None

    def _layer(self, name: str) -> Seen | None:
        """None: it is no directory, or it went away."""
        try:
            descriptor = self._open(name, os.O_DIRECTORY, self.top)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            names = sorted(os.listdir(descriptor))
            here = os.fstat(descriptor)
            facts = [(".", here.st_mode, here.st_uid)]
            for entry in names:
                if f"{name}/{entry}" in self._served:
                    continue
                try:
                    status = os.stat(entry, dir_fd=descriptor, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError:
                    if entry != layout.MERGED:  # a mount whose server is dead
                        raise
                    continue
                facts.append((entry, status.st_mode, status.st_uid))
            has_content, unpacking = self._content(descriptor)
            return Seen(
                link=self._text(layout.LINK, descriptor) if layout.LINK in names else None,
                lower=self._text(layout.LOWER, descriptor) if layout.LOWER in names else None,
                names=self._once(frozenset(names)),
                mounted=layout.MERGED in names
                and _is_mounted(f"{self._home}/{name}/{layout.MERGED}"),
                facts=self._once(tuple(facts)),
                unpacking=unpacking,
                volatile=layout.WORK in names and _exists(_VOLATILE, descriptor),
                has_content=has_content,
            )
        finally:
            os.close(descriptor)

    def _content(self, layer: int) -> tuple[bool, tuple[str, ...]]:
        """Whether something is in `diff`, and what an extraction left; it may have a million names."""
        try:
            descriptor = self._open(layout.DIFF, os.O_DIRECTORY, layer)
        except (FileNotFoundError, NotADirectoryError):
            return False, ()
        try:
            has_content, found = False, []
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    has_content = True
                    if entry.name.startswith(HALF_UNPACKED):
                        found.append(entry.name)
            return has_content, tuple(sorted(found))
        finally:
            os.close(descriptor)

    def _text(self, name: str, directory: int) -> str | None:
        """The text of a small file, kept once: siblings have the same `lower`."""
        try:
            descriptor = self._open(name, os.O_NONBLOCK, directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return files.NOT_A_FILE
            raise
        try:
            return self._once(os.read(descriptor, 1 << 16).decode(errors="replace"))
        except IsADirectoryError:
            return files.NOT_A_FILE
        finally:
            os.close(descriptor)

    def _links(self) -> tuple[tuple[int, int] | None, dict[str, str], list[str]]:
        links: dict[str, str] = {}
        bad: list[str] = []
        try:
            descriptor = self._open(layout.LINKS, os.O_DIRECTORY, self.top)
        except (FileNotFoundError, NotADirectoryError):
            return None, links, bad
        try:
            for name in sorted(os.listdir(descriptor)):
                if not LINK_PATTERN.fullmatch(name):
                    bad.append(name)
                    continue
                try:
                    links[self._once(name)] = os.readlink(name, dir_fd=descriptor)
                except FileNotFoundError:
                    continue
                except OSError:
                    links[name] = files.NOT_A_LINK
            status = os.fstat(descriptor)
            return (status.st_mode, status.st_uid), links, bad
        finally:
            os.close(descriptor)

    def _listed(self, path: str, above: int | None = None) -> list[str]:
        try:
            descriptor = self._open(path, os.O_DIRECTORY, self.top if above is None else above)
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            return sorted(os.listdir(descriptor))
        finally:
            os.close(descriptor)

    def _open(self, path: str, flags: int, above: int | None = None) -> int:
        wanted = os.O_RDONLY | os.O_CLOEXEC | flags
        if above is not None:
            wanted |= os.O_NOFOLLOW
        try:
            return os.open(path, wanted | self._quiet, dir_fd=above)
        except PermissionError:
            if not self._quiet:
                raise
        # Only the owner of a file, or root, may ask for that.
        return os.open(path, wanted, dir_fd=above)

    def _once(self, value: T) -> T:
        return self._same.setdefault(value, value)  # type: ignore[return-value]


def _is_mounted(path: str) -> bool:
    try:
        return mountinfo.is_mount_root(path)
    except OSError:
        return True  # a mount whose server is dead


def _exists(path: str, above: int) -> bool:
    try:
        os.stat(path, dir_fd=above, follow_symlinks=False)
    except OSError:
        return False
    return True


def _may_be_layer(name: str) -> bool:
    try:
        check_layer_id(name)
    except InvalidLayerId:
        return False
    return True


def is_kind(facts: Facts, name: str, kind: Callable[[int], bool]) -> bool:
    """Whether an entry is there and of this kind: `stat.S_ISDIR` and its like."""
    return any(entry == name and kind(mode) for entry, mode, _ in facts)


def has_directory(found: LayerFiles, name: str) -> bool:
    """Whether a layer has a directory of this name, and not a link or a file."""
    if not isinstance(found, Seen):
        return name in found.names
    return is_kind(found.facts, name, stat.S_ISDIR)


def names_in(directory: str) -> list[str]:
    """The names in a directory that is no part of a layer, sorted; none where there is no such directory."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = files.open_quietly(directory, flags)
    except OSError:
        return []
    try:
        return sorted(os.listdir(descriptor))
    finally:
        os.close(descriptor)
