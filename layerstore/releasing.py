"""Owns the end of an index of another program's tree: the tree is that program's as before; it must not
touch anything but the store's own files.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import attrs

from layerstore import adopting, adoption, indexing
from layerstore import events as e
from layerstore.adoption import Adoption
from layerstore.errors import InvalidArgument, NoStore
from layerstore.fs import layout
from layerstore.fs.trace import trace
from layerstore.legacy import detecting


def indexed_at(path: str, *, journal: str | None = None) -> Path:
    """The home of the index that belongs to a path: the index itself, or a tree that was adopted.

    Raises NoStore where nothing there was.
    """
    home = Path(path).resolve()
    if adoption.read(home) is not None:
        return home
    with contextlib.suppress(NoStore):
        found = detecting.detect(path)
        home = adopting.home_of(found, journal)
        if adoption.read(home) is not None or is_leftover(home):
            return home
    raise NoStore(f"{path} was not adopted.", hint="Nothing has to be released.")


def is_leftover(home: Path) -> bool:
    """Whether nothing but the directory is left of an index: a release was killed, or an adopt."""
    own = home / layout.OWN
    return own.is_dir() and all(
        name.endswith(".tmp") or name == os.path.basename(layout.STORE_LOCK)
        for name in os.listdir(own)
    )


def release(
    home: Path, *, keep_journal: Path | None = None, timeout: float = 30
) -> Adoption | None:
    """Remove an index, with its journal; the tree is its program's as before. Whose it was.

    `keep_journal`: a file that does not exist, which gets a copy of the journal. Raises NoStore,
    Busy. Killed anywhere, it is done by the next call; None where only its directory was left of it.
    """
    if keep_journal is not None and os.path.lexists(keep_journal):
        raise InvalidArgument(f"{keep_journal} is there already.", hint="Choose another name.")
    if is_leftover(home):
        adopting.remove_own(home)
        return None
    if adoption.read(home) is None:  # before a lock is made there
        raise NoStore(f"{home} was not adopted.", hint="Nothing has to be released.")
    with adopting.alone(home, timeout=timeout):
        adopted = adoption.read(home)
        if adopted is None:
            raise NoStore(f"{home} was not adopted.", hint="Nothing has to be released.")
        if adopting.is_whole(home) and not adopted.releasing:
            indexing.append(home, e.TreeReleased(adopted.tree), "release")
            if keep_journal is not None:
                from layerstore import backup

                backup.backup(home, keep_journal)
                trace("release:kept:after")
            adoption.write(home, attrs.evolve(adopted, releasing=True))
            trace("release:mark:after")
        adopting.drop(home)
    return adopted
