"""Owns keeping an index of another program's tree: adopt, adopt again, release, take over; it must not
touch a byte of the tree.

    adopted.json    from the first moment on: nothing opens the store to write
    journal.db      all layers in one transaction: the index is there whole, or not at all
    store.json      from here on it is a store that can be asked
    …
    adopted.json    away: the store may change its tree; or all else is away, too, and it was never there

An adopt that was killed is begun again by the next one, or goes on; so are a release and a take-over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from layerstore import (
    access,
    adoption,
    description,
    indexing,
    making,
    opening,
    place,
    room,
)
from layerstore import events as e
from layerstore import model as m
from layerstore.adoption import Adoption
from layerstore.audit import census
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import (
    Busy,
    InvalidArgument,
    NotAStoresPlace,
    Refused,
    StoreDamaged,
    StoreExists,
)
from layerstore.fs import durable, layout, locks, tree
from layerstore.fs.trace import trace
from layerstore.legacy import detecting
from layerstore.legacy.detecting import DOCKER, Found
from layerstore.reader import revision

_BESIDE: Final = "layerstore"
"""Where the index of a graph root is, beside it: what lies in it, `podman system check` calls lost."""

_MARKS: Final = tuple(os.path.basename(path) for path in (layout.ADOPTED, layout.STORE_LOCK))
"""What stays in the store's own directory as long as anything does."""
_NOBODYS: Final = Adoption(kind="", driver="", root="", tree="")


def adopt(
    path: str,
    *,
    kind: str | None = None,
    driver: str | None = None,
    journal: str | None = None,
    run_root: str | None = None,
    take_over: bool = False,
    timeout: float = 30,
    progress: census.Progress | None = None,
) -> indexing.Adopted:
    """Make an index of a tree of Docker's or containers/storage's, or bring the one there is up to date.

    `path`, `kind`, `driver`: as `detecting.detect` has them. `journal`: the directory that the index
    goes to, on the tree's file system; by default the tree of Docker's itself, and `layerstore` beside
    a graph root. `take_over`: the program will not be asked for the tree again, and this is a store of
    its own from here on. Raises NoStore, StoreExists, NotAStoresPlace, DiskFull; Refused while the program has
    the tree open; Busy.
    """
    found = detecting.detect(path, kind=kind, driver=driver)
    detecting.require_readable(found)
    home = home_of(found, journal)
    _mend(home, found)
    _refuse_others(home, found)
    if take_over:
        _refuse_to_take(home, found)
    indexing.refuse_living(found)
    with room.explained(home):
        _begin(home, found, timeout=timeout)
    with room.explained(home), alone(home, timeout=timeout), _nothing_half_made(home):
        before = adoption.read(home)
        if before is None:
            raise _released(home)
        _refuse_releasing(before)
        again = is_whole(home)
        now = attrs.evolve(
            before, kind=found.kind, driver=found.driver, root=found.root, tree=found.home
        )
        if not again:
            _new_index(home, now)
        seen = adoption.look(found.home)
        done = indexing.Recording(
            home, found, again=again, run_root=run_root, progress=progress
        ).record()
        adoption.write(home, attrs.evolve(now, seen=seen))
        trace("adopt:seen:after")
        if take_over:
            _take_over(home, now)
    if take_over:
        opened = opening.open_store(home, timeout=timeout, durability=m.Durability.FULL)
        opened.close()
        done = attrs.evolve(done, settled=tuple(opened.settled))
    return done


def home_of(found: Found, journal: str | None = None) -> Path:
    """Where the index of a tree is, or is to be."""
    if journal is not None:
        return Path(journal).resolve()
    if found.kind == DOCKER:
        return Path(found.home)
    return Path(found.root).parent / _BESIDE


# --- what forbids it ------------------------------------------------------------------------------


def _mend(home: Path, found: Found) -> None:
    """A mark that cannot be read is made anew: what it said is asked for now, and in the journal."""
    try:
        adoption.read(home)
    except StoreDamaged:
        adoption.write(home, _adoption(found, made_home=False))


def _refuse_others(home: Path, found: Found) -> None:
    """Refuse a store of its own, the index of another tree, and a directory that has something else."""
    known = adoption.read(home)
    if known is not None:
        if os.path.isdir(known.tree) and not os.path.samefile(known.tree, found.home):
            raise StoreExists(
                f"{home} is the index of {known.tree}.",
                hint="--journal chooses another directory for this one.",
            )
        original = place.original(home, description.read(home).store_id) if is_whole(home) else None
        if original is not None:
            raise Refused(
                f"{home} is a copy of {original}, which is still there.",
                hint=f"'layerstore release-tree {home}' ends the index of the copy; then adopt it.",
            )
        return
    if (home / layout.STORE_FILE).exists():
        raise StoreExists(
            f"{home} is a layerstore of its own already.",
            hint=f"'layerstore --home {home} status' shows it.",
        )
    graph = Path(found.root)
    if found.kind != DOCKER and (home == graph or graph in home.parents):
        raise NotAStoresPlace(
            f"{home} is inside of the graph root {graph}, which may remove what it does not know.",
            hint="Take a directory beside it, on the same file system.",
        )
    if home != Path(found.home) and home.is_dir():
        there = sorted(path.name for path in home.iterdir() if path.name != layout.OWN)
        if there:
            raise NotAStoresPlace(
                f"{home} is not empty: it has {', '.join(there[:3])}.",
                hint="--journal takes an empty directory, or one that is to be made.",
            )
    above = home if home.is_dir() else home.parent
    if not above.is_dir():
        raise InvalidArgument(f"There is no directory {above}.", hint="Make it first.")
    if os.stat(above).st_dev != os.stat(found.home).st_dev:
        raise NotAStoresPlace(
            f"{home} is not on the file system of {found.home}.",
            hint="--journal takes a directory that is.",
        )


def _released(home: Path) -> Busy:
    return Busy(f"The index at {home} was removed a moment ago.", hint="Try again.")


def is_whole(home: Path) -> bool:
    return (home / layout.STORE_FILE).exists()


def _refuse_to_take(home: Path, found: Found) -> None:
    if home != Path(found.home):
        raise Refused(
            f"{found.home} can be adopted, and not taken over: its index is not in it.",
            hint="A store has its journal among its layers, and podman removes there what it does not know. "
            "'podman save' and 'layerstore import' make layers in a store of an image.",
        )
    opening.check_rights("A store", home)


def _refuse_releasing(before: Adoption | None) -> None:
    if before is not None and before.releasing:
        raise Refused(
            f"{before.tree} is being released.", hint="'layerstore release-tree' ends that first."
        )


# --- the index is made ----------------------------------------------------------------------------


@contextlib.contextmanager
def as_it_was(directory: str) -> Iterator[None]:
    """Put something into a directory, or take it out, and the time when that changed last stays."""
    try:
        before = os.stat(directory)
    except FileNotFoundError:
        before = None
    try:
        yield
    finally:
        if before is not None:
            os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextlib.contextmanager
def alone(home: Path, *, timeout: float) -> Iterator[None]:
    lock = home / layout.STORE_LOCK
    with locks.store_to_oneself(os.fspath(lock), timeout=timeout):
        if not lock.exists():
            raise _released(home)
        yield


def _begin(home: Path, found: Found, *, timeout: float) -> None:
    """The directories, the mark, and the schema of an index that is older."""
    made = not home.is_dir()
    if made:
        home.mkdir(mode=layout.PRIVATE_MODE)
        trace("adopt:home:after")
    if not (home / layout.OWN).is_dir():
        with as_it_was(os.fspath(home)):
            (home / layout.OWN).mkdir(mode=layout.PRIVATE_MODE)
            trace("adopt:own:after")
        durable.sync_directory(os.fspath(home))
        durable.sync_directory(os.fspath(home.parent))
    if not (home / layout.ADOPTED).exists():
        # Before anything else is there: what a kill leaves must be nobody's store to correct.
        adoption.write(home, _adoption(found, made_home=made))
        trace("adopt:mark:after")
    if is_whole(home):
        database = engine.ReadDatabase(os.fspath(home / layout.DATABASE), timeout=30)
        try:
            older = revision(database) < sql.REVISION
        finally:
            database.close()
        if older:
            access.upgrade(home, timeout=timeout)


def _adoption(found: Found, *, made_home: bool) -> Adoption:
    return Adoption(
        kind=found.kind,
        driver=found.driver,
        root=found.root,
        tree=found.home,
        made_home=made_home,
    )


def _new_index(home: Path, now: Adoption) -> None:
    """An index without a layer, in place of whatever an adopt that was killed left."""
    for name in sorted(os.listdir(home / layout.OWN)):
        if name not in _MARKS:
            tree.remove(os.fspath(home / layout.OWN / name))
    trace("adopt:swept:after")
    adoption.write(home, now)
    about = indexing.new_description()
    making.new_database(home, about, e.StoreInitialized(about.store_id, about.max_depth))
    trace("adopt:database:after")


@contextlib.contextmanager
def _nothing_half_made(home: Path) -> Iterator[None]:
    """A first adopt that fails leaves nothing of it."""
    first = not is_whole(home)
    try:
        yield
    except BaseException:
        if first and not is_whole(home):
            with contextlib.suppress(OSError):
                drop(home)
        raise


def drop(home: Path) -> None:
    """Remove an index: what makes it a store first, what says whose it is not last.

    The caller has it to itself. What is in the way of the home itself, which was made for it, stays.
    """
    own = home / layout.OWN
    made_home = (adoption.read(home) or _NOBODYS).made_home
    first = os.path.basename(layout.STORE_FILE)
    for name in sorted(os.listdir(own), key=lambda name: (name != first, name)):
        if name not in _MARKS:
            tree.remove(os.fspath(own / name))
            trace("release:removed:after")
    durable.sync_directory(os.fspath(own))
    # The lock was that of this directory: whoever waited for it finds that it is gone.
    for name in reversed(_MARKS):
        (own / name).unlink(missing_ok=True)
        trace("release:unlink:after")
    remove_own(home)
    if made_home:
        with contextlib.suppress(OSError):
            home.rmdir()


def remove_own(home: Path) -> None:
    """Remove the directory of the store's own, in which nothing is that matters any more."""
    own = home / layout.OWN
    for name in os.listdir(own):
        tree.remove(os.fspath(own / name))
    with as_it_was(os.fspath(home)):
        own.rmdir()
        trace("release:rmdir:after")
    durable.sync_directory(os.fspath(home))


def _take_over(home: Path, adopted: Adoption) -> None:
    """From the moment when `adopted.json` is away it is a store like any other."""
    making.complete(home)
    trace("take-over:complete:after")
    indexing.append(home, e.TreeTakenOver(adopted.kind, adopted.tree), "take-over")
    about = description.read(home)
    description.write(home, attrs.evolve(about, format=description.FORMAT))
    trace("take-over:describe:after")
    (home / layout.ADOPTED).unlink()
    trace("take-over:unlink:after")
    durable.sync_directory(os.fspath(home / layout.OWN))
